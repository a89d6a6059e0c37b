"""Scores of several networks on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def standardise(values: NDArray[np.float64], groups: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """(N,) values with zero mean and unit standard deviation, in each of `groups` (N,) where given.

    Constant values become zeros. By groups: where another network made each group's values, their units differ.
    """
    if groups is not None:
        scaled = np.empty(len(values))
        for group in np.unique(groups):
            scaled[groups == group] = standardise(values[groups == group])
        return scaled
    deviation = float(values.std())
    return (values - values.mean()) / deviation if deviation > 0 else np.zeros_like(values)


def scale_of(values: NDArray[np.float64]) -> dict[str, float]:
    """`mean` and `deviation` of values (N,), to put others on their scale; zeros for none."""
    return {
        "mean": float(values.mean()) if len(values) else 0.0,
        "deviation": float(values.std()) if len(values) else 0.0,
    }


def on_scale(values: NDArray[np.float64], scale: Mapping[str, float]) -> NDArray[np.float64]:
    """What `standardise` did to the values of `scale_of`, done to others; a deviation of 0 counts as 1."""
    return (values - scale["mean"]) / (scale["deviation"] or 1.0)
