"""Photographs: face detection, detectors built from methods, predictions, and a local web page."""
