"""Scores of a cell: what a method returned, checked, as a table with one row a test image."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation.intermediate_scores import PREFIX
from open_set_fer.errors import SuiteError, summary
from open_set_fer.methods.contract import Detection

COLUMNS = ("id", "truth", "true_class", "is_open", "unknown_score", "predicted_class", "origin")
"""What scores.parquet always has; a method's extras come after and cannot take these names."""
OPTIONAL_COLUMNS = ("closed_set_class", "given_class", "closed_set_loss", "twin", "has_twin")
"""Not in scores of another program, which have no closed-set model; the last three not before evaluation 3."""


def checked_curves(curves: Any) -> dict[str, list[float]]:
    """Curves as lists of floats; SuiteError naming the curve that MLflow would refuse."""
    if not isinstance(curves, Mapping):
        raise SuiteError(f"curves are a {type(curves).__name__}, not values by name", "return a dict of lists")
    checked: dict[str, list[float]] = {}
    for name, values in curves.items():
        # MLflow's rule for a metric's name, the prefix `curve.` included.
        if (
            not isinstance(name, str)
            or not re.fullmatch(r"[/\w.\- :]{1,240}", name)
            or posixpath.normpath(name) != name
        ):
            raise SuiteError(
                f"curve {name!r} has a name that MLflow refuses",
                "use letters, digits, '_', '-', '.', ':', '/' and spaces",
            )
        try:
            numbers = np.asarray(values)
        except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors on a GPU
            raise SuiteError(
                f"curve {name!r} is no list of numbers: {summary(error)}", "one number an epoch"
            ) from error
        if numbers.ndim != 1 or numbers.dtype.kind not in "biuf":
            raise SuiteError(
                f"curve {name!r} is no list of numbers (shape {numbers.shape}, {numbers.dtype})", "one number an epoch"
            )
        checked[name] = [float(value) for value in numbers]
    return checked


def checked_extras(extras: Any, count: int) -> dict[str, Any]:
    """Per-image arrays as columns beside the scores; SuiteError names an array that cannot be a column."""
    if not isinstance(extras, Mapping):
        raise SuiteError(f"extras are a {type(extras).__name__}, not arrays by name", "return a dict of arrays")
    checked: dict[str, Any] = {}
    for name, values in extras.items():
        if not isinstance(name, str) or not name or name in (*COLUMNS, *OPTIONAL_COLUMNS) or name.startswith(PREFIX):
            raise SuiteError(f"extra {name!r} cannot be a column beside {', '.join(COLUMNS)}", "give it another name")
        try:
            array = np.asarray(values)
        except (ValueError, TypeError, RuntimeError) as error:
            raise SuiteError(f"extra {name!r} is no array: {summary(error)}", "one value a test image") from error
        if array.shape != (count,) or array.dtype.kind not in "biufU":
            raise SuiteError(
                f"extra {name!r} has shape {array.shape} and type {array.dtype}, not one value for each of {count} "
                "test images",
                "numbers, booleans or strings of shape (N,)",
            )
        checked[name] = array
    return checked


def checked_notes(notes: Any) -> list[str]:
    """Notes as strings; a lone string is one note."""
    listed = [notes] if isinstance(notes, str) or not isinstance(notes, Iterable) else notes
    return [str(note) for note in listed]


def check_detection(unknown_score: Any, predicted_class: Any, count: int, classes: int) -> None:
    """Raise SuiteError for what a method must not return for `count` test images of `classes` closed classes."""
    scores, predicted = np.asarray(unknown_score, dtype=np.float64), np.asarray(predicted_class)
    if scores.shape != (count,) or predicted.shape != (count,):
        raise SuiteError(
            f"the method returned {scores.shape} scores and {predicted.shape} classes for {(count,)} test images",
            "return one of each per test image, in the task's order",
        )
    if not np.isfinite(scores).all():
        raise SuiteError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} unknown scores are NaN or infinite",
            "fix the method (often a diverged training: lower its learning rate)",
        )
    if not np.issubdtype(predicted.dtype, np.integer) or predicted.min() < 0 or predicted.max() >= classes:
        fix = "give each face's place among the task's closed_classes: 0 for the first name, 1 for the second"
        raise SuiteError(f"predicted classes must be integers in 0..{classes - 1}", fix)


def score_table(
    faces: Mapping[str, NDArray[Any]],
    truth: NDArray[np.int64],
    closed_classes: tuple[str, ...],
    detection: Detection,
    predictions: NDArray[np.int64] | None = None,
    assigned_labels: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Table of scores: one row a test image, in the order of the task; `attrs` name the closed classes.

    faces: (N,) each: `id`; `true_class`, by name; `origin`, the split that a face is from; `twin`, equal for faces with
    the same or mirrored pixels; `has_twin`, whether it occurs elsewhere in the pool or among the training images.
    truth: (N,) 0..K-1, -1 for open faces (in a control: flipped labels).
    predictions: (N,) 0..K-1, of the closed-set model. assigned_labels: (N,) 0..K-1, of the pseudo-label setting. None:
    there is no closed-set model.

    Raises:
        SuiteError: non-finite scores, wrong lengths or classes; the cell fails, nothing is dropped.
    """
    check_detection(detection.unknown_score, detection.predicted_class, len(truth), len(closed_classes))
    names = np.array(closed_classes)
    table = pd.DataFrame(
        {
            "id": faces["id"],
            "truth": np.where(truth < 0, "open", names[truth]),
            "true_class": faces["true_class"],
            "is_open": truth < 0,
            "unknown_score": np.asarray(detection.unknown_score, dtype=np.float64),
            "predicted_class": names[np.asarray(detection.predicted_class)],
            **({} if predictions is None else {"closed_set_class": names[predictions]}),
            **({} if assigned_labels is None else {"given_class": names[assigned_labels]}),
            "origin": faces["origin"],
            **{name: faces[name] for name in ("twin", "has_twin") if name in faces},
            **checked_extras(detection.extras, len(truth)),
        }
    )
    table.attrs["closed_classes"] = list(closed_classes)  # one of them may be in no row
    return table
