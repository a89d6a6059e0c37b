"""The noisy-label family: schedules and selections as published, wrong pseudo labels score high."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from open_set_fer.errors import SuiteError
from open_set_fer.methods import noisy_label as module
from open_set_fer.methods.noisy_label import NoisyLabel, o2u_learning_rate, small_loss
from open_set_fer.testing import task_and_context
from tests.methods.test_ours import noisy_labels

QUICK = {"batch_size": 16, "learning_rate": 3e-3, "cycle_length": 3, "ramp_epochs": 3, "folds": 2}


def test_o2u_learning_rate_falls_within_each_cycle():
    rates = [o2u_learning_rate(0.01, epoch, 4) for epoch in range(8)]
    np.testing.assert_allclose(rates[:4], [0.007525, 0.00505, 0.002575, 0.0001], rtol=1e-9)
    assert rates[4:] == rates[:4]


def test_small_loss_keeps_the_smallest_share():
    losses = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.2])
    assert small_loss(losses, 0.6).tolist() == [1, 4, 3]
    assert small_loss(losses, 0.01).tolist() == [1]


@pytest.mark.parametrize(("approach", "epochs"), [("o2u", 12), ("co_teaching", 6), ("cleanlab", 16)])
def test_wrong_pseudo_labels_score_high_and_same_seed_repeats(approach, epochs):
    pseudo, wrong = noisy_labels()
    runs = []
    for _ in range(2):
        task, context, _ = task_and_context(pseudo)
        runs.append(NoisyLabel(approach, epochs=epochs, **QUICK).detect(task, context))
    assert roc_auc_score(wrong, runs[0].unknown_score) > 0.85
    assert (runs[0].unknown_score == runs[1].unknown_score).all()
    assert (runs[0].predicted_class == pseudo).all()
    assert all(np.isfinite(values).all() for values in runs[0].curves.values())


def test_o2u_averages_centred_losses(monkeypatch):
    given = iter(np.random.default_rng(0).random((6, 96)))
    kept = []

    def losses(self, images, labels):
        kept.append(next(given))
        return kept[-1]

    monkeypatch.setattr("open_set_fer.methods.shared.learners.Learner.losses", losses)
    task, context, _ = task_and_context()
    detection = NoisyLabel("o2u", epochs=6, **QUICK).detect(task, context)
    by_hand = np.mean([row - row.mean() for row in kept], axis=0)
    np.testing.assert_allclose(detection.unknown_score, by_hand, rtol=1e-12)


def test_cleanlab_scores_are_out_of_fold_self_confidence(monkeypatch):
    evaluated = []
    original = module.NoisyLabel._learners

    def watched(self, count, task, context):
        learners = original(self, count, task, context)
        for learner in learners:
            train = learner.train_epoch
            learner.train_epoch = lambda images, labels, selected, *rest, train=train: (
                evaluated.append(selected.copy()),
                train(images, labels, selected, *rest),
            )[1]
        return learners

    monkeypatch.setattr(module.NoisyLabel, "_learners", watched)
    task, context, _ = task_and_context()
    method = NoisyLabel("cleanlab", epochs=1, **QUICK)
    scores = method.detect(task, context).unknown_score
    assert len(evaluated) == 2
    assert not (evaluated[0] & evaluated[1]).any()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_without_cleanlab_the_error_names_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    task, context, _ = task_and_context()
    with pytest.raises(SuiteError, match=r"pip install 'open-set-fer\[noise\]'"):
        NoisyLabel("cleanlab").detect(task, context)
