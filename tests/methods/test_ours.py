"""Ours: every switch does what it says, and wrong pseudo labels get the high scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import zscore
from sklearn.metrics import roc_auc_score

from open_set_fer.methods import ours
from open_set_fer.methods.ours import Ours
from open_set_fer.methods.shared import learners as module
from open_set_fer.testing import task_and_context

QUICK = {"epochs": 4, "cycle_length": 2, "batch_size": 16, "learning_rate": 3e-3}


def noisy_labels(n: int = 96, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    truth = np.arange(n) % classes
    wrong = np.random.default_rng(5).random(n) < 0.25
    return np.where(wrong, (truth + 1) % classes, truth), wrong


def detect(pseudo=None, **settings):
    task, context, _ = task_and_context(pseudo)
    return Ours(**{**QUICK, **settings}).detect(task, context)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attention": False},
        {"cycle_training": False},
        {"cycle_lr": False},
        {"variant": "online", "epochs": 12},
        {"score_epochs": "last_cycle"},
        {"score_epochs": "cycles"},
        {"score_batch_norm": "batch"},
        {"score_networks": "first"},
        {"score_networks": "second"},
    ],
    ids=str,
)
def test_wrong_pseudo_labels_score_high(settings):
    pseudo, wrong = noisy_labels()
    detection = detect(pseudo, **{"epochs": 8, "cycle_length": 4, **settings})
    assert detection.unknown_score.shape == (96,)
    assert (detection.predicted_class == pseudo).all()
    assert roc_auc_score(wrong, detection.unknown_score) > 0.85


def test_same_seed_same_scores_and_every_switch_changes_them():
    pseudo, _ = noisy_labels()
    first = detect(pseudo).unknown_score
    assert (detect(pseudo).unknown_score == first).all()
    for change in (
        {"attention": False},
        {"cycle_lr": False},
        {"cycle_training": False},
        {"consistency_weight": 1.0},
        {"erase_probability": 0.0},
        {"variant": "online"},
        {"score_epochs": "last_cycle"},
        {"score_epochs": "cycles"},
        {"noise_probability": 0.5},
        {"score_augmented": True},
        {"score_batch_norm": "batch"},
        {"score_networks": "first"},
        {"weight_decay": 0.1},
        {"pretrained_stages": 1},
        {"balanced": True},
        {"lr_decay": 0.5},
    ):
        assert (detect(pseudo, **change).unknown_score != first).any(), change
    both = (
        detect(pseudo, score_networks="first").unknown_score + detect(pseudo, score_networks="second").unknown_score
    ) / 2
    np.testing.assert_allclose(both, first, rtol=1e-12)


def test_without_cycle_training_lambda_zero_is_plain_cross_entropy():
    pseudo, _ = noisy_labels()
    off = detect(pseudo, attention=False, cycle_training=False)
    zero = detect(pseudo, consistency_weight=0.0, cycle_training=False)
    assert len(off.curves) == 1  # one network
    np.testing.assert_allclose(off.curves["loss_1"][0], zero.curves["loss_1"][0], rtol=1e-3)


def test_who_learns_from_whom(monkeypatch):
    """The first network begins with all samples; from then on each learns from what the other one selected last."""
    trained, selections = [], []
    original = module.Learner.train_epoch

    def record(self, images, labels, selected, *settings):
        trained.append((self, selected.copy()))
        return original(self, images, labels, selected, *settings)

    def choose(losses, labels, threshold, seed):
        mask = np.zeros(len(labels), dtype=bool)
        mask[len(selections) :: 4] = True  # a different selection each time
        selections.append(mask)
        return mask, ()

    monkeypatch.setattr(module.Learner, "train_epoch", record)
    monkeypatch.setattr(module, "select_clean", choose)
    detect(epochs=6, cycle_length=2)
    first, second = dict.fromkeys(learner for learner, _ in trained)
    assert [learner for learner, _ in trained] == [first, first, second, second] * 3
    # Selections in order: by network 1, 2 (first cycle), 1, 2 (second), 1 (third; network 2 ends).
    expected = [None, None, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for (_, selected), which in zip(trained, expected, strict=True):
        assert (selected == (np.ones(96, bool) if which is None else selections[which])).all()
    assert len(selections) == 5


def test_learning_rate_by_epoch_and_its_reset(monkeypatch):
    rates = []
    monkeypatch.setattr(module.training, "set_learning_rate", lambda optimizer, rate: rates.append(rate))
    detect(epochs=5, cycle_length=2, cycle_training=False, lr_decay=0.5, learning_rate=0.01)
    assert rates == [0.01, 0.005, 0.01, 0.005, 0.01]
    rates.clear()
    detect(epochs=3, cycle_length=2, cycle_training=False, cycle_lr=False, lr_decay=0.5, learning_rate=0.01)
    assert rates == [0.01, 0.005, 0.0025]


def test_online_scores_only_unseen_images(monkeypatch):
    seen, scored = set(), []
    original_train, original_evaluate = module.Learner.train_epoch, module.training.evaluate

    def train(self, images, *rest):
        seen.update(image.tobytes() for image in images)
        return original_train(self, images, *rest)

    def evaluate(network, images, *compute, **options):
        if len(images) and seen:
            scored.append({image.tobytes() for image in images} & seen)
        return original_evaluate(network, images, *compute, **options)

    def learner(*args):
        seen.clear()
        return original_learner(*args)

    original_learner = module.Learner
    monkeypatch.setattr(original_learner, "train_epoch", train)
    monkeypatch.setattr(module.training, "evaluate", evaluate)
    monkeypatch.setattr(module, "Learner", learner)
    detection = detect(variant="online", cycle_training=False, epochs=2)
    assert scored == [set(), set()]
    assert np.isfinite(detection.unknown_score).all()


def test_erase_comes_before_the_flip(monkeypatch):
    """The second image of a pair is the first one's mirror image, erased patch included."""
    pairs = []
    original = module.random_erase

    def erase(x, generator, probability):
        erased = original(x, generator, probability)
        pairs.append([erased])
        return erased

    networks = []
    original_maps = module.attention_maps

    def maps(feature_map, weight):
        networks.append(feature_map)
        return original_maps(feature_map, weight)

    monkeypatch.setattr(module, "random_erase", erase)
    monkeypatch.setattr(module, "attention_maps", maps)
    seen = []
    original_forward = module.Network.feature_map

    def forward(self, x):
        if self.training:
            seen.append(x.detach().clone())
        return original_forward(self, x)

    monkeypatch.setattr(module.Network, "feature_map", forward)
    detect(epochs=1, cycle_length=1, cycle_training=False, erase_probability=1.0)
    assert len(seen) == 2 * len(pairs) == len(networks)
    for number, (erased,) in enumerate(pairs):
        assert torch.equal(seen[2 * number], erased)
        assert torch.equal(seen[2 * number + 1], erased.flip(-1))
        assert (erased == 0).any()


