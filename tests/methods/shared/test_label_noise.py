"""Selecting clean samples: a mixture whose posterior is known, and the guards."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from open_set_fer.methods.shared.label_noise import clean_probability, guard_notes, select_clean


def test_gmm_on_a_known_mixture():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0.3, 0.1, 3000), rng.normal(2.0, 0.3, 1000)
    losses = np.concatenate([low, high])
    posterior = clean_probability(losses)
    weight_low, weight_high = 0.75 * norm.pdf(losses, 0.3, 0.1), 0.25 * norm.pdf(losses, 2.0, 0.3)
    exact = weight_low / (weight_low + weight_high)
    # The covariance floor widens the narrow component a little, so compare where the exact answer is not on the edge.
    assert np.mean((posterior > 0.5) == (exact > 0.5)) > 0.998
    assert np.mean(np.abs(posterior - exact)) < 0.01
    scaled = clean_probability(losses * 7 + 3)  # scaling to [0, 1] makes the unit of the loss irrelevant
    np.testing.assert_allclose(scaled, posterior, atol=1e-6)


def test_the_mixture_is_divide_mixs():
    """The posterior is that of the sources' call; losses settle in two or three EM steps, so its cap of 10 is seldom met."""
    losses = np.random.default_rng(1).gamma(1.2, 1.0, 400)
    scaled = ((losses - losses.min()) / (losses.max() - losses.min())).reshape(-1, 1)
    mixture = GaussianMixture(n_components=2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=3).fit(scaled)
    np.testing.assert_array_equal(
        clean_probability(losses, 3), mixture.predict_proba(scaled)[:, mixture.means_.argmin()]
    )


def test_selection_guards():
    losses = np.array([0.1, 0.1, 0.2, 0.1, 3.0, 3.1, 2.9, 3.0])
    kept, lost = select_clean(losses, np.array([0, 1, 0, 1, 0, 1, 0, 1]))
    assert kept.tolist() == [True] * 4 + [False] * 4
    assert lost == ()
    kept, lost = select_clean(losses, np.array([0, 0, 0, 0, 1, 1, 0, 0]))
    assert kept.tolist() == [True] * 6 + [False] * 2  # the class without a clean sample, and no other one
    assert lost == (1,)
    kept, lost = select_clean(losses, np.zeros(8, dtype=int), threshold=1.0)  # nothing is clean
    assert kept.all()
    assert lost == (0,)
    names = ("anger", "disgust", "fear")
    assert guard_notes([(), (1,), (2, 1), (1,)], names) == [
        "a class without a clean sample was kept whole in 3 of 4 selections (lost: disgust, fear)"
    ]
    assert guard_notes([(), ()], names) == []
    assert clean_probability(np.full(5, 0.7)).tolist() == [1.0] * 5
