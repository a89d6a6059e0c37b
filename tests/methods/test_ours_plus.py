"""Ours plus: finds what only the pool has, scores held-out images only, and matches pseudo classes on both sides."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import zscore
from sklearn.metrics import roc_auc_score

from open_set_fer.methods.backbones import Network
from open_set_fer.methods.contract import OpenSetTask
from open_set_fer.methods.ours_plus import OursPlus, match_classes
from open_set_fer.testing import PlainContext, bright_bars, task_and_context


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
    method = OursPlus(epochs=12, batch_size=32, learning_rate=1e-2, energy_weight=0.0)
    first = method.detect(task, context)
    assert roc_auc_score(is_open, first.unknown_score) > 0.9
    context.generator.manual_seed(0)
    assert (method.detect(task, context).unknown_score == first.unknown_score).all()


def test_score_is_the_sum_of_standardised_logits_and_energy():
    """Each fold's logits are standardised on their own, the energy, which one network gave, as a whole."""
    task, context, _ = novel_pool()
    logits = np.random.default_rng(0).normal(size=(96, 3)).astype(np.float32)
    object.__setattr__(context._model, "test_logits", logits)
    detection = OursPlus(epochs=1, energy_weight=0.7).detect(task, context)
    pool, energy = detection.extras["pool_logit"], -logsumexp(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(detection.extras["energy"], energy, rtol=1e-12)
    folds = np.empty(96)
    folds[::2], folds[1::2] = zscore(pool[::2]), zscore(pool[1::2])
    by_hand = folds + 0.7 * zscore(energy)
    np.testing.assert_allclose(detection.unknown_score, by_hand, rtol=1e-9)


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


def test_the_shared_model_is_left_alone():
    task, context, _ = novel_pool()
    network = context.closed_set_model(task).network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    OursPlus(epochs=1).detect(task, context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.fc.out_features == 3


def test_matched_classes():
    rng = np.random.default_rng(0)
    available = np.array([0] * 10 + [1] * 2 + [3] * 5)
    chosen = match_classes(np.array([0] * 4 + [1] * 5 + [2] * 3), available, rng)
    assert np.bincount(available[chosen], minlength=4).tolist() == [4, 5, 0, 0]
    assert len(set(chosen[:4].tolist())) == 4  # no repetition where there are enough
