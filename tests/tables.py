"""Tables of scores, made without a cell."""

from __future__ import annotations

import numpy as np
import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import cell_metrics
from open_set_fer.benchmark.evaluation.scores import score_table
from open_set_fer.methods.contract import Detection

CLASSES = ("fear", "anger", "neutral", "sadness", "surprise")


def made_table(
    truth, scores, predicted, predictions=None, classes=3, given=None, origin=None, **columns
) -> pd.DataFrame:
    """The table of a cell. predictions: the closed-set model's (default: those of the method, as given labels are)."""
    predictions = np.asarray(predicted if predictions is None else predictions)
    closed = CLASSES[:classes]
    names = np.where(truth < 0, "disgust", np.array(closed)[truth])
    ids = np.array([f"face-{index}" for index in range(len(truth))])
    where = np.full(len(truth), "test") if origin is None else origin
    detection = Detection(np.asarray(scores, dtype=np.float64), np.asarray(predicted))
    given = predictions if given is None else given
    faces = {"id": ids, "true_class": names, "origin": where}
    return score_table(faces, truth, closed, detection, predictions, given).assign(**columns)


def made_metrics(*values, threshold=None, **more) -> dict[str, float]:
    """The metrics of such a cell."""
    table = made_table(*values, **more)
    return cell_metrics(table, table.attrs["closed_classes"], threshold)
