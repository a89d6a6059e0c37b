"""Metrics against scikit-learn and against counting by hand, on random and on tied scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from open_set_fer.benchmark.evaluation.metrics import (
    METRICS,
    auroc,
    cell_metrics,
    fpr_at_tpr95,
    normalised_entropy,
    oscr,
)
from open_set_fer.errors import SuiteError
from tests.tables import made_metrics, made_table


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
    good = made_metrics(truth, oracle, np.array([0, 1, 0, 2, 1]), np.array([0, 1, 1, 0, 2]))
    assert (good["auroc"], good["fpr_at_tpr95"], good["oscr"], good["closed_accuracy"]) == (1, 0, 1, 1)
    assert good["closed_set_accuracy"] == pytest.approx(2 / 3)
    assert made_metrics(truth, -oracle, np.zeros(5, int))["auroc"] == 0


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
        made_table(np.array([0, 1, -1]), scores, np.array(classes), np.array([0, 0, 0]), classes=2)


def test_normalised_entropy_of_the_papers_pseudo_labels():
    """The numbers printed with the authors' output: 0.863 for open faces, 0.781 for closed ones."""
    for counts, value in (((114, 106, 579, 234, 101, 485), 0.863), ((58, 132, 1216, 492, 142, 699), 0.781)):
        assert normalised_entropy(np.repeat(np.arange(6), counts), 6) == pytest.approx(value, abs=6e-4)


def test_every_metric_of_a_cell_is_described_once_and_the_better_one_is_the_oracles():
    truth = np.array([0, 1, -1, 2, -1, 0, 1, 2])
    predicted = np.array([0, 1, 0, 2, 1, 0, 1, 2])
    origin = np.array(["test", "test", "train", "test", "test", "test", "test", "test"])
    wrong = np.where(truth == 2, predicted, (predicted + 1) % 3)
    columns = {"closed_set_loss": np.ones(8), "twin": np.arange(8), "has_twin": np.arange(8) > 5, "origin": origin}
    oracle = made_metrics(truth, truth < 0, predicted, threshold=0.5, **columns)
    worse = made_metrics(truth, truth >= 0, wrong, wrong, given=predicted, threshold=0.5, **columns)
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
    found = made_metrics(truth, scores, np.array([0, 1, 1, 0, 0, 0]), classes=2, origin=origin)
    assert found["auroc_open_test"] == pytest.approx(1 / 3)
    assert found["auroc_open_train"] == pytest.approx(5 / 6)
    assert found["auroc"] == pytest.approx((1 + 2 + 3) / 9)
    assert found["auroc_right"] == pytest.approx(5 / 6)  # without the closed face of score 0.9
    assert found["open_share"] == 0.5
    alone = made_metrics(truth, scores, np.array([1, 0, 1, 0, 0, 0]), classes=2)
    assert "auroc_open_train" not in alone
    assert "auroc_right" not in alone, "no closed face is classified rightly"
    assert alone["auroc_open_test"] == alone["auroc"]


def test_the_entropy_is_that_of_the_given_labels_and_the_accuracy_that_of_the_answers():
    truth, answers, given = np.array([0, 1, -1, -1]), np.array([0, 1, 0, 0]), np.array([0, 1, 0, 1])
    found = made_metrics(truth, np.arange(4.0), answers, classes=2, given=given)
    assert (found["pseudo_label_entropy_open"], found["closed_set_accuracy"]) == (1, 1)


@settings(max_examples=100, deadline=None)
@given(scored())
def test_fpr_with_open_as_positive_is_a_count(case):
    """The share of closed faces at or above the largest threshold that rejects 95 % of the open ones."""
    is_open, s, _ = case
    opened = np.sort(s[is_open])[::-1]
    threshold = next(t for t in opened if np.mean(opened >= t) >= 0.95)
    found = made_metrics(np.where(is_open, -1, 0), s, np.zeros(len(s), int))["fpr_at_tpr95_open"]
    assert found == pytest.approx(np.mean(s[~is_open] >= threshold), abs=1e-12)


def test_the_interval_of_auroc_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    is_open = np.arange(300) < 100
    scores = rng.normal(size=300) + is_open
    found = made_metrics(np.where(is_open, -1, 0), scores, np.zeros(300, int))
    plain = [auroc(is_open, np.r_[rng.choice(scores[:100], 100), rng.choice(scores[100:], 200)]) for _ in range(1000)]
    interval = found["auroc_low"], found["auroc_high"]
    assert interval == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])), abs=0.015)


