"""PROSER: losses and mixing against closed forms, the shared model untouched, the sign, an unseen class."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from open_set_fer.benchmark.planning.settings import build_settings
from open_set_fer.errors import SuiteError
from open_set_fer.methods.proser import Proser, classifier_placeholder_loss, delta_confidence, mix, open_logits
from open_set_fer.methods.shared import training
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings
from open_set_fer.testing import PlainContext, bright_bars, task_and_context

QUICK = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2}


def detect(task_change=None, seed=0, classes=3, **settings):
    task, context, _ = task_and_context(classes=classes, seed=seed)
    return Proser(**{**QUICK, **settings}).detect(dataclasses.replace(task, **(task_change or {})), context)


@pytest.fixture(scope="module")
def first():
    return detect()


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def test_defaults_are_the_published_ones():
    assert dataclasses.asdict(Proser()) == {
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "dummies": 1,
        "alpha": 1.0,
        "mixup_weight": 0.01,
        "mix_different_only": True,
        "mix_stage": 2,
        "lambda1": 1.0,
        "lambda2": 1.0,
        "temperature": 1024.0,
        "erase_probability": 0.5,
    }
    with pytest.raises(SuiteError, match=r"methods\.proser\.batch_size: .*greater than or equal to 4 \(got 3\)"):
        build_settings(Proser, {"batch_size": 3}, "methods.proser")


def test_losses_against_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)) * 3, np.array([0, 1, 2, 0, 1, 2])
    rows = np.arange(6)
    masked = logits.copy()
    masked[rows, labels] = -1e9
    shares = rng.dirichlet([1.0, 1.0, 1.0], 6)
    for targets, weights in ((labels, np.eye(3)[labels]), (shares, shares)):
        known = -(weights * log_softmax(logits)[:, :3]).sum(axis=1).mean()
        expected = 0.7 * known - 0.3 * log_softmax(masked)[:, 3].mean()
        given = (torch.from_numpy(array) for array in (logits, targets, labels))
        loss = classifier_placeholder_loss(*given, 0.7, 0.3)
        assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert training.unknown_loss(torch.from_numpy(logits)).item() == pytest.approx(
        -log_softmax(logits)[:, 3].mean(), rel=1e-12
    )


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_the_masked_label_has_no_say(size):
    """Zero gradient for the true logit and the same value whatever it is, finite in float32 at any scale."""
    logits = (torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * size).requires_grad_(True)
    labels = torch.tensor([0, 1, 2, 0, 1])
    loss = classifier_placeholder_loss(logits, labels, labels, 0.0, 1.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    assert (gradient.gather(1, labels[:, None]) == 0).all()
    assert (gradient[:, 3] <= 0).all()  # the dummy is only ever pushed up
    raised = logits.detach().scatter(1, labels[:, None], 1e6)
    assert classifier_placeholder_loss(raised, labels, labels, 0.0, 1.0) == loss


def test_mix_of_different_classes_only():
    rng = np.random.default_rng(0)
    hidden, labels, order = rng.normal(size=(6, 2, 3, 3)), np.array([0, 0, 1, 1, 2, 2]), np.array([1, 2, 0, 5, 4, 3])
    everyone = 0.3 * hidden + 0.7 * hidden[order]
    given = torch.from_numpy(hidden), torch.from_numpy(labels), torch.from_numpy(order), 0.3
    np.testing.assert_allclose(mix(*given, different_only=False), everyone, rtol=1e-12)
    different = labels != labels[order]
    assert different.tolist() == [False, True, True, True, False, True]
    np.testing.assert_allclose(mix(*given, different_only=True), everyone[different], rtol=1e-12)
    assert mix(given[0], torch.zeros(6), given[2], 0.3, different_only=True).shape == (0, 2, 3, 3)


def test_open_logits_takes_the_largest_dummy():
    network = build_network(BackboneSettings("small", width=4), 3, 1, 0).double()
    dummy = nn.Linear(16, 5).double()
    feature_map = torch.rand(4, 16, 3, 3, dtype=torch.float64)
    pooled = feature_map.numpy().mean(axis=(2, 3))
    known = pooled @ network.fc.weight.detach().numpy().T + network.fc.bias.detach().numpy()
    dummies = pooled @ dummy.weight.detach().numpy().T + dummy.bias.detach().numpy()
    expected = np.c_[known, dummies.max(axis=1)]
    np.testing.assert_allclose(open_logits(network, dummy, feature_map).detach(), expected, rtol=1e-10)


def test_score_against_numpy_has_no_ties_and_the_right_sign():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2000, 4)).astype(np.float32) * 1e-3
    p = np.exp(log_softmax(logits.astype(np.float64) / 1024))
    score = delta_confidence(logits, 1024.0)
    np.testing.assert_allclose(score, p[:, 3] - p[:, :3].max(axis=1), rtol=1e-9, atol=1e-15)
    assert len(np.unique(score)) == 2000
    raised = logits.copy()
    raised[::2, 3] += 50
    score = delta_confidence(raised, 1024.0)
    assert score[::2].min() > score[1::2].max()


def test_the_shared_model_stays_as_it_was():
    task, context, _ = task_and_context()
    network = context.closed_set_model(task).network.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    detection = Proser(**QUICK).detect(task, context)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert len(np.unique(detection.unknown_score)) > 1


def test_it_starts_from_the_shared_model():
    """Without a step, known logits and predictions are the closed-set model's own."""
    task, context, _ = task_and_context()
    network = context.closed_set_model(task).network
    detection = Proser(epochs=0).detect(task, context)
    logits = training.evaluate(network, task.test_images)
    assert (detection.predicted_class == logits.argmax(axis=1)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"dummies": 3},
        {"alpha": 5.0},
        {"mixup_weight": 1.0},
        {"mix_different_only": False},
        {"mix_stage": 1},
        {"lambda1": 0.0},
        {"lambda2": 0.0},
        {"temperature": 1.0},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"erase_probability": 0.0},
    ],
    ids=str,
)
def test_every_setting_changes_the_scores(change, first):
    assert (detect(**change).unknown_score != first.unknown_score).any()


def test_one_class_has_nothing_to_mix_but_trains():
    """All training images of one class: no pair differs, and only the classifier placeholders train."""
    detection = detect({"train_labels": np.zeros(60, np.int64)})
    assert detection.curves["data_placeholder_loss"] == [0, 0]
    assert np.isfinite(detection.unknown_score).all()


def test_unseen_class_scores_higher_on_easy_images():
    train, labels = bright_bars(160, 4, 0)
    test, truth = bright_bars(120, 4, 1)
    task, _, _ = task_and_context()
    task = dataclasses.replace(task, train_images=train[labels < 3], train_labels=labels[labels < 3], test_images=test)
    network = build_network(BackboneSettings("small", width=4), 3, 1, 0)
    recipe = ClosedSetSettings(epochs=12, batch_size=16, learning_rate=3e-3, lr_decay=1.0)
    training.train_closed_set(
        network, task.train_images, task.train_labels, recipe, torch.Generator().manual_seed(0), lambda steps, _: steps
    )
    context = PlainContext(network.eval(), training.evaluate(network, test))
    detection = Proser(**{**QUICK, "epochs": 4}).detect(task, context)
    known = truth < 3
    assert (detection.predicted_class[known] == truth[known]).mean() > 0.9
    assert roc_auc_score(~known, detection.unknown_score) > 0.8
