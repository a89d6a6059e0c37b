"""Two experiments on shared cells: means, interval and signs by hand, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, friedmanchisquare, t, wilcoxon
from statsmodels.stats.multitest import multipletests

from open_set_fer.benchmark.evaluation.metrics import AUROC, FPR_AT_TPR95
from open_set_fer.errors import SuiteError
from open_set_fer.reports.compare import NOTE, differences, other_faces
from open_set_fer.reports.data.statistics import DEPENDENCE, holm
from tests.reports.page.test_summary import made

FIRST = {"fear": 0.6, "anger": 0.7, "disgust": 0.5, "sadness": 0.8}
SECOND = {"fear": 0.65, "anger": 0.72, "disgust": 0.5, "sadness": 0.7}


def of(values, method="baseline", seeds=(0, 1)):
    return {("single", opened, method, seed): value + 0.1 * seed for opened, value in values.items() for seed in seeds}


def test_differences_are_those_of_shared_cells():
    first = made(of(FIRST) | of({"fear": 0.9}, "eow") | {("single", "happiness", "baseline", 0): 0.1})
    second = made(of(SECOND) | of({"fear": 0.1}, "dias") | {("single", "happiness", "baseline", 0): None})
    auroc, fpr = differences(first, second, ("A", "B"))
    gaps = np.array([0.05, 0.02, 0.0, -0.1])
    assert (auroc.metric, fpr.metric) == (AUROC, FPR_AT_TPR95)
    assert (auroc.first, auroc.second) == pytest.approx((0.7, 0.6925))
    half = t.ppf(0.975, 3) * gaps.std(ddof=1) / 2
    assert (auroc.difference, auroc.low, auroc.high) == pytest.approx(
        (gaps.mean(), gaps.mean() - half, gaps.mean() + half)
    )
    assert (auroc.choices, auroc.cells, auroc.same) == (4, 8, 8)
    assert (auroc.better, auroc.equal, auroc.worse) == (2, 1, 1)
    assert auroc.p_value == pytest.approx(1.0)  # two of three signs: 2 * (3 + 1) / 8
    assert (fpr.better, fpr.worse) == (2, 1)  # a lower one is the better
    assert fpr.difference == pytest.approx(-auroc.difference)
    assert auroc.signs == "2/1/1"
    assert auroc.text.endswith(" [-0.111, +0.096]")


def test_p_values_are_holms_over_every_test_of_the_comparison():
    better = {opened: value + 0.01 * (place + 1) for place, (opened, value) in enumerate(FIRST.items())}
    rows = differences(made(of(FIRST)), made(of(better)), ("A", "B"))
    assert [row.p_value for row in rows] == pytest.approx([0.25, 0.25])  # two tests with p 2 / 2**4
    raw = list(np.random.default_rng(0).random(9) ** 3)
    assert holm(raw) == pytest.approx(list(multipletests(raw, method="holm")[1]))
    assert holm([]) == []


@pytest.mark.parametrize(("opened", "rates"), [(60, [0.10, 0.09, 0.04, 0.12]), (300, [0.22, 0.21, 0.10, 0.37])])
def test_the_notes_say_how_often_tests_over_choices_find_a_difference_of_equal_methods(opened, rates):
    rng, trials, found, faces = np.random.default_rng(2), 800, np.zeros(4), 300
    for _ in range(trials):
        shared = rng.normal(size=(5, faces))
        areas = np.empty((5, 7))
        for method, choice in np.ndindex(5, 7):
            closed = np.sort((shared[method] + rng.normal(size=faces)) / 2**0.5)
            areas[method, choice] = np.searchsorted(closed, rng.normal(1, 1, opened)).mean() / faces
        gaps = areas[0] - areas[1]
        tests = (wilcoxon(gaps), binomtest(int((gaps > 0).sum()), 7), friedmanchisquare(*areas))
        misses = abs(gaps.mean()) > t.ppf(0.975, 6) * gaps.std(ddof=1) / 7**0.5
        found += [misses, *(test.pvalue < 0.05 for test in tests)]
    assert found / trials == pytest.approx(rates, abs=0.035)
    first, others = "in 10 % of trials with 60 open faces a choice and in 22 % with 300", ["9 and 21", "4 and 10"]
    for text in (NOTE, DEPENDENCE):
        assert all(words in text for words in (first, *others, "12 and 37 % (Friedman"))


def test_few_choices_have_no_interval_and_equal_ones_a_point():
    two = {opened: FIRST[opened] for opened in ("fear", "anger")}
    row = differences(made(of(two)), made(of(two)), ("A", "B"))[0]
    assert (row.low, row.text, row.p_value, row.equal) == (None, "+0.000", 1.0, 2)
    row = differences(made(of(FIRST)), made(of(FIRST)), ("A", "B"))[0]
    assert row.text == "+0.000 [+0.000, +0.000]"


def test_a_control_is_not_averaged_with_other_cells():
    flipped = {("single", "fear (20% of true labels flipped)", "baseline", 0): 0.9}
    rows = differences(made(of(FIRST) | flipped), made(of(FIRST) | flipped), ("A", "B"))
    assert [row.protocol for row in rows if row.metric == AUROC] == ["single", "single (20% of true labels flipped)"]


def test_shifted_closed_faces_are_in_no_comparison():
    shifted = {("shift", "fear (60 closed faces, half with blur)", "baseline", 0): 0.5}
    rows = differences(made(of(FIRST) | shifted), made(of(FIRST) | shifted), ("A", "B"))
    assert {row.protocol for row in rows} == {"single"}
    with pytest.raises(SuiteError, match="share no finished cell: B has only cells of shifted faces"):
        differences(made(of(FIRST)), made(shifted), ("A", "B"))


def test_nothing_shared_is_refused_with_what_differs():
    with pytest.raises(SuiteError, match=r"A and B share no finished cell: no common method \(baseline against eow\)"):
        differences(made(of(FIRST)), made(of(SECOND, "eow")), ("A", "B"))
    with pytest.raises(SuiteError, match="no cell agrees in data set"):
        differences(
            made(of({"fear": 0.5}) | of({"anger": 0.5}, "eow")),
            made(of({"anger": 0.5}) | of({"fear": 0.5}, "eow")),
            ("A", "B"),
        )


def test_other_contents_of_a_data_set_are_named():
    first = made(of(FIRST))
    second = replace(first, cells=first.cells.assign(fingerprint="other"))
    assert other_faces(first, first) == []
    assert other_faces(first, second) == ["ferplus"]
