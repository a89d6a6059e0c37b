"""Rendered faces: a data set without people."""
