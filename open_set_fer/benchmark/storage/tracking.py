"""MLflow: the schema every other part reads, and the only code that writes it.

Experiment `open-set-fer/<profile>`. One parent run per `osfer run` (tag `osfer.kind` = benchmark, artifact `plan.json`: the
cells it planned, artifact `profile.toml`; when it ends, metrics `auroc.<label>` and `cells.<label>`: the mean and the number
of the planned cells that are finished, `auroc.control.<label>` and `cells.control.<label>` those of the controls; artifact folder `report` of the last `osfer report`). A study of `osfer tune` (experiment `<profile>-tuning`) has a run of its own (tag `osfer.kind` =
study, metric `objective` with the trial as step); each of its trials is a parent run nested under it, with tags study, trial
and objective and the metric `objective`. One nested run per cell (tag `osfer.kind` = cell) with

tags        cell_key, settings_key, dataset, protocol (family), open_classes ('surprise+fear'), method (the label in the
            profile), seed, profile, selection (where the
            hyperparameters come from), demonstration, notes, labels and label_share (the label regime; no share
            for `own`), reads_labels (whether the method read them), sees_pool and label_based (what the method states of
            itself), evaluation (the version that measured it), choice,
            open_from and pool (the open classes, `test` where they are of the test split alone, the part of the test
            pool: what open_classes displays), error (FAILED runs), and those of provenance.host_tags:
            version, git_commit, python, torch, cpu, gpu, host, device;
            of imported cells also imported_from, imported_export, imported_key (see exchange.py);
            of a study's cells also study, study_run and trial (the numbers of those that it serves), pruned (of one
            that the study stopped, status KILLED: after which epoch; no table shows it)
params      every setting, flat: method.*, closed_set.*, backbone.*, own_backbone.*, dataset.*; and what names the cell, for MLflow's
            parallel coordinates: cell.dataset, cell.protocol, cell.open_classes, cell.method, cell.seed
metrics     auroc, auroc_low, auroc_high, auroc_open_test, auroc_open_train, auroc_right, fpr_at_tpr95, aupr_open,
            aupr_closed, open_share, oscr, closed_accuracy, closed_set_accuracy, n_open, n_closed,
            pseudo_label_entropy_open, pseudo_label_entropy_closed, seconds.<phase>, peak_mib.<phase>,
            auroc.epoch_<N> where the profile has `read_at`,
            and curves as curve.<name> with the epoch as step
artifacts   scores.parquet (id, truth, true_class, is_open, unknown_score, predicted_class, closed_set_class:
            the closed-set model's, given_class: the label regime's, origin: test or train, extras), key.json
            (what the cell's key is the digest of; older runs lack it), histogram.png,
            features.npz (ids, and float16 features of the method's network, in the order of the scores) for cells that
            `osfer run --keep-features` computed (tag features: kept, or none where the method names no network),
            traceback.txt, and
            faces.png (the pool's faces with the highest and lowest scores) for `synthetic`; for any other data set
            only when the process that logs the cell was started with --allow-face-artifacts
inputs      the data set's name, fingerprint and counts
outputs     of cells that `osfer run --keep-models` computed (tag models: kept, or none where the method scores no single
            face): logged models, each once under its tag model_key, which is the cell's key or the run's tag
            closed_set_key; see logged_models.py
times       start and end of the computation, whenever it was logged
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import filelock

from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.benchmark.protocols.shifts import SHIFT
from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.benchmark.storage.connection import (
    REQUEST_LIMITS,
    brief_requests,
    connect,
    first_answer,
    set_mlflow_defaults,
    tracking_uri,
)
from open_set_fer.benchmark.storage.features import FEATURES, FEATURES_TAG, read_features
from open_set_fer.benchmark.storage.kept import MODEL, MODELS_TAG
from open_set_fer.benchmark.storage.provenance import host_tags
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, masked

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Experiment, Run
    from numpy.typing import NDArray
    from pandas import DataFrame
    from PIL.Image import Image

T = TypeVar("T")
EXPERIMENT_PREFIX = "open-set-fer/"
KIND = "osfer.kind"
COORDINATES = ("dataset", "protocol", "open_classes", "method", "seed")
"""What names a cell in a plan and in a table; `cell_key` also covers its settings."""
PROTOCOL_FIELDS = ("choice", "open_from", "pool", "labels", "label_share")
"""Parts of a cell's protocol in plan.json and as tags, which its `open_classes` displays; defaults are left out."""
EVALUATION = "evaluation"
"""Tag of a cell and of a benchmark run: the version of the evaluation (cell_result.EVALUATION)."""
PLAN_NUMBER = "plan_number"
"""Tag of a benchmark run: counts the plans of an experiment, so that a clock set wrong does not reorder them."""
DIGEST_LENGTH = 36
"""Of a fingerprint, what MLflow keeps."""
REPORT_KINDS = ("*.tex", "*.md", "*.csv", "*.png", "*.pdf", "*.svg")


