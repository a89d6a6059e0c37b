"""Decisions of a detector at a threshold: one of K known classes, or unknown, the (K+1)st."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

ACCEPTED = 0.95
"""Fraction of the held-out closed faces that the threshold of a cell accepts."""


def threshold_for(scores: NDArray[np.float64], share: float = ACCEPTED) -> float:
    """Lowest threshold that accepts at least this fraction of known faces, those with scores up to it.

    >>> threshold_for(np.array([0.4, 0.1, 0.3, 0.2]), 0.75)
    0.3
    """
    ordered = np.sort(scores)
    return float(ordered[max(0, int(np.ceil(share * len(ordered) - 1e-9)) - 1)])


def open_set_metrics(
    truth: NDArray[np.int64],
    unknown_score: NDArray[np.float64],
    predicted_class: NDArray[np.int64],
    classes: int,
    threshold: float,
) -> dict[str, float]:
    """Accuracy and macro F1 over K+1 classes, where a face above the threshold is unknown.

    truth: (N,) 0..K-1, negative for open faces. predicted_class: (N,) 0..K-1.
    A class of which no face is and none is predicted does not count in the mean of F1.
    """
    expected = np.where(truth < 0, classes, truth)
    decided = np.where(unknown_score > threshold, classes, predicted_class)
    return {
        "open_set_accuracy": float(accuracy_score(expected, decided)),
        "open_set_f1": float(f1_score(expected, decided, average="macro", zero_division=0.0)),
    }
