"""Do methods differ over choices of open classes? Friedman with Nemenyi, and pairwise Wilcoxon with Holm (Demšar 2006).

A block is a choice of open classes of one data set; its number for a method is the mean over seeds, and over pools
where there are several: seeds and pools of a choice test the same faces, so they are not separate blocks. Choices share
faces too (nearly all closed ones), which the tests ignore: DEPENDENCE is printed with every p-value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.reports.data.results import FINISHED

LEVEL, PERCENT = 0.05, "5 %"
FEWEST_BLOCKS = 6  # with five, a method that wins every block still has a Wilcoxon p-value of 2 / 2**5 = 0.0625
SIMULATED = (
    "with equal methods on seven choices of open classes, the same 300 closed faces in each and half of the scores' "
    "variance common to all, simulated tests at 5 % find a difference in 10 % of trials with 60 open faces a choice "
    "and in 22 % with 300 (Student's interval), 9 and 21 % (Wilcoxon), 4 and 10 % (sign test), 12 and 37 % (Friedman, "
    "five methods)"
)
"""What it does to tests over choices of open classes that these share their closed faces."""
DEPENDENCE = (
    "The tests take blocks for independent; choices of open classes share faces and models, so the p-values are too "
    f"small: {SIMULATED}"
)
BLOCK = ["protocol", "choice"]


@dataclass(frozen=True)
class Test:
    """A test's statistic, degrees of freedom and p-value."""

    statistic: float
    freedom: int
    p_value: float

    @property
    def rejects(self) -> bool:
        """Whether equality is rejected at LEVEL; by Friedman's test, else ranks distinguish no pair."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class Pair:
    """Two methods, first the better by mean rank.

    difference: median over blocks of first - second. wins: blocks in which the first is better. nemenyi: p-value, None
    with two methods. wilcoxon: p-value of the signed-rank test, zero differences split (zsplit), after Holm.
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

    blocks: labels of the choices. seeds, pools: how many each block averages. ranks: mean rank by method, best first.
    friedman (chi-square approximation), critical_difference (of mean ranks, at LEVEL), nemenyi (p-values, square): None
    with two methods. titles: display names of all methods by label. left_out: methods that are not planned for every
    block and seed.
    """

    blocks: list[str]
    seeds: int
    ranks: dict[str, float]
    friedman: Test | None
    critical_difference: float | None
    nemenyi: pd.DataFrame | None
    pairs: list[Pair]
    titles: dict[str, str]
    left_out: list[str] = field(default_factory=list)
    pools: int = 1

    @property
    def smallest(self) -> float:
        """The smallest possible p-value of Wilcoxon with Holm for these blocks and pairs."""
        return float(min(1.0, len(self.pairs) * 2.0 ** (1 - len(self.blocks))))

    @property
    def different(self) -> list[Pair]:
        """Pairs that differ at LEVEL by Wilcoxon with Holm."""
        return [pair for pair in self.pairs if pair.wilcoxon < LEVEL]


def compare(cells: pd.DataFrame) -> Comparison | str:
    """Comparison of the methods of these cells (of one data set and pseudo-label setting), or why there is none.

    Refused where a planned cell has no AUROC, with fewer than FEWEST_BLOCKS blocks, and with fewer than two methods.
    """
    places = {
        str(method): set(zip(rows["protocol"], rows["open_classes"], rows["seed"], strict=True))
        for method, rows in cells.groupby("method", sort=False)
    }
    titles = dict(zip(cells["method"], cells["title"], strict=True))
    everywhere = set().union(*places.values())
    methods = [method for method, planned in places.items() if planned == everywhere]
    cells = cells[cells["method"].isin(methods)]
    left_out = [method for method in places if method not in methods]
    blocks = cells[BLOCK].drop_duplicates()
    if reason := _refusal(cells, methods, len(blocks)):
        return f"No test of differences between methods: {reason}."
    means = cells.groupby([*BLOCK, "method"], sort=False)[AUROC.name].mean().unstack("method")[methods]
    pools = int(cells.groupby(BLOCK)["open_classes"].nunique().max())
    return _compared(means, cells["seed"].nunique(), titles, left_out, pools)


def _refusal(cells: pd.DataFrame, methods: list[str], blocks: int) -> str:
    if len(methods) < 2:
        return "fewer than two methods are planned for every choice of open classes and seed"
    if blocks < FEWEST_BLOCKS:
        always = f"with fewer than {FEWEST_BLOCKS} even a method that always wins has a Wilcoxon p above {LEVEL}"
        return f"{blocks} choice{'s' if blocks > 1 else ''} of open classes; {always}"
    lacking = cells[(cells["status"] != FINISHED) | cells[AUROC.name].isna()]
    if lacking.empty:
        return ""
    first = zip(*(lacking[name][:3] for name in ("title", "open_classes", "seed")), strict=True)
    named = [f"{title}, {open_classes} seed {seed}" for title, open_classes, seed in first]
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return f"it needs every cell, and {len(lacking)} of {len(cells)} have no result ({'; '.join(named)}{more})"


def _compared(means: pd.DataFrame, seeds: int, titles: dict[str, str], left_out: list[str], pools: int) -> Comparison:
    import scikit_posthocs  # statsmodels and seaborn come with it: a second and a half

    values = means.to_numpy(dtype=np.float64)
    ranks = pd.Series(rankdata(-values, axis=1).mean(axis=0), means.columns).sort_values(kind="stable")
    ordered = means[list(ranks.index)]
    long = ordered.reset_index(drop=True).melt(var_name="method", value_name="value")
    wilcoxon = scikit_posthocs.posthoc_wilcoxon(long, "value", "method", zero_method="zsplit", p_adjust="holm")
    several = len(ranks) > 2
    nemenyi = scikit_posthocs.posthoc_nemenyi_friedman(ordered.reset_index(drop=True)) if several else None
    blocks = [str(label) for label in means.index.get_level_values("choice")]
    test, gap = (_friedman(values), critical_difference(len(ranks), len(means))) if several else (None, None)
    pairs = _pairs(ordered, wilcoxon, nemenyi)
    return Comparison(blocks, seeds, dict(ranks), test, gap, nemenyi, pairs, titles, left_out, pools)


def _friedman(values: NDArray[np.float64]) -> Test:
    if (values == values[:, :1]).all():  # SciPy divides by the ranks' spread
        return Test(0.0, values.shape[1] - 1, 1.0)
    test: Any = friedmanchisquare(*values.T)
    return Test(float(test.statistic), values.shape[1] - 1, float(test.pvalue))


def critical_difference(methods: int, blocks: int) -> float:
    """Nemenyi's critical difference of two mean ranks at LEVEL."""
    quantile = float(studentized_range.ppf(1 - LEVEL, methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * blocks))


