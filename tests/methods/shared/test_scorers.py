"""Scorers: each part of a transductive method scores the images it did not train on as the detection did."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import zscore

from open_set_fer.errors import SuiteError
from open_set_fer.methods.ours import Ours
from open_set_fer.methods.ours_plus import OursPlus
from open_set_fer.methods.shared.scorers import ConfidenceScorer, plans, rebuild, standardise, tensors
from open_set_fer.testing import task_and_context


@pytest.mark.parametrize("networks", ["both", "second"])
def test_each_online_round_scores_the_other_half_as_the_detection_did(networks):
    task, context, _ = task_and_context()
    method = Ours(variant="online", epochs=1, cycle_length=1, batch_size=32, score_networks=networks)
    detection = method.detect(task, context)
    by_round = detection.scorer.by_round(task.test_images, detection.predicted_class)
    assert by_round.shape == (2, 96)
    # The first round trains on even images and scores the odd ones.
    for part, half in enumerate((slice(1, None, 2), slice(0, None, 2))):
        np.testing.assert_allclose(by_round[part, half], detection.unknown_score[half], rtol=1e-4, atol=1e-4)
    predictions = detection.scorer.score(task.test_images).probabilities.argmax(axis=1)
    expected = detection.scorer.by_round(task.test_images, predictions).mean(axis=0)
    np.testing.assert_allclose(detection.scorer.score(task.test_images).unknown_score, expected, rtol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"variant": "online", "score_batch_norm": "batch"}])
def test_ours_has_no_scorer_where_a_score_is_of_the_pool(settings):
    task, context, _ = task_and_context()
    assert Ours(epochs=1, cycle_length=1, cycle_training=False, **settings).detect(task, context).scorer is None


def test_each_discriminator_scores_its_fold_as_the_detection_did():
    task, context, _ = task_and_context()
    detection = OursPlus(epochs=1, batch_size=32, folds=4, energy_weight=0.5, level=1.0).detect(task, context)
    by_fold = detection.scorer.by_fold(task.test_images)
    for fold in range(4):  # not 3, the period of the classes: a fold would hold one class
        own = slice(fold, None, 4)
        np.testing.assert_allclose(
            by_fold[fold, own], zscore(detection.extras["pool_logit"][own]), rtol=1e-3, atol=1e-3
        )
    logits = context.closed_set_model(task).network(torch.zeros(1, 1, 24, 24)).detach()  # not the fabricated ones
    assert logits.shape == (1, 3)
    scores = detection.scorer.score(task.test_images[:4]).unknown_score
    # From the parts: the mean of the folds, and half the energy on the scale of the pool's.
    with torch.inference_mode():
        network = context.closed_set_model(task).network.eval()
        own_logits = network(network.prepare(torch.from_numpy(task.test_images[:4]))).double()
    energy, scale = -own_logits.logsumexp(1).numpy(), detection.extras["energy"]
    expected = by_fold[:, :4].mean(axis=0) + 0.5 * (energy - scale.mean()) / (scale.std() or 1.0)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused():
    _, context, _ = task_and_context()
    network = context.closed_set_model(None).network
    scorer = ConfidenceScorer({"classifier": network}, settings={"score": "msp"})
    numbers = tensors(scorer)
    numbers.pop("network.classifier.fc.bias")
    with pytest.raises(SuiteError, match=r"'classifier' do not fit: .*fc\.bias"):
        rebuild(ConfidenceScorer, plans(scorer), numbers, scorer.settings, torch.device("cpu"))
    with pytest.raises(SuiteError, match=r"not made by methods[.]shared[.]backbones"):
        plans(ConfidenceScorer({"classifier": torch.nn.Linear(2, 2)}))


def test_each_group_has_its_own_scale():
    rng = np.random.default_rng(0)
    groups = np.arange(30) % 3
    values = rng.normal(size=30) * 10.0**groups + groups
    scaled = standardise(values, groups)
    for group in range(3):
        np.testing.assert_allclose(scaled[groups == group], zscore(values[groups == group]), rtol=1e-12)
    np.testing.assert_allclose(standardise(values), zscore(values), rtol=1e-12)
    assert standardise(np.full(4, 2.0)).tolist() == [0.0] * 4