def test_the_mean_over_cycles_is_that_of_trainings_that_end_there():
    pseudo, _ = noisy_labels()
    ends = [detect(pseudo, epochs=epochs, cycle_training=False).unknown_score for epochs in (2, 4, 5)]
    mean = detect(pseudo, epochs=5, cycle_training=False, score_epochs="cycles").unknown_score
    np.testing.assert_allclose(mean, np.mean(ends, axis=0), rtol=1e-12)


def test_online_losses_are_pooled_on_one_scale(monkeypatch):
    pseudo, _ = noisy_labels()
    pooled = detect(pseudo, variant="online").unknown_score
    monkeypatch.setattr(ours, "standardise", lambda values, groups: values)
    raw = detect(pseudo, variant="online").unknown_score
    for half in (slice(0, None, 2), slice(1, None, 2)):
        np.testing.assert_allclose(pooled[half], zscore(raw[half]), rtol=1e-9, atol=1e-9)
    assert abs(raw[::2].mean() - raw[1::2].mean()) > 1e-3


def test_a_guard_that_keeps_a_class_says_so():
    task, context, _ = task_and_context(np.r_[np.zeros(95, dtype=int), 1])
    detection = Ours(**QUICK).detect(task, context)
    assert len(detection.notes) == 1
    assert detection.notes[0].startswith("a class without a clean sample was kept whole in ")
    assert detection.notes[0].endswith(f"(lost: {task.closed_classes[1]})")
