"""What one run logs: its parent run, results on disk, failures; what the server does not take now is kept for later."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.keys import canonical
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.protocols.task import split_faces
from open_set_fer.benchmark.storage.checkpoints import kept_closed_set
from open_set_fer.benchmark.storage.connection import brief_requests
from open_set_fer.benchmark.storage.kept import MODEL, MODELS_TAG, KeptModel
from open_set_fer.benchmark.storage.outbox import Outbox
from open_set_fer.benchmark.storage.pictures import face_sheet, names_of, score_histogram
from open_set_fer.benchmark.storage.provenance import host_tags
from open_set_fer.benchmark.storage.results_dir import read_result
from open_set_fer.benchmark.storage.tracking import COORDINATES, Tracker
from open_set_fer.console import log
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError, summary
from open_set_fer.methods.contract import FACTS, states

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Logbook:
    """Logs the cells of one run under its parent run, which is created with the first thing to log."""

    def __init__(
        self,
        outbox: Outbox,
        results: Path,
        profile: Profile,
        face_sets: dict[str, FaceSet],
        open_parent: Callable[[Tracker], str],
        device: str,
        allow_face_artifacts: bool,
    ) -> None:
        self.failed: list[tuple[Cell, str]] = []
        self.waiting: dict[str, Cell] = {}
        """Results on disk that are not logged, because the server was away, by key."""
        self.new: set[str] = set()
        """Keys of what this run computed or measured itself, not an earlier one."""
        self.logged_from_disk = 0
        self._outbox = outbox
        self._results = results
        self._profile = profile
        self._face_sets = face_sets
        self._open_parent = open_parent
        self._device = device
        self._allow_face_artifacts = allow_face_artifacts
        self._parent: str | None = None
        self._refused: dict[str, tuple[Cell, str, str]] = {}
        """Results on disk that the server did not take, with the error and its traceback, by key."""
        self._unlogged_failures: list[tuple[Cell, str, str]] = []

    def parent_in(self, tracker: Tracker) -> str:
        """The parent run, created where there is none yet."""
        if self._parent is None:
            self._parent = self._open_parent(tracker)
        return self._parent

    def close(self, status: str) -> None:
        """End the parent run, where there is one; the next run ends one that the store does not let end now."""
        if parent := self._parent:
            try:
                with brief_requests():
                    self._outbox.ask(lambda tracker: tracker.end(parent, status), None)
            except Exception as error:
                log.warning("this run cannot be closed in MLflow, the next one does it: %s", summary(error))

    def log(self, cell: Cell) -> None:
        """Log the cell's result on disk; it waits there where the server is away or refuses it."""

        def send(tracker: Tracker) -> bool:
            self._send(cell, self.parent_in(tracker), tracker)
            return True

        try:
            logged = self._outbox.ask(send, False)
        except Exception as error:
            log.warning("%s cannot be logged: %s; its result stays on disk", cell, summary(error))
            self._refused[cell.key] = (cell, summary(error), traceback.format_exc())
            return
        if not logged:
            self.waiting[cell.key] = cell
        elif cell.key not in self.new:
            log.info("logged from disk: %s", cell)
            self.logged_from_disk += 1

    def fail(self, cell: Cell, error: str, text: str) -> None:
        """Count and log a failure; `text`: its traceback."""
        self.failed.append((cell, error))
        log.error("failed: %s: %s", cell, error)
        self.log_failure(cell, error, text)

    def log_failure(self, cell: Cell, error: str, text: str) -> None:
        """Log a cell as FAILED, later where the server is away."""
        tags = self._tags(cell) | host_tags(self._device)

        def send(tracker: Tracker) -> bool:
            tracker.log_failure(self.parent_in(tracker), tags, text, error)
            return True

        try:
            if not self._outbox.ask(send, False):
                self._unlogged_failures.append((cell, error, text))
        except Exception as refusal:
            log.error("the failure of %s cannot be logged: %s", cell, summary(refusal))

    def prune(self, cell: Cell, epoch: int) -> None:
        """Log a cell that a study stopped: KILLED, with the tag `pruned`; no table ever shows it."""
        tags = self._tags(cell) | host_tags(self._device) | {"pruned": f"epoch {epoch}"}
        text = f"stopped after epoch {epoch}: its trial was not worth going on"
        log.info("%s: %s", cell, text)
        self._outbox.ask(lambda tracker: tracker.log_failure(self.parent_in(tracker), tags, text, text, "KILLED"), None)

    def log_waiting(self) -> None:
        """Log what waits, if the server has answered the last time; what another process is logging goes on waiting."""
        if self._outbox.away:
            return
        self._log_again(list(self.waiting.values()), 0)
        failures, self._unlogged_failures = self._unlogged_failures, []
        for failure in failures:
            self.log_failure(*failure)

    def log_the_rest(self) -> None:
        """The last chance: ask an absent server now, and try again what it refused; what it refuses twice is a failure."""
        if self._outbox.away and (self.waiting or self._refused or self._unlogged_failures):
            self._outbox.knock()
        if not self._outbox.away:
            self._log_again([*self.waiting.values(), *(cell for cell, _, _ in self._refused.values())], 60)
        self.log_waiting()
        for cell, error, text in self._refused.values():
            self.fail(cell, f"computed, but cannot be logged: {error}", text)

    def _log_again(self, cells: list[Cell], timeout: float) -> None:
        for cell in cells:
            try:
                with filelock.FileLock(self._results / f"{cell.key}.lock", timeout=timeout):
                    self.waiting.pop(cell.key, None)
                    self._refused.pop(cell.key, None)
                    self.log(cell)
            except filelock.Timeout:  # another process is logging it
                continue

    def _send(self, cell: Cell, parent: str, tracker: Tracker) -> None:
        """Log a result on disk; tags and settings are this plan's, whichever profile computed it."""
        faces, folder = self._face_sets[cell.dataset], self._results / cell.key
        result, scores = read_result(folder)
        result = replace(
            result,
            tags=result.tags | self._tags(cell),
            params=self._params(cell),
            data=DataUsed(faces.name, faces.fingerprint, faces.counts()),
        )
        (folder / "profile.toml").write_text(self._profile.text, "utf-8")
        (folder / "key.json").write_text(canonical(cell.content), "utf-8")
        pictures = {"histogram.png": score_histogram(scores, result.title(), names_of(result)).draw()}
        # A licence for faces seldom covers a tracking server; the rendered ones are nobody's.
        if self._allow_face_artifacts or (faces.demonstration and faces.name == "synthetic"):
            pool = split_faces(faces, cell.protocol, cell.seed).test
            pictures["faces.png"] = face_sheet(faces, pool, scores, str(cell), names_of(result))
        tracker.log_cell(parent, result, folder, pictures, self._log_models(cell, folder, result))

    def _log_models(
        self, cell: Cell, folder: Path, result: CellResult
    ) -> Callable[[MlflowClient, str, str], None] | None:
        """What logs the cell's detector and its closed-set model, where models were asked for."""
        if MODELS_TAG not in result.tags:
            return None
        from open_set_fer.benchmark.storage.logged_models import log_models

        models = self._models(cell, folder)
        params = {f"cell.{name}": result.tags[name] for name in COORDINATES}
        return lambda client, experiment, run: log_models(client, experiment, run, models, params)

    def _models(self, cell: Cell, folder: Path) -> list[KeptModel]:
        """What the cell kept to score single faces, and its closed-set model."""
        where = " ".join((cell.dataset, cell.protocol.label, f"seed {cell.seed}"))
        tags = {name: str(value) for name, value in cell.coordinates().items()}
        models = []
        if (folder / MODEL).is_dir():
            models.append(KeptModel(folder / MODEL, cell.key, f"{cell.label} {where}", tags))
        try:
            faces = self._face_sets[cell.dataset]
            closed_set = kept_closed_set(self._results.parent, cell, faces)
            models.append(
                KeptModel(closed_set, cell.closed_set_key, f"closed-set {where}", tags | {"method": "closed-set"})
            )
        except (SuiteError, OSError) as error:  # computed on another machine
            log.warning("%s: its closed-set model is not logged: %s", cell, summary(error))
        return models

    def _tags(self, cell: Cell) -> dict[str, str]:
        tags = {name: str(value) for name, value in cell.coordinates().items()}
        return (
            tags
            | cell.regime_tags()
            | {"closed_set_key": cell.closed_set_key}
            | {fact: str(states(cell.method, fact)).lower() for fact in FACTS}
            | {
                "settings_key": cell.settings_key(),
                "profile": self._profile.name,
                "selection": self._profile.selection,
                "demonstration": str(self._face_sets[cell.dataset].demonstration).lower(),
            }
        )

    def _params(self, cell: Cell) -> dict[str, Any]:
        recipe = cell.recipe.content()
        parts = {
            "method": {"name": cell.method.name, "version": cell.method.version, **settings_of(cell.method)},
            "closed_set": recipe["closed_set"],
            "backbone": recipe["backbone"],
            **cell.recipe.own_content(),
            "dataset": settings_of(self._profile.dataset(cell.dataset)),
        }
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