def test_what_twins_change():
    """Copies of each open face: the interval is that of the faces without copies, AUROC without twins has none."""
    rng = np.random.default_rng(4)
    truth = np.r_[np.full(40, -1), np.zeros(100, int)]
    scores = rng.normal(size=140) + (truth < 0)
    plain = made_metrics(truth, scores, np.zeros(140, int))
    rows = np.r_[np.arange(40), np.arange(140)]
    has_twin = np.r_[np.ones(40, bool), np.arange(140) < 30]
    found = made_metrics(truth[rows], scores[rows], np.zeros(180, int), twin=rows, has_twin=has_twin)
    assert found["auroc"] == pytest.approx(plain["auroc"])
    assert (found["auroc_low"], found["auroc_high"]) == pytest.approx((plain["auroc_low"], plain["auroc_high"]))
    alone = made_metrics(truth[30:], scores[30:], np.zeros(110, int))
    assert found["auroc_no_twins"] == alone["auroc"]
    assert "auroc_no_twins" not in plain


def by_hand(is_open, scores, strata):
    """Review fidelity.md, B2: sum n_o n_c A / sum n_o n_c over strata."""
    ordered = pairs = 0.0
    for stratum in set(strata):
        part = [place for place, other in enumerate(strata) if other == stratum]
        for a in part:
            for b in part:
                if is_open[a] and not is_open[b]:
                    ordered += (scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b])
                    pairs += 1
    return ordered / pairs


def test_auroc_within_the_label_and_added_information_by_hand():
    rng = np.random.default_rng(5)
    truth, given = rng.integers(-1, 3, 200), rng.integers(0, 3, 200)
    loss = rng.permutation(200) / 7
    scores = np.round(rng.normal(size=200) + given + loss / 9, 1)
    found = made_metrics(truth, scores, given, closed_set_loss=loss)
    assert found["auroc_within_label"] == pytest.approx(by_hand(truth < 0, scores, given.tolist()), abs=1e-12)
    decile = np.argsort(np.argsort(loss)) // 20
    strata = list(zip(given.tolist(), decile.tolist(), strict=True))
    assert found["added_information"] == pytest.approx(by_hand(truth < 0, scores, strata), abs=1e-12)
    assert found["added_information_low"] < found["added_information"] < found["added_information_high"]
    assert "added_information" not in made_metrics(truth, scores, given), "a table of before"


def test_the_labels_frequency_says_nothing_within_a_label_and_the_models_own_loss_little_in_its_deciles():
    rng = np.random.default_rng(6)
    truth, given = rng.integers(-1, 3, 3000), np.minimum(rng.integers(0, 6, 3000), 2)
    frequency = -np.log(np.bincount(given) / 3000)[given]
    loss = rng.normal(size=3000) + (truth < 0)
    found = made_metrics(truth, frequency, given, closed_set_loss=loss)
    assert (found["auroc_within_label"], found["added_information"]) == (0.5, 0.5)
    own = made_metrics(truth, loss, given, closed_set_loss=loss)
    assert own["auroc_within_label"] > 0.7
    assert 0.5 < own["added_information"] < 0.58, "deciles are coarse"
    assert made_metrics(truth, loss + (truth < 0), given, closed_set_loss=loss)["added_information_low"] > 0.6


def test_flipped_labels_and_shifted_faces_have_no_added_information():
    """Their `open` faces are of closed classes."""
    truth = np.array([0, 1, 2, -1, -1, 0])
    table = made_table(truth, np.arange(6.0), np.zeros(6, int), closed_set_loss=np.ones(6))
    assert "added_information" in cell_metrics(table, table.attrs["closed_classes"])
    found = cell_metrics(table.assign(true_class="fear"), table.attrs["closed_classes"])
    assert "added_information" not in found
    assert "auroc_within_label" in found


def test_a_closed_class_named_open_is_no_open_face():
    table = made_table(np.array([0, 1, -1, -1]), np.arange(4.0), np.array([0, 1, 0, 0]), classes=2)
    renamed = table.replace("fear", "open")
    plain, found = (
        cell_metrics(t, classes) for t, classes in ((table, ["fear", "anger"]), (renamed, ["open", "anger"]))
    )
    assert found == plain
