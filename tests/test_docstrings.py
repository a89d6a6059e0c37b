"""The examples in docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = ["open_set_fer.methods.contract"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
