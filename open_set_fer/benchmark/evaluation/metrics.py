"""Metrics of one cell, each with its title and direction.

The unknown score is higher for faces that the method takes for unknown. The method fixes the sign; it is never chosen
by the higher AUROC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, entropy, rankdata
from sklearn import config_context
from sklearn.metrics import auc, average_precision_score, roc_curve

from open_set_fer.errors import SuiteError

OF_THE_RUN = ("seconds.", "peak_mib.", "threshold")
"""What the names of metrics begin with that no scores can give."""


@dataclass(frozen=True)
class Metric:
    """Name and display of a metric.

    name: as logged. title: as displayed. higher_is_better: None if neither direction is. decimals: as displayed.

    >>> FPR_AT_TPR95.heading, FPR_AT_TPR95.short
    ('FPR@TPR95 (lower is better)', 'FPR@TPR95 ↓')
    """

    name: str
    title: str
    higher_is_better: bool | None = None
    decimals: int = 3

    @property
    def heading(self) -> str:
        """Title and direction."""
        directions = {None: "", True: " (higher is better)", False: " (lower is better)"}
        return self.title + directions[self.higher_is_better]

    @property
    def short(self) -> str:
        """Title and arrow, for narrow places."""
        return self.title + {None: "", True: " ↑", False: " ↓"}[self.higher_is_better]


AUROC = Metric("auroc", "AUROC", higher_is_better=True)
FPR_AT_TPR95 = Metric("fpr_at_tpr95", "FPR@TPR95", higher_is_better=False)
MAIN_METRICS = (AUROC, FPR_AT_TPR95)
"""Those that the paper compares methods by."""
INTERVAL = (Metric("auroc_low", "AUROC from"), Metric("auroc_high", "AUROC to"))
"""The bootstrap interval of AUROC."""
SIDE_METRICS = (
    *INTERVAL,
    Metric("auroc_open_test", "AUROC test split", higher_is_better=True),
    Metric("auroc_open_train", "AUROC train split", higher_is_better=True),
    Metric("auroc_right", "AUROC right class", higher_is_better=True),
    Metric("closed_set_accuracy", "model accuracy", higher_is_better=True),
    Metric("closed_accuracy", "closed accuracy", higher_is_better=True),
    Metric("open_set_accuracy", "open-set accuracy", higher_is_better=True),
    Metric("open_set_f1", "open-set F1", higher_is_better=True),
    Metric("oscr", "OSCR", higher_is_better=True),
    Metric("aupr_open", "AUPR open", higher_is_better=True),
    Metric("aupr_closed", "AUPR closed", higher_is_better=True),
    Metric("open_share", "share open"),
    Metric("pseudo_label_entropy_open", "entropy open"),
    Metric("pseudo_label_entropy_closed", "entropy closed"),
    Metric("n_open", "open faces", decimals=0),
    Metric("n_closed", "closed faces", decimals=0),
    Metric("seconds.total", "seconds", higher_is_better=False, decimals=1),  # the runner's
)
METRICS = MAIN_METRICS + SIDE_METRICS
ORIGINS = ("test", "train")
"""The splits that open faces are from."""
RESAMPLES = 200
"""Of the bootstrap: enough for two decimals of an interval's ends, in a fraction of a second."""


def auroc(is_open: NDArray[np.bool_], unknown_score: NDArray[np.floating[Any]]) -> float:
    """Area under the ROC curve with open as positive; the same as closed as positive with the score's negative.

    >>> auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.3, 0.8]))  # 3 of 4 pairs in order
    0.75
    """
    return float(auc(*roc_curve(is_open, unknown_score)[:2]))  # roc_auc_score does the same after 2 ms of checks


