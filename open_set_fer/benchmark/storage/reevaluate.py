"""Re-evaluation: metrics from the scores that are kept, after the evaluation has changed; no cell is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pandas as pd

from open_set_fer.benchmark.evaluation import metrics
from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.intermediate_scores import epoch_metrics
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.storage.kept import FACES, FEATURES_TAG, HISTOGRAM
from open_set_fer.benchmark.storage.mlflow_reader import COORDINATES
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.storage.pictures import histogram_of
from open_set_fer.benchmark.storage.results_dir import Record, read_result, set_aside, update_result, write_result
from open_set_fer.console import log, track
from open_set_fer.errors import SuiteError, summary

if TYPE_CHECKING:
    from mlflow.entities import Run


def measured(result: CellResult, scores: pd.DataFrame) -> CellResult:
    """The result with the metrics of the present evaluation; times and memory stay."""
    values = metrics.cell_metrics(scores, scores.attrs["closed_classes"], result.metrics.get("threshold"))
    values |= epoch_metrics(scores)
    values |= {name: value for name, value in result.metrics.items() if name.startswith(metrics.OF_THE_RUN)}
    return replace(result, metrics=values, evaluation=cell_result.EVALUATION)


def restore(tracker: Tracker, run: Run, folder: Path) -> None:
    """Write the result of a finished run to disk, where it is not any more."""
    result, run_id = tracker.read_cell(run), run.info.run_id
    features = tracker.read_features(run_id)[1] if result.tags.get(FEATURES_TAG) == "kept" else None
    assert result.data is not None
    texts = (tracker.read_text(run_id, name) for name in ("key.json", "profile.toml"))
    record = Record(result.tags, result.params, result.data, *texts)
    write_result(folder, result, tracker.read_scores(run_id), record, features)


def reevaluate(
    tracker: Tracker, results: Path, profile_toml: str, command: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Re-evaluate every finished run of another evaluation and log it anew in its place.

    Returns the coordinates of the cells that were re-evaluated, and of those that could not be, each with its `error`.
    """
    runs = {run.data.tags["cell_key"]: run for run in tracker.outdated()}
    done: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    if not runs:
        return done, failed
    results.mkdir(parents=True, exist_ok=True)
    plan = [cell for cell in tracker.planned() if cell["cell_key"] in runs]
    parent = tracker.start_benchmark(plan, profile_toml, command)
    status = "KILLED"
    try:
        for key, run in track(runs.items(), "re-evaluating"):
            cell: dict[str, Any] = {name: run.data.tags[name] for name in (*COORDINATES, "cell_key")}
            cell["seed"] = int(cell["seed"])
            try:
                with filelock.FileLock(results / f"{key}.lock"):
                    if not tracker.is_finished(key):  # by another process
                        _reevaluate_run(tracker, run, results / key, parent)
                done.append(cell)
            except Exception as error:
                log.error("%s %s cannot be re-evaluated: %s", cell["method"], cell["open_classes"], summary(error))
                failed.append(cell | {"error": summary(error)})
        status = "FAILED" if failed else "FINISHED"
    finally:
        tracker.end(parent, status)
    return done, failed


def _reevaluate_run(tracker: Tracker, run: Run, folder: Path, parent: str) -> None:
    """Re-evaluate one run from the scores on disk, else from its own, and log the result in its place."""
    try:
        result, scores = read_result(folder)
    except SuiteError as error:
        if folder.is_dir():
            log.warning("%s; set aside as %s", error.message, set_aside(folder).name)
        restore(tracker, run, folder)
        result, scores = read_result(folder)
    if not result.is_current:
        result = measured(result, scores)
        update_result(folder, result)
    logged = tracker.read_cell(run)  # its tags may name trials of a study, which the disk does not know
    result = replace(result, tags=logged.tags, params=logged.params, data=logged.data)
    pictures = {HISTOGRAM: histogram_of(result, scores)}
    sheet = tracker.read_sheet(run)
    tracker.log_cell(parent, result, folder, pictures | ({FACES: sheet} if sheet else {}))
