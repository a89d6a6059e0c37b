"""Evaluation: metrics, and the result of a cell."""