def auroc_interval(is_open: NDArray[np.bool_], unknown_score: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of AUROC, open and closed faces resampled apart; seeded.

    Needs two faces of each. It covers other faces of the same kind under the same model, not another seed.
    """

    def area(positive: NDArray[np.float64], closed: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        ranks = rankdata(np.concatenate([positive, closed], axis=axis), axis=axis)  # Mann and Whitney's form
        n, m = positive.shape[axis], closed.shape[axis]
        of_open = np.take(ranks, np.arange(n), axis=axis).sum(axis=axis)
        return np.asarray((of_open - n * (n + 1) / 2) / (n * m))

    samples = unknown_score[is_open].astype(np.float64), unknown_score[~is_open].astype(np.float64)
    drawn = bootstrap(
        samples,
        area,
        n_resamples=RESAMPLES,
        batch=20,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def fpr_at_tpr95(is_open: NDArray[np.bool_], unknown_score: NDArray[np.floating[Any]]) -> float:
    """Share of open faces still accepted at the threshold that accepts at least 95 % of closed faces.

    >>> fpr_at_tpr95(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.3, 0.8]))  # accepts up to 0.4
    0.5
    """
    fpr, tpr, _ = roc_curve(~is_open, -unknown_score, drop_intermediate=False)
    return float(fpr[np.argmax(tpr >= 0.95)])


def oscr(is_open: NDArray[np.bool_], unknown_score: NDArray[np.floating[Any]], correct: NDArray[np.bool_]) -> float:
    """Area under correct classification rate against false positive rate (Dhamija et al. 2018).

    correct: (N,) prediction equals the truth; only closed faces count. Trapezoids between distinct thresholds.

    >>> is_open, score = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.3, 0.8])
    >>> oscr(is_open, score, correct=np.array([True, True, False, False]))  # every class right: the AUROC
    0.75
    >>> oscr(is_open, score, correct=np.array([True, False, False, False]))
    0.5
    """
    order = np.argsort(unknown_score, kind="stable")
    sorted_scores = unknown_score[order]
    ends = np.flatnonzero(np.r_[np.diff(sorted_scores) > 0, True])
    rate = np.r_[0.0, np.cumsum((correct & ~is_open)[order])[ends] / np.sum(~is_open)]
    false_positive = np.r_[0.0, np.cumsum(is_open[order])[ends] / np.sum(is_open)]
    return float(np.trapezoid(rate, false_positive))


def normalised_entropy(labels: NDArray[np.integer[Any]], classes: int) -> float:
    """Entropy of the label histogram over log K: 1 when labels are spread evenly over the K classes.

    >>> normalised_entropy(np.array([0, 1, 2, 3]), classes=4), normalised_entropy(np.array([2, 2]), classes=4)
    (1.0, 0.0)
    """
    return float(entropy(np.bincount(labels, minlength=classes)) / np.log(classes)) if len(labels) else float("nan")


def _check(truth: NDArray[np.int64], unknown_score: Any, predicted_class: Any, classes: int) -> None:
    """Raise SuiteError for what a method must not return."""
    scores, predicted = np.asarray(unknown_score, dtype=np.float64), np.asarray(predicted_class)
    if scores.shape != truth.shape or predicted.shape != truth.shape:
        raise SuiteError(
            f"the method returned {scores.shape} scores and {predicted.shape} classes for {truth.shape} test images",
            "return one of each per test image, in the order of task.test_images",
        )
    if not np.isfinite(scores).all():
        raise SuiteError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} unknown scores are NaN or infinite",
            "fix the method (often a diverged training: lower its learning rate)",
        )
    if not np.issubdtype(predicted.dtype, np.integer) or predicted.min() < 0 or predicted.max() >= classes:
        raise SuiteError(f"predicted classes must be integers in 0..{classes - 1}", "fix the method")


def cell_metrics(
    truth: NDArray[np.int64],
    unknown_score: NDArray[np.floating[Any]],
    predicted_class: NDArray[np.integer[Any]],
    predictions: NDArray[np.int64] | None,
    classes: int,
    assigned_labels: NDArray[np.int64] | None = None,
    origin: NDArray[np.str_] | None = None,
) -> dict[str, float]:
    """Metrics of a cell by name: those of METRICS without `seconds.total`, as far as it has faces for them.

    truth: (N,) 0..K-1 for closed faces, -1 for open ones. predictions: (N,) of the closed-set model.
    assigned_labels: (N,) of the pseudo-label setting, whose entropy is measured; None: the predictions.
    origin: (N,) the split that a face is from.

    Raises:
        SuiteError: non-finite scores, wrong lengths or classes; the cell fails, nothing is dropped.
    """
    _check(truth, unknown_score, predicted_class, classes)
    scores = np.asarray(unknown_score, dtype=np.float64)
    predicted = np.asarray(predicted_class)
    is_open = truth < 0
    correct = predicted == truth
    with config_context(skip_parameter_validation=True, assume_finite=True):  # both known here; half of the time
        metrics = {
            "auroc": auroc(is_open, scores),
            "fpr_at_tpr95": fpr_at_tpr95(is_open, scores),
            "aupr_open": float(average_precision_score(is_open, scores)),
            "aupr_closed": float(average_precision_score(~is_open, -scores)),
            "oscr": oscr(is_open, scores, correct),
            "closed_accuracy": float(correct[~is_open].mean()),
            "open_share": float(is_open.mean()),
            "n_open": float(is_open.sum()),
            "n_closed": float((~is_open).sum()),
        }
        if is_open.sum() > 1 and (~is_open).sum() > 1:
            metrics["auroc_low"], metrics["auroc_high"] = auroc_interval(is_open, scores)
        if correct.any():
            right = is_open | correct
            metrics["auroc_right"] = auroc(is_open[right], scores[right])
        for split in ORIGINS if origin is not None else ():
            of_split = is_open & (origin == split)
            if of_split.any():
                metrics[f"auroc_open_{split}"] = auroc(is_open[of_split | ~is_open], scores[of_split | ~is_open])
    if predictions is not None:
        assigned = predictions if assigned_labels is None else assigned_labels
        metrics["closed_set_accuracy"] = float((predictions == truth)[~is_open].mean())
        metrics["pseudo_label_entropy_open"] = normalised_entropy(assigned[is_open], classes)
        metrics["pseudo_label_entropy_closed"] = normalised_entropy(assigned[~is_open], classes)
    return metrics