def _pairs(ordered: pd.DataFrame, wilcoxon: pd.DataFrame, nemenyi: pd.DataFrame | None) -> list[Pair]:
    methods, pairs = list(map(str, ordered.columns)), []
    signed, ranked = wilcoxon.to_numpy(), None if nemenyi is None else nemenyi.to_numpy()
    for i, j in combinations(range(len(methods)), 2):
        gap, by_ranks = ordered.iloc[:, i] - ordered.iloc[:, j], None if ranked is None else float(ranked[i, j])
        wins = int((gap > 0).sum())
        pairs.append(Pair(methods[i], methods[j], float(gap.median()), wins, by_ranks, float(signed[i, j])))
    return pairs


def holm(p_values: list[float]) -> list[float]:
    """P-values adjusted for their number, by Holm's step-down procedure.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p, order = np.array(p_values, dtype=np.float64), np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return [float(x) for x in np.minimum(steps, 1.0)[np.argsort(order, kind="stable")]]


def p_text(p_value: float) -> str:
    """A p-value as displayed: '= 0.035', '< 0.001'."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def sentences(comparison: Comparison) -> str:
    """Methods, tests and results of a comparison, for a caption."""
    over = f"Mean ranks by AUROC over {len(comparison.blocks)} choices of open classes"
    counts = (("seeds", comparison.seeds), ("pools", comparison.pools))
    if averaged := [f"{count} {name}" for name, count in counts if count > 1]:
        over += f" (each the mean over {' and '.join(averaged)})"
    parts = [f"{over}: {', '.join(f'{comparison.titles[m]} {rank:.1f}' for m, rank in comparison.ranks.items())}"]
    test = comparison.friedman
    if test is not None and comparison.critical_difference is not None:
        parts.append(f"Friedman: χ²({test.freedom}) = {test.statistic:.2f}, p {p_text(test.p_value)}")
        parts.append(
            f"Nemenyi: critical difference {comparison.critical_difference:.2f} at {PERCENT}"
            if test.rejects
            else "it does not tell the methods apart, so neither does a difference of ranks"
        )
    parts += [_wilcoxon_words(comparison), DEPENDENCE]
    if comparison.left_out:
        others = ", ".join(comparison.titles[method] for method in comparison.left_out)
        parts.append(f"Not compared, as not planned for every choice: {others}")
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def _wilcoxon_words(comparison: Comparison) -> str:
    test = "Wilcoxon signed-rank" + (" with Holm's correction" if len(comparison.pairs) > 1 else "")
    if comparison.smallest >= LEVEL:
        pairs = f"{len(comparison.pairs)} pairs over {len(comparison.blocks)} blocks"
        return f"{test}: {pairs} cannot have p below {comparison.smallest:.3f}"
    if not comparison.different:
        return f"{test}: no pair differs at {PERCENT}"
    titles = comparison.titles
    named = [f"{titles[pair.first]} and {titles[pair.second]}" for pair in comparison.different]
    if len(named) == len(comparison.pairs) > 1:
        named = ["every pair"]
    sentence = f"{test}, p < {LEVEL} between {'; '.join(named[:8])}"
    return sentence + (f" and {len(named) - 8} more" if len(named) > 8 else "")
