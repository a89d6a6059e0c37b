"""Pool against known closed faces: folds by content, matched pseudo classes, linear probes on fixed features.

The parts that `ours-plus` and `two-sample` have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from open_set_fer.datasets.faceset import twin_indices
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import ClosedSetModel, OpenSetTask
from open_set_fer.methods.shared.lazy import training

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

UNUSED = -1
"""Fold of known faces with a twin in the pool."""
MATCHES = 4
"""Held-out known faces per pool face: more of them let a test find smaller differences."""


UPPER = 0.1
"""Fraction of the known images that the test whether pool and known images differ looks at."""


@dataclass(frozen=True)
class Sample:
    """Images uint8 (N, C, H, W), their closed-set logits (N, K) and their folds (N,)."""

    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    folds: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Pseudo labels (N,)."""
        return np.asarray(self.logits.argmax(axis=1))

    def part(self, places: NDArray[np.int64]) -> Sample:
        """The images at these places."""
        return Sample(self.images[places], self.logits[places], self.folds[places])

    def held_out(self, fold: int) -> NDArray[np.int64]:
        """Places of the fold's images."""
        return np.flatnonzero(self.folds == fold)

    def learnt(self, fold: int) -> NDArray[np.int64]:
        """Places of the other folds' images, from which the fold's network or probe learns."""
        return np.flatnonzero((self.folds != fold) & (self.folds != UNUSED))


def two_samples(task: OpenSetTask, model: ClosedSetModel, folds: int) -> tuple[Sample, Sample]:
    """Pool and known faces of a task: the training images, or the task's `known_images`."""
    pool = task.test_images if task.pool_images is None else task.pool_images
    known = task.train_images if task.known_images is None else task.known_images
    logits = model.test_logits if task.pool_images is None else training.evaluate(model.network, pool)
    of_pool, of_known = folds_of(pool, known, folds)
    # Pseudo labels on both sides: a true label on one and a pseudo label on the other would give them away.
    return Sample(pool, logits, of_pool), Sample(known, training.evaluate(model.network, known), of_known)


def folds_of(
    pool: NDArray[np.uint8], known: NDArray[np.uint8], folds: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Folds (P,) and (Q,) of pool and known images: twins share one; a known image with a twin in the pool has none.

    The runner has shuffled the pool, so that folds by order are random.
    """
    groups = twin_indices(chain(pool, known))
    in_pool, in_known = np.split(groups, [len(pool)])
    by_order = [np.unique(part, return_inverse=True)[1] % folds for part in (in_pool, in_known)]
    return by_order[0], np.where(in_known < len(pool), UNUSED, by_order[1])


def match_classes(
    target: NDArray[np.int64], available: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices into `available` with the class counts of `target`. Images repeat only if a class has too few."""
    pieces = []
    for label, count in zip(*np.unique(target, return_counts=True), strict=True):
        candidates = np.flatnonzero(available == label)
        if len(candidates):
            pieces.append(rng.choice(candidates, count, replace=count > len(candidates)))
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)


class Probe(NamedTuple):
    """Out-of-fold logits (P,) of the pool and of matched known images, and each fold's fitted classifier."""

    pool: NDArray[np.float64]
    known: NDArray[np.float64]
    fitted: list[Pipeline]

    def on_raw_features(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (folds, D) and offsets (folds,) that give each fold's logits from features as they are."""
        steps = [(fold[0].mean_, fold[0].scale_, fold[1].coef_[0], fold[1].intercept_[0]) for fold in self.fitted]
        weights = np.array([coefficients / scale for _, scale, coefficients, _ in steps])
        offsets = [offset - own @ mean for (mean, _, _, offset), own in zip(steps, weights, strict=True)]
        return weights, np.array(offsets)


def linear_probe(
    pool: Sample,
    known: Sample,
    pool_features: NDArray[np.float32],
    known_features: NDArray[np.float32],
    rng: np.random.Generator,
) -> Probe:
    """Fit a logistic regression of pool against known images on each fold's standardised features (N, D)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels, alike, fitted = pool.labels, [], []
    logits = np.zeros(len(labels))
    for fold in np.unique(pool.folds):
        own, other = pool.held_out(fold), pool.learnt(fold)
        near, same = known.learnt(fold), known.held_out(fold)
        near = near[match_classes(labels[other], known.labels[near], rng)]
        same = same[match_classes(np.repeat(labels[own], MATCHES), known.labels[same], rng)]
        if not len(near):
            fault = "no known face without a twin in the pool has a pseudo label of the pool"
            raise SuiteError(f"pool against known faces: {fault}", "compare the pool with other known faces")
        x = np.concatenate([pool_features[other], known_features[near]])
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probe.fit(x, np.repeat([1, 0], [len(other), len(near)]))
        logits[own] = probe.decision_function(pool_features[own])
        alike.append(probe.decision_function(known_features[same]) if len(same) else np.zeros(0))
        fitted.append(probe)
    return Probe(logits, np.concatenate(alike), fitted)


def separability(pool: NDArray[np.float64], known: NDArray[np.float64]) -> tuple[float, float]:
    """AUROC of held-out pool over known images, and a one-sided p-value; (1, 0) for no known image.

    The p-value is Mann and Whitney's on the known images' upper tenth, with all values below it tied: a few open faces
    rank high there, and are lost among the ranks of all images.
    """
    if not len(known):
        return 1.0, 0.0
    floor = np.quantile(known, 1 - UPPER)
    test = mannwhitneyu(np.maximum(pool, floor), np.maximum(known, floor), alternative="greater")
    area = mannwhitneyu(pool, known).statistic / (len(pool) * len(known))
    return float(area), float(test.pvalue)
