"""Devices: what does not compute here is said before any cell."""

from __future__ import annotations

import pytest
import torch

from open_set_fer.benchmark.execution.devices import choose_device
from open_set_fer.errors import SuiteError


@pytest.mark.parametrize("name", ["banana", "cuda:99", "meta", ""])
def test_a_device_that_does_not_compute_is_one_clear_error(name):
    flags = torch.are_deterministic_algorithms_enabled()
    try:
        with pytest.raises(SuiteError, match="choose among: auto, cpu"):
            choose_device(name)
    finally:
        torch.use_deterministic_algorithms(flags)
