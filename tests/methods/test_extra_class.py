"""EOW and PROSER, whose network has one class more: the sign, seeds, and tasks of any size."""

from __future__ import annotations

import numpy as np
import pytest

from open_set_fer.methods.shared import training
from open_set_fer.testing import bright_bars
from tests.methods import test_eow, test_proser

pytestmark = pytest.mark.parametrize("method", [test_eow, test_proser])


def test_scores_are_finite_the_same_for_a_seed_and_blind_to_other_test_images(method):
    first = method.detect()
    assert first.unknown_score.shape == first.predicted_class.shape == (96,)
    assert np.isfinite(first.unknown_score).all()
    assert set(first.predicted_class) <= {0, 1, 2}
    again = method.detect()
    assert (again.unknown_score == first.unknown_score).all()
    assert again.curves == first.curves
    assert {len(values) for values in first.curves.values()} == {method.QUICK["epochs"]}
    assert method.detect({"test_images": np.zeros((5, 1, 24, 24), np.uint8)}).curves == first.curves
    assert (method.detect(seed=1).unknown_score != first.unknown_score).any()


def test_sign_with_an_oracle(method, monkeypatch):
    """A network that puts some images in class K+1 scores them highest, whatever class comes next."""
    unknown = np.arange(96) % 3 == 0
    logits = np.random.default_rng(0).normal(size=(96, 4)).astype(np.float32)
    logits[:, 3] = np.where(unknown, 9, -9)
    monkeypatch.setattr(training, "evaluate", lambda *given: logits)
    detection = method.detect(epochs=1)
    assert detection.unknown_score[unknown].min() > detection.unknown_score[~unknown].max()
    assert (detection.predicted_class == logits[:, :3].argmax(axis=1)).all()


@pytest.mark.parametrize("kept", [35, 34, 3])  # last batches of 3, 2 and a task of 3
def test_two_classes_odd_sizes_and_a_tiny_last_batch(method, kept):
    images, labels = bright_bars(35, 2, 0, size=30)
    few = {"train_images": images[:kept], "train_labels": labels[:kept], "test_images": images}
    detection = method.detect(few, classes=2)
    assert np.isfinite(detection.unknown_score).all()
    assert set(detection.predicted_class) <= {0, 1}
