"""Random numbers that come from the cell's generator alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def draw_seed(generator: torch.Generator) -> int:
    """A seed from 0 to 2^62 - 1, drawn from a generator on the CPU."""
    return int(torch.randint(2**62, (1,), generator=generator))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generator starts from `seed`, for what draws from no other one: the weights of fresh layers.

    Afterwards it is where it was before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
