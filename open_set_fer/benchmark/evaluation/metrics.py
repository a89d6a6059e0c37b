"""Metrics of one cell, each with its title and direction.

The unknown score is higher for faces that the method takes for unknown. The method fixes the sign; it is never chosen
by the higher AUROC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import entropy
from sklearn import config_context
from sklearn.metrics import auc, average_precision_score, roc_curve

from open_set_fer.benchmark.evaluation.decisions import open_set_metrics
from open_set_fer.benchmark.evaluation.delong import Area, area

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
"""DeLong's interval of AUROC."""
WITHIN_LABEL = Metric("auroc_within_label", "AUROC within label", higher_is_better=True)
"""Among faces of one assigned label, so that the labels' histogram tells nothing; sensitivity S on a control."""
ADDED_INFORMATION = Metric("added_information", "added information", higher_is_better=True)
"""I: among faces of one assigned label and decile of the closed-set model's own loss (whose own I is above 0.5)."""
SIDE_METRICS = (
    *INTERVAL,
    WITHIN_LABEL,
    Metric("auroc_within_label_low", "AUROC within label from"),
    Metric("auroc_within_label_high", "AUROC within label to"),
    ADDED_INFORMATION,
    Metric("added_information_low", "added information from"),
    Metric("added_information_high", "added information to"),
    Metric("auroc_no_twins", "AUROC without twins", higher_is_better=True),
    Metric("auroc_open_test", "AUROC test split", higher_is_better=True),
    Metric("auroc_open_train", "AUROC train split", higher_is_better=True),
    Metric("auroc_right", "AUROC right class", higher_is_better=True),
    Metric("closed_set_accuracy", "model accuracy", higher_is_better=True),
    Metric("closed_accuracy", "closed accuracy", higher_is_better=True),
    Metric("open_set_accuracy", "open-set accuracy", higher_is_better=True),
    Metric("open_set_f1", "open-set F1", higher_is_better=True),
    Metric("oscr", "OSCR", higher_is_better=True),
    Metric("fpr_at_tpr95_open", "FPR@TPR95, open positive", higher_is_better=False),
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
DECILES = 10


def metric_table(values: dict[str, float]) -> pd.DataFrame:
    """Metrics by name, with the ends of their intervals as columns."""
    better = {metric.name: metric.higher_is_better for metric in METRICS}
    rows = {
        name: {
            "value": value,
            "low": values.get(f"{name}_low", np.nan),
            "high": values.get(f"{name}_high", np.nan),
            "better": "" if better.get(name) is None else "higher" if better[name] else "lower",
        }
        for name, value in values.items()
        if not name.endswith(("_low", "_high"))
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")


def auroc(is_open: NDArray[np.bool_], unknown_score: NDArray[np.floating[Any]]) -> float:
    """Area under the ROC curve with open as positive; the same as closed as positive with the score's negative.

    >>> auroc(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.3, 0.8]))  # 3 of 4 pairs in order
    0.75
    """
    return float(auc(*roc_curve(is_open, unknown_score)[:2]))  # roc_auc_score does the same after 2 ms of checks


def fpr_at_tpr95(is_open: NDArray[np.bool_], unknown_score: NDArray[np.floating[Any]]) -> float:
    """Share of open faces still accepted at the threshold that accepts at least 95 % of closed faces.

    Closed is positive, as in the authors' code. With both arguments negated, open is: the share of closed faces that
    are rejected at the threshold that rejects at least 95 % of open ones, as papers on OOD detection have it.

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


def label_strata(scores: pd.DataFrame) -> NDArray[np.int64]:
    """(N,) strata of the table of scores: the assigned label."""
    return np.asarray(pd.factorize(scores["given_class"])[0], dtype=np.int64)


def information_strata(scores: pd.DataFrame) -> NDArray[np.int64]:
    """(N,) strata: assigned label and decile of the closed-set model's own loss, the deciles over all faces."""
    loss = scores["closed_set_loss"].to_numpy(dtype=np.float64)
    edges = np.quantile(loss, np.arange(1, DECILES) / DECILES)
    return label_strata(scores) * DECILES + np.searchsorted(edges, loss, side="right")


def area_of(scores: pd.DataFrame, strata: NDArray[np.int64] | None = None) -> Area | None:
    """AUROC of a table of scores within strata; groups of twins are clusters, where the table knows them."""
    twins = scores["twin"].to_numpy() if "twin" in scores else None
    is_open, values = scores["is_open"].to_numpy(dtype=bool), scores["unknown_score"].to_numpy(dtype=np.float64)
    return area(is_open, values, strata, twins)


def has_open_classes(scores: pd.DataFrame, closed_classes: Sequence[str]) -> bool:
    """Whether faces of open classes are to be found: not flipped labels nor shifted faces."""
    return not scores.loc[scores["is_open"], "true_class"].isin(closed_classes).any()


def rates(
    is_open: NDArray[np.bool_], unknown_score: NDArray[np.floating[Any]], correct: NDArray[np.bool_]
) -> dict[str, float]:
    """Metrics of scores, AUROC excepted, that are rates of faces; correct (N,): prediction equals the truth."""
    return {
        "fpr_at_tpr95": fpr_at_tpr95(is_open, unknown_score),
        "fpr_at_tpr95_open": fpr_at_tpr95(~is_open, -unknown_score),
        "aupr_open": float(average_precision_score(is_open, unknown_score)),
        "aupr_closed": float(average_precision_score(~is_open, -unknown_score)),
        "oscr": oscr(is_open, unknown_score, correct),
        "closed_accuracy": float(correct[~is_open].mean()),
    }


def correct_faces(scores: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) closed faces whose predicted class is right."""
    return np.asarray((scores["predicted_class"] == scores["truth"]) & ~scores["is_open"], dtype=bool)


def parts_of(scores: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """(N,) masks of the parts of the faces that have an AUROC `auroc_<part>` each."""
    is_open = scores["is_open"].to_numpy(dtype=bool)
    parts = {"right": is_open | correct_faces(scores)}
    parts |= {f"open_{split}": ~is_open | (scores["origin"] == split).to_numpy() for split in ORIGINS}
    if "has_twin" in scores:
        parts["no_twins"] = ~scores["has_twin"].to_numpy(dtype=bool)
    return {name: part for name, part in parts.items() if 0 < is_open[part].sum() < part.sum()}


def cell_metrics(
    scores: pd.DataFrame, closed_classes: Sequence[str], threshold: float | None = None
) -> dict[str, float]:
    """Metrics of a cell by name, from its table of scores: those of METRICS, as far as it has faces for them.

    threshold: scores above it are decided to be unknown; None: nothing is decided.

    `seconds.total` is the runner's. Metrics of a column that an older table lacks are left out.
    """
    is_open = scores["is_open"].to_numpy(dtype=bool)
    values = scores["unknown_score"].to_numpy(dtype=np.float64)
    with config_context(skip_parameter_validation=True, assume_finite=True):  # both known here; half of the time
        metrics = {
            "auroc": auroc(is_open, values),
            **rates(is_open, values, correct_faces(scores)),
            "open_share": float(is_open.mean()),
            "n_open": float(is_open.sum()),
            "n_closed": float((~is_open).sum()),
        }
        for name, part in parts_of(scores).items():
            metrics[f"auroc_{name}"] = auroc(is_open[part], values[part])
    if "closed_set_class" in scores:
        given = pd.Index(closed_classes).get_indexer(pd.Index(scores["given_class"]))
        metrics["closed_set_accuracy"] = float((scores["closed_set_class"] == scores["truth"])[~is_open].mean())
        metrics["pseudo_label_entropy_open"] = normalised_entropy(given[is_open], len(closed_classes))
        metrics["pseudo_label_entropy_closed"] = normalised_entropy(given[~is_open], len(closed_classes))
    if threshold is not None:
        classes = pd.Index(closed_classes)
        truth, predicted = (classes.get_indexer(pd.Index(scores[name])) for name in ("truth", "predicted_class"))
        metrics |= open_set_metrics(truth, values, predicted, len(classes), threshold)
    return metrics | _areas(scores, closed_classes)


def _areas(scores: pd.DataFrame, closed_classes: Sequence[str]) -> dict[str, float]:
    """DeLong's interval of AUROC; AUROC within strata with its interval."""
    areas = {"auroc_within_label": area_of(scores, label_strata(scores))} if "given_class" in scores else {}
    if "closed_set_loss" in scores and has_open_classes(scores, closed_classes):
        areas["added_information"] = area_of(scores, information_strata(scores))
    found = {name: each.value for name, each in areas.items() if each}
    for name, each in {"auroc": area_of(scores), **areas}.items():
        if each and np.isfinite(each.error):
            found[f"{name}_low"], found[f"{name}_high"] = each.interval()
    return found
