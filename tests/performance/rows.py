"""A row of `make perf`: a ratio with its spread over repeats, and what it should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Row:
    """values: of the repeats. aim: what their median should be; None for no aim. note: what it is made of."""

    what: str
    values: list[float]
    aim: float | None = None
    direction: Literal["<", "<=", ">="] = "<="
    note: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def is_met(self) -> bool:
        """Whether the aim is reached; so where there is none."""
        if self.aim is None:
            return True
        compare = {"<": self.median < self.aim, "<=": self.median <= self.aim, ">=": self.median >= self.aim}
        return compare[self.direction]

    def cells(self) -> tuple[str, ...]:
        """What the table shows."""
        spread = (
            f"{min(self.values):.2f} to {max(self.values):.2f} ({len(self.values)})" if len(self.values) > 1 else ""
        )
        aim = "" if self.aim is None else f"{self.direction} {self.aim:g} {'met' if self.is_met else 'MISSED'}"
        return self.what, f"{self.median:.2f}", spread, aim, self.note


def pairs(plain: Callable[[], object], suite: Callable[[], object], repeats: int) -> tuple[list[float], str]:
    """Ratios suite / plain of repeats in turn, so that both see the same machine; and the medians in words."""
    plain(), suite()
    times: list[tuple[float, float]] = []
    for number in range(repeats):
        order = (plain, suite) if number % 2 == 0 else (suite, plain)
        taken = {}
        for work in order:
            start = time.perf_counter()
            work()
            taken[work] = time.perf_counter() - start
        times.append((taken[plain], taken[suite]))
    by_hand, ours = np.median(times, axis=0)
    return [b / a for a, b in times], f"{1000 * by_hand:.0f} ms, {1000 * ours:.0f} ms"
