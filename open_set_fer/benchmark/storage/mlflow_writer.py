"""Writing to MLflow: benchmark runs, cells, failures, studies and reports. docs/mlflow.md has the schema."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.storage import mlflow_reader as reader
from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.benchmark.storage.kept import FEATURES
from open_set_fer.benchmark.storage.logged import cell_tags, dataset_input, means_of, png, run_name
from open_set_fer.benchmark.storage.mlflow_reader import EVALUATION, KIND
from open_set_fer.benchmark.storage.provenance import host_tags
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, masked

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from PIL.Image import Image

LogModels = Callable[["MlflowClient", str, str], None]
"""Logs the models of a cell, given client, experiment and run."""
BATCH = 100
"""MLflow's limit of the params that one request may log; so many metrics are taken as well."""
REPORT_KINDS = ("*.tex", "*.md", "*.csv", "*.png", "*.pdf", "*.svg")


class Tracker(reader.Reader):
    """Writes, finds and reads the runs of one experiment."""

    def start_benchmark(
        self,
        plan: list[dict[str, Any]],
        profile_toml: str,
        command: str,
        device: str = "cpu",
        more_tags: dict[str, str] | None = None,
    ) -> str:
        """Create the parent run; parents of this machine whose process died are closed as KILLED.

        A cell run still RUNNING under no running parent was left by a process killed while logging: it is removed.
        """
        with self.writing():
            self._share_view()
            parents = self._search(f"tags.`{KIND}` = 'benchmark'")
            running = {run.info.run_id: run.data.tags for run in parents if run.info.status == "RUNNING"}
            for run_id, tags in list(running.items()):
                if tags.get("host") == socket.gethostname() and not _alive(int(tags["pid"])):
                    self.client.set_terminated(run_id, "KILLED")
                    del running[run_id]
            self._remove_unfinished(lambda parent: parent not in running)
            tags = host_tags(device) | {
                KIND: "benchmark",
                EVALUATION: str(cell_result.EVALUATION),
                "profile": self.profile,
                "pid": str(os.getpid()),
                "command": command,
                reader.PLAN_NUMBER: str(1 + max(map(reader.plan_number, parents), default=0)),
                "mlflow.runName": f"benchmark {time.strftime('%F %T')}",
                **{k: masked(v) for k, v in (more_tags or {}).items()},
            }
            run_id = str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
            self.client.log_text(run_id, json.dumps(plan, indent=1), "plan.json")
            self.client.log_text(run_id, profile_toml, "profile.toml")
            self.client.set_tag(run_id, "planned", "true")
        return run_id

    def _remove_unfinished(self, is_its_parent: Callable[[str], bool]) -> None:
        for run in self._search("attributes.status = 'RUNNING'"):
            tags = run.data.tags
            if tags.get(KIND) in ("cell", "replicate") and is_its_parent(tags.get("mlflow.parentRunId", "")):
                self.client.delete_run(run.info.run_id)

    def record_plan(self, plan: list[dict[str, Any]], profile_toml: str, command: str, device: str = "cpu") -> None:
        """Keep the plan of a run with nothing to compute, if it differs from the plans before it."""
        before = {reader.coordinates(cell): cell["cell_key"] for cell in self.planned()}
        if any(before.get(reader.coordinates(cell)) != cell["cell_key"] for cell in plan):
            self.end(self.start_benchmark(plan, profile_toml, command, device), "FINISHED")

    @contextmanager
    def benchmark(self, plan: list[dict[str, Any]], profile_toml: str, command: str) -> Iterator[str]:
        """A parent run around the block: FINISHED, or KILLED where the block raises."""
        parent, status = self.start_benchmark(plan, profile_toml, command), "KILLED"
        try:
            yield parent
            status = "FINISHED"
        finally:
            self.end(parent, status)

    def end(self, run_id: str, status: str) -> None:
        """Close a parent run as FINISHED, FAILED or KILLED, then add the means of its finished cells."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        with self.writing():
            # A server that stood still may have taken a request twice: remove what it made without an answer.
            self._remove_unfinished(lambda parent: parent == run_id)
            self.client.set_terminated(run_id, status)
        try:
            means, now = means_of(self.read_json(run_id, "plan.json"), self.finished()), int(1000 * time.time())
            with self.writing():
                self._log_batches(run_id, [Metric(name, value, now, 0) for name, value in means.items()])
        except (MlflowException, SuiteError) as error:
            log.warning("the means of this run were not logged: %s", str(error).partition("\n")[0])

    def log_cell(
        self,
        parent: str,
        result: CellResult,
        folder: Path,
        pictures: Mapping[str, Image],
        log_models: LogModels | None = None,
        kind: str = "cell",
    ) -> None:
        """Log one finished cell; its runs of earlier tries and of another evaluation are removed.

        result: with the tags that name the cell, params and data. folder: holds scores.parquet and profile.toml.
        pictures: by artifact name. kind: 'replicate' for another person's computation of a finished cell, which the
        leaderboard alone shows; it removes nothing.
        """
        from mlflow.entities import Metric

        with self.writing(), ThreadPoolExecutor(1) as encoder:  # beside MLflow's work
            for run in self._runs_of(result.tags["cell_key"]) if kind == "cell" else ():
                if reader.is_done(run):
                    return
                # Left by a killed or failed try: the runner holds the cell's lock, so no other process is writing it.
                self.client.delete_run(run.info.run_id)
            now = time.time()
            started, ended = (int(1000 * (now if at is None else at)) for at in (result.started, result.ended))
            encoded = {name: encoder.submit(png, picture) for name, picture in pictures.items()}
            # All tags with the run itself, so that no other process sees one without its key, and in one commit.
            tags = cell_tags(result, folder) | {KIND: kind, "mlflow.parentRunId": parent}
            run = self.client.create_run(self.experiment_id, start_time=started, tags=tags)
            run_id = run.info.run_id
            values = [(name, value, 0) for name, value in result.metrics.items()]
            values += [(f"curve.{n}", value, step) for n, v in result.curves.items() for step, value in enumerate(v)]
            metrics = [Metric(name, float(value), ended, step) for name, value, step in values]
            named = {f"cell.{name}": result.tags[name] for name in reader.COORDINATES}
            params = {name: str(value)[:6000] for name, value in (named | result.params).items()}
            self._log_batches(run_id, metrics, params)
            if result.data:
                self.client.log_inputs(run_id, [dataset_input(result.data)])
            with self._artifacts_of(run) as place:
                for name in ("scores.parquet", "profile.toml"):
                    shutil.copyfile(folder / name, place / name)
                for path in (folder / "key.json", folder / FEATURES):
                    if path.exists():
                        shutil.copyfile(path, place / path.name)
                for name, picture in encoded.items():
                    (place / name).write_bytes(picture.result())
            if log_models:
                self._log_models(run_id, log_models)
            self.client.set_terminated(run_id, "FINISHED", end_time=ended)

    def _log_batches(self, run_id: str, metrics: list[Metric], params: dict[str, str] | None = None) -> None:
        from mlflow.entities import Param

        listed = [Param(name, text) for name, text in (params or {}).items()]
        for start in range(0, max(len(metrics), len(listed)), BATCH):
            part = slice(start, start + BATCH)
            self.client.log_batch(run_id, metrics=metrics[part], params=listed[part])

    @contextmanager
    def _artifacts_of(self, run: Run) -> Iterator[Path]:
        """A folder to write a new run's artifacts into.

        In a home the run's own: MLflow would load the run anew to learn where that is, and copy each file once more.
        Otherwise a temporary one, sent at the end in one request where the store takes one.
        """
        if self._local:
            from mlflow.utils.file_utils import local_file_uri_to_path

            place = Path(local_file_uri_to_path(run.info.artifact_uri))  # type: ignore[no-untyped-call]
            place.mkdir(parents=True, exist_ok=True)
            yield place
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            self.client.log_artifacts(run.info.run_id, folder)

    def _log_models(self, run_id: str, log_models: LogModels) -> None:
        """A server that takes no models (of an MLflow before 3) costs a warning, not the cell."""
        from mlflow.exceptions import MlflowException

        try:
            log_models(self.client, self.experiment_id, run_id)
        except MlflowException as error:
            if self._local and store.damage(self.home, error):
                raise
            log.warning("the models of this cell are not logged: %s", masked(str(error)).partition("\n")[0])

    def log_failure(
        self, parent: str, tags: dict[str, str], traceback: str, error: str = "", status: str = "FAILED"
    ) -> None:
        """Log a cell as FAILED with its traceback, or as KILLED if a study stopped it; a cell has at most one such run.

        error: the tag, one line; without it the traceback's last one.
        """
        with self.writing():
            for run in self._search(f"tags.cell_key = '{tags['cell_key']}' and attributes.status != 'FINISHED'"):
                self.client.delete_run(run.info.run_id)
            more = {KIND: "cell", "mlflow.parentRunId": parent, "mlflow.runName": run_name(tags)}
            traceback = masked(traceback)
            more["error"] = masked(error or traceback.strip().rpartition("\n")[2])[:500]
            run_id = self.client.create_run(self.experiment_id, tags={**tags, **more}).info.run_id
            self.client.log_text(run_id, traceback, "traceback.txt")
            self.client.set_terminated(run_id, status)

    def open_study(self, name: str, tags: dict[str, str]) -> str:
        """The parent run of a study: the one of this name, running again, or a new one."""
        with self.writing():
            found = self._search(f"tags.`{KIND}` = 'study' and tags.study = '{name}'")
            if found:
                run_id = str(found[0].info.run_id)
                self.client.update_run(run_id, status="RUNNING")
            else:
                start = {KIND: "study", "mlflow.runName": f"study {name}"}
                run_id = str(self.client.create_run(self.experiment_id, tags=start).info.run_id)
            for key, text in tags.items():
                self.client.set_tag(run_id, key, masked(text)[:5000])
        return run_id

    def log_trial(
        self, study_run: str, trial_run: str, study: str, number: int, value: float | None, cells: list[dict[str, Any]]
    ) -> None:
        """A trial's objective on its own run and, with the number as step, on the study's; its cells name the trial.

        A cell that serves several trials names them all: '3, 7'.
        """
        with self.writing():
            if value is not None:
                self.client.log_metric(trial_run, "objective", value)
                self.client.log_metric(study_run, "objective", value, step=number)
            for cell in cells:
                tags = self.client.get_run(cell["run_id"]).data.tags
                earlier = tags.get("trial", "").split(", ") if tags.get("study") == study else []
                numbers = sorted({int(text) for text in earlier if text} | {number})
                self.client.set_tag(cell["run_id"], "study", study)
                self.client.set_tag(cell["run_id"], "trial", ", ".join(map(str, numbers)))
                self.client.set_tag(cell["run_id"], "study_run", study_run)

    def log_study(self, study_run: str, files: Iterable[Path]) -> None:
        """Attach a study's text and figures to its run; a store that cannot take them is a warning."""
        self._attach("study", study_run, {path: "study" for path in files})

    def end_study(self, study_run: str) -> None:
        """Close the run of an idle study."""
        with self.writing():
            self.client.set_terminated(study_run, "FINISHED")

    def log_report(self, folder: Path, files: Iterable[Path] | None = None) -> None:
        """Attach a rendered report to the newest parent run; a store that cannot take it is a warning.

        files: what to log of the folder (default: index.html and the kinds of files that a report has).
        """
        if files is None:
            files = [folder / "index.html"]
            files += [path for kind in REPORT_KINDS for path in sorted(folder.glob(f"*/{kind}"))]
        if parents := self._search(f"tags.`{KIND}` = 'benchmark'"):
            newest = max(parents, key=lambda run: run.info.start_time).info.run_id
            places = {path: str(Path("report", path.relative_to(folder).parent)) for path in files}
            with self.writing():
                self._share_view()
            self._attach("report", newest, places)

    def _attach(self, what: str, run_id: str, places: dict[Path, str]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            with self.writing():
                for path, place in places.items():
                    self.client.log_artifact(run_id, str(path), place)
        except (MlflowException, SuiteError, OSError, AttributeError) as error:
            log.warning("the %s was not logged to MLflow: %s", what, str(error).partition("\n")[0])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
