"""Metrics against scikit-learn and against counting by hand, on random and on tied scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from open_set_fer.benchmark.evaluation.decisions import open_set_metrics
from open_set_fer.benchmark.evaluation.metrics import (
    METRICS,
    auroc,
    auroc_interval,
    cell_metrics,
    fpr_at_tpr95,
    normalised_entropy,
    oscr,
)
from open_set_fer.errors import SuiteError


@st.composite
def scored(draw):
    n = draw(st.integers(4, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    is_open = rng.random(n) < draw(st.floats(0.05, 0.95))
    is_open[:2] = [True, False]
    levels = draw(st.sampled_from([2, 5, 50, 0]))  # few levels: many ties
    scores = rng.integers(0, levels, n).astype(float) if levels else rng.normal(size=n)
    return is_open, scores, rng.random(n) < 0.7


@settings(max_examples=150, deadline=None)
@given(scored())
def test_auroc_is_scikit_learns_and_the_pair_count(case):
    is_open, s, _ = case
    difference = s[is_open][:, None] - s[~is_open][None]
    by_pairs = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert auroc(is_open, s) == pytest.approx(by_pairs, abs=1e-12)
    # The authors' orientation: closed positive with confidence -s.
    assert auroc(is_open, s) == pytest.approx(roc_auc_score(~is_open, -s), abs=1e-12)
    assert auroc(is_open, -s) == pytest.approx(1 - auroc(is_open, s), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(scored())
def test_fpr_at_tpr95_is_a_count_and_scikit_learns(case):
    is_open, s, _ = case
    closed = np.sort(s[~is_open])
    # Accept s <= threshold; the smallest threshold that accepts 95 % of the closed faces.
    threshold = next(t for t in closed if np.mean(closed <= t) >= 0.95)
    assert fpr_at_tpr95(is_open, s) == pytest.approx(np.mean(s[is_open] <= threshold), abs=1e-12)
    fpr, tpr, _ = roc_curve(~is_open, -s, drop_intermediate=False)
    assert fpr_at_tpr95(is_open, s) == pytest.approx(fpr[tpr >= 0.95].min(), abs=1e-12)


def test_fpr_at_tpr95_keeps_the_points_that_scikit_learn_drops_by_default():
    """Closed and open faces at the same twenty scores: the ROC is a line, of which the default keeps only the ends."""
    s = np.tile(np.arange(20.0), 2)
    is_open = np.repeat([False, True], 20)
    fpr, tpr, _ = roc_curve(~is_open, -s)
    assert fpr[tpr >= 0.95].min() == 1.0
    assert fpr_at_tpr95(is_open, s) == pytest.approx(0.95, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(scored())
def test_oscr_by_definition(case):
    is_open, s, correct = case
    thresholds = np.unique(s)
    ccr = [0.0, *(np.sum(correct[~is_open] & (s[~is_open] <= t)) / np.sum(~is_open) for t in thresholds)]
    fpr = [0.0, *(np.mean(s[is_open] <= t) for t in thresholds)]
    area = sum((b - a) * (x + y) / 2 for a, b, x, y in zip(fpr, fpr[1:], ccr, ccr[1:], strict=False))
    assert oscr(is_open, s, correct) == pytest.approx(area, abs=1e-12)
    assert oscr(is_open, s, np.ones_like(correct)) == pytest.approx(auroc(is_open, s), abs=1e-12)


def test_an_oracle_scores_one_and_its_reverse_zero():
    truth = np.array([0, 1, -1, 2, -1])
    oracle = (truth < 0).astype(float)
    good = cell_metrics(truth, oracle, np.array([0, 1, 0, 2, 1]), np.array([0, 1, 1, 0, 2]), 3)
    assert (good["auroc"], good["fpr_at_tpr95"], good["oscr"], good["closed_accuracy"]) == (1, 0, 1, 1)
    assert good["closed_set_accuracy"] == pytest.approx(2 / 3)
    assert cell_metrics(truth, -oracle, np.zeros(5, int), None, 3)["auroc"] == 0


@pytest.mark.parametrize(
    ("scores", "classes", "match"),
    [
        ([0.1, np.nan, 0.2], [0, 0, 0], "NaN or infinite"),
        ([0.1, np.inf, 0.2], [0, 0, 0], "NaN or infinite"),
        ([0.1, 0.2], [0, 0], "for \\(3,\\) test images"),
        ([0.1, 0.2, 0.3], [0, 0, 5], "integers in 0..1"),
    ],
)
def test_a_broken_detection_fails_its_cell(scores, classes, match):
    with pytest.raises(SuiteError, match=match):
        cell_metrics(np.array([0, 1, -1]), np.array(scores), np.array(classes), None, 2)


def test_normalised_entropy_of_the_papers_pseudo_labels():
    """The numbers printed with the authors' output: 0.863 for open faces, 0.781 for closed ones."""
    for counts, value in (((114, 106, 579, 234, 101, 485), 0.863), ((58, 132, 1216, 492, 142, 699), 0.781)):
        assert normalised_entropy(np.repeat(np.arange(6), counts), 6) == pytest.approx(value, abs=6e-4)


