"""Ranks, statistics and p-values from hand-made scores, each by another road than the module's."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import chi2, norm

from open_set_fer.reports.data.statistics import FEWEST_BLOCKS, Comparison, compare, critical_difference, sentences
from open_set_fer.reports.figures.histograms import rank_figure
from open_set_fer.reports.tables.build import all_tables
from tests.reports.page.test_summary import made

CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
METHODS = ("baseline", "ours", "proser", "dias")
SCORES = np.array(
    [
        [0.70, 0.91, 0.80, 0.60],
        [0.72, 0.93, 0.81, 0.74],
        [0.65, 0.88, 0.64, 0.62],
        [0.80, 0.95, 0.85, 0.85],
        [0.66, 0.89, 0.70, 0.62],
        [0.71, 0.60, 0.70, 0.50],
        [0.68, 0.92, 0.88, 0.67],
    ]
)
"""AUROC, choices of open classes by methods: the mean over the seeds."""


def cells(scores: NDArray[np.float64] = SCORES, seeds: int = 2, methods: tuple[str, ...] = METHODS) -> pd.DataFrame:
    """Cells whose means over seeds are the scores."""
    offsets = np.linspace(-0.01, 0.01, seeds) if seeds > 1 else np.zeros(1)
    return made(
        {
            ("single", opened, method, seed): float(scores[row, column] + offsets[seed])
            for row, opened in enumerate(CLASSES[: len(scores)])
            for column, method in enumerate(methods)
            for seed in range(seeds)
        }
    ).cells


def compared(frame: pd.DataFrame) -> Comparison:
    found = compare(frame)
    assert isinstance(found, Comparison), found
    return found


def counted_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each: 1 and the number of better ones and half that of equal others."""
    better = (scores[:, None, :] > scores[:, :, None]).sum(2)
    equal = (scores[:, None, :] == scores[:, :, None]).sum(2) - 1
    return 1 + better + equal / 2


def enumerated_wilcoxon(difference: NDArray[np.float64]) -> float:
    """Two-sided p-value over every choice of signs; no zeros, ties share ranks."""
    size = np.abs(difference).round(10)
    ranks = np.array([(size < s).sum() + ((size == s).sum() + 1) / 2 for s in size])
    observed = ranks[difference > 0].sum()
    sums = np.array([ranks[list(signs)].sum() for signs in itertools.product((False, True), repeat=len(size))])
    middle = ranks.sum() / 2
    return float((np.abs(sums - middle) >= abs(observed - middle) - 1e-9).mean())


def holm(p_values: list[float]) -> list[float]:
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, running = [0.0] * len(p_values), 0.0
    for place, at in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[at]))
        corrected[at] = running
    return corrected


def test_ranks_and_friedman_are_those_of_the_formula() -> None:
    found = compared(cells())
    ranks = counted_ranks(SCORES)
    assert found.ranks == pytest.approx(dict(zip(METHODS, ranks.mean(0), strict=True)))
    assert list(found.ranks) == ["ours", "proser", "baseline", "dias"]
    n, k = SCORES.shape
    statistic = 12 / (n * k * (k + 1)) * (ranks.sum(0) ** 2).sum() - 3 * n * (k + 1)
    ties = sum(count**3 - count for row in SCORES for count in np.unique(row, return_counts=True)[1])
    statistic /= 1 - ties / (n * (k**3 - k))
    assert found.friedman is not None
    assert found.friedman.statistic == pytest.approx(statistic)
    assert found.friedman.p_value == pytest.approx(chi2.sf(statistic, k - 1))
    assert (found.friedman.freedom, found.seeds, found.blocks) == (3, 2, list(CLASSES))


def test_wilcoxon_is_that_of_every_choice_of_signs_and_holm_is_step_down() -> None:
    found = compared(cells())
    columns = {method: SCORES[:, place] for place, method in enumerate(METHODS)}
    without_zeros = {
        pair: columns[pair.first] - columns[pair.second]
        for pair in found.pairs
        if (columns[pair.first] != columns[pair.second]).all()
    }
    assert len(without_zeros) == len(found.pairs) - 1  # proser and dias are equal once
    exact = {pair: enumerated_wilcoxon(difference) for pair, difference in without_zeros.items()}
    strongest = min(exact.values())
    assert min(pair.wilcoxon for pair in found.pairs) == pytest.approx(min(1.0, len(found.pairs) * strongest))
    three = compared(cells(SCORES[:, [0, 1, 3]], methods=("baseline", "ours", "dias")))
    wanted = holm([enumerated_wilcoxon(columns[pair.first] - columns[pair.second]) for pair in three.pairs])
    assert [pair.wilcoxon for pair in three.pairs] == pytest.approx(wanted)
    assert three.pairs[0].difference == pytest.approx(float(np.median(columns["ours"] - columns["baseline"])))
    assert (three.pairs[0].first, three.pairs[0].second, three.pairs[0].wins) == ("ours", "baseline", 6)


def test_nemenyi_is_the_range_of_normal_variables() -> None:
    found = compared(cells())
    n, k = SCORES.shape
    for pair in found.pairs:
        q = abs(found.ranks[pair.first] - found.ranks[pair.second]) / math.sqrt(k * (k + 1) / (12 * n))
        below = quad(lambda x, q=q: k * norm.pdf(x) * (norm.cdf(x) - norm.cdf(x - q)) ** (k - 1), -9, 9 + q)[0]
        assert pair.nemenyi == pytest.approx(1 - below, abs=1e-6)
    # Table 5 of Demšar (2006): q at 0.05 for 2 to 10 methods.
    for methods, q in zip(range(2, 11), (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164), strict=True):
        assert critical_difference(methods, 7) == pytest.approx(q * math.sqrt(methods * (methods + 1) / 42), abs=2e-3)