@dataclass(frozen=True)
class Finished:
    """What a plan must know of a finished cell."""

    key: str
    evaluation: str
    dataset: str
    method: str
    auroc: float
    seconds: float | None

    @property
    def is_current(self) -> bool:
        """Whether the present evaluation measured it."""
        return self.evaluation == str(cell_result.EVALUATION)


class Tracker:
    """Writes and finds the runs of one experiment."""

    def __init__(
        self, home: Path, profile: str, create: bool = True, wait: float | None = None, uri: str | None = None
    ) -> None:
        """`home` holds the default SQLite store, used unless `uri` (None: MLFLOW_TRACKING_URI) names another one.

        create: make store and experiment where there is none; else a missing one reads as empty and nothing is written.
            A home that cannot be written is read through a copy of its store.
        wait: seconds for a tracking server to answer (default: `tracking_wait()`).

        Raises:
            SuiteError: MLFLOW_TRACKING_URI is no address, or the store of `home` is damaged.
            TrackingAway: the tracking server does not answer.
        """
        for variable, value in REQUEST_LIMITS.items():
            os.environ.setdefault(variable, value)
        set_mlflow_defaults()
        self.home = home
        self.profile = profile
        self.experiment_id = ""
        self.uri, artifacts = tracking_uri(home, uri)
        self._local = artifacts is not None
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        # SQLite admits one writer; waiting here beats its "database is locked" after five seconds. Beside the file, so that homes share it.
        beside = Path(self.uri.removeprefix("sqlite:///")).parent if self.uri.startswith("sqlite:///") else home
        locked = beside if os.access(beside, os.W_OK) else home
        self._lock = filelock.FileLock(locked / "tracking.lock")
        if not create and not self._is_there():
            return
        if self._local and not store.is_writable(home):
            self._copy, self._stamp = tempfile.TemporaryDirectory(), store.stamp(home)
            self.uri = store.database_uri(store.copy_to_read(home, Path(self._copy.name)))
            self.client: MlflowClient = connect(self.uri)
            self._find_experiment(wait)
            return
        if create:
            home.mkdir(parents=True, exist_ok=True)
        with self._locked() if locked.is_dir() else nullcontext():
            if self._local:
                store.prepare(home)
            self.client = connect(self.uri)
            if not self._find_experiment(wait) and create:
                self._make_experiment(artifacts, wait)

    @property
    def is_outdated(self) -> bool:
        """Whether it reads a copy, of a home that cannot be written, whose store has changed since; or found no experiment."""
        return not self.experiment_id or (self._copy is not None and store.stamp(self.home) != self._stamp)

    def _is_there(self) -> bool:
        """Whether the store can be opened without making it: a local file must be there, a server must answer."""
        if self._local:
            return (self.home / store.DATABASE).exists()
        return not self.uri.startswith("sqlite:") or Path(self.uri.removeprefix("sqlite:///")).exists()

    def _find_experiment(self, wait: float | None) -> bool:
        name = EXPERIMENT_PREFIX + self.profile
        with self._naming_damage():
            experiment = first_answer(self.uri, lambda: self.client.get_experiment_by_name(name), wait)
        if experiment is None:
            return False
        if experiment.lifecycle_stage != "active":
            self.client.restore_experiment(experiment.experiment_id)
        self.experiment_id = experiment.experiment_id
        return True

    def _make_experiment(self, artifacts: str | None, wait: float | None) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.experiment_id = self.client.create_experiment(
                # MLflow's page opens on language-model traces unless its link says otherwise: see experiment_link.
                EXPERIMENT_PREFIX + self.profile,
                artifact_location=artifacts,
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        except MlflowException:  # another process on the same server was quicker
            if not self._find_experiment(wait):
                raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's write lock when it is a local SQLite file.

        Raises:
            SuiteError: the home cannot be written, or its store is damaged.
        """
        if self._copy is not None:
            raise SuiteError(f"{self.home} cannot be written", "choose another folder with --home")
        with self._locked(), self._naming_damage():
            if self._local:
                # Another process may know this home by another path, in a container say, and have set the places to it.
                store.follow(self.home.resolve() / store.DATABASE, store.artifact_root(self.home))
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.uri.startswith("sqlite"):
            yield
            return
        try:
            self._lock.acquire(timeout=10)
        except filelock.Timeout:
            log.warning("waiting for another process that writes to the store of %s", self.home)
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            if self._local and (clear := store.damage(self.home, error)):
                raise clear from error
            raise

    def _search(self, query: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while self.experiment_id:
            with self._naming_damage():
                page = self.client.search_runs([self.experiment_id], query, max_results=1000, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                break
        return runs

    def ping(self) -> None:
        """Raise what MLflow raises where the store does not answer right now."""
        with brief_requests():
            self.client.get_experiment(self.experiment_id)

    def profiles(self) -> list[str]:
        """Profiles that the store has an experiment of; none where there is no store."""
        if not hasattr(self, "client"):
            return []
        with self._naming_damage():
            query = f"name LIKE '{EXPERIMENT_PREFIX}%'"
            found = first_answer(self.uri, lambda: self.client.search_experiments(filter_string=query), None)
        return sorted(experiment.name.removeprefix(EXPERIMENT_PREFIX) for experiment in found)

    def finished(self) -> list[Finished]:
        """Every finished cell, of other evaluations too."""
        if not self.experiment_id:
            return []
        if self._local:
            rows = store.finished_cells(self._database(), self.experiment_id)
            return [Finished(row[0], row[1] or "1", *row[2:]) for row in rows]
        return [
            Finished(
                run.data.tags["cell_key"],
                run.data.tags.get(EVALUATION, "1"),
                run.data.tags["dataset"],
                run.data.tags["method"],
                run.data.metrics["auroc"],
                run.data.metrics.get("seconds.total"),
            )
            for run in self._finished()
        ]

    def finished_cells(self) -> dict[str, dict[str, float]]:
        """cell_key of every finished cell with its metrics; without those of another evaluation."""
        return {run.data.tags["cell_key"]: run.data.metrics for run in self._finished() if _is_current(run)}

    def outdated(self) -> list[Run]:
        """Finished runs of cells that another version of the evaluation measured."""
        if self._local and all(cell.is_current for cell in self.finished()):
            return []
        return [run for run in self._finished() if not _is_current(run)]

    def _finished(self) -> list[Run]:
        return self._search(f"tags.`{KIND}` = 'cell' and attributes.status = 'FINISHED'")

    def is_finished(self, cell_key: str) -> bool:
        """True when this cell has a finished run of the present evaluation."""
        return any(is_done for _, is_done in self._runs_of(cell_key))

    def _runs_of(self, cell_key: str) -> list[tuple[str, bool]]:
        """Each run of a cell, and whether it is finished and of the present evaluation."""
        if self._local:
            version = str(cell_result.EVALUATION)
            rows = store.runs_of_cell(self._database(), self.experiment_id, cell_key) if self.experiment_id else []
            return [(run_id, status == "FINISHED" and (of or "1") == version) for run_id, status, of in rows]
        runs = self._search(f"tags.cell_key = '{cell_key}'")
        return [(run.info.run_id, run.info.status == "FINISHED" and _is_current(run)) for run in runs]

    def _database(self) -> Path:
        """The local store's file, or its copy."""
        return (Path(self._copy.name) if self._copy else self.home.resolve()) / store.DATABASE

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
            running = set()
            parents = self._search(f"tags.`{KIND}` = 'benchmark'")
            for run in (run for run in parents if run.info.status == "RUNNING"):
                if run.data.tags.get("host") == socket.gethostname() and not _alive(int(run.data.tags["pid"])):
                    self.client.set_terminated(run.info.run_id, "KILLED")
                else:
                    running.add(run.info.run_id)
            for run in self._search(f"tags.`{KIND}` = 'cell' and attributes.status = 'RUNNING'"):
                if run.data.tags.get("mlflow.parentRunId") not in running:
                    self.client.delete_run(run.info.run_id)
            tags = host_tags(device) | {
                KIND: "benchmark",
                EVALUATION: str(cell_result.EVALUATION),
                "profile": self.profile,
                "pid": str(os.getpid()),
                "command": command,
                PLAN_NUMBER: str(1 + max(map(_plan_number, parents), default=0)),
                "mlflow.runName": f"benchmark {time.strftime('%F %T')}",
                **{k: masked(v) for k, v in (more_tags or {}).items()},
            }
            run_id = str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
            self.client.log_text(run_id, json.dumps(plan, indent=1), "plan.json")
            self.client.log_text(run_id, profile_toml, "profile.toml")
            self.client.set_tag(run_id, "planned", "true")
        return run_id

    def end(self, run_id: str, status: str) -> None:
        """Close a parent run as FINISHED, FAILED or KILLED, then add the means of its finished cells."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        with self.writing():
            # A server that stood still may have taken a request twice: what it made without an answer is nobody's.
            mine = (
                f"tags.`{KIND}` = 'cell' and tags.`mlflow.parentRunId` = '{run_id}' and attributes.status = 'RUNNING'"
            )
            for run in self._search(mine):
                self.client.delete_run(run.info.run_id)
            self.client.set_terminated(run_id, status)
        try:
            means = self._means(run_id)
            now = int(1000 * time.time())
            metrics = [Metric(name, value, now, 0) for name, value in means.items()]
            with self.writing():
                for start in range(0, len(metrics), 100):
                    self.client.log_batch(run_id, metrics=metrics[start : start + 100])
        except (MlflowException, SuiteError) as error:
            log.warning("the means of this run were not logged: %s", str(error).partition("\n")[0])

    def _means(self, run_id: str) -> dict[str, float]:
        """Mean AUROC and number of the finished cells that a parent run planned, by method label; of controls and shifts apart."""
        finished = {cell.key: cell.auroc for cell in self.finished() if cell.is_current}
        aurocs: dict[str, list[float]] = {}
        for cell in self.read_json(run_id, "plan.json"):
            if cell.get("cell_key") in finished:
                control = "control." * (cell.get("labels") in CONTROLS)
                control += "shift." * (cell.get("protocol") == SHIFT)
                name = f"{control}{_metric_part(cell['method'])}"
                aurocs.setdefault(name, []).append(finished[cell["cell_key"]])
        means = {f"auroc.{name}": sum(values) / len(values) for name, values in aurocs.items()}
        return means | {f"cells.{name}": float(len(values)) for name, values in aurocs.items()}

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
        from mlflow.exceptions import MlflowException

        try:
            with self.writing():
                for path in files:
                    self.client.log_artifact(study_run, str(path), "study")
        except (MlflowException, SuiteError, OSError, AttributeError) as error:
            log.warning("the study was not logged to MLflow: %s", str(error).partition("\n")[0])

    def end_study(self, study_run: str) -> None:
        """Close the run of a study at which nobody works."""
        with self.writing():
            self.client.set_terminated(study_run, "FINISHED")

    def log_cell(
        self,
        parent: str,
        result: CellResult,
        folder: Path,
        pictures: Mapping[str, Image],
        log_models: Callable[[MlflowClient, str, str], None] | None = None,
    ) -> None:
        """Log one finished cell; its runs of earlier tries and of another evaluation are removed.

        result: with the tags that name the cell, params and data.
        folder: holds scores.parquet and profile.toml.
        pictures: by artifact name.
        log_models: logs the models of the cell, given client, experiment and run.
        """
        from mlflow.entities import Metric, Param

        key = result.tags["cell_key"]
        with ThreadPoolExecutor(1) as encoder, self.writing():
            for earlier, is_done in self._runs_of(key):
                if is_done:
                    return
                # Left by a killed or failed try: the runner holds the cell's lock, so nobody is writing it.
                self.client.delete_run(earlier)
            has_features = (folder / FEATURES).exists()  # not of an imported cell, whatever its tags say
            lacking = [(FEATURES_TAG, "kept")] * (not has_features)
            lacking += [(MODELS_TAG, "kept")] * (not (folder / MODEL).is_dir())
            own = {name: text for name, text in result.tags.items() if (name, text) not in lacking}
            described = own | {"notes": json.dumps(result.notes[:20]), EVALUATION: str(result.evaluation)}
            # All with the run itself, so that no other process sees one without its key, and in one commit.
            tags = {name: masked(str(value))[:5000] for name, value in described.items()} | {
                KIND: "cell",
                "mlflow.parentRunId": parent,
                "mlflow.runName": run_name(result.tags),
                "mlflow.note.content": masked(result.description())[:5000],
            }
            now = time.time()
            started, ended = (int(1000 * (now if at is None else at)) for at in (result.started, result.ended))
            # Beside MLflow's own work.
            encoded = {name: encoder.submit(_png, picture) for name, picture in pictures.items()}
            run = self.client.create_run(self.experiment_id, start_time=started, tags=tags)
            run_id = run.info.run_id
            metrics = [Metric(name, float(value), ended, 0) for name, value in result.metrics.items()]
            for name, values in result.curves.items():
                metrics += [Metric(f"curve.{name}", float(value), ended, step) for step, value in enumerate(values)]
            coordinates = {f"cell.{name}": result.tags[name] for name in COORDINATES}
            params = [Param(name, str(value)[:6000]) for name, value in (coordinates | result.params).items()]
            # MLflow's limits for one batch; nothing beyond them is dropped.
            for start in range(0, max(len(metrics), len(params)), 100):
                part = slice(start, start + 100)
                self.client.log_batch(run_id, metrics=metrics[part], params=params[part])
            if result.data:
                self.client.log_inputs(run_id, [_dataset_input(result.data)])
            with self._artifacts_of(run) as place:
                for name in ("scores.parquet", "profile.toml", "key.json", FEATURES):
                    if (
                        name not in ("key.json", FEATURES) or (folder / name).exists()
                    ):  # results of older suites have no key
                        shutil.copyfile(folder / name, place / name)
                for name, picture in encoded.items():
                    (place / name).write_bytes(picture.result())
            if log_models:
                self._log_models(run_id, log_models)
            self.client.set_terminated(run_id, "FINISHED", end_time=ended)

    @contextmanager
    def _artifacts_of(self, run: Run) -> Iterator[Path]:
        """A folder to write a new run's artifacts into.

        In a home the run's own: MLflow would load the run anew to learn where that is, and copy each file once more.
        Else a temporary one, sent at the end in one request, where the store takes one.
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

    def _log_models(self, run_id: str, log_models: Callable[[MlflowClient, str, str], None]) -> None:
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
        """Log a cell as FAILED with its traceback, or as KILLED where a study stopped it; a cell has at most one such run.

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

    def log_report(self, folder: Path, files: Iterable[Path] | None = None) -> None:
        """Attach a rendered report to the newest parent run; a store that cannot take it is a warning.

        folder: holds index.html, tables/ and figures/.
        files: what to log of it (default: index.html and the kinds of files that a report has).
        """
        from mlflow.exceptions import MlflowException

        if files is None:
            files = [folder / "index.html"]
            files += [path for kind in REPORT_KINDS for path in sorted(folder.glob(f"*/{kind}"))]
        parents = self._search(f"tags.`{KIND}` = 'benchmark'")
        if not parents:
            return
        newest = max(parents, key=lambda run: run.info.start_time).info.run_id
        try:
            with self.writing():
                for path in files:
                    self.client.log_artifact(newest, str(path), str(Path("report", path.relative_to(folder).parent)))
        except (MlflowException, SuiteError, OSError) as error:
            log.warning("the report was not logged to MLflow: %s", str(error).partition("\n")[0])

    # -- reading, for the reports ----------------------------------------------------------------------------------

    def cells(self) -> list[Run]:
        """Cell runs that finished or failed, in the order in which they ended; without those of another evaluation."""
        runs = self._search(f"tags.`{KIND}` = 'cell'")
        shown = [
            run for run in runs if run.info.status == "FAILED" or (run.info.status == "FINISHED" and _is_current(run))
        ]
        return sorted(shown, key=lambda run: run.info.end_time)

    def planned(self) -> list[dict[str, Any]]:
        """Every cell that the benchmark runs of this experiment planned, each coordinate once, in planned order.

        The latest plan that names a coordinate says its cell_key. A coordinate goes when a later plan names its cell_key
        under another label and not under the old one: the label was renamed. Later is a plan with a higher number,
        whatever the clock said; plans without a number (of older versions) come first.
        """
        # A run killed between its creation and its plan has none; `planned` marks those that do.
        parents = self._search(f"tags.`{KIND}` = 'benchmark' and tags.planned = 'true'")
        planned: dict[tuple[Any, ...], dict[str, Any]] = {}
        for run in sorted(parents, key=lambda run: (_plan_number(run), run.info.start_time)):
            plan = {_place(cell): cell for cell in self.read_json(run.info.run_id, "plan.json")}
            keys = {cell.get("cell_key") for cell in plan.values()} - {None}
            planned = {
                place: cell for place, cell in planned.items() if place in plan or cell.get("cell_key") not in keys
            }
            planned |= plan
        return list(planned.values())

    def record_plan(self, plan: list[dict[str, Any]], profile_toml: str, command: str, device: str = "cpu") -> None:
        """Keep the plan of a run with nothing to compute, where it says something else than the plans before it."""
        known = {_place(cell): cell.get("cell_key") for cell in self.planned()}
        if any(known.get(_place(cell)) != cell["cell_key"] for cell in plan):
            self.end(self.start_benchmark(plan, profile_toml, command, device), "FINISHED")

    def read_cell(self, run: Run, with_curves: bool = True) -> CellResult:
        """The result of a finished cell as `log_cell` got it; each of its curves costs a request."""
        tags, metrics = run.data.tags, run.data.metrics
        curves = {
            name.removeprefix("curve."): [
                point.value
                for point in sorted(self.client.get_metric_history(run.info.run_id, name), key=lambda point: point.step)
            ]
            for name in metrics
            if with_curves and name.startswith("curve.")
        }
        inputs = [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
        return CellResult(
            metrics={name: value for name, value in metrics.items() if not name.startswith("curve.")},
            curves=curves,
            tags={
                name: text
                for name, text in tags.items()
                if not name.startswith("mlflow.") and name not in (KIND, EVALUATION, "notes")
            },
            notes=read_notes(tags.get("notes", "")),
            started=run.info.start_time / 1000,
            ended=run.info.end_time / 1000,
            evaluation=int(tags.get(EVALUATION, "1")),
            params={name: text for name, text in run.data.params.items() if not name.startswith("cell.")},
            data=DataUsed(inputs[0].name, inputs[0].digest, json.loads(inputs[0].profile or "{}")) if inputs else None,
        )

    def read_text(self, run_id: str, artifact: str) -> str:
        """A text artifact of a run."""
        with tempfile.TemporaryDirectory() as folder:
            return self._download(run_id, artifact, folder).read_text("utf-8")

    def read_key(self, run_id: str) -> str:
        """What the cell's key is the digest of, as JSON; '' where an older suite did not keep it."""
        names = [artifact.path for artifact in self.client.list_artifacts(run_id)]
        return self.read_text(run_id, "key.json") if "key.json" in names else ""

    def read_json(self, run_id: str, artifact: str) -> Any:
        """A JSON artifact of a run."""
        return json.loads(self.read_text(run_id, artifact))

    def read_sheet(self, run: Run) -> Image | None:
        """The sheet of faces of a cell; None where it has none, or one of an older suite, which wrote the AUROC on it."""
        from PIL import Image

        names = [artifact.path for artifact in self.client.list_artifacts(run.info.run_id)]
        if EVALUATION not in run.data.tags or "faces.png" not in names:
            return None
        with tempfile.TemporaryDirectory() as folder:
            sheet = Image.open(self._download(run.info.run_id, "faces.png", folder))
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

    def _download(self, run_id: str, artifact: str, folder: str) -> Path:
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(run_id, artifact, folder))
        except (MlflowException, OSError) as error:
            if not self._local:
                raise
            raise SuiteError(
                f"{artifact} of run {run_id} cannot be read under {self.home / store.ARTIFACTS}",
                "put that folder back; or move mlflow.db away: results on disk are logged again by the same `osfer run`",
            ) from error


