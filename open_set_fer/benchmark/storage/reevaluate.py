"""Measuring again: metrics from the scores that are kept, after the evaluation has changed; no cell is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation import metrics
from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.intermediate_scores import epoch_metrics
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.storage.features import FEATURES_TAG
from open_set_fer.benchmark.storage.pictures import names_of, score_histogram
from open_set_fer.benchmark.storage.records import Record
from open_set_fer.benchmark.storage.results_dir import read_result, set_aside, update_result, write_result
from open_set_fer.benchmark.storage.tracking import COORDINATES, Tracker
from open_set_fer.console import log, track
from open_set_fer.errors import SuiteError, summary

if TYPE_CHECKING:
    from mlflow.entities import Run

OF_PSEUDO_LABELS = ("closed_set_accuracy", "pseudo_label_entropy_open", "pseudo_label_entropy_closed")
"""Metrics that stay as they are for results of an older suite, whose scores have no pseudo labels."""

NO_ORIGIN = (
    "measured again from scores that an older suite kept: they do not say which split a face is from, so AUROC by origin is "
    "missing"
)
"""Note of such a result."""


def measured(result: CellResult, scores: pd.DataFrame) -> CellResult:
    """The result with the metrics of the present evaluation; times and memory stay."""
    is_open = scores["is_open"].to_numpy(dtype=bool)
    # An older suite did not write them beside the scores.
    classes = scores.attrs.get("closed_classes") or sorted({*scores["truth"][~is_open], *scores["predicted_class"]})

    def indices(column: str) -> NDArray[np.int64]:
        return np.asarray(pd.Index(classes).get_indexer(scores[column]), dtype=np.int64)

    has_pseudo_labels = "closed_set_class" in scores
    values = metrics.cell_metrics(
        np.where(is_open, -1, indices("truth")),
        scores["unknown_score"].to_numpy(dtype=np.float64),
        indices("predicted_class"),
        indices("closed_set_class") if has_pseudo_labels else None,
        len(classes),
        indices("given_class") if "given_class" in scores else None,
        scores["origin"].to_numpy(dtype=np.str_) if "origin" in scores else None,
    )
    values |= epoch_metrics(scores)
    unchanged = {
        name: value
        for name, value in result.metrics.items()
        if name.startswith(metrics.OF_THE_RUN) or (name in OF_PSEUDO_LABELS and not has_pseudo_labels)
    }
    lacking = [NO_ORIGIN] if "origin" not in scores and NO_ORIGIN not in result.notes else []
    return replace(
        result, metrics=values | unchanged, evaluation=cell_result.EVALUATION, notes=[*result.notes, *lacking]
    )


def restore(tracker: Tracker, run: Run, folder: Path) -> None:
    """Write the result of a finished run to disk, where it is not any more."""
    result = tracker.read_cell(run)
    kept = result.tags.get(FEATURES_TAG) == "kept"
    features = tracker.read_features(run.info.run_id)[1] if kept else None
    assert result.data is not None
    run_id = run.info.run_id
    record = Record(
        result.tags, result.params, result.data, tracker.read_key(run_id), tracker.read_text(run_id, "profile.toml")
    )
    write_result(folder, result, tracker.read_scores(run_id), record, features)


def measure_again(
    tracker: Tracker, results: Path, profile_toml: str, command: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure every finished run of another evaluation and log it anew in its place.

    Returns the coordinates of the cells that were measured, and of those that could not be, each with its `error`.
    """
    runs = {run.data.tags["cell_key"]: run for run in tracker.outdated()}
    done: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    if not runs:
        return done, failed
    results.mkdir(parents=True, exist_ok=True)
    plan = [
        {"labels": runs[cell["cell_key"]].data.tags.get("labels", "own")} | cell
        for cell in tracker.planned()
        if cell.get("cell_key") in runs
    ]
    parent = tracker.start_benchmark(plan, profile_toml, command)
    status = "KILLED"
    try:
        for key, run in track(runs.items(), "measuring"):
            cell: dict[str, Any] = {name: run.data.tags[name] for name in (*COORDINATES, "cell_key")}
            cell["seed"] = int(cell["seed"])
            try:
                with filelock.FileLock(results / f"{key}.lock"):
                    if not tracker.is_finished(key):  # by another process
                        _measure_run(tracker, run, results / key, parent)
                done.append(cell)
            except Exception as error:
                log.error("%s %s cannot be measured: %s", cell["method"], cell["open_classes"], summary(error))
                failed.append(cell | {"error": summary(error)})
        status = "FAILED" if failed else "FINISHED"
    finally:
        tracker.end(parent, status)
    return done, failed


def _measure_run(tracker: Tracker, run: Run, folder: Path, parent: str) -> None:
    """Measure one run from the scores on disk, or from its own where there are none, and log the result in its place."""
    try:
        result, scores = read_result(folder)
    except SuiteError as error:
        if folder.is_dir():
            log.warning("%s; set aside as %s", error.message, set_aside(folder).name)
        restore(tracker, run, folder)
        result, scores = read_result(folder)
    if not (folder / "profile.toml").exists():
        (folder / "profile.toml").write_text(tracker.read_text(run.info.run_id, "profile.toml"), "utf-8")
    if not result.is_current:
        result = measured(result, scores)
        update_result(folder, result)
    if not (folder / "key.json").exists() and (key := tracker.read_key(run.info.run_id)):
        (folder / "key.json").write_text(key, "utf-8")
    logged = tracker.read_cell(run)
    result = replace(result, tags=logged.tags, params=logged.params, data=logged.data)
    pictures = {"histogram.png": score_histogram(scores, result.title(), names_of(result)).draw()}
    sheet = tracker.read_sheet(run)
    tracker.log_cell(parent, result, folder, pictures | ({"faces.png": sheet} if sheet else {}))
