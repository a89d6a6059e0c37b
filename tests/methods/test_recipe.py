"""The closed-set recipe that classifiers share: its targets and augmentation reach every training on its faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from open_set_fer.methods.dias import Dias
from open_set_fer.methods.eow import EOW
from open_set_fer.methods.proser import Proser
from open_set_fer.methods.shared import augmentation, training
from open_set_fer.methods.shared.recipe import ClosedSetSettings
from open_set_fer.testing import task_and_context

METHODS = [
    EOW(epochs=1, ebm_start_epoch=5),
    Proser(epochs=1),
    Dias(epochs=1, gan_width=2, dropout=0.0, copycat_statistics=False),
]


def observed(monkeypatch, method, recipe):
    """Kinds of augmentation and targets of cross-entropy while the method trains on faces with votes, and the votes."""
    task, context, _ = task_and_context()
    random = np.random.default_rng(0)
    votes = random.integers(1, 9, (len(task.train_labels), len(task.closed_classes))).astype(np.uint8)
    context.closed_set = recipe
    kinds, targets = [], []
    vary, cross_entropy = augmentation.vary, torch.nn.functional.cross_entropy

    def varied(x, std, generator, kind):
        kinds.append(kind)
        return vary(x, std, generator, kind)

    def recorded(logits, target, *rest, **options):
        targets.append(target)
        return cross_entropy(logits, target, *rest, **options)

    for module in (augmentation, training):
        monkeypatch.setattr(module, "vary", varied)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", recorded)
    method.detect(replace(task, train_votes=votes), context)
    return kinds, targets, votes


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_targets_and_augmentation_are_the_closed_set_recipes(monkeypatch, method):
    kinds, targets, votes = observed(monkeypatch, method, ClosedSetSettings(targets="votes", augmentation="geometry"))
    assert set(kinds) == {"geometry"}
    shares = (votes / votes.sum(axis=1, keepdims=True)).astype(np.float32)
    for given in targets:
        rows = given.numpy()[:, : shares.shape[1]]
        assert (np.abs(rows[:, None] - shares[None]).max(axis=2).min(axis=1) < 1e-6).all()
        assert (given.numpy()[:, shares.shape[1] :] == 0).all()  # nothing for the output of unknowns


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_labels_are_the_targets_of_the_published_recipe(monkeypatch, method):
    kinds, targets, _ = observed(monkeypatch, method, ClosedSetSettings())
    assert set(kinds) == {"flip_or_noise"}
    assert {given.dtype for given in targets} == {torch.int64}
