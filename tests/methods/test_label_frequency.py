"""Label frequency keeps the contract and counts labels."""

from __future__ import annotations

import numpy as np

from open_set_fer.methods.label_frequency import LabelFrequency
from open_set_fer.testing import check_method
from open_set_fer.testing.methods import task_and_context


def test_it_keeps_the_contract():
    check_method(LabelFrequency())


def test_the_rarest_label_scores_highest_by_its_count():
    task, context, *_ = task_and_context()
    labels = context.closed_set_model(task).pseudo_labels
    scores = LabelFrequency().detect(task, context).unknown_score
    assert np.allclose(np.exp(-scores), [np.mean(labels == label) for label in labels])
