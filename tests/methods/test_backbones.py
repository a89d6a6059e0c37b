"""Networks: right gradients with two threads, and no shape that oneDNN crashes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from torch import nn

from open_set_fer.methods.backbones import StridedPointwise
from tests.methods.gradients import networks

KINDS = ("small", "gan", "resnet18", "resnet50")


# Waiting threads sleep: on a busy machine spinning ones make this ten times as slow.
# ReLUs that rounding turns make a deep network's float32 gradients differ by 4 %, with torch's own convolutions too.
@pytest.mark.parametrize(
    ("kind", "batches", "bound"),
    [("small", "2,3,7,33", 0.01), ("gan", "3,7,33", 0.01), ("resnet18", "3,7", 0.1), ("resnet50", "3,7", 0.1)],
)
def test_gradients_with_two_threads_are_those_of_float64(kind, batches, bound):
    done = subprocess.run(
        [sys.executable, "-m", "tests.methods.gradients", kind, batches],
        env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, f"died with {done.returncode}: {done.stderr}"
    errors = json.loads(done.stdout)
    assert errors
    assert {name: error for name, error in errors.items() if not error < bound} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_no_network_has_a_strided_pointwise_convolution_of_onednn(kind):
    for name, network, _ in networks(kind):
        plain = [m for m in network.modules() if isinstance(m, nn.Conv2d) and not isinstance(m, StridedPointwise)]
        assert not [m for m in plain if m.kernel_size == (1, 1) and m.stride != (1, 1)], name
