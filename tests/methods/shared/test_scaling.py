"""Scores of several networks on one scale."""

from __future__ import annotations

import numpy as np
from scipy.stats import zscore

from open_set_fer.methods.shared.scaling import standardise


def test_each_group_has_its_own_scale():
    rng = np.random.default_rng(0)
    groups = np.arange(30) % 3
    values = rng.normal(size=30) * 10.0**groups + groups
    scaled = standardise(values, groups)
    for group in range(3):
        np.testing.assert_allclose(scaled[groups == group], zscore(values[groups == group]), rtol=1e-12)
    np.testing.assert_allclose(standardise(values), zscore(values), rtol=1e-12)
    assert standardise(np.full(4, 2.0)).tolist() == [0.0] * 4