def experiment_link(base: str, experiment_id: str, search: str = f"tags.`{KIND}` = 'cell'") -> str:
    """Page of an experiment's cells in an MLflow UI at `base`, or of the runs that `search` finds; the highest AUROC first.

    Without workflowType MLflow 3 opens on language-model traces; sorted by time it folds cells into their parent runs.
    """
    options = {
        "workflowType": "machine_learning",
        "searchFilter": search,
        "orderByKey": "metrics.`auroc`",
        "orderByAsc": "false",
    }
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{urlencode(options, quote_via=quote)}"


def run_link(base: str, experiment_id: str, run_id: str) -> str:
    """Page of one run in an MLflow UI at `base`."""
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def stored_experiments(home: Path) -> dict[str, str]:
    """Experiment ids by profile, the one with the newest run first.

    Raises:
        SuiteError: the home has no store, cannot be written, or its store is damaged.
    """
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

    def newest(experiment: Experiment) -> int:
        runs = client.search_runs([experiment.experiment_id], max_results=1, order_by=["attributes.start_time DESC"])
        return int(runs[0].info.start_time) if runs else 0

    experiments = client.search_experiments(filter_string=f"name LIKE '{EXPERIMENT_PREFIX}%'")
    newest_first = sorted(experiments, key=newest, reverse=True)
    return {experiment.name.removeprefix(EXPERIMENT_PREFIX): experiment.experiment_id for experiment in newest_first}


