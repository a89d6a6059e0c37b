"""Agreement of two computations of one cell."""

from __future__ import annotations

import numpy as np

from open_set_fer.benchmark.evaluation.metrics import OF_THE_RUN
from open_set_fer.benchmark.evaluation.result import CellResult


def largest_gap(a: CellResult, b: CellResult) -> float:
    """The largest difference of a metric that both have and that scores give."""
    names = [name for name in a.metrics.keys() & b.metrics.keys() if not name.startswith(OF_THE_RUN)]
    pairs = np.array([(a.metrics[name], b.metrics[name]) for name in names]).reshape(-1, 2)
    only_one = np.isnan(pairs).sum(axis=1) == 1
    return float("inf") if only_one.any() else float(np.nanmax(np.abs(pairs[:, 0] - pairs[:, 1]), initial=0.0))


def is_copy(a: CellResult, b: CellResult) -> bool:
    """Whether two results are of one computation: of one machine and moment, with the same numbers."""
    moments = abs((a.started or 0) - (b.started or 0))
    return a.tags.get("host") == b.tags.get("host") and moments < 0.01 and largest_gap(a, b) == 0
