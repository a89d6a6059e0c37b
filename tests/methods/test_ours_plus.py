"""Ours plus: finds what only the pool has, scores held-out images only, and matches pseudo classes on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import zscore
from sklearn.metrics import roc_auc_score

from open_set_fer.methods.contract import ClosedSetModel, OpenSetTask
from open_set_fer.methods.ours_plus import OursPlus
from open_set_fer.methods.shared.backbones import Network
from open_set_fer.testing import PlainContext, bright_bars, task_and_context

NEVER = 1e9
"""A ratio at which no shift is found: the open faces here are bright, which the first layer's statistics show."""


def novel_pool() -> tuple[OpenSetTask, PlainContext, np.ndarray]:
    """Training images show bars at three heights; 24 of 96 pool images have a vertical bar instead."""
    task, context, _ = task_and_context()
    images = task.test_images.copy()
    is_open = np.isin(np.arange(96) % 8, (0, 5))  # as many in each of two folds
    images[is_open] = np.random.default_rng(3).integers(0, 90, images[is_open].shape, dtype=np.uint8)
    images[is_open, :, :, 8:16] += 120
    train, labels = bright_bars(240, 3, 7)
    return OpenSetTask(train, labels, images, task.closed_classes, 0), context, is_open


def test_faces_that_only_the_pool_has_score_high():
    task, context, is_open = novel_pool()
    method = OursPlus(epochs=12, batch_size=32, learning_rate=1e-2, energy_weight=0.0, shift_ratio=NEVER)
    first = method.detect(task, context)
    assert roc_auc_score(is_open, first.unknown_score) > 0.9
    context.generator.manual_seed(0)
    assert (method.detect(task, context).unknown_score == first.unknown_score).all()


