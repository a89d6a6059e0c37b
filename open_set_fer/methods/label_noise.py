"""Selecting clean samples by their loss (DivideMix, Li et al. 2020, which the paper's cycle training builds on)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


def clean_probability(losses: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """(N,) posterior of the low-mean component of a two-component Gaussian mixture on losses scaled to [0, 1].

    At most 20 EM steps, tolerance 1e-2, covariance floor 5e-4. Constant losses cannot be told apart: all are clean.
    """
    from sklearn.exceptions import ConvergenceWarning  # a second that `osfer plan` need not wait for
    from sklearn.mixture import GaussianMixture

    spread = float(np.ptp(losses))
    if spread == 0.0:
        return np.ones(len(losses))
    scaled = ((losses - losses.min()) / spread)[:, None]
    mixture = GaussianMixture(2, max_iter=20, tol=1e-2, reg_covar=5e-4, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a capped EM is the published recipe
        mixture.fit(scaled)
    posterior: NDArray[np.float64] = mixture.predict_proba(scaled)[:, mixture.means_.ravel().argmin()]
    return posterior


def select_clean(
    losses: NDArray[np.float64], labels: NDArray[np.int64], threshold: float = 0.5, seed: int = 0
) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """(N,) mask of the clean samples, and the classes whose loss made it fall back to all samples (none when it did not).

    Guard: a selection that is empty or loses a class entirely is replaced by all samples.
    """
    clean = clean_probability(losses, seed) > threshold
    lost = tuple(sorted(set(np.unique(labels).tolist()) - set(np.unique(labels[clean]).tolist())))
    return (np.ones(len(labels), dtype=bool) if lost else clean), lost


def fallback_notes(selections: list[tuple[int, ...]], classes: tuple[str, ...]) -> list[str]:
    """One note on the selections that fell back, none where none did; each selection by the classes that it lost."""
    fell_back = [lost for lost in selections if lost]
    if not fell_back:
        return []
    names = ", ".join(name for index, name in enumerate(classes) if any(index in lost for lost in fell_back))
    return [f"selection fell back to all samples in {len(fell_back)} of {len(selections)} selections (lost: {names})"]
