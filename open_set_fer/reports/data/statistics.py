"""Do methods differ over choices of open classes? Friedman with Nemenyi, and pairwise Wilcoxon with Holm (Demšar 2006).

A block is a choice of open classes of one data set, its number for a method the mean over seeds, and over the pools where
several were made of it: seeds and pools of a choice test the same faces, so that they are no blocks of their own. Choices share faces too (closed ones nearly all), which the tests
take no account of: DEPENDENCE says so wherever a p-value stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.reports.data.names import method_name
from open_set_fer.reports.data.results import FINISHED

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL, PERCENT = 0.05, "5 %"
FEWEST_BLOCKS = 6
"""With five, a method that wins every block still has a Wilcoxon p-value of 2 / 2**5 = 0.0625."""
DEPENDENCE = (
    "The tests take blocks for independent; choices of open classes share faces and models, so the p-values are too small "
    "rather than too large"
)
BLOCK = ["protocol", "choice"]


@dataclass(frozen=True)
class Friedman:
    """Friedman's test: that no method differs from another; chi-square approximation, rough below ten blocks."""

    statistic: float
    freedom: int
    p_value: float

    @property
    def rejects(self) -> bool:
        """Whether methods differ at LEVEL; else no pair is to be told apart by ranks."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class Pair:
    """Two methods, the one of the better mean rank first.

    difference: median over blocks of first - second. wins: blocks in which the first is better. nemenyi: p-value, None with
    two methods. wilcoxon: p-value of the signed-rank test, zero differences split (zsplit), after Holm's correction.
    """

    first: str
    second: str
    difference: float
    wins: int
    nemenyi: float | None
    wilcoxon: float


@dataclass(frozen=True)
class Comparison:
    """Methods over the blocks of one data set, by AUROC.

    blocks: labels of the choices. seeds, pools: how many each block averages. ranks: mean rank by method, 1 the best, the best
    first. friedman, critical_difference (of mean ranks, Nemenyi, at LEVEL), nemenyi (p-values, square): None with two
    methods. pairs: every pair. left_out: methods that are not planned for every block and seed.
    """

    blocks: list[str]
    seeds: int
    ranks: dict[str, float]
    friedman: Friedman | None
    critical_difference: float | None
    nemenyi: pd.DataFrame | None
    pairs: list[Pair]
    left_out: list[str] = field(default_factory=list)
    pools: int = 1

    @property
    def smallest(self) -> float:
        """The smallest p-value that Wilcoxon with Holm can have with so many blocks and pairs."""
        return float(min(1.0, len(self.pairs) * 2.0 ** (1 - len(self.blocks))))

    @property
    def different(self) -> list[Pair]:
        """The pairs that Wilcoxon with Holm tells apart at LEVEL."""
        return [pair for pair in self.pairs if pair.wilcoxon < LEVEL]


def compare(cells: pd.DataFrame) -> Comparison | str:
    """Compare the methods of these cells (of one data set and label regime); a sentence where that cannot be.

    Refused where a planned cell has no AUROC, with fewer than FEWEST_BLOCKS blocks, and with fewer than two methods.
    """
    places = {
        str(method): set(zip(rows["protocol"], rows["open_classes"], rows["seed"], strict=True))
        for method, rows in cells.groupby("method", sort=False)
    }
    everywhere = set().union(*places.values())
    methods = [method for method, of in places.items() if of == everywhere]
    cells = cells[cells["method"].isin(methods)]
    left_out = [method for method in places if method not in methods]
    blocks = cells[BLOCK].drop_duplicates()
    if reason := _refusal(cells, methods, len(blocks)):
        return f"No test of differences between methods: {reason}."
    means = cells.groupby([*BLOCK, "method"], sort=False)[AUROC.name].mean().unstack("method")[methods]
    pools = int(cells.groupby(BLOCK)["open_classes"].nunique().max())
    return _compared(means, cells["seed"].nunique(), left_out, pools)


def _refusal(cells: pd.DataFrame, methods: list[str], blocks: int) -> str:
    """Why these cells cannot be compared; '' where they can."""
    if len(methods) < 2:
        return "fewer than two methods are planned for every choice of open classes and seed"
    if blocks < FEWEST_BLOCKS:
        counted = f"{blocks} choice{'s' if blocks > 1 else ''} of open classes"
        return (
            f"{counted}; with fewer than {FEWEST_BLOCKS} even a method that always wins has a Wilcoxon p above {LEVEL}"
        )
    lacking = cells[(cells["status"] != FINISHED) | cells[AUROC.name].isna()]
    if lacking.empty:
        return ""
    named = [
        f"{method_name(cell['method'])}, {cell['open_classes']} seed {cell['seed']}"
        for cell in lacking.head(3).to_dict("records")
    ]
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return f"it needs every cell, and {len(lacking)} of {len(cells)} have no result ({'; '.join(named)}{more})"


def _compared(means: pd.DataFrame, seeds: int, left_out: list[str], pools: int) -> Comparison:
    """The tests on a complete table, blocks by methods."""
    import scikit_posthocs  # statsmodels and seaborn come with it: a second and a half

    values = means.to_numpy(dtype=np.float64)
    ranks = pd.Series(rankdata(-values, axis=1).mean(axis=0), means.columns).sort_values(kind="stable")
    ordered = means[list(ranks.index)]
    long = ordered.reset_index(drop=True).melt(var_name="method", value_name="value")
    wilcoxon = scikit_posthocs.posthoc_wilcoxon(long, "value", "method", zero_method="zsplit", p_adjust="holm")
    several = len(ranks) > 2
    nemenyi = scikit_posthocs.posthoc_nemenyi_friedman(ordered.reset_index(drop=True)) if several else None
    return Comparison(
        [str(label) for label in means.index.get_level_values("choice")],
        seeds,
        dict(ranks),
        _friedman(values) if several else None,
        critical_difference(len(ranks), len(means)) if several else None,
        nemenyi,
        _pairs(ordered, wilcoxon, nemenyi),
        left_out,
        pools,
    )


def _friedman(values: NDArray[np.float64]) -> Friedman:
    if (values == values[:, :1]).all():  # SciPy divides by the ranks' spread
        return Friedman(0.0, values.shape[1] - 1, 1.0)
    test: Any = friedmanchisquare(*values.T)
    return Friedman(float(test.statistic), values.shape[1] - 1, float(test.pvalue))


def critical_difference(methods: int, blocks: int) -> float:
    """Nemenyi's: by how much two mean ranks must differ at LEVEL.

    >>> round(critical_difference(methods=4, blocks=14), 2)  # Demšar (2006), section 3.2.2
    1.25
    """
    quantile = float(studentized_range.ppf(1 - LEVEL, methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * blocks))


def _pairs(ordered: pd.DataFrame, wilcoxon: pd.DataFrame, nemenyi: pd.DataFrame | None) -> list[Pair]:
    methods = list(map(str, ordered.columns))
    signed, ranked = wilcoxon.to_numpy(), None if nemenyi is None else nemenyi.to_numpy()
    pairs = []
    for i, j in combinations(range(len(methods)), 2):
        difference = ordered.iloc[:, i] - ordered.iloc[:, j]
        by_ranks = None if ranked is None else float(ranked[i, j])
        wins = int((difference > 0).sum())
        pairs.append(Pair(methods[i], methods[j], float(difference.median()), wins, by_ranks, float(signed[i, j])))
    return pairs


# -- in words ----------------------------------------------------------------------------------------------------------


def p_text(p_value: float) -> str:
    """A p-value as displayed.

    >>> p_text(0.03456), p_text(0.0000123)
    ('= 0.035', '< 0.001')
    """
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def sentences(found: Comparison) -> str:
    """What was compared, how, and what came out; for a caption."""
    over = f"Mean ranks by AUROC over {len(found.blocks)} choices of open classes"
    averaged = [f"{found.seeds} seeds"] * (found.seeds > 1) + [f"{found.pools} pools"] * (found.pools > 1)
    if averaged:
        over += f" (each the mean over {' and '.join(averaged)})"
    ranks = ", ".join(f"{method_name(method)} {rank:.1f}" for method, rank in found.ranks.items())
    parts = [f"{over}: {ranks}"]
    if found.friedman is not None and found.critical_difference is not None:
        parts.append(
            f"Friedman: χ²({found.friedman.freedom}) = {found.friedman.statistic:.2f}, p {p_text(found.friedman.p_value)}"
        )
        parts.append(
            f"Nemenyi: critical difference {found.critical_difference:.2f} at {PERCENT}"
            if found.friedman.rejects
            else "it does not tell the methods apart, so neither does a difference of ranks"
        )
    parts.append(_wilcoxon_words(found))
    return ". ".join(part[0].upper() + part[1:] for part in [*parts, DEPENDENCE, *_left_out(found)]) + "."


def _wilcoxon_words(found: Comparison) -> str:
    """Which pairs Wilcoxon with Holm tells apart; says so where it never could."""
    test = "Wilcoxon signed-rank" + (" with Holm's correction" if len(found.pairs) > 1 else "")
    if found.smallest >= LEVEL:
        return (
            f"{test}: {len(found.pairs)} pairs over {len(found.blocks)} blocks cannot have p below {found.smallest:.3f}"
        )
    if not found.different:
        return f"{test}: no pair differs at {PERCENT}"
    named = [f"{method_name(pair.first)} and {method_name(pair.second)}" for pair in found.different]
    if len(named) == len(found.pairs) > 1:
        named = ["every pair"]
    said = f"{test}, p < {LEVEL} between {'; '.join(named[:8])}"
    return said + (f" and {len(named) - 8} more" if len(named) > 8 else "")


def _left_out(found: Comparison) -> list[str]:
    if not found.left_out:
        return []
    return [f"Not compared, as not planned for every choice: {', '.join(map(method_name, found.left_out))}"]
