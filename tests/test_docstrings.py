"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ["open_set_fer.methods.contract", "open_set_fer.benchmark.evaluation.metrics"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
