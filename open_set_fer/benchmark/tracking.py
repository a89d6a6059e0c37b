"""MLflow: the schema every other part reads, and the only code that writes it.

Experiment `open-set-fer/<profile>`. One parent run per `osfer run` (tag `osfer.kind` = benchmark, artifact `plan.json`: the
cells it planned, artifact `profile.toml`). One nested run per cell (tag `osfer.kind` = cell) with

tags        cell_key, settings_key, dataset, protocol (family), open_classes ('surprise+fear'), method (the label in the
            profile), seed, profile, selection (where the
            hyperparameters come from), demonstration, git_commit, host, device, notes, error (FAILED runs)
params      every setting, flat: method.*, closed_set.*, backbone.*, dataset.*
metrics     auroc, fpr_at_tpr95, aupr_open, aupr_closed, oscr, closed_accuracy, closed_set_accuracy, n_open, n_closed,
            pseudo_label_entropy_open, pseudo_label_entropy_closed, seconds.<phase>, peak_mib.<phase>,
            and curves as curve.<name> with the epoch as step
artifacts   scores.parquet (id, truth, is_open, unknown_score, predicted_class, extras), histogram.png, traceback.txt, and
            faces.png (the pool's faces with the highest and lowest scores) for `synthetic`; for any other data set
            only when the process that logs the cell was started with --allow-face-artifacts
inputs      the data set's name, fingerprint and counts
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import filelock

from open_set_fer.console import log
from open_set_fer.errors import SuiteError, TrackingAway, summary

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
EXPERIMENT_PREFIX = "open-set-fer/"
KIND = "osfer.kind"
COORDINATES = ("dataset", "protocol", "open_classes", "method", "seed")
"""What names a cell in a plan and in a table; `cell_key` also covers its settings."""


@cache
def git_commit() -> str:
    """The suite's commit, '-dirty' when the checkout has changes, 'unknown' outside a checkout."""
    here = Path(__file__).parent
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return out.stdout.strip()


