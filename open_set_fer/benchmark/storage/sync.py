"""Sync: results and failures on disk go to MLflow; what a server does not take now waits on disk for it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import filelock
from PIL import Image

from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.protocols.task import split_faces
from open_set_fer.benchmark.storage import results_dir as disk
from open_set_fer.benchmark.storage.connection import brief_requests, called, public_address, tracking_wait
from open_set_fer.benchmark.storage.kept import FACES, HISTOGRAM, MODEL, MODELS_TAG, KeptModel
from open_set_fer.benchmark.storage.mlflow_reader import COORDINATES, plan_entry
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.storage.pictures import face_sheet, names_of
from open_set_fer.benchmark.storage.provenance import host_tags
from open_set_fer.benchmark.storage.results_dir import Failure, Record, read_result
from open_set_fer.console import log
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError, TrackingAway, summary

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")


class Connection:
    """The tracker of a run that goes on while the server is away: asked again now and then, briefly."""

    def __init__(self, home: Path, profile: str) -> None:
        """Wait for the server once, for as long as `tracking_wait()` says."""
        self._home, self._profile = home, profile
        self._tracker: Tracker | None = None
        self._absence: TrackingAway | None = None
        self._next_try = 0.0
        try:
            self._tracker = Tracker(home, profile)
        except TrackingAway as error:
            self._lost(error)

    @property
    def away(self) -> bool:
        """Whether the server did not answer the last time it was asked."""
        return self._absence is not None

    @property
    def tracker(self) -> Tracker:
        """The tracker; raises TrackingAway if the server has never answered."""
        if self._tracker is None:
            raise self._absence or TrackingAway("the tracking server does not answer")
        return self._tracker

    def ask(self, question: Callable[[Tracker], T], otherwise: T, now: bool = False) -> T:
        """`question(tracker)`, or `otherwise` while the server is away; other errors pass.

        now: ask an absent server even if it was asked a moment ago.
        """
        if self.away and not now and time.monotonic() < self._next_try:
            return otherwise
        try:
            with brief_requests() if self.away else nullcontext():
                self._tracker = self._tracker or Tracker(self._home, self._profile, wait=0)
                answer = question(self._tracker)
        except TrackingAway as error:
            self._lost(error)
            return otherwise
        except Exception as error:
            if self._tracker is None:  # away from the start, and what answers now is no store yet
                self._lost(TrackingAway(summary(error)))
                return otherwise
            try:
                self._tracker.ping()
            except Exception:
                uri = self._tracker.uri
                self._lost(TrackingAway(f"{called(uri)} {public_address(uri)} does not answer"))
                return otherwise
            self._back()
            raise
        self._back()
        return answer

    def _lost(self, error: TrackingAway) -> None:
        if not self.away:
            text = "%s; the run goes on without it: results are kept on disk and logged when it answers"
            log.warning(text, error.message)
        self._absence = error
        self._next_try = time.monotonic() + max(1.0, tracking_wait())

    def _back(self) -> None:
        if self.away:
            log.info("%s answers again", called(self.tracker.uri))
        self._absence = None


class Sync:
    """Brings the cells of one run from disk to MLflow, under its parent run.

    failed: cells that have no result or whose result MLflow refuses, with the error. waiting: cells whose result or
    failure is on disk and not in MLflow, by key. from_disk: how many results of earlier computations were logged.
    """

    def __init__(
        self,
        connection: Connection,
        results: Path,
        profile: Profile,
        face_sets: Mapping[str, FaceSet],
        open_parent: Callable[[Tracker], str],
        device: str,
        allow_face_artifacts: bool = False,
    ) -> None:
        """open_parent: makes the parent run; called with the first thing to log."""
        self.failed: list[tuple[Cell, str]] = []
        self.waiting: dict[str, Cell] = {}
        self.from_disk = 0
        self.connection, self.results = connection, results
        self._profile, self.face_sets, self._device = profile, face_sets, device
        self._open_parent, self._allow_face_artifacts = open_parent, allow_face_artifacts
        self._parent: str | None = None
        self._new: set[str] = set()
        self._refusals: dict[str, tuple[str, str]] = {}
        """Errors and tracebacks of what the server did not take, by key."""

    def parent_in(self, tracker: Tracker) -> str:
        """The parent run, made if there is none yet."""
        if self._parent is None:
            self._parent = self._open_parent(tracker)
        return self._parent

    def record(self, cell: Cell) -> Record:
        """What this run's plan knows of a cell."""
        return Record.of(cell, self._profile, self.face_sets[cell.dataset])

    def close(self, status: str) -> None:
        """End the parent run, if any; if the store refuses now, the next run ends it."""
        if parent := self._parent:
            try:
                with brief_requests():
                    self.connection.ask(lambda tracker: tracker.end(parent, status), None)
            except Exception as error:
                log.warning("this run cannot be closed in MLflow, the next one does it: %s", summary(error))

    def add(self, cell: Cell, is_new: bool) -> None:
        """Log the cell's result on disk; is_new: this run computed or re-evaluated it."""
        if is_new:
            self._new.add(cell.key)
        self._log(cell)

    def fail(self, cell: Cell, error: str, text: str, counts: bool = True, pruned: int = 0) -> None:
        """Log a failure; it waits on disk while the server is away. text: its traceback.

        counts: whether it is the cell's last word in this run. pruned: the epoch after which a study stopped the cell.
        """
        if counts and not pruned:
            self.failed.append((cell, error))
            log.error("failed: %s: %s", cell, error)
        tags = self.record(cell).tags | host_tags(self._device) | ({"pruned": f"epoch {pruned}"} if pruned else {})
        self._log_failure(cell, Failure(tags, error, text, "KILLED" if pruned else "FAILED"))

    def _log_failure(self, cell: Cell, failure: Failure) -> None:
        try:
            if not self.connection.ask(lambda tracker: self._send_failure(failure, tracker), False):
                disk.write_failure(disk.failure_path(self.results, cell.key), failure)
                self.waiting[cell.key] = cell
        except Exception as refusal:
            log.error("the failure of %s cannot be logged: %s", cell, summary(refusal))

    def again(self) -> None:
        """Log what waits, if the server has answered the last time; what another process is logging goes on waiting."""
        if not self.connection.away:
            for cell in [cell for key, cell in self.waiting.items() if key not in self._refusals]:
                self._log(cell, timeout=0)

    def finish(self) -> None:
        """Retry everything that waits, once more. A result refused twice counts as failed."""
        if self.waiting and self.connection.away:
            self.connection.ask(lambda tracker: tracker.ping(), None, now=True)
        if self.connection.away:
            return
        self._refusals.clear()
        for cell in list(self.waiting.values()):
            self._log(cell)
        for key, (error, text) in self._refusals.items():
            cell = self.waiting.pop(key)
            self.failed.append((cell, f"computed, but cannot be logged: {error}"))
            log.error("failed: %s: %s", cell, self.failed[-1][1])
            self._log_failure(cell, Failure(self.record(cell).tags | host_tags("cpu"), self.failed[-1][1], text))

    def _log(self, cell: Cell, timeout: float = 60) -> None:
        """Log a result or failure; it waits on disk if the server is away or refuses it, or another process has it."""
        self.waiting[cell.key] = cell
        try:
            with filelock.FileLock(self.results / f"{cell.key}.lock", timeout=timeout):
                if not self.connection.ask(lambda tracker: self._send(cell, tracker), False):
                    return
        except filelock.Timeout:
            return
        except Exception as error:
            log.warning("%s cannot be logged: %s; its result stays on disk", cell, summary(error))
            self._refusals[cell.key] = summary(error), traceback.format_exc()
            return
        del self.waiting[cell.key]
        if (self.results / cell.key).is_dir() and cell.key not in self._new:
            log.info("logged from disk: %s", cell)
            self.from_disk += 1

    def _send(self, cell: Cell, tracker: Tracker) -> bool:
        """Log a result with the tags and settings of this plan, whichever computed it; without one, its failure."""
        folder, failure = self.results / cell.key, disk.failure_path(self.results, cell.key)
        if folder.is_dir():
            is_new = cell.key in self._new  # then its record is this plan's
            result = read_result(folder)[0] if is_new else disk.relabel(folder, self.record(cell))
            pictures = self._pictures(cell, folder, result)
            tracker.log_cell(self.parent_in(tracker), result, folder, pictures, self._models(cell, folder, result))
        elif kept := disk.read_failure(failure):
            self._send_failure(kept, tracker)
        failure.unlink(missing_ok=True)
        return True

    def _send_failure(self, failure: Failure, tracker: Tracker) -> bool:
        tracker.log_failure(self.parent_in(tracker), failure.tags, failure.text, failure.error, failure.status)
        return True

    def _pictures(self, cell: Cell, folder: Path, result: CellResult) -> dict[str, Image.Image]:
        """The histogram, and a sheet of faces if allowed: a licence for faces seldom covers a tracking server."""
        faces, sheet = self.face_sets[cell.dataset], folder / FACES
        pictures: dict[str, Image.Image] = {HISTOGRAM: Image.open(folder / HISTOGRAM)}
        if not self._allow_face_artifacts and not faces.is_rendered:
            return pictures
        if not sheet.exists():  # computed when it was not allowed
            pool, scores = split_faces(faces, cell.protocol, cell.seed).test, read_result(folder)[1]
            face_sheet(faces, pool, scores, str(cell), names_of(result)).save(sheet)
        return pictures | {FACES: Image.open(sheet)}

    def _models(self, cell: Cell, folder: Path, result: CellResult) -> Callable[[MlflowClient, str, str], None] | None:
        """Logs the cell's fitted scorer and its closed-set model, if models were asked for."""
        if MODELS_TAG not in result.tags:
            return None
        from open_set_fer.benchmark.storage.logged_models import log_models

        where = " ".join((cell.dataset, cell.protocol.label, f"seed {cell.seed}"))
        tags = {name: str(value) for name, value in cell.coordinates().items()}
        closed_set = self.results.parent / "closed_set" / f"{cell.closed_set_key}.model"
        kept = [KeptModel(folder / MODEL, cell.key, f"{cell.label} {where}", tags)]
        kept += [KeptModel(closed_set, cell.closed_set_key, f"closed-set {where}", tags | {"method": "closed-set"})]
        models = [model for model in kept if model.folder.is_dir()]
        params = {f"cell.{name}": result.tags[name] for name in COORDINATES}
        return lambda client, experiment, run: log_models(client, experiment, run, models, params)


