"""Conformance tests for plugin authors: `check_method`, `check_data_set`, `check_backbone`."""

from open_set_fer.testing.backbones import check_backbone
from open_set_fer.testing.data_sets import check_data_set
from open_set_fer.testing.methods import PlainContext, bright_bars, check_method, task_and_context

__all__ = ["PlainContext", "bright_bars", "check_backbone", "check_data_set", "check_method", "task_and_context"]
