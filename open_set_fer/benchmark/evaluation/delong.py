"""DeLong's inference for AUROC: within strata, for clusters of faces, and for two scores of the same faces.

AUROC within strata is the share of pairs in order among the pairs (open, closed) that lie in one stratum,

    A = sum_s n_s m_s A_s / sum_s n_s m_s    (n_s open and m_s closed faces in stratum s, A_s its own AUROC),

ties counting half. Each face contributes the pairs that it is part of; the variance of A is that of these sums, taken
over faces (DeLong et al. 1988; one stratum gives their formula) or over clusters of faces, such as twins, or one face
under several seeds (Obuchowski 1997).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value with its standard error; nan where there are too few faces for one."""

    value: float
    error: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided normal interval.

        >>> [round(end, 3) for end in Estimate(0.7, 0.05).interval()]
        [0.602, 0.798]
        """
        half = float(norm.ppf((1 + level) / 2)) * self.error
        return self.value - half, self.value + half

    def lower(self, level: float = 0.95) -> float:
        """Lower end of the one-sided normal interval."""
        return self.value - float(norm.ppf(level)) * self.error

    def p(self, null: float) -> float:
        """Two-sided p-value of the hypothesis that the value is `null`."""
        if self.error == 0:
            return 1.0 if self.value == null else 0.0
        return float(2 * norm.sf(abs(self.value - null) / self.error))


@dataclass(frozen=True, eq=False)
class Area(Estimate):
    """AUROC within strata.

    contributions: (N,) of each face to the deviation of the value from its expectation; they sum to zero over open
    and over closed faces. is_open: (N,). clusters: (N,) the cluster of each face.
    """

    contributions: NDArray[np.float64]
    is_open: NDArray[np.bool_]
    clusters: NDArray[np.int64]

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval, cut to 0..1."""
        low, high = super().interval(level)
        return max(0.0, low), min(1.0, high)


def area(
    is_open: NDArray[np.bool_],
    unknown_score: NDArray[np.floating[Any]],
    strata: NDArray[Any] | None = None,
    clusters: NDArray[Any] | None = None,
) -> Area | None:
    """AUROC of open over closed faces within strata; None if no stratum has faces of both kinds.

    strata, clusters: (N,) any values, equal for faces of one stratum or cluster; None: one stratum, each face alone.
    """
    stratum = np.zeros(len(is_open), dtype=np.int64) if strata is None else pd.factorize(strata)[0]
    cluster = np.arange(len(is_open), dtype=np.int64) if clusters is None else pd.factorize(clusters)[0]
    wins, opponents = _wins(is_open, np.asarray(unknown_score, dtype=np.float64), stratum)
    pairs = opponents[is_open].sum()
    if not pairs:
        return None
    value = float(wins[is_open].sum() / pairs)
    contributions = (wins - value * opponents) / pairs
    return Area(value, _error(contributions, is_open, cluster), contributions, is_open, cluster)


def difference(first: Area, second: Area) -> Estimate:
    """The first area minus the second, of two scores of the same faces in the same order; ValueError for others."""
    same = np.array_equal(first.is_open, second.is_open) and np.array_equal(first.clusters, second.clusters)
    if not same:
        raise ValueError("a paired difference needs two scores of the same faces, in one order")
    error = _error(first.contributions - second.contributions, first.is_open, first.clusters)
    return Estimate(first.value - second.value, error)


def _wins(
    is_open: NDArray[np.bool_], score: NDArray[np.float64], stratum: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each face, the pairs of its stratum that are in order, ties half; and the number of these pairs."""
    order = np.lexsort((score, stratum))
    sorted_score, sorted_stratum, positive = score[order], stratum[order], is_open[order]
    starts = np.r_[True, np.diff(sorted_stratum) > 0]
    tie = np.cumsum(starts | np.r_[True, np.diff(sorted_score) > 0]) - 1
    open_in_tie, closed_in_tie = (np.bincount(tie, kind) for kind in (positive, ~positive))
    opened, closed = (np.bincount(sorted_stratum, kind) for kind in (positive, ~positive))
    # Totals of the strata before, so that the running sums below start anew in each stratum.
    open_before, closed_before = (np.cumsum(totals) - totals for totals in (opened, closed))
    lower_closed = (np.cumsum(closed_in_tie) - closed_in_tie)[tie] - closed_before[sorted_stratum]
    upto_open = np.cumsum(open_in_tie)[tie] - open_before[sorted_stratum]
    of_open = lower_closed + closed_in_tie[tie] / 2
    of_closed = opened[sorted_stratum] - upto_open + open_in_tie[tie] / 2
    wins, opponents = np.empty(len(score)), np.empty(len(score))
    wins[order] = np.where(positive, of_open, of_closed)
    opponents[order] = np.where(positive, closed[sorted_stratum], opened[sorted_stratum])
    return wins, opponents


def _error(contributions: NDArray[np.float64], is_open: NDArray[np.bool_], clusters: NDArray[np.int64]) -> float:
    """Standard error from the sums of clusters; nan with fewer than two clusters of open or of closed faces."""
    kinds = is_open, ~is_open
    of_open, of_closed = (np.bincount(clusters, np.where(kind, contributions, 0.0)) for kind in kinds)
    n, m = (len(np.unique(clusters[kind])) for kind in kinds)
    if min(n, m) < 2:
        return float("nan")
    both = len(np.unique(clusters))
    variance = n / (n - 1) * np.dot(of_open, of_open) + m / (m - 1) * np.dot(of_closed, of_closed)
    variance += 2 * both / (both - 1) * np.dot(of_open, of_closed)
    return math.sqrt(max(float(variance), 0.0))
