"""Runs the cells of a plan: done ones are skipped, results reach the disk before MLflow, a failure stops nobody else."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import torch

from open_set_fer.benchmark.closed_set import in_training
from open_set_fer.benchmark.computing import Workplace, closed_set_path
from open_set_fer.benchmark.logbook import Logbook
from open_set_fer.benchmark.marks import mark_path, read_mark, write_mark
from open_set_fer.benchmark.measuring import measured, restore
from open_set_fer.benchmark.outbox import Outbox
from open_set_fer.benchmark.plan import Cell
from open_set_fer.benchmark.profiles import Profile
from open_set_fer.benchmark.results import read_result, set_aside, update_result
from open_set_fer.benchmark.signals import Stop, stopped_by_signals
from open_set_fer.benchmark.tracking import Tracker
from open_set_fer.console import bars, log
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError, summary

if TYPE_CHECKING:
    from mlflow.entities import Run

POLL_SECONDS = 0.5
"""Between two looks at cells that other processes hold, when there is nothing else to do."""


@dataclass
class Outcome:
    """What a run did.

    logged_from_disk: computed earlier. measured: computed earlier, and measured again as the evaluation has changed.
    waiting: cells whose result is on disk and not logged, because the tracking server was away.
    """

    computed: int = 0
    logged_from_disk: int = 0
    measured: int = 0
    already_done: int = 0
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    waiting: list[Cell] = field(default_factory=list)


class Runner:
    """Computes and logs cells of one profile under `home`.

    allow_face_artifacts: log pictures of faces of every data set, not of the rendered ones alone.
    """

    def __init__(
        self,
        home: Path,
        profile_name: str,
        profile: Profile,
        profile_toml: str,
        device: torch.device,
        allow_face_artifacts: bool = False,
    ) -> None:
        self.home = home
        self.results = home / "results"
        self.profile_name = profile_name
        self.profile = profile
        self.profile_toml = profile_toml
        self.device = device
        self.allow_face_artifacts = allow_face_artifacts
        self.outbox = Outbox(home, profile_name)

    @property
    def tracker(self) -> Tracker:
        """The tracker; raises TrackingAway where the server has never answered."""
        return self.outbox.tracker

    def run(self, cells: list[Cell], face_sets: dict[str, FaceSet], command: str) -> Outcome:
        """Run what is not done yet; on Ctrl-C finished cells are kept and the parent run is closed as KILLED."""
        nothing: dict[str, dict[str, float]] = {}
        done = self.outbox.ask(lambda tracker: tracker.finished_cells(), nothing)
        left = [cell for cell in cells if cell.key not in done]
        outcome = Outcome(already_done=len(cells) - len(left))
        plan = [cell.coordinates() for cell in cells]
        device = str(self.device)
        if not left:
            self.outbox.ask(lambda tracker: tracker.record_plan(plan, self.profile_toml, command, device), None)
            return outcome
        self.results.mkdir(parents=True, exist_ok=True)
        logbook = Logbook(
            self.outbox, self.results, self.profile_name, self.profile, self.profile_toml, face_sets,
            lambda tracker: tracker.start_benchmark(plan, self.profile_toml, command, device),
            device, self.allow_face_artifacts,
        )  # fmt: skip
        status = "KILLED"
        with stopped_by_signals() as stop:
            try:
                self.outbox.ask(logbook.parent_in, None)
                with bars() as progress:
                    bar = progress.add_task("cells", total=len(cells), completed=outcome.already_done)
                    try:
                        _Run(self, face_sets, logbook, outcome, stop, lambda: progress.advance(bar)).all(left)
                    finally:
                        progress.remove_task(bar)
                status = "FAILED" if outcome.failed else "FINISHED"
            finally:
                stop.closing = True
                logbook.close(status)
        return outcome

    def auroc(self, cells: list[Cell]) -> dict[str, float]:
        """AUROC of these cells by key, as far as they are finished; from the disk where MLflow does not answer."""
        nothing: dict[str, dict[str, float]] = {}
        try:
            logged = self.outbox.ask(lambda tracker: tracker.finished_cells(), nothing)
        except SuiteError:
            logged = nothing
        values: dict[str, float] = {}
        for cell in cells:
            if cell.key in logged:
                values[cell.key] = logged[cell.key]["auroc"]
            elif (self.results / cell.key).is_dir():
                with suppress(SuiteError):  # a damaged result
                    result, _ = read_result(self.results / cell.key)
                    if result.is_current:
                        values[cell.key] = result.metrics["auroc"]
        return values


class _Run:
    """One call of `Runner.run`: the order of its cells, and what it remembers between two tries of one cell."""

    def __init__(
        self,
        runner: Runner,
        face_sets: dict[str, FaceSet],
        logbook: Logbook,
        outcome: Outcome,
        stop: Stop,
        settled: Callable[[], None],
    ) -> None:
        """`settled` is called after each cell."""
        self.home, self.results, self.device = runner.home, runner.results, runner.device
        self.outbox, self.logbook = runner.outbox, logbook
        self.face_sets = face_sets
        self.outcome = outcome
        self.stop = stop
        self.settled = settled
        nothing: list[Run] = []
        outdated = self.outbox.ask(lambda tracker: tracker.outdated(), nothing)
        self.outdated = {run.data.tags["cell_key"]: run for run in outdated}
        """Finished runs of an older evaluation, by key."""
        self.workplace: Workplace | None = None
        """Of the present group, once one of its cells is computed."""
        self.deadly: set[str] = set()
        """Keys of cells in which a process died; they are computed once `try_again` is set."""
        self.try_again = False
        self.announced: set[tuple[str, str]] = set()
        """Cells and holders that a line was written about."""

    def all(self, cells: list[Cell]) -> None:
        """Every cell once: free ones first, then those that other processes held, last those in which a process died."""
        marked = {cell.key for cell in cells if mark_path(self.results, cell.key).exists()}
        left = sorted(cells, key=lambda cell: cell.key in marked)
        while left:
            held: list[Cell] = []
            for _, group in groupby(left, key=Cell.group):
                held += self._group(list(group))
            if len(held) == len(left):
                others = [cell for cell in held if cell.key not in self.deadly]
                if others or self.try_again:
                    self._say_who_holds(others or held)
                    time.sleep(POLL_SECONDS)
                self.try_again = not others
            left = held
        self.logbook.log_the_rest()
        self.outcome.failed = self.logbook.failed
        self.outcome.waiting = list(self.logbook.waiting.values())
        self.outcome.logged_from_disk = self.logbook.logged_from_disk

    def _group(self, group: list[Cell]) -> list[Cell]:
        """Cells of one (data set, protocol, seed): one task, one closed-set model, in memory until the group ends.

        Returns those to come back to: another process holds them, or trains their closed-set model, or died in them.
        """
        later: list[Cell] = []
        for cell in group:
            self.stop.again()
            try:
                with filelock.FileLock(self.results / f"{cell.key}.lock", blocking=False):
                    is_settled = self._settle(cell)
            except filelock.Timeout:
                is_settled = False
            if is_settled:
                self.settled()
            else:
                later.append(cell)
            self.logbook.log_waiting()
        self.workplace = None
        return later

    def _settle(self, cell: Cell) -> bool:
        """Compute and log a cell whose lock this process holds; False where it is to come back to."""
        if self.outbox.ask(lambda tracker: tracker.is_finished(cell.key), False):  # by another process
            self.outcome.already_done += 1
            return True
        mark = mark_path(self.results, cell.key)
        # A mark whose lock is free is a dead process's. With a result beside it, it died after its work was done.
        if not self.try_again and not (self.results / cell.key).is_dir() and (process := read_mark(mark)):
            self._put_off(cell, process)
            return False
        try:
            if not self._has_result(cell):
                if in_training(closed_set_path(self.home, cell)):
                    return False
                write_mark(mark)
                self._compute(cell)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit() in a method is that cell's failure, not the end of the run
            self.stop.again()  # a signal that a library swallowed in mid-import makes it fail
            self.workplace = None  # a method that failed may have spoilt its task
            self.logbook.fail(cell, summary(error), traceback.format_exc())
            return True
        finally:
            mark.unlink(missing_ok=True)
        self.logbook.log(cell)
        return True

    def _compute(self, cell: Cell) -> None:
        if self.workplace is None:
            self.workplace = Workplace.of(cell, self.face_sets[cell.dataset], self.home, self.device)
        log.info("computing %s", cell)
        result = self.workplace.compute(cell, self.results / cell.key)
        log.info(
            "%s · %s · seed %d: AUROC %.3f, FPR@TPR95 %.2f in %.0f s",
            cell.label, cell.protocol.label, cell.seed,
            *(result.metrics[name] for name in ("auroc", "fpr_at_tpr95", "seconds.total")),
        )  # fmt: skip
        self.outcome.computed += 1
        self.logbook.new.add(cell.key)

    def _has_result(self, cell: Cell) -> bool:
        """Whether a sound result of the cell is on disk; one of an older evaluation is measured again."""
        folder = self.results / cell.key
        try:
            if not folder.is_dir() and (run := self.outdated.get(cell.key)):
                self.outbox.ask(lambda tracker: restore(tracker, run, folder), None)
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
            update_result(folder, measured(result, scores))
            log.info("measured again from its scores: %s", cell)
            self.outcome.measured += 1
            self.logbook.new.add(cell.key)
        return True

    def _put_off(self, cell: Cell, process: str) -> None:
        """Log a cell in which a process died as FAILED; it must not keep the others from being computed."""
        if cell.key not in self.deadly:
            self.deadly.add(cell.key)
            error = f"the process died while computing this cell ({process})"
            log.error("%s: %s; it is tried again after all other cells", cell, error)
            self.logbook.log_failure(cell, error, error)

    def _say_who_holds(self, cells: list[Cell]) -> None:
        """One line for each mark that this run waits for."""
        marks = [(cell, read_mark(mark_path(self.results, cell.key))) for cell in cells]
        cell, holder = next(((cell, holder) for cell, holder in marks if holder), (cells[0], "another process"))
        if (cell.key, holder) not in self.announced:
            self.announced.add((cell.key, holder))
            log.info("nothing else to do: waiting for %s, held by %s", cell, holder)