def test_every_metric_of_a_cell_is_described_once_and_the_better_one_is_the_oracles():
    truth = np.array([0, 1, -1, 2, -1, 0])
    predicted = np.array([0, 1, 0, 2, 1, 0])
    origin = np.array(["test", "test", "train", "test", "test", "test"])
    wrong = np.where(truth == 2, predicted, (predicted + 1) % 3)
    oracle = cell_metrics(truth, (truth < 0).astype(float), predicted, predicted, 3, predicted, origin)
    worse = cell_metrics(truth, (truth >= 0).astype(float), wrong, wrong, 3, wrong, origin)
    oracle |= open_set_metrics(truth, (truth < 0).astype(float), predicted, 3, 0.5)
    worse |= open_set_metrics(truth, (truth >= 0).astype(float), wrong, 3, 0.5)
    described = {metric.name: metric for metric in METRICS}
    assert len(described) == len(METRICS)
    assert set(oracle) == set(described) - {"seconds.total"}
    for name, value in oracle.items():
        if (higher := described[name].higher_is_better) is not None:
            assert (value > worse[name]) == higher, name


def test_auroc_by_origin_and_over_rightly_classified_closed_faces():
    truth = np.array([0, 1, 0, -1, -1, -1])
    scores = np.array([0.1, 0.5, 0.9, 0.2, 0.6, 1.0])
    origin = np.array(["test", "test", "test", "test", "train", "train"])
    found = cell_metrics(truth, scores, np.array([0, 1, 1, 0, 0, 0]), None, 2, None, origin)
    assert found["auroc_open_test"] == pytest.approx(1 / 3)
    assert found["auroc_open_train"] == pytest.approx(5 / 6)
    assert found["auroc"] == pytest.approx((1 + 2 + 3) / 9)
    assert found["auroc_right"] == pytest.approx(5 / 6)  # without the closed face of score 0.9
    assert found["open_share"] == 0.5
    alone = cell_metrics(truth, scores, np.array([1, 0, 1, 0, 0, 0]), None, 2, None, np.array(["test"] * 6))
    assert "auroc_open_train" not in alone
    assert "auroc_right" not in alone, "no closed face is classified rightly"
    assert alone["auroc_open_test"] == alone["auroc"]


def test_the_entropy_is_that_of_the_given_labels_and_the_accuracy_that_of_the_answers():
    truth, answers, given = np.array([0, 1, -1, -1]), np.array([0, 1, 0, 0]), np.array([0, 1, 0, 1])
    found = cell_metrics(truth, np.arange(4.0), answers, answers, 2, given)
    assert (found["pseudo_label_entropy_open"], found["closed_set_accuracy"]) == (1, 1)


def test_the_interval_of_auroc_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    is_open = np.arange(300) < 100
    scores = rng.normal(size=300) + is_open
    low, high = auroc_interval(is_open, scores)
    plain = [auroc(is_open, np.r_[rng.choice(scores[:100], 100), rng.choice(scores[100:], 200)]) for _ in range(1000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.015)
    assert low < auroc(is_open, scores) < high
    assert auroc_interval(is_open, scores) == (low, high), "seeded"
    assert auroc_interval(is_open, is_open.astype(float)) == (1, 1)
    assert auroc_interval(is_open, np.zeros(300)) == (0.5, 0.5), "ties count half"
