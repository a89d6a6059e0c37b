"""The two-sample baseline: its numbers against scikit-learn alone, faces outside the pool, the contract."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.metrics import roc_auc_score

from open_set_fer.methods.contract import ClosedSetModel, OpenSetTask
from open_set_fer.methods.shared.backbones import draw_seed
from open_set_fer.methods.shared.training import evaluate, pooled_features
from open_set_fer.methods.shared.two_samples import linear_probe, two_samples
from open_set_fer.methods.two_sample import TwoSample
from open_set_fer.testing import PlainContext, bright_bars, check_method, task_and_context


def novel_pool() -> tuple[OpenSetTask, PlainContext, np.ndarray]:
    """A quarter of the pool is bright all over, which no training image is."""
    task, context, _ = task_and_context()
    images = task.test_images.copy()
    is_open = np.isin(np.arange(96) % 8, (0, 5))
    images[is_open] = np.random.default_rng(3).integers(0, 90, images[is_open].shape, dtype=np.uint8)
    images[is_open] += 120
    train, labels = bright_bars(240, 3, 7)
    return OpenSetTask(train, labels, images, task.closed_classes, 0), context, is_open


def test_contract():
    check_method(TwoSample())


def test_the_score_is_the_probes_out_of_fold_probability():
    task, context, is_open = novel_pool()
    detection = TwoSample().detect(task, context)
    score = detection.unknown_score
    assert roc_auc_score(is_open, score) > 0.8
    assert ((score > 0) & (score < 1)).all()
    context.generator.manual_seed(0)
    assert (TwoSample().detect(task, context).unknown_score == score).all()


def test_faces_outside_the_pool_get_the_mean_probability_of_the_folds():
    task, context, is_open = novel_pool()
    network, logits = context._model.network, context._model.test_logits
    context._model = ClosedSetModel(network, logits[1::2])
    context._features = None
    apart = replace(task, pool_images=task.test_images[::2], test_images=task.test_images[1::2])
    detection = TwoSample().detect(apart, context)
    assert roc_auc_score(is_open[1::2], detection.unknown_score) > 0.8
    pool, known = two_samples(apart, context._model, 2)
    assert (pool.logits == evaluate(network, apart.pool_images)).all()
    features = [pooled_features(network, side.images) for side in (pool, known)]
    context.generator.manual_seed(0)
    rng = np.random.default_rng(draw_seed(context.generator))
    fitted = linear_probe(pool, known, *features, rng).fitted
    of_test = pooled_features(network, apart.test_images)
    expected = np.mean([probe.predict_proba(of_test)[:, 1] for probe in fitted], axis=0)
    np.testing.assert_allclose(detection.unknown_score, expected, rtol=1e-4)