def test_score_is_the_sum_of_standardised_logits_and_energy():
    """Each fold's logits are standardised on their own, the energy, which one network gave, as a whole."""
    task, context, _ = novel_pool()
    logits = np.random.default_rng(0).normal(size=(96, 3)).astype(np.float32)
    object.__setattr__(context._model, "test_logits", logits)
    detection = OursPlus(epochs=1, energy_weight=0.7, level=1.0, shift_ratio=NEVER).detect(task, context)
    pool, energy = detection.extras["pool_logit"], -logsumexp(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(detection.extras["energy"], energy, rtol=1e-12)
    for fold in (pool[::2], pool[1::2]):
        np.testing.assert_allclose(fold, zscore(fold), atol=1e-9)
    np.testing.assert_allclose(detection.unknown_score, pool + 0.7 * zscore(energy), rtol=1e-9)


def test_no_image_is_scored_by_a_network_that_saw_it(monkeypatch):
    task, context, _ = novel_pool()
    pool = {image.tobytes(): row for row, image in enumerate(task.test_images)}
    trained: dict[Network, set[int]] = {}
    scored: dict[Network, set[int]] = {}
    original = Network.prepare

    def prepare(self, images):
        rows = {pool.get(image.numpy().tobytes()) for image in images} - {None}
        (trained if self.training else scored).setdefault(self, set()).update(rows)
        return original(self, images)

    monkeypatch.setattr(Network, "prepare", prepare)
    OursPlus(epochs=1).detect(task, context)
    assert len(trained) == 2
    assert all(trained[network] and not trained[network] & scored[network] for network in trained)
    assert set.union(*(scored[network] for network in trained)) == set(range(96))


def test_a_pool_that_does_not_differ_leaves_the_energy_alone():
    """Pool and training images of the same kind: nothing is found, the order is the energy's, and a note says so."""
    task, context, _ = task_and_context()
    logits = np.random.default_rng(0).normal(size=(96, 3)).astype(np.float32)
    object.__setattr__(context._model, "test_logits", logits)
    detection = OursPlus(epochs=1, level=0.0).detect(task, context)
    np.testing.assert_allclose(detection.unknown_score, zscore(-logsumexp(logits.astype(float), axis=1)), rtol=1e-9)
    assert "cannot be told apart" in detection.notes[0]
    assert f"{detection.curves['held_out_auroc'][0]:.3f}" in detection.notes[0]
    context.generator.manual_seed(0)
    other = OursPlus(epochs=1, level=1.0, shift_ratio=NEVER).detect(task, context)
    assert not other.notes
    np.testing.assert_allclose(other.unknown_score, other.extras["pool_logit"] + detection.unknown_score / 2, rtol=1e-9)


@pytest.mark.parametrize("ratio", [0.75, NEVER])
def test_shifted_pictures_leave_the_energy_alone(ratio):
    """Half of the pool is darker: the networks tell it apart, and so do statistics that know no expression."""
    task, context, _ = task_and_context(n=192)
    images = task.test_images.copy()
    images[::3] = images[::3] // 2
    logits = np.random.default_rng(0).normal(size=(192, 3)).astype(np.float32)
    object.__setattr__(context._model, "test_logits", logits)
    train, labels = bright_bars(240, 3, 7)
    shifted = OpenSetTask(train, labels, images, task.closed_classes, 0)
    detection = OursPlus(epochs=8, batch_size=32, learning_rate=1e-2, shift_ratio=ratio).detect(shifted, context)
    energy = zscore(-logsumexp(logits.astype(float), axis=1))
    assert detection.curves["low_level_auroc"][0] > 0.6
    if ratio == NEVER:
        assert not detection.notes
        np.testing.assert_allclose(detection.unknown_score, detection.extras["pool_logit"] + 0.5 * energy, rtol=1e-9)
    else:
        assert "differ by more than expressions" in detection.notes[0]
        np.testing.assert_allclose(detection.unknown_score, energy, rtol=1e-9)


def test_no_copy_of_a_face_is_learnt_by_the_network_that_scores_it(monkeypatch):
    """Copies lie in the other fold by order, and among the training images; one of each is mirrored."""
    task, context, _ = novel_pool()
    images, train = task.test_images.copy(), task.train_images.copy()
    images[1], images[51] = images[0], images[50][..., ::-1]
    train[5], train[6] = images[0], images[3][..., ::-1]
    copied = {side.tobytes(): row for row in (0, 50, 3) for side in (images[row], images[row][..., ::-1])}
    learnt: dict[Network, set[int | None]] = {}
    scored: dict[Network, set[int | None]] = {}
    original = Network.prepare

    def prepare(self, batch):
        rows = {copied.get(image.numpy().tobytes()) for image in batch}
        (learnt if self.training else scored).setdefault(self, set()).update(rows)
        return original(self, batch)

    monkeypatch.setattr(Network, "prepare", prepare)
    OursPlus(epochs=4).detect(replace(task, test_images=images, train_images=train), context)
    assert len(learnt) == 2
    assert all(not learnt[network] & scored[network] - {None} for network in learnt)
    assert {0, 3, 50} <= set().union(*(scored[network] for network in learnt))


def test_other_faces_are_scored_and_not_learnt_from(monkeypatch):
    """A frozen detector: a face's score is the same whichever faces are scored with it."""
    task, context, is_open = novel_pool()
    others, where = task.test_images[1::2], is_open[1::2]
    apart = replace(task, pool_images=task.test_images[::2], test_images=others)
    learnt: set[bytes] = set()
    original = Network.prepare

    def prepare(self, images):
        learnt.update(image.numpy().tobytes() for image in images if self.training)
        return original(self, images)

    monkeypatch.setattr(Network, "prepare", prepare)
    method = OursPlus(epochs=6, batch_size=32, learning_rate=1e-2, energy_weight=0.5, level=1.0, shift_ratio=NEVER)
    found = []
    for part in (slice(None), slice(0, 10)):
        context.generator.manual_seed(0)
        lent = ClosedSetModel(context._model.network, context._model.test_logits[1::2][part])
        monkeypatch.setattr(context, "_model", lent)
        found.append(method.detect(replace(apart, test_images=others[part]), context).unknown_score)
        monkeypatch.undo()
        monkeypatch.setattr(Network, "prepare", prepare)
    assert roc_auc_score(where, found[0]) > 0.8
    np.testing.assert_allclose(found[1], found[0][:10], rtol=1e-4)
    assert learnt
    assert not learnt & {image.tobytes() for image in others}


def test_the_pool_is_held_against_known_images_where_there_are_some(monkeypatch):
    task, context, _ = novel_pool()
    known, _ = bright_bars(90, 3, 11)
    seen: set[bytes] = set()
    original = Network.prepare

    def prepare(self, images):
        seen.update(image.numpy().tobytes() for image in images)
        return original(self, images)

    monkeypatch.setattr(Network, "prepare", prepare)
    OursPlus(epochs=1).detect(replace(task, known_images=known), context)
    assert {image.tobytes() for image in known} <= seen
    assert not {image.tobytes() for image in task.train_images} & seen


def test_the_shared_model_is_left_alone():
    task, context, _ = novel_pool()
    network = context.closed_set_model(task).network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    OursPlus(epochs=1).detect(task, context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.fc.out_features == 3
