"""The baseline's two scores in closed form."""

from __future__ import annotations

import numpy as np

from open_set_fer.methods.baseline import Baseline
from open_set_fer.testing import task_and_context


def test_baseline_closed_forms():
    task, context, _ = task_and_context()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(96, 3)).astype(np.float32) * 4
    object.__setattr__(context._model, "test_logits", logits)
    wide = logits.astype(np.float64)
    probabilities = np.exp(wide) / np.exp(wide).sum(axis=1, keepdims=True)
    msp = Baseline().detect(task, context)
    np.testing.assert_allclose(msp.unknown_score, -probabilities.max(axis=1), rtol=1e-12)
    highest = Baseline("max_logit").detect(task, context)
    assert (highest.unknown_score == -logits.max(axis=1)).all()
    assert (msp.predicted_class == logits.argmax(axis=1)).all()
