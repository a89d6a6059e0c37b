"""Intervals of the metrics that a cell logs without one: for scores measured by `Task.measure` and `osfer evaluate`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn import config_context

from open_set_fer.benchmark.evaluation.metrics import area_of, correct_faces, parts_of, rates

DRAWS = 500
LEVEL = 0.95


def further_intervals(scores: pd.DataFrame) -> dict[str, float]:
    """Ends `<metric>_low` and `<metric>_high` of 95 % intervals, from a table of scores.

    Of rates: percentile bootstrap (Efron 1979), 500 draws with a fixed seed, of groups of twins where the table knows
    them. Of the AUROC of a part of the faces: DeLong's. Metrics with too few faces for an interval are left out.
    """
    return _bootstrapped(scores) | _of_parts(scores)


def _bootstrapped(scores: pd.DataFrame) -> dict[str, float]:
    is_open, correct = scores["is_open"].to_numpy(dtype=bool), correct_faces(scores)
    values = scores["unknown_score"].to_numpy(dtype=np.float64)
    group = pd.factorize(scores["twin"])[0] if "twin" in scores else np.arange(len(scores))
    count, generator = group.max() + 1, np.random.default_rng(0)
    draws = []
    with config_context(skip_parameter_validation=True, assume_finite=True):
        for _ in range(DRAWS):
            times = np.bincount(generator.integers(0, count, count), minlength=count)
            rows = np.repeat(np.arange(len(scores)), times[group])
            if 0 < is_open[rows].sum() < len(rows):  # a small pool may lose all faces of a kind
                draws.append(rates(is_open[rows], values[rows], correct[rows]))
    if not draws:
        return {}
    ends = pd.DataFrame(draws).quantile([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {f"{name}_{end}": float(ends[name].iloc[at]) for name in ends for at, end in enumerate(("low", "high"))}


def _of_parts(scores: pd.DataFrame) -> dict[str, float]:
    found = {}
    for name, part in parts_of(scores).items():
        each = area_of(scores[part])
        if each and np.isfinite(each.error):
            found[f"auroc_{name}_low"], found[f"auroc_{name}_high"] = each.interval(LEVEL)
    return found
