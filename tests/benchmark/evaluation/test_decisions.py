"""Threshold on held-out closed faces, and accuracy and F1 over K+1 classes against scikit-learn's confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from open_set_fer.benchmark.evaluation.decisions import open_set_metrics, threshold_for
from tests.tables import made_metrics


def test_threshold_accepts_95_percent_of_the_held_out_faces_and_no_more_than_needed():
    rng = np.random.default_rng(0)
    for count in (1, 19, 20, 21, 400):
        scores = rng.normal(size=count)
        threshold = threshold_for(scores)
        assert (scores <= threshold).mean() >= 0.95
        assert (scores < threshold).mean() < 0.95


def test_accuracy_and_macro_f1_over_k_plus_1_classes():
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(-1, 4, 300), rng.integers(0, 4, 300)
    predicted = np.where((truth >= 0) & (rng.random(300) < 0.7), truth, predicted)
    score = rng.normal(size=300) + (truth < 0)
    found = open_set_metrics(truth, score, predicted, 4, 0.8)
    counts = confusion_matrix(np.where(truth < 0, 4, truth), np.where(score > 0.8, 4, predicted), labels=range(5))
    assert found["open_set_accuracy"] == pytest.approx(counts.trace() / 300)
    f1 = [2 * counts[k, k] / (counts[k].sum() + counts[:, k].sum()) for k in range(5)]
    assert found["open_set_f1"] == pytest.approx(np.mean(f1))


def test_a_face_at_the_threshold_is_accepted_and_without_a_threshold_nothing_is_decided():
    truth, score, predicted = np.array([0, 1, -1]), np.array([0.2, 0.5, 0.6]), np.array([0, 1, 0])
    assert open_set_metrics(truth, score, predicted, 2, 0.5) == {"open_set_accuracy": 1.0, "open_set_f1": 1.0}
    assert "open_set_f1" in made_metrics(truth, score, predicted, threshold=0.5)
    assert "open_set_f1" not in made_metrics(truth, score, predicted)
