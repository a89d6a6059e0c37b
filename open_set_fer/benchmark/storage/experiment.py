"""The MLflow experiment of one profile: found or made, searched, and written by one process at a time."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.benchmark.storage import connection
from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.console import log
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT_PREFIX = "open-set-fer/"
VIEW_TAG = "mlflow.sharedViewState.osfer"
"""Tag of an experiment with `VIEW`; a link with viewStateShareKey=osfer opens MLflow's table so."""
_IS_RESULT = ["tags.`osfer.kind` = 'cell'", *(f"tags.labels != '{labels}'" for labels in CONTROLS)]
_WIDTHS = {
    **{"0": 40, "attributes.`Run Name`": 280},
    **{"metrics.`auroc`": 90, "metrics.`fpr_at_tpr95`": 110, "metrics.`closed_accuracy`": 130},
    **{"params.`cell.method`": 160, "params.`cell.open_classes`": 150, "params.`cell.seed`": 90},
    **{"params.`cell.dataset`": 110, "runDateAndNestInfo": 150, "duration": 80},
}
"""Columns of MLflow's table from left to right, by its own names, with their widths in pixels."""
VIEW = json.dumps(
    {
        "searchFilter": " and ".join(_IS_RESULT),
        "orderByKey": "metrics.`auroc`",
        "orderByAsc": False,
        "selectedColumns": [name for name in _WIDTHS if name.startswith(("metrics.", "params."))],
        "columnOrder": list(_WIDTHS),
        "columnWidths": _WIDTHS,
    }
)
"""The cells without controls, the highest AUROC first."""


class Experiment:
    """The runs of one profile in a store."""

    def __init__(
        self, home: Path, profile: str, create: bool = True, wait: float | None = None, uri: str | None = None
    ) -> None:
        """`home` holds the default SQLite store, used unless `uri` (None: MLFLOW_TRACKING_URI) names another one.

        create: make a missing store and experiment; otherwise they read as empty and nothing is written.
            A home that cannot be written is read through a copy of its store.
        wait: seconds for a tracking server to answer (default: `tracking_wait()`), before TrackingAway.
        """
        connection.set_mlflow_defaults()
        self.home, self.profile, self.experiment_id = home, profile, ""
        self.uri, artifacts = connection.tracking_uri(home, uri)
        self._local = artifacts is not None
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        # SQLite admits one writer; waiting here beats its "database is locked" after five seconds.
        # The lock lies beside the file, so that homes share it.
        beside = Path(self.uri.removeprefix("sqlite:///")).parent if self.uri.startswith("sqlite:///") else home
        locked = beside if os.access(beside, os.W_OK) else home
        self._lock = filelock.FileLock(locked / "tracking.lock")
        if not create and not self._is_there():
            return
        if self._local and not store.is_writable(home):
            self._copy = tempfile.TemporaryDirectory()
            self.uri = store.database_uri(store.copy_to_read(home, Path(self._copy.name)))
            self.client: MlflowClient = connection.connect(self.uri)
            self._find_experiment(wait)
            return
        if create:
            home.mkdir(parents=True, exist_ok=True)
        with self._locked() if locked.is_dir() else nullcontext():
            if self._local:
                store.prepare(home)
            self.client = connection.connect(self.uri)
            if not self._find_experiment(wait) and create:
                self._make_experiment(artifacts, wait)

    def ping(self) -> None:
        """Raise what MLflow raises if the store does not answer right now."""
        with connection.brief_requests():
            self.client.get_experiment(self.experiment_id)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store's write lock when it is a local SQLite file; SuiteError if it cannot be written."""
        if self._copy is not None:
            raise SuiteError(f"{self.home} cannot be written", "choose another folder with --home")
        with self._locked(), self._naming_damage():
            if self._local:
                # Another process may know this home by another path, in a container say, and have set the places to it.
                store.follow(self.home.resolve() / store.DATABASE, store.artifact_root(self.home))
            yield

    def _share_view(self) -> None:
        """Give an experiment of an older version the view that links open."""
        if self.client.get_experiment(self.experiment_id).tags.get(VIEW_TAG) != VIEW:
            self.client.set_experiment_tag(self.experiment_id, VIEW_TAG, VIEW)

    def _is_there(self) -> bool:
        """Whether the store can be opened without making it: a local file must exist, a server must answer."""
        if self._local:
            return (self.home / store.DATABASE).exists()
        return not self.uri.startswith("sqlite:") or Path(self.uri.removeprefix("sqlite:///")).exists()

    def _find_experiment(self, wait: float | None) -> bool:
        name = EXPERIMENT_PREFIX + self.profile
        with self._naming_damage():
            experiment = connection.first_answer(self.uri, lambda: self.client.get_experiment_by_name(name), wait)
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
                tags={"mlflow.experimentKind": "custom_model_development", VIEW_TAG: VIEW},
            )
        except MlflowException:  # another process on the same server was quicker
            if not self._find_experiment(wait):
                raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.uri.startswith("sqlite"):
            yield
            return
        try:
            lock = self._lock.acquire(timeout=10)
        except filelock.Timeout:
            log.warning("waiting for another process that writes to the store of %s", self.home)
            lock = self._lock.acquire()
        with lock:
            yield

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
        while self.experiment_id and token != "":
            with self._naming_damage():
                page = self.client.search_runs([self.experiment_id], query, max_results=1000, page_token=token)
            runs.extend(page)
            token = page.token or ""
        return runs