def run_name(tags: dict[str, str]) -> str:
    """What the MLflow UI shows for a cell; its columns are narrow, so what differs comes first."""
    return f"{tags['method']} · {tags['open_classes']} · s{tags['seed']} · {tags['dataset']}"


def read_notes(tag: str) -> list[str]:
    """The notes of a cell from its tag, which may have been cut at MLflow's limit."""
    try:
        notes = json.loads(tag) if tag else []
    except ValueError:
        notes = [tag]
    return [str(note) for note in notes] if isinstance(notes, list) else [str(notes)]


def _png(picture: Image) -> bytes:
    """In a third of the time of Pillow's default, and no more bytes for a sheet: pixels repeat or are noise."""
    written = BytesIO()
    picture.save(written, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return written.getvalue()


def _dataset_input(data: DataUsed) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=data.name,
        digest=data.fingerprint[:DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"name": data.name}),
        profile=json.dumps(data.counts),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "benchmark")])


def _is_current(run: Run) -> bool:
    """Whether the present evaluation measured a run; a run of an older suite has no tag."""
    return run.data.tags.get(EVALUATION, "1") == str(cell_result.EVALUATION)


def _metric_part(label: str) -> str:
    """A label as part of a metric's name: what MLflow forbids is replaced, and a digest keeps two labels apart."""
    cleaned = re.sub(r"[^\w.\- ]", "_", label, flags=re.ASCII)
    return cleaned if cleaned == label else f"{cleaned}-{hashlib.sha256(label.encode()).hexdigest()[:4]}"


def _place(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in COORDINATES)


def _plan_number(run: Run) -> int:
    return int(run.data.tags.get(PLAN_NUMBER, "0"))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
