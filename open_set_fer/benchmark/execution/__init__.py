"""Execution: the cells of a plan, each computed in its own process."""
