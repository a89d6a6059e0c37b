"""Reading MLflow: the plans and cells of an experiment, their scores and features. docs/mlflow.md has the schema."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import filelock

from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.benchmark.storage.connection import connect, set_mlflow_defaults, tracking_uri
from open_set_fer.benchmark.storage.experiment import EXPERIMENT_PREFIX, VIEW, VIEW_TAG, Experiment
from open_set_fer.benchmark.storage.kept import FACES, FEATURES, read_features
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    import mlflow.entities
    import numpy as np
    from mlflow.entities import Run
    from numpy.typing import NDArray
    from pandas import DataFrame
    from PIL.Image import Image

KIND = "osfer.kind"
"""Tag of every run: benchmark, cell, replicate (another person's computation of a finished cell) or study."""
PROTOCOL_FIELDS = ("choice", "open_from", "pool", "twins", "labels", "label_share")
"""Parts of a cell's protocol in plan.json and as tags; defaults are left out. `open_classes` displays all but twins."""
COORDINATES = ("dataset", "protocol", "open_classes", "method", "seed")
"""What names a cell in a plan and in a table; `cell_key` also covers its settings."""
EVALUATION = "evaluation"
"""Tag of a cell and of a benchmark run: the version of the evaluation (cell_result.EVALUATION)."""
PLAN_NUMBER = "plan_number"
"""Tag of a benchmark run: counts the plans of an experiment, so that a clock set wrong does not reorder them."""
DIGEST_LENGTH = 36
"""Characters of a data set's fingerprint that MLflow keeps."""
IMPORTED_FROM = "imported_from"
"""Tag of a cell that `osfer sync FOLDER` logged: whose results it is from."""


@dataclass(frozen=True)
class Finished:
    """What a plan must know of a finished cell."""

    key: str
    evaluation: str
    dataset: str
    method: str
    auroc: float
    seconds: float | None
    closed_accuracy: float | None = None
    auroc_within_label: float | None = None

    @property
    def is_current(self) -> bool:
        """Whether the present evaluation measured it."""
        return self.evaluation == str(cell_result.EVALUATION)


class Reader(Experiment):
    """Finds and reads the runs of one experiment."""

    def finished(self) -> list[Finished]:
        """Every finished cell, of other evaluations too."""
        if not self.experiment_id:
            return []
        if self._local:
            database = Path(self._copy.name) if self._copy else self.home.resolve()
            return [Finished(*row) for row in store.finished_cells(database / store.DATABASE, int(self.experiment_id))]
        names = ("cell_key", EVALUATION, "dataset", "method")
        metrics = ("auroc", "seconds.total", "closed_accuracy", "auroc_within_label")
        rows: list[list[Any]] = [
            [*(run.data.tags[name] for name in names), *map(run.data.metrics.get, metrics)] for run in self._finished()
        ]
        return [Finished(*row) for row in rows]

    def outdated(self) -> list[Run]:
        """Finished runs of cells that another version of the evaluation measured."""
        if self._local and all(cell.is_current for cell in self.finished()):
            return []
        return [run for run in self._finished() if not is_current(run)]

    def is_finished(self, cell_key: str) -> bool:
        """Whether this cell has a finished run of the present evaluation."""
        return any(map(is_done, self._runs_of(cell_key)))

    def cells(self) -> list[Run]:
        """Cell runs that failed, or finished with the present evaluation, in the order in which they ended."""
        runs = self._search(f"tags.`{KIND}` = 'cell'")
        ended = [run for run in runs if run.info.status == "FAILED" or is_done(run)]
        return sorted(ended, key=lambda run: run.info.end_time)

    def replicates(self) -> list[Run]:
        """Computations of finished cells by other people."""
        return self._search(f"tags.`{KIND}` = 'replicate' and attributes.status = 'FINISHED'")

    def planned(self) -> list[dict[str, Any]]:
        """Every cell that the benchmark runs of this experiment planned, each coordinate once, in planned order.

        The latest plan that names a coordinate says its cell_key. If a later plan has the same cell_key under a new
        label only, the label was renamed: the old entry is dropped. Later is a plan with a higher number, whatever the
        clock said.
        """
        # A run killed between its creation and its plan has none; `planned` marks those that do.
        parents = self._search(f"tags.`{KIND}` = 'benchmark' and tags.planned = 'true'")
        planned: dict[tuple[Any, ...], dict[str, Any]] = {}
        for run in sorted(parents, key=lambda run: (plan_number(run), run.info.start_time)):
            plan = {coordinates(cell): cell for cell in self.read_json(run.info.run_id, "plan.json")}
            keys = {cell["cell_key"] for cell in plan.values()}
            planned = {place: cell for place, cell in planned.items() if place in plan or cell["cell_key"] not in keys}
            planned |= plan
        return list(planned.values())

    def read_cell(self, run: Run, with_curves: bool = True) -> CellResult:
        """The result of a finished cell as `log_cell` got it; each of its curves costs a request."""
        tags, metrics, curves = run.data.tags, run.data.metrics, {}
        for name in metrics if with_curves else ():
            if name.startswith("curve."):
                points = self.client.get_metric_history(run.info.run_id, name)
                curves[name[6:]] = [point.value for point in sorted(points, key=lambda point: point.step)]
        data = run.inputs.dataset_inputs[0].dataset if run.inputs and run.inputs.dataset_inputs else None
        own = (KIND, EVALUATION, "notes")
        return CellResult(
            metrics={name: value for name, value in metrics.items() if not name.startswith("curve.")},
            curves=curves,
            tags={name: text for name, text in tags.items() if not name.startswith("mlflow.") and name not in own},
            notes=read_notes(tags.get("notes", "")),
            started=run.info.start_time / 1000,
            ended=run.info.end_time / 1000,
            evaluation=int(tags[EVALUATION]),
            params={name: text for name, text in run.data.params.items() if not name.startswith("cell.")},
            data=DataUsed(data.name, data.digest, json.loads(data.profile or "{}")) if data else None,
        )

    def read_text(self, run_id: str, artifact: str) -> str:
        """A text artifact of a run."""
        with tempfile.TemporaryDirectory() as folder:
            return self._download(run_id, artifact, folder).read_text("utf-8")

    def read_json(self, run_id: str, artifact: str) -> Any:
        """A JSON artifact of a run."""
        return json.loads(self.read_text(run_id, artifact))

    def read_sheet(self, run: Run) -> Image | None:
        """The sheet of faces of a cell, if it has one."""
        from PIL import Image

        if FACES not in [artifact.path for artifact in self.client.list_artifacts(run.info.run_id)]:
            return None
        with tempfile.TemporaryDirectory() as folder:
            sheet = Image.open(self._download(run.info.run_id, FACES, folder))
            sheet.load()
            return sheet

    def read_scores(self, run_id: str) -> DataFrame:
        """The scores of a cell."""
        import pandas as pd

        with tempfile.TemporaryDirectory() as folder:
            return pd.read_parquet(self._download(run_id, "scores.parquet", folder))

    def read_features(self, run_id: str) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
        """Ids and features of a cell that kept them."""
        with tempfile.TemporaryDirectory() as folder:
            return read_features(self._download(run_id, FEATURES, folder))

    def _finished(self) -> list[Run]:
        return self._search(f"tags.`{KIND}` = 'cell' and attributes.status = 'FINISHED'")

    def _runs_of(self, cell_key: str) -> list[Run]:
        return self._search(f"tags.`{KIND}` = 'cell' and tags.cell_key = '{cell_key}'")

    def _download(self, run_id: str, artifact: str, folder: str) -> Path:
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(run_id, artifact, folder))
        except (MlflowException, OSError) as error:
            if not self._local:
                raise
            raise SuiteError(
                f"{artifact} of run {run_id} cannot be read under {self.home / store.ARTIFACTS}",
                "put that folder back; or move mlflow.db away: the same `osfer run` logs the results on disk again",
            ) from error


