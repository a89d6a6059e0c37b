"""The cells of one run that are not done: which to compute, to log from disk, to come back to, and in which order."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import filelock

from open_set_fer.benchmark.execution.executor import Executor
from open_set_fer.benchmark.execution.job import Job, JobResult
from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.signals import Stop
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.storage.checkpoints import closed_set_path
from open_set_fer.benchmark.storage.reevaluate import measured, restore
from open_set_fer.benchmark.storage.results_dir import describe_result, mark_path, read_mark, read_result, set_aside
from open_set_fer.benchmark.storage.sync import Sync
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, summary

if TYPE_CHECKING:
    from mlflow.entities import Run

    from open_set_fer.benchmark.evaluation.intermediate_scores import Listener

POLL_SECONDS = 0.5
"""Between two looks at cells that other processes hold, when there is nothing else to do."""
CellState = Literal["settled", "to compute", "later"]
"""Logged or failed; without a result; to come back to."""


@dataclass
class Outcome:
    """What a run did.

    logged_from_disk: computed earlier. measured: computed earlier, and re-evaluated. waiting: on disk and not logged,
    because the tracking server was away. run_id: of the parent run; '' without one. pruned: (cell, epoch) where the
    listener stopped the run.
    """

    computed: int = 0
    logged_from_disk: int = 0
    measured: int = 0
    already_done: int = 0
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    waiting: list[Cell] = field(default_factory=list)
    run_id: str = ""
    pruned: list[tuple[Cell, int]] = field(default_factory=list)


class PendingCells:
    """Cells of one call of `Runner.run`: their order, and what is remembered between two tries of a cell."""

    def __init__(
        self,
        options: RunOptions,
        listener: Callable[[Cell], Listener | None],
        executor: Executor,
        sync: Sync,
        outcome: Outcome,
        stop: Stop,
        on_settled: Callable[[], None],
    ) -> None:
        self.home, self.results = sync.results.parent.resolve(), sync.results
        self.options, self.listener, self.executor = options, listener, executor
        self.sync, self.connection = sync, sync.connection
        self.outcome, self.stop, self.on_settled = outcome, stop, on_settled
        nothing: list[Run] = []
        outdated = self.connection.ask(lambda tracker: tracker.outdated(), nothing)
        self.outdated = {run.data.tags["cell_key"]: run for run in outdated}
        """Finished runs of another evaluation, by key."""
        self.crashed: set[str] = set()
        """Keys of cells in which a process died with its whole run; they are computed once `try_again` is set."""
        self.try_again = False
        self.announced: set[tuple[str, str]] = set()
        """Cells and holders that a line was written about."""

    def settle(self, cells: list[Cell]) -> None:
        """Every cell once: free ones first, then those that other processes held, last those in which a run died."""
        marked = {cell.key for cell in cells if mark_path(self.results, cell.key).exists()}
        pending = sorted(cells, key=lambda cell: cell.key in marked)
        while pending and not self.outcome.pruned:
            states = [(cell, self._state(cell)) for cell in pending]
            later = [cell for cell, state in states if state == "later"]
            later += self._compute([cell for cell, state in states if state == "to compute"])
            if len(later) == len(pending):
                others = [cell for cell in later if cell.key not in self.crashed]
                if others or self.try_again:
                    self._log_lock_owner(others or later)
                    time.sleep(POLL_SECONDS)
                self.try_again = not others
            pending = later
        self.sync.finish()
        self.outcome.failed = self.sync.failed
        self.outcome.waiting = list(self.sync.waiting.values())
        self.outcome.logged_from_disk = self.sync.from_disk

    def _state(self, cell: Cell) -> CellState:
        """Whether a cell is to be computed; a result on disk is logged."""
        self.stop.check()
        mark = mark_path(self.results, cell.key)
        before = self.outcome.measured
        try:
            with filelock.FileLock(self.results / f"{cell.key}.lock", blocking=False):
                if self.connection.ask(lambda tracker: tracker.is_finished(cell.key), False):  # by another process
                    self.outcome.already_done += 1
                    self.on_settled()
                    return "settled"
                # An unlocked mark was left by a crashed run; if the result exists, it crashed after finishing.
                if not self.try_again and not (self.results / cell.key).is_dir() and (process := read_mark(mark)):
                    self._put_off(cell, process)
                    return "later"
                has_result = self._has_result(cell)
        except filelock.Timeout:
            return "later"
        except Exception as error:
            self._fail(cell, summary(error), traceback.format_exc())
            return "settled"
        if not has_result:
            return "to compute"
        mark.unlink(missing_ok=True)
        self.sync.add(cell, is_new=self.outcome.measured > before)
        self.on_settled()
        return "settled"

    def _has_result(self, cell: Cell) -> bool:
        """Whether a sound result of the cell is on disk; a result of another evaluation is re-evaluated."""
        folder = self.results / cell.key
        try:
            if not folder.is_dir() and (run := self.outdated.get(cell.key)):
                self.connection.ask(lambda tracker: restore(tracker, run, folder), None)
            if not folder.is_dir():
                return False
            result, scores = read_result(folder)
        except SuiteError as error:
            if not folder.is_dir():
                log.warning("%s: %s; computed again", cell, error.message)
                return False
            aside = set_aside(folder)
            log.warning("%s: %s; set aside as %s and computed again", cell, error.message, aside.name)
            return False
        if not result.is_current:
            describe_result(folder, measured(result, scores), scores, self.sync.record(cell))
            log.info("re-evaluated from its scores: %s", cell)
            self.outcome.measured += 1
        return True

    def _compute(self, cells: list[Cell]) -> list[Cell]:
        """Their closed-set models first, each once, then the cells; returns those that other processes held."""
        if not cells:
            return []
        models = {cell.closed_set_key: cell for cell in cells if not closed_set_path(self.home, cell).exists()}
        log.info(
            "%d closed-set models and %d cells to compute, %d at a time", len(models), len(cells), self.executor.jobs
        )
        failed: dict[str, JobResult] = {}
        for job, result in self._results(self._job(cell, model_alone=True) for cell in models.values()):
            if result.state != "done":
                failed[job.cell.closed_set_key] = result
        for cell in cells:
            if model := failed.get(cell.closed_set_key):
                self._fail(cell, f"its closed-set model could not be trained: {model.error}", model.text)
        later: list[Cell] = []
        for job, result in self._results(self._job(cell) for cell in cells if cell.closed_set_key not in failed):
            if result.state in ("held", "there"):
                later.append(job.cell)
            else:
                self._settle(job.cell, result)
            self.sync.again()
            if self.outcome.pruned:
                break
        return later

    def _job(self, cell: Cell, model_alone: bool = False) -> Job:
        listens = not model_alone and self.listener(cell) is not None
        faces, record = self.sync.face_sets[cell.dataset], self.sync.record(cell)
        return Job(cell, faces, self.home, self.options, record, self.executor.threads, model_alone, listens)

    def _results(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, JobResult]]:
        with closing(self.executor.results(jobs)) as results:
            for found in results:
                self.stop.check()
                if found is not None:
                    for level, text in found[1].said:
                        log.log(level, "%s", text)
                    yield found

    def _settle(self, cell: Cell, result: JobResult) -> None:
        """Log what became of a computed cell."""
        if result.state == "pruned":
            epoch = int(result.metrics["epoch"])
            self.outcome.pruned.append((cell, epoch))
            text = f"stopped after epoch {epoch}: its trial was not worth going on"
            log.info("%s: %s", cell, text)
            self.sync.fail(cell, text, text, pruned=epoch)
        elif result.state != "done":
            self._fail(cell, result.error, result.text)
        elif not (self.results / cell.key).is_dir():
            error = f"computed on another machine, but its result is not in {self.results}"
            self._fail(cell, error, f"{error}\n  fix: a folder that all machines of the cluster share as --home")
        else:
            values = (result.metrics[name] for name in ("auroc", "fpr_at_tpr95", "seconds.total"))
            name = f"{cell.label} · {cell.protocol.label} · seed {cell.seed}"
            log.info("%s: AUROC %.3f, FPR@TPR95 %.2f in %.0f s", name, *values)
            self.outcome.computed += 1
            self.sync.add(cell, is_new=True)
            self.on_settled()

    def _fail(self, cell: Cell, error: str, text: str) -> None:
        mark_path(self.results, cell.key).unlink(missing_ok=True)  # of a process that was ended: told here
        self.sync.fail(cell, error, text)
        self.on_settled()

    def _put_off(self, cell: Cell, process: str) -> None:
        """Log a cell in which a process died as FAILED; it must not keep the others from being computed."""
        if cell.key not in self.crashed:
            self.crashed.add(cell.key)
            error = f"the process died while computing this cell ({process})"
            log.error("%s: %s; it is tried again after all other cells", cell, error)
            self.sync.fail(cell, error, error, counts=False)

    def _log_lock_owner(self, cells: list[Cell]) -> None:
        """One line for each process that this run waits for."""
        marks = [(cell, read_mark(mark_path(self.results, cell.key))) for cell in cells]
        cell, holder = next(((cell, holder) for cell, holder in marks if holder), (cells[0], "another process"))
        if (cell.key, holder) not in self.announced:
            self.announced.add((cell.key, holder))
            log.info("nothing else to do: waiting for %s, held by %s", cell, holder)
