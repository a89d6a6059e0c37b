"""Photographs: find faces, build a detector, answer, serve a page."""