def experiment_link(base: str, experiment_id: str, search: str = "") -> str:
    """Page of the runs of an experiment in an MLflow UI at `base`, the highest AUROC first.

    search: of the runs; '': the experiment's view (`experiment.VIEW`), with measures and coordinates as columns.
    Without workflowType MLflow 3 opens on language-model traces; sorted by time it folds cells into their parent runs.
    """
    options = {"workflowType": "machine_learning"}
    if search:
        options |= {"searchFilter": search, "orderByKey": "metrics.`auroc`", "orderByAsc": "false"}
    else:
        options["viewStateShareKey"] = VIEW_TAG.rpartition(".")[2]
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(options, quote_via=quote)}"


def run_link(base: str, experiment_id: str, run_id: str) -> str:
    """Page of one run in an MLflow UI at `base`."""
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def stored_experiments(home: Path) -> dict[str, str]:
    """Experiment ids by profile, the one with the newest run first; SuiteError for a home without a usable store."""
    set_mlflow_defaults()
    uri, artifacts = tracking_uri(home)
    if artifacts is not None:
        if not (home / store.DATABASE).exists():
            raise SuiteError(f"no MLflow store under {home}", "run `osfer run` first, or name its folder with --home")
        if not store.is_writable(home):
            raise SuiteError(f"{home} cannot be written, which MLflow's server needs", "serve a copy of the folder")
        with filelock.FileLock(home / "tracking.lock"):
            store.prepare(home)
    client = connect(uri)

    def newest(experiment: mlflow.entities.Experiment) -> int:
        runs = client.search_runs([experiment.experiment_id], max_results=1, order_by=["attributes.start_time DESC"])
        return int(runs[0].info.start_time) if runs else 0

    experiments = client.search_experiments(filter_string=f"name LIKE '{EXPERIMENT_PREFIX}%'")
    for experiment in experiments:
        if experiment.tags.get(VIEW_TAG) != VIEW:  # of an older version
            client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, VIEW)
    newest_first = sorted(experiments, key=newest, reverse=True)
    return {experiment.name.removeprefix(EXPERIMENT_PREFIX): experiment.experiment_id for experiment in newest_first}


def read_notes(tag: str) -> list[str]:
    """The notes of a cell from its tag, which may have been cut at MLflow's limit."""
    try:
        notes = json.loads(tag) if tag else []
    except ValueError:
        notes = [tag]
    return [str(note) for note in notes] if isinstance(notes, list) else [str(notes)]


def is_current(run: Run) -> bool:
    """Whether the present evaluation measured a run."""
    return bool(run.data.tags.get(EVALUATION) == str(cell_result.EVALUATION))


def is_done(run: Run) -> bool:
    """Whether a run is finished and the present evaluation measured it."""
    return run.info.status == "FINISHED" and is_current(run)


def coordinates(cell: dict[str, Any]) -> tuple[Any, ...]:
    """What names a planned cell."""
    return tuple(cell[name] for name in COORDINATES)


def plan_entry(tags: dict[str, str]) -> dict[str, Any]:
    """A cell as plan.json names it, from its tags."""
    names = (*COORDINATES, "cell_key", *PROTOCOL_FIELDS)
    return {name: tags[name] for name in names if name in tags} | {"seed": int(tags["seed"])}


def plan_number(run: Run) -> int:
    """Which plan of its experiment a benchmark run has."""
    return int(run.data.tags.get(PLAN_NUMBER, "0"))
