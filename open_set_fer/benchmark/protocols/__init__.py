"""Protocols: which classes are open, which faces form the pool, which pseudo labels methods get."""