class Tracker:
    """Writes and finds the runs of one experiment."""

    def __init__(self, home: Path, profile: str, wait: float | None = None) -> None:
        """`home` holds the default SQLite store, used unless MLFLOW_TRACKING_URI is set.

        Raises TrackingAway when a tracking server does not answer within `wait` seconds (default: `tracking_wait()`).
        """
        for name, value in REQUEST_LIMITS.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        self.profile = profile
        self.uri, artifacts = tracking_uri(home)
        home.mkdir(parents=True, exist_ok=True)
        # SQLite admits one writer; waiting here beats its "database is locked" after five seconds.
        self._lock = filelock.FileLock(home / "tracking.lock")
        with self.writing():
            self.client: MlflowClient = MlflowClient(self.uri)
            name = EXPERIMENT_PREFIX + profile
            experiment = _first_answer(self.uri, lambda: self.client.get_experiment_by_name(name), wait)
            if experiment is None:
                self.experiment_id = self.client.create_experiment(
                    # The kind makes the UI open on runs and metrics instead of on language-model traces.
                    name,
                    artifact_location=artifacts,
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            else:
                if experiment.lifecycle_stage != "active":
                    self.client.restore_experiment(experiment.experiment_id)
                self.experiment_id = experiment.experiment_id

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's write lock when it is a local SQLite file."""
        if self.uri.startswith("sqlite:"):
            with self._lock:
                yield
        else:
            yield

    def _search(self, query: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], query, max_results=1000, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def ping(self) -> None:
        """Raise what MLflow raises where the store does not answer right now."""
        with brief_requests():
            self.client.get_experiment(self.experiment_id)

    def finished_cells(self) -> dict[str, dict[str, float]]:
        """cell_key of every finished cell with its metrics."""
        runs = self._search(f"tags.`{KIND}` = 'cell' and attributes.status = 'FINISHED'")
        return {run.data.tags["cell_key"]: run.data.metrics for run in runs}

    def is_finished(self, cell_key: str) -> bool:
        """True when this cell has a finished run."""
        return bool(self._search(f"tags.cell_key = '{cell_key}' and attributes.status = 'FINISHED'"))

    def start_benchmark(self, plan: list[dict[str, Any]], profile_toml: str, command: str) -> str:
        """Create the parent run; parents of this machine whose process died are closed as KILLED.

        A cell run still RUNNING under no running parent was left by a process killed while logging: it is removed.
        """
        with self.writing():
            running = set()
            for run in self._search(f"tags.`{KIND}` = 'benchmark' and attributes.status = 'RUNNING'"):
                if run.data.tags.get("host") == socket.gethostname() and not _alive(int(run.data.tags["pid"])):
                    self.client.set_terminated(run.info.run_id, "KILLED")
                else:
                    running.add(run.info.run_id)
            for run in self._search(f"tags.`{KIND}` = 'cell' and attributes.status = 'RUNNING'"):
                if run.data.tags.get("mlflow.parentRunId") not in running:
                    self.client.delete_run(run.info.run_id)
            tags = {
                KIND: "benchmark", "profile": self.profile, "host": socket.gethostname(), "pid": str(os.getpid()),
                "git_commit": git_commit(), "command": command, "mlflow.runName": f"benchmark {time.strftime('%F %T')}",
            }  # fmt: skip
            run_id = str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
            self.client.log_text(run_id, json.dumps(plan, indent=1), "plan.json")
            self.client.log_text(run_id, profile_toml, "profile.toml")
            self.client.set_tag(run_id, "planned", "true")
        return run_id

    def end(self, run_id: str, status: str) -> None:
        """Close a run as FINISHED, FAILED or KILLED."""
        with self.writing():
            self.client.set_terminated(run_id, status)

    def log_cell(self, parent: str, result: dict[str, Any], folder: Path, pictures: dict[str, Any]) -> None:
        """Log one finished cell from its result on disk; leftovers of earlier tries of the same cell are removed.

        result: what the runner wrote as result.json (tags, params, metrics, curves, inputs).
        folder: holds scores.parquet and profile.toml.
        pictures: matplotlib figures and Pillow images by artifact name.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
        from PIL import Image

        key = result["tags"]["cell_key"]
        with self.writing():
            for run in self._search(f"tags.cell_key = '{key}'"):
                if run.info.status == "FINISHED":
                    return
                # Left by a killed or failed try: the runner holds the cell's lock, so nobody is writing it.
                self.client.delete_run(run.info.run_id)
            tags = {
                KIND: "cell", "cell_key": key, "mlflow.parentRunId": parent, "mlflow.runName": run_name(result["tags"]),
            }  # fmt: skip
            run_id = self.client.create_run(self.experiment_id, tags=tags).info.run_id
            now = int(time.time() * 1000)
            metrics = [Metric(name, float(value), now, 0) for name, value in result["metrics"].items()]
            for name, values in result["curves"].items():
                metrics += [Metric(f"curve.{name}", float(value), now, step) for step, value in enumerate(values)]
            params = [Param(name, str(value)[:6000]) for name, value in result["params"].items()]
            all_tags = [RunTag(name, str(value)[:5000]) for name, value in result["tags"].items()]
            # MLflow's limits for one batch; nothing beyond them is dropped.
            for start in range(0, max(len(metrics), len(params), len(all_tags)), 100):
                part = slice(start, start + 100)
                self.client.log_batch(run_id, metrics=metrics[part], params=params[part], tags=all_tags[part])
            data = result["input"]
            self.client.log_inputs(
                run_id,
                [DatasetInput(
                    Dataset(
                        name=data["name"], digest=data["fingerprint"][:36], source_type="local",
                        source=json.dumps({"name": data["name"]}), profile=json.dumps(data["counts"]),
                    ),
                    [InputTag("mlflow.data.context", "benchmark")],
                )],
            )  # fmt: skip
            for name in ("scores.parquet", "profile.toml"):
                self.client.log_artifact(run_id, str(folder / name))
            for name, picture in pictures.items():
                if isinstance(picture, Image.Image):
                    self.client.log_image(run_id, picture, name)
                else:
                    self.client.log_figure(run_id, picture, name)
            self.client.set_terminated(run_id, "FINISHED")

    def log_failure(self, parent: str, tags: dict[str, str], traceback: str, error: str = "") -> None:
        """Log a cell as FAILED with its traceback; a cell has at most one such run.

        error: the tag, one line; without it the traceback's last one.
        """
        with self.writing():
            for run in self._search(f"tags.cell_key = '{tags['cell_key']}' and attributes.status != 'FINISHED'"):
                self.client.delete_run(run.info.run_id)
            own = {KIND: "cell", "mlflow.parentRunId": parent, "mlflow.runName": run_name(tags)}
            own["error"] = (error or traceback.strip().rpartition("\n")[2])[:500]
            run_id = self.client.create_run(self.experiment_id, tags={**tags, **own}).info.run_id
            self.client.log_text(run_id, traceback, "traceback.txt")
            self.client.set_terminated(run_id, "FAILED")

    # -- reading, for the reports ----------------------------------------------------------------------------------

    def cells(self) -> list[Run]:
        """Cell runs that finished or failed, oldest first."""
        runs = self._search(f"tags.`{KIND}` = 'cell'")
        return sorted((r for r in runs if r.info.status in ("FINISHED", "FAILED")), key=lambda r: r.info.start_time)

    def planned(self) -> list[dict[str, Any]]:
        """Every cell that any benchmark run of this experiment planned, each coordinate once, in planned order."""
        planned: dict[tuple[Any, ...], dict[str, Any]] = {}
        # A run killed between its creation and its plan has none; `planned` marks those that do.
        parents = self._search(f"tags.`{KIND}` = 'benchmark' and tags.planned = 'true'")
        for run in sorted(parents, key=lambda r: r.info.start_time):
            for cell in self.read_json(run.info.run_id, "plan.json"):
                planned.setdefault(tuple(cell[name] for name in COORDINATES), cell)
        return list(planned.values())

    def read_json(self, run_id: str, artifact: str) -> Any:
        """A JSON artifact of a run."""
        with tempfile.TemporaryDirectory() as folder:
            return json.loads(Path(self.client.download_artifacts(run_id, artifact, folder)).read_text("utf-8"))

    def read_scores(self, run_id: str) -> Any:
        """The scores of a cell as a pandas DataFrame."""
        import pandas as pd

        with tempfile.TemporaryDirectory() as folder:
            return pd.read_parquet(self.client.download_artifacts(run_id, "scores.parquet", folder))


REQUEST_LIMITS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}  # fmt: skip
"""MLflow's own defaults let one request to a dead server take four minutes; what the environment says goes first."""


def tracking_wait() -> float:
    """Seconds to wait for a tracking server: OSFER_TRACKING_WAIT, 20 unless set."""
    text = os.environ.get("OSFER_TRACKING_WAIT", "20")
    try:
        wait = float(text)
    except ValueError:
        wait = -1.0
    if not 0 <= wait < float("inf"):
        raise SuiteError(f"OSFER_TRACKING_WAIT={text!r} is no number of seconds", "for example OSFER_TRACKING_WAIT=60")
    return wait


@contextmanager
def brief_requests() -> Iterator[None]:
    """MLflow's requests do not try again, and wait five seconds at most."""
    brief = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    before = {name: os.environ.get(name) for name in brief}
    os.environ.update(brief)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def public_uri(uri: str) -> str:
    """A tracking address without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _first_answer(uri: str, question: Callable[[], T], wait: float | None) -> T:
    """`question()` to a store that may not answer yet; TrackingAway after the wait, SuiteError where it refuses."""
    from mlflow.exceptions import MlflowException, RestException

    if not uri.startswith(("http://", "https://")):
        return question()
    seconds = tracking_wait() if wait is None else wait
    end, announced = time.monotonic() + seconds, False
    while True:
        try:
            with brief_requests():
                return question()
        except RestException as error:
            raise SuiteError(
                f"the tracking server {public_uri(uri)} refuses: {summary(error)}",
                "check MLFLOW_TRACKING_URI and its login",
            ) from error
        except MlflowException as error:
            if time.monotonic() >= end:
                raise TrackingAway(
                    f"the tracking server {public_uri(uri)} does not answer (waited {seconds:g} s)",
                    "start it or correct MLFLOW_TRACKING_URI; OSFER_TRACKING_WAIT says how many seconds to wait",
                ) from error
        if not announced:
            log.info("the tracking server %s does not answer; waiting up to %g s for it", public_uri(uri), seconds)
            announced = True
        time.sleep(min(1.0, max(0.05, end - time.monotonic())))


def tracking_uri(home: Path) -> tuple[str, str | None]:
    """Tracking URI and, for the default local store, where artifacts go."""
    configured = os.environ.get("MLFLOW_TRACKING_URI")
    if configured:
        return configured, None
    return f"sqlite:///{home.resolve()}/mlflow.db", (home.resolve() / "artifacts").as_uri()


def run_name(tags: dict[str, str]) -> str:
    """What the MLflow UI shows for a cell."""
    return f"{tags['dataset']} {tags['protocol']} {tags['open_classes']} {tags['method']} seed {tags['seed']}"


def host_tags(device: str) -> dict[str, str]:
    """Where a cell was computed."""
    return {"git_commit": git_commit(), "host": socket.gethostname(), "device": f"{device} ({platform.machine()})"}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
