"""Selecting clean samples by their loss (DivideMix, Li et al. 2020, which the paper's cycle training builds on)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


def clean_probability(losses: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """(N,) posterior of the low-mean component of a two-component Gaussian mixture on losses scaled to [0, 1].

    At most 10 EM steps, tolerance 1e-2, covariance floor 5e-4, as in DivideMix's scripts. Constant losses cannot be told
    apart: all are clean.
    """
    from sklearn.exceptions import ConvergenceWarning  # a second that `osfer plan` need not wait for
    from sklearn.mixture import GaussianMixture

    spread = float(np.ptp(losses))
    if spread == 0.0:
        return np.ones(len(losses))
    scaled = ((losses - losses.min()) / spread)[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a capped EM is the published recipe
        mixture.fit(scaled)
    posterior: NDArray[np.float64] = mixture.predict_proba(scaled)[:, mixture.means_.ravel().argmin()]
    return posterior


def select_clean(
    losses: NDArray[np.float64], labels: NDArray[np.int64], threshold: float = 0.5, seed: int = 0
) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """(N,) mask of the clean samples, and the classes of which none was clean (they are in the mask as a whole).

    Guard: a network that never sees a class again forgets it, so the samples of such a class, and they alone, are added. The
    sources have none. An empty selection thereby becomes all samples.
    """
    clean = clean_probability(losses, seed) > threshold
    lost = tuple(sorted(set(np.unique(labels).tolist()) - set(np.unique(labels[clean]).tolist())))
    return clean | np.isin(labels, lost), lost


def guard_notes(selections: list[tuple[int, ...]], classes: tuple[str, ...]) -> list[str]:
    """One note on the selections that lost a class, none where none did; each selection by the classes that it lost."""
    guarded = [lost for lost in selections if lost]
    if not guarded:
        return []
    names = ", ".join(name for index, name in enumerate(classes) if any(index in lost for lost in guarded))
    return [
        f"a class without a clean sample was kept whole in {len(guarded)} of {len(selections)} selections (lost: {names})"
    ]