def sync_home(home: Path, command: str) -> tuple[list[str], dict[str, str]]:
    """Log every result of a home that MLflow lacks, in the experiment of its profile: titles, and errors by key."""
    done: list[str] = []
    refused: dict[str, str] = {}
    profiles: dict[str, dict[str, CellResult]] = {}
    for path in sorted((home / "results").glob("*/result.json")):
        try:
            result, _ = read_result(path.parent)
        except SuiteError as error:
            refused[path.parent.name] = error.message
            continue
        if "profile" not in result.tags:
            refused[path.parent.name] = "an older version computed it; `osfer run` of its profile logs it"
            continue
        profiles.setdefault(result.tags["profile"], {})[path.parent.name] = result
    for profile, results in profiles.items():
        tracker = Tracker(home, profile)
        known = {cell.key for cell in tracker.finished()}
        missing = {key: result for key, result in results.items() if key not in known}
        if not missing:
            continue
        folders = {key: home / "results" / key for key in missing}
        text = (folders[next(iter(missing))] / "profile.toml").read_text("utf-8")
        with tracker.benchmark([plan_entry(result.tags) for result in missing.values()], text, command) as parent:
            for key, result in missing.items():
                with filelock.FileLock(home / "results" / f"{key}.lock"):
                    tracker.log_cell(parent, result, folders[key], {HISTOGRAM: Image.open(folders[key] / HISTOGRAM)})
                done.append(result.title())
    return done, refused
