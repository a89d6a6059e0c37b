"""Synthetic data: rendered faces of basic and compound expressions."""
