"""Runner: the cells of a plan, each computed in its own process into a folder on disk, then brought to MLflow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from open_set_fer.benchmark.execution.devices import choose_device
from open_set_fer.benchmark.execution.executor import executor_of
from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.pending import Outcome, PendingCells
from open_set_fer.benchmark.execution.signals import stopped_by_signals
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.storage.mlflow_reader import Finished
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.storage.results_dir import read_result
from open_set_fer.benchmark.storage.sync import Connection, Sync
from open_set_fer.console import bars
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    from mlflow.entities import Run

    from open_set_fer.benchmark.evaluation.intermediate_scores import Listener


class Runner:
    """Computes and logs cells of one profile under `home`.

    parent_tags: more tags of the parent run, which is then made even with nothing to compute.
    listener: gets the intermediate scores of a cell computed on this machine, and may stop it.
    """

    def __init__(
        self,
        home: Path,
        profile: Profile,
        options: RunOptions = RunOptions(),  # noqa: B008 - frozen
        parent_tags: dict[str, str] | None = None,
        listener: Callable[[Cell], Listener | None] = lambda cell: None,
    ) -> None:
        self.home, self.results = home, home / "results"
        self.profile, self.options = profile, options
        self.device = str(choose_device(options.device))
        self.parent_tags, self.listener = parent_tags, listener
        self.connection = Connection(home, profile.name)

    def run(self, cells: list[Cell], face_sets: dict[str, FaceSet], command: str) -> Outcome:
        """Run what is not done yet; on Ctrl-C finished cells are kept and the parent run is closed as KILLED."""
        done = {cell.key for cell in self._finished() if cell.is_current}
        missing = [cell for cell in cells if cell.key not in done]
        outcome = Outcome(already_done=len(cells) - len(missing))
        plan, text, device = [cell.coordinates() for cell in cells], self.profile.text, self.device

        def open_parent(tracker: Tracker) -> str:
            outcome.run_id = tracker.start_benchmark(plan, text, command, device, self.parent_tags)
            return outcome.run_id

        if not missing:
            if self.parent_tags:
                self.connection.ask(lambda tracker: tracker.end(open_parent(tracker), "FINISHED"), None)
            else:
                self.connection.ask(lambda tracker: tracker.record_plan(plan, text, command, device), None)
            return outcome
        self.results.mkdir(parents=True, exist_ok=True)
        allowed = self.options.allow_face_artifacts
        sync = Sync(self.connection, self.results, self.profile, face_sets, open_parent, device, allowed)
        executor = executor_of(self.options, lambda job: self.listener(job.cell))
        status = "KILLED"
        with stopped_by_signals() as stop:
            try:
                self.connection.ask(sync.parent_in, None)
                with bars() as progress:
                    before = outcome.already_done
                    bar = progress.add_task("cells", total=len(cells), completed=before, before=before)
                    try:
                        on_settled = partial(progress.advance, bar)
                        PendingCells(self.options, self.listener, executor, sync, outcome, stop, on_settled).settle(
                            missing
                        )
                    finally:
                        progress.remove_task(bar)
                status = "FAILED" if outcome.failed else "FINISHED"
            finally:
                stop.closing = True
                sync.close(status)
                stop.closing = False
        return outcome

    def without(self, cells: list[Cell], tag: str) -> list[Cell]:
        """The finished cells that were computed without an artifact (features, models), as the tag tells."""
        finished: dict[str, bool] = {}
        nothing: list[Run] = []
        for run in self.connection.ask(lambda tracker: tracker.cells(), nothing):
            if run.info.status == "FINISHED":
                finished[run.data.tags["cell_key"]] = tag in run.data.tags
        return [cell for cell in cells if not finished.get(cell.key, True)]

    def _finished(self) -> list[Finished]:
        nothing: list[Finished] = []
        return self.connection.ask(lambda tracker: tracker.finished(), nothing)

    def measured(self, cells: list[Cell], *names: str) -> dict[str, dict[str, float]]:
        """Metrics of finished cells (fields of `Finished`) by name and key; from disk if MLflow does not answer."""
        values: dict[str, dict[str, float | None]] = {}
        with suppress(SuiteError):
            current = [cell for cell in self._finished() if cell.is_current]
            values = {cell.key: {name: getattr(cell, name) for name in names} for cell in current}
        for cell in cells:
            if cell.key not in values and (self.results / cell.key).is_dir():
                with suppress(SuiteError):  # a damaged result
                    result, _ = read_result(self.results / cell.key)
                    if result.is_current:
                        values[cell.key] = {name: result.metrics.get(name) for name in names}
        found = {cell.key: values[cell.key] for cell in cells if cell.key in values}
        return {name: {key: x for key, own in found.items() if (x := own[name]) is not None} for name in names}
