"""Schedules, batches, evaluation and losses: numbers, not only shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from open_set_fer.methods.shared import training
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings
from open_set_fer.methods.shared.training import batches, epoch_learning_rate, evaluate, sample_losses, train_closed_set


def test_cyclic_learning_rate_by_epoch():
    rates = [epoch_learning_rate(2e-4, 0.9, epoch, 10) for epoch in range(40)]
    assert rates[0] == rates[10] == rates[20] == rates[30] == 2e-4
    np.testing.assert_allclose(rates[:10], 2e-4 * 0.9 ** np.arange(10), rtol=1e-12)
    assert rates[10:20] == rates[:10]
    plain = [epoch_learning_rate(2e-4, 0.9, epoch) for epoch in range(40)]
    np.testing.assert_allclose(plain, 2e-4 * 0.9 ** np.arange(40), rtol=1e-12)


def test_batches_cover_every_index_once_but_for_a_last_single_one():
    indices = torch.arange(3, 24)
    seen = torch.cat(list(batches(indices, 5, torch.Generator().manual_seed(0))))
    assert len(seen) == len(set(seen.tolist())) == 20
    assert set(seen.tolist()) < set(indices.tolist())


def test_batch_statistics_in_scoring_leave_the_network_as_it_was():
    network = build_network(BackboneSettings("small", width=4), 3, 1, 0)
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" in name}
    logits = evaluate(network, images, batch_size=20, batch_statistics=True)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items())
    network.train()
    with torch.no_grad():
        expected = network(network.prepare(torch.from_numpy(images))).numpy()
    assert logits == pytest.approx(expected, abs=1e-6)
    # After training mode the running statistics have moved; evaluation mode uses them and gives something else.
    assert np.abs(evaluate(network, images) - expected).max() > 1e-3


def test_sample_losses_in_float64():
    logits = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, 1, 2])
    wide = logits.astype(np.float64)
    by_hand = np.log(np.exp(wide).sum(1)) - wide[np.arange(7), labels]
    np.testing.assert_allclose(sample_losses(logits, labels), by_hand, rtol=1e-12)


def first_loss(monkeypatch, votes, **settings) -> float:
    """The first epoch's loss on eight images, one batch, as they are."""
    monkeypatch.setattr(training, "augmented", lambda network, images, *rest: network.prepare(images))
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 24, 24)).astype(np.uint8)
    network = build_network(BackboneSettings("small", width=4), 3, 1, 0)
    recipe = ClosedSetSettings(epochs=1, batch_size=8, **settings)
    generator = torch.Generator().manual_seed(0)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    curves = train_closed_set(network, images, labels, recipe, generator, lambda steps, _: steps, votes)
    return curves["loss"][0]


def test_votes_are_the_targets_distribution(monkeypatch):
    votes = np.array([[8, 0, 2], [1, 4, 0], [0, 0, 9], [5, 4, 0], [0, 9, 1], [3, 3, 4], [9, 0, 0], [0, 7, 0]], np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 24, 24)).astype(np.uint8)
    network = build_network(BackboneSettings("small", width=4), 3, 1, 0).train()
    with torch.no_grad():
        outputs = network(network.prepare(torch.from_numpy(images))).double().numpy()
    logs = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
    expected = -(votes / votes.sum(axis=1, keepdims=True) * logs).sum(axis=1).mean()
    assert first_loss(monkeypatch, votes, targets="votes") == pytest.approx(expected, rel=1e-5)
    by_label = -logs[np.arange(8), [0, 1, 2, 0, 1, 2, 0, 1]].mean()
    assert first_loss(monkeypatch, votes) == pytest.approx(by_label, rel=1e-5)
    assert first_loss(monkeypatch, None, targets="votes") == pytest.approx(by_label, rel=1e-5)