def test_what_is_said_names_ranks_tests_and_assumption() -> None:
    said = sentences(compared(cells()))
    for part in (
        "over 7 choices of open classes (each the mean over 2 seeds): Ours 1.3, PROSER 2.2",
        "Friedman: χ²(3) = ",
        "Nemenyi: critical difference 1.77 at 5 %",
        "6 pairs over 7 blocks cannot have p below 0.094",
        "share faces",
    ):
        assert part in said
    two = sentences(compared(cells(SCORES[:, :2], methods=("baseline", "ours"))))
    assert "Friedman: " not in two
    assert "Wilcoxon signed-rank, p < 0.05 between Ours and Baseline (MSP)" in two
    alike = sentences(compared(cells(SCORES[:, [0, 0, 0]] + [0, 1e-3, 0], methods=METHODS[:3])))
    assert "p < 0.05 between Ours and Baseline (MSP); Ours and PROSER" in alike
    mixed = np.array([row[[k % 3, (k + 1) % 3, (k + 2) % 3]] for k, row in enumerate(SCORES)])
    assert "so neither does a difference of ranks" in sentences(compared(cells(mixed, methods=METHODS[:3])))


def test_equal_methods_are_no_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compared(cells(SCORES[:, [0, 0, 1]], methods=METHODS[:3]))
        assert [pair.wilcoxon for pair in found.pairs if {pair.first, pair.second} == {"baseline", "ours"}] == [1.0]
        same = compared(cells(SCORES[:, [0, 0, 0]], methods=METHODS[:3]))
    assert same.friedman is not None
    assert (same.friedman.p_value, same.friedman.rejects) == (1.0, False)


def test_refused_with_a_sentence() -> None:
    few = compare(cells(SCORES[: FEWEST_BLOCKS - 1]))
    assert few == (
        "No test of differences between methods: 5 choices of open classes; with fewer than 6 even a method that "
        "always wins has a Wilcoxon p above 0.05."
    )
    frame = cells()
    frame.loc[frame["run_id"].isin(["run3", "run11"]), ["status", "auroc"]] = "missing", np.nan
    said = compare(frame)
    assert isinstance(said, str)
    assert "2 of 56 have no result (Ours, surprise seed 1; Ours, fear seed 1)" in said
    alone = compare(cells(SCORES[:, :1], methods=("baseline",)))
    assert isinstance(alone, str)
    assert "fewer than two methods" in alone


def pooled(classes: tuple[str, ...], pools: int) -> pd.DataFrame:
    """Cells of several pools of each class; the scores' mean over a class's pools is its row of SCORES."""
    offsets = np.linspace(-0.01, 0.01, pools)
    return made(
        {
            ("single", f"{opened} (600 images, {10 * pool + 5}% open)", method, 0): float(
                SCORES[row, column] + offsets[pool]
            )
            for row, opened in enumerate(classes)
            for pool in range(pools)
            for column, method in enumerate(METHODS)
        }
    ).cells


def test_pools_of_one_choice_are_no_blocks_of_their_own() -> None:
    said = compare(pooled(("happiness",), 6))
    assert isinstance(said, str)
    assert "1 choice of open classes; with fewer than 6" in said
    found = compared(pooled(CLASSES, 2))
    assert (found.blocks, found.pools, found.seeds) == (list(CLASSES), 2, 1)
    assert found.ranks == compared(cells()).ranks
    assert "over 7 choices of open classes (each the mean over 2 pools): Ours 1.3" in sentences(found)


def test_a_method_that_is_not_planned_everywhere_is_left_out_and_named() -> None:
    frame = cells()
    short = frame[~((frame["method"] == "dias") & (frame["open_classes"] == "fear"))]
    found = compared(short)
    assert found.left_out == ["dias"]
    assert set(found.ranks) == {"baseline", "ours", "proser"}
    assert "not planned for every choice: DIAS" in sentences(found)


def test_the_table_says_it_and_the_refusal_is_for_the_laboratory() -> None:
    def table1(scores: NDArray[np.float64]):
        values = {
            ("single", opened, method, 0): float(scores[row, column])
            for row, opened in enumerate(CLASSES[: len(scores)])
            for column, method in enumerate(METHODS)
        }
        return next(table for table in all_tables(made(values)) if table.name == "table1_ferplus")

    whole, few = table1(SCORES), table1(SCORES[:3])
    assert any("Friedman: χ²(3)" in note for note in whole.footnotes)
    assert not any("Friedman" in note for note in whole.provenance_notes)
    assert any(note.startswith("No test of differences") for note in few.provenance_notes)


def test_the_diagram_has_every_method_and_a_bar_over_those_not_told_apart() -> None:
    figure = rank_figure("ferplus", compared(cells()), "")
    assert figure is not None
    drawn = figure.svg()
    for name in ("Ours", "PROSER", "Baseline (MSP)", "DIAS", "critical difference 1.77"):
        assert name in drawn
    assert "#000000" not in drawn  # the page's own text colour, on a dark page too
    assert "Ours 1.29" in figure.alternative
    assert rank_figure("ferplus", compared(cells(SCORES[:, :2], methods=("baseline", "ours"))), "") is None
