"""The conformance test of the suite, and what is particular to the method."""

import numpy as np
import pytest
from osfer_margin import Margin

from open_set_fer.testing import check_method, task_and_context


@pytest.mark.parametrize("highest_weight", [0.0, 1.0])
def test_it_keeps_the_contract(highest_weight):
    check_method(Margin(highest_weight))


def test_a_face_between_two_classes_scores_highest():
    task, context, _ = task_and_context()
    context.closed_set_model(task).test_logits[7] = [3.0, 2.9, -3.0]
    assert np.argmax(Margin().detect(task, context).unknown_score) == 7
