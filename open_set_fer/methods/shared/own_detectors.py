"""Post-hoc detectors that pytorch-ood computes otherwise than their papers, with its interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import gumbel_l

from open_set_fer.methods.shared.lazy import F, nn, torch

SHIFT = 10_000.0
"""LibMR moves the tail of distances to begin here before it fits the Weibull distribution (`translate_amount`)."""


class OpenMax:
    """Bendale and Boult (2016) with the distance of their code (abhijitbendale/OSDN), euclidean / 200 + cosine.

    pytorch-ood's has another distance, and a face's score there depends on the classes predicted for the other faces.
    """

    def __init__(self, tail: int, alpha: int) -> None:
        """tail: largest distances of a class that are fitted. alpha: top classes to revise, at most K."""
        self._tail, self._alpha = tail, alpha

    def fit_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Fit a centre and a Weibull tail for each class; ValueError if a class's distances are all the same."""
        values, of = np.asarray(logits, dtype=np.float64), np.asarray(labels)
        classes = range(values.shape[1])
        self._centres = np.stack([values[of == k].mean(axis=0) for k in classes])
        self._tails = [_fit_tail(_eucos(values[of == k], self._centres[k]), self._tail) for k in classes]

    def predict_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Probability (N,) of the unknown class."""
        values = np.asarray(logits, dtype=np.float64)
        alpha = min(self._alpha, values.shape[1])
        pairs = zip(self._centres, self._tails, strict=True)
        outlying = np.stack([_tail_probability(_eucos(values, centre), *tail) for centre, tail in pairs], axis=1)
        rank = values.argsort(axis=1)[:, ::-1].argsort(axis=1)  # 0: the largest logit
        revised = values * (1 - outlying * np.clip((alpha - rank) / alpha, 0, None))
        unknown = (values - revised).sum(axis=1, keepdims=True)
        return torch.from_numpy(softmax(np.concatenate([unknown, revised], axis=1), axis=1)[:, 0])


def _eucos(logits: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(logits, axis=1) * np.linalg.norm(centre)
    cosine = 1 - logits @ centre / np.maximum(lengths, np.finfo(np.float64).tiny)
    return np.asarray(np.linalg.norm(logits - centre, axis=1) / 200 + cosine)


def _fit_tail(distances: NDArray[np.float64], size: int) -> tuple[float, float, float]:
    """Smallest of the `size` largest distances, and the location and scale of `_log_position`'s distribution.

    The logarithm of a Weibull variable has a Gumbel distribution: the same maximum likelihood, without values of which
    only the eighth digit differs.
    """
    tail = np.sort(distances)[-size:]
    if tail[0] == tail[-1]:
        raise ValueError("the largest distances of a class are all the same, so no distribution can be fitted")
    location, scale = gumbel_l.fit(_log_position(tail, tail[0]))
    return float(tail[0]), float(location), float(scale)


def _log_position(distances: NDArray[np.float64], smallest: float) -> NDArray[np.float64]:
    return np.asarray(SHIFT * np.log1p((distances - smallest) / SHIFT))


def _tail_probability(
    distances: NDArray[np.float64], smallest: float, location: float, scale: float
) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # far beyond the tail: 1
        return np.asarray(gumbel_l.cdf(_log_position(distances, smallest), location, scale))


class VRA:
    """Xu et al. (2023): activations below a quantile of the training ones become zero, those above another are clipped.

    pytorch-ood's takes quantiles of each feature apart, and lifts what lies below.
    """

    def __init__(self, head: nn.Linear, lower: float, upper: float) -> None:
        """lower, upper: quantiles, 0 to 1; ValueError if they are not in order."""
        if not 0 <= lower < upper <= 1:
            raise ValueError(f"vra_lower {lower} and vra_upper {upper} are not two quantiles in order")
        self._head, self._quantiles = head, (lower, upper)

    def fit_features(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Take both thresholds from all activations of the training images."""
        self._low, self._high = np.quantile(np.asarray(features), self._quantiles)

    def predict_features(self, features: torch.Tensor) -> torch.Tensor:
        """Energy (N,) of the rectified activations."""
        rectified = torch.where(features < self._low, 0, features.clip(max=self._high))
        return torch.as_tensor(-self._head(rectified).logsumexp(dim=1))


class TemperatureScaling:
    """Guo et al. (2017): maximum softmax probability at the temperature that suits held-out images best.

    pytorch-ood's optimiser stops before it is there.
    """

    def fit_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Choose the temperature, 0.05 to 20, of the smallest cross-entropy."""

        def loss(log_temperature: Any) -> float:
            return float(F.cross_entropy(logits / np.exp(log_temperature), labels))

        self.temperature = float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))

    def predict_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Negative maximum probability (N,)."""
        return -(logits / self.temperature).softmax(dim=1).amax(dim=1)
