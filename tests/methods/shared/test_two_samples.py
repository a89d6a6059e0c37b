"""Folds, matched classes and probes of the methods that compare a pool with known faces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import kstest, mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.two_samples import UNUSED, Sample, folds_of, linear_probe, match_classes, separability


def same(one, other) -> bool:
    return bool((one == other).all() or (one == other[..., ::-1]).all())


@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_twins_share_a_fold_and_no_known_face_has_one_in_the_pool(seed, folds):
    rng = np.random.default_rng(seed)
    pool, known = (rng.integers(0, 3, (n, 1, 1, 3), dtype=np.uint8) for n in (15, 20))
    of_pool, of_known = folds_of(pool, known, folds)
    for faces, places in ((pool, of_pool), (known, of_known)):
        for row, face in enumerate(faces):
            assert {places[other] for other in range(len(faces)) if same(face, faces[other])} == {places[row]}
    assert (of_known == UNUSED).tolist() == [any(same(face, other) for other in pool) for face in known]
    assert set(of_pool) <= set(range(folds))


def test_folds_without_twins_are_by_order_and_equally_large():
    faces = np.arange(24, dtype=np.uint8).reshape(12, 1, 1, 2)
    of_pool, of_known = folds_of(faces[:7], faces[7:], 2)
    assert (of_pool.tolist(), of_known.tolist()) == ([0, 1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0])


def test_matched_classes():
    rng = np.random.default_rng(0)
    available = np.array([0] * 10 + [1] * 2 + [3] * 5)
    chosen = match_classes(np.array([0] * 4 + [1] * 5 + [2] * 3), available, rng)
    assert np.bincount(available[chosen], minlength=4).tolist() == [4, 5, 0, 0]
    assert len(set(chosen[:4].tolist())) == 4  # no repetition where there are enough


def test_separability():
    rng = np.random.default_rng(0)
    pool, known = rng.normal(1, 1, 90), rng.normal(0, 1, 90)
    area, p_value = separability(pool, known)
    assert area == pytest.approx(roc_auc_score(np.repeat([1, 0], 90), np.concatenate([pool, known])))
    assert p_value < 0.01
    assert separability(known, pool)[1] > 0.9
    assert separability(pool, np.zeros(0)) == (1.0, 0.0)


def test_p_values_without_a_difference_are_uniform_and_a_twentieth_of_open_faces_is_found():
    rng = np.random.default_rng(0)
    known = [rng.normal(size=4000) for _ in range(200)]
    none = np.array([separability(rng.normal(size=1000), other)[1] for other in known])
    assert kstest(none, "uniform").pvalue > 0.01
    few = [separability(rng.normal(np.repeat([0, 2], [950, 50])), other)[1] for other in known]
    whole = [mannwhitneyu(rng.normal(np.repeat([0, 2], [950, 50])), x, alternative="greater").pvalue for x in known]
    assert np.mean(np.array(few) < 0.05) > 0.85 > np.mean(np.array(whole) < 0.05)


def samples(rng) -> tuple[Sample, Sample, np.ndarray, np.ndarray]:
    """One pseudo class; as many known as pool faces outside each fold, so that every one of them is drawn."""
    images, logits, folds = np.zeros((40, 1, 1, 1), np.uint8), np.zeros((40, 1), np.float32), np.arange(40) % 2
    side = Sample(images, logits, folds)
    return side, side, rng.normal(1, 2, (40, 3)).astype(np.float32), rng.normal(0, 3, (40, 3)).astype(np.float32)


def test_a_probe_is_a_logistic_regression_on_the_other_folds_standardised_features():
    rng = np.random.default_rng(0)
    pool, known, x, y = samples(rng)
    probe = linear_probe(pool, known, x, y, rng)
    weights, offsets = probe.on_raw_features()
    for fold in (0, 1):
        learnt = np.concatenate([x[1 - fold :: 2], y[1 - fold :: 2]])
        mean, deviation = learnt.mean(axis=0), learnt.std(axis=0)
        reference = LogisticRegression(max_iter=1000).fit((learnt - mean) / deviation, np.repeat([1, 0], 20))
        expected = reference.predict_proba((x[fold::2] - mean) / deviation)[:, 1]
        np.testing.assert_allclose(expit(probe.pool[fold::2]), expected, rtol=1e-3)
        np.testing.assert_allclose(
            x[fold::2] @ weights[fold] + offsets[fold], probe.pool[fold::2], rtol=1e-4, atol=1e-5
        )


def test_a_pool_without_known_faces_of_its_pseudo_classes_is_an_error():
    rng = np.random.default_rng(0)
    pool, known, x, y = samples(rng)
    with pytest.raises(SuiteError, match="no known face without a twin"):
        linear_probe(pool, Sample(known.images, known.logits, np.full(40, UNUSED)), x, y, rng)
