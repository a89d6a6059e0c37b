"""Runs the cells of a plan: done ones are skipped, results reach the disk before MLflow, a failure stops nobody else."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import filelock

from open_set_fer.benchmark.evaluation.intermediate_scores import Listener, Pruned
from open_set_fer.benchmark.execution.devices import choose_device
from open_set_fer.benchmark.execution.executor import Dispatch, dispatch_of
from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.signals import Stop, stopped_by_signals
from open_set_fer.benchmark.execution.task_run import Workplace
from open_set_fer.benchmark.execution.worker import Answer, Job
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.storage.checkpoints import closed_set_path, in_training
from open_set_fer.benchmark.storage.logbook import Logbook
from open_set_fer.benchmark.storage.marks import mark_path, read_mark, write_mark
from open_set_fer.benchmark.storage.outbox import Outbox
from open_set_fer.benchmark.storage.reevaluate import measured, restore
from open_set_fer.benchmark.storage.results_dir import read_result, set_aside, update_result
from open_set_fer.benchmark.storage.tracking import Finished, Tracker
from open_set_fer.console import bars, log
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError, summary

if TYPE_CHECKING:
    from mlflow.entities import Run

POLL_SECONDS = 0.5
"""Between two looks at cells that other processes hold, when there is nothing else to do."""


Found = Literal["settled", "to compute", "handed on", "later"]
"""What became of a cell: logged or failed; without a result; given to a process of its own; to come back to."""


@dataclass
class Outcome:
    """What a run did.

    logged_from_disk: computed earlier. measured: computed earlier, and measured again as the evaluation has changed.
    waiting: cells whose result is on disk and not logged, because the tracking server was away.
    run_id: of the parent run; '' where there is none.
    pruned: the cell that the listener stopped, and with it the run; with the epoch.
    """

    computed: int = 0
    logged_from_disk: int = 0
    measured: int = 0
    already_done: int = 0
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    waiting: list[Cell] = field(default_factory=list)
    run_id: str = ""
    pruned: list[tuple[Cell, int]] = field(default_factory=list)


class Runner:
    """Computes and logs cells of one profile under `home`.

    parent_tags: more tags of the parent run, which is then made even with nothing to compute.
    listener: gets the intermediate scores of a cell, and may stop it.
    """

    def __init__(
        self,
        home: Path,
        profile: Profile,
        options: RunOptions = RunOptions(),  # noqa: B008 - frozen
        parent_tags: dict[str, str] | None = None,
        listener: Callable[[Cell], Listener | None] = lambda cell: None,
    ) -> None:
        self.home = home
        self.results = home / "results"
        self.profile = profile
        self.options = options
        self.device = choose_device(options.device, options.threads)
        self.dispatch = dispatch_of(options)
        self.parent_tags = parent_tags
        self.listener = listener
        self.outbox = Outbox(home, profile.name)

    @property
    def tracker(self) -> Tracker:
        """The tracker; raises TrackingAway where the server has never answered."""
        return self.outbox.tracker

    def run(self, cells: list[Cell], face_sets: dict[str, FaceSet], command: str) -> Outcome:
        """Run what is not done yet; on Ctrl-C finished cells are kept and the parent run is closed as KILLED."""
        done = {cell.key for cell in self._finished() if cell.is_current}
        left = [cell for cell in cells if cell.key not in done]
        outcome = Outcome(already_done=len(cells) - len(left))
        plan = [cell.coordinates() for cell in cells]
        device = str(self.device)

        def open_parent(tracker: Tracker) -> str:
            outcome.run_id = tracker.start_benchmark(plan, self.profile.text, command, device, self.parent_tags)
            return outcome.run_id

        if not left:
            if self.parent_tags:
                self.outbox.ask(lambda tracker: tracker.end(open_parent(tracker), "FINISHED"), None)
            else:
                self.outbox.ask(lambda tracker: tracker.record_plan(plan, self.profile.text, command, device), None)
            return outcome
        self.results.mkdir(parents=True, exist_ok=True)
        logbook = Logbook(
            self.outbox,
            self.results,
            self.profile,
            face_sets,
            open_parent,
            device,
            self.options.allow_face_artifacts,
        )
        dispatch = self.dispatch and self.dispatch.started()  # before the handlers of signals: Ray sets one, too
        status = "KILLED"
        with stopped_by_signals() as stop:
            try:
                self.outbox.ask(logbook.parent_in, None)
                with bars() as progress:
                    bar = progress.add_task("cells", total=len(cells), completed=outcome.already_done)
                    try:
                        _Run(self, dispatch, face_sets, logbook, outcome, stop, lambda: progress.advance(bar)).all(left)
                    finally:
                        progress.remove_task(bar)
                status = "FAILED" if outcome.failed else "FINISHED"
            finally:
                stop.closing = True
                logbook.close(status)
        return outcome

    def without(self, cells: list[Cell], tag: str) -> list[Cell]:
        """Those of the finished cells that were computed when nobody asked for what the tag tells of: features, models."""
        finished: dict[str, bool] = {}
        nothing: list[Run] = []
        for run in self.outbox.ask(lambda tracker: tracker.cells(), nothing):
            if run.info.status == "FINISHED":
                finished[run.data.tags["cell_key"]] = tag in run.data.tags
        return [cell for cell in cells if not finished.get(cell.key, True)]

    def _finished(self) -> list[Finished]:
        nothing: list[Finished] = []
        return self.outbox.ask(lambda tracker: tracker.finished(), nothing)

    def auroc(self, cells: list[Cell]) -> dict[str, float]:
        """AUROC of these cells by key, as far as they are finished; from the disk where MLflow does not answer."""
        logged: dict[str, float] = {}
        with suppress(SuiteError):
            logged = {cell.key: cell.auroc for cell in self._finished() if cell.is_current}
        values: dict[str, float] = {}
        for cell in cells:
            if cell.key in logged:
                values[cell.key] = logged[cell.key]
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
        dispatch: Dispatch | None,
        face_sets: dict[str, FaceSet],
        logbook: Logbook,
        outcome: Outcome,
        stop: Stop,
        settled: Callable[[], None],
    ) -> None:
        """`settled` is called after each cell."""
        self.home, self.results, self.device, self.store = (
            runner.home,
            runner.results,
            runner.device,
            runner.options.store,
        )
        self.keep_features, self.keep_models = runner.options.keep_features, runner.options.keep_models
        self.listener = runner.listener
        self.dispatch = dispatch
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
        """Of the present group (data set, protocol, seed), once this process computes one of its cells."""
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
            if self.dispatch is None:
                for _, group in groupby(left, key=Cell.group):
                    held += self._each(list(group), self._compute_here)
                    self.workplace = None
            else:
                spread = _Spread(self, self.dispatch)
                held += self._each(left, spread.add)
                held += spread.compute()
            if self.outcome.pruned:
                break
            if len(held) == len(left):
                others = [cell for cell in held if cell.key not in self.deadly]
                if others or self.try_again:
                    self._say_who_holds(others or held)
                    with self.stop.at_once():
                        time.sleep(POLL_SECONDS)
                self.try_again = not others
            left = held
        self.logbook.log_the_rest()
        self.outcome.failed = self.logbook.failed
        self.outcome.waiting = list(self.logbook.waiting.values())
        self.outcome.logged_from_disk = self.logbook.logged_from_disk

    def _each(self, cells: list[Cell], compute: Callable[[Cell], Found]) -> list[Cell]:
        """Settle these cells, with `compute` for those without a result; returns those to come back to.

        Another process holds them, or trains their closed-set model, or died in them.
        """
        later: list[Cell] = []
        for cell in cells:
            if self.outcome.pruned:
                break
            self.stop.again()
            found: Found = "later"
            with suppress(filelock.Timeout), filelock.FileLock(self.results / f"{cell.key}.lock", blocking=False):
                found = self._find(cell)
                if found == "to compute":
                    found = compute(cell)
            if found == "settled":
                self.settled()
            elif found == "later":
                later.append(cell)
            self.logbook.log_waiting()
        return later

    def _find(self, cell: Cell) -> Found:
        """Log a cell whose result is there; its lock is held by this process."""
        if self.outbox.ask(lambda tracker: tracker.is_finished(cell.key), False):  # by another process
            self.outcome.already_done += 1
            return "settled"
        mark = mark_path(self.results, cell.key)
        # A mark whose lock is free is a dead process's. With a result beside it, it died after its work was done.
        if not self.try_again and not (self.results / cell.key).is_dir() and (process := read_mark(mark)):
            self._put_off(cell, process)
            return "later"
        try:
            if not self._has_result(cell):
                return "to compute"
        except Exception as error:
            self.logbook.fail(cell, summary(error), traceback.format_exc())
            return "settled"
        mark.unlink(missing_ok=True)
        self.logbook.log(cell)
        return "settled"

    def _compute_here(self, cell: Cell) -> Found:
        """Compute and log a cell in this process."""
        if in_training(closed_set_path(self.home, cell)):
            return "later"
        mark = mark_path(self.results, cell.key)
        try:
            write_mark(mark)
            with self.stop.at_once():
                if self.workplace is None:
                    self.workplace = Workplace.of(
                        cell, self.face_sets[cell.dataset], self.home, self.device, self.store
                    )
                log.info("computing %s", cell)
                metrics = self.workplace.compute(
                    cell, self.results / cell.key, self.keep_features, self.listener(cell), self.keep_models
                ).metrics
        except KeyboardInterrupt:
            raise
        except Pruned as pruned:
            self.workplace = None
            self.outcome.pruned.append((cell, pruned.epoch))
            self.logbook.prune(cell, pruned.epoch)
            return "settled"
        except BaseException as error:  # sys.exit() in a method is that cell's failure, not the end of the run
            self.stop.again()  # a signal that a library swallowed in mid-import makes it fail
            self.workplace = None  # a method that failed may have spoilt its task
            self.logbook.fail(cell, summary(error), traceback.format_exc())
            return "settled"
        finally:
            mark.unlink(missing_ok=True)
        self.count_computed(cell, metrics)
        self.logbook.log(cell)
        return "settled"

    def count_computed(self, cell: Cell, metrics: dict[str, float]) -> None:
        """Count a computed cell and say its AUROC."""
        log.info(
            "%s · %s · seed %d: AUROC %.3f, FPR@TPR95 %.2f in %.0f s",
            cell.label,
            cell.protocol.label,
            cell.seed,
            *(metrics[name] for name in ("auroc", "fpr_at_tpr95", "seconds.total")),
        )
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


class _Spread:
    """The cells of one pass, each in a process of its own; what the processes leave on disk is logged here."""

    def __init__(self, run: _Run, dispatch: Dispatch) -> None:
        self.run = run
        self.dispatch = dispatch
        self.home = run.home.resolve()  # a process may start elsewhere
        self.cells: list[Cell] = []

    def add(self, cell: Cell) -> Found:
        """Take a cell in, to compute."""
        self.cells.append(cell)
        return "handed on"

    def compute(self) -> list[Cell]:
        """Their closed-set models first, each once, then the cells; returns those that other processes held."""
        cells = self.cells
        models = {cell.closed_set_key: cell for cell in cells if not closed_set_path(self.home, cell).exists()}
        if cells:
            log.info(
                "%d closed-set models and %d cells to compute, %d at a time, %d thread(s) each",
                len(models),
                len(cells),
                self.dispatch.jobs,
                self.dispatch.threads,
            )
        failed: dict[str, Answer] = {}
        for job, answer in self._answers(list(models.values()), model_alone=True):
            if answer.state != "done":
                failed[job.cell.closed_set_key] = answer
        for cell in cells:
            if model := failed.get(cell.closed_set_key):
                self._fail(cell, f"its closed-set model could not be trained: {model.error}", model.text)
        later: list[Cell] = []
        for job, answer in self._answers([cell for cell in cells if cell.closed_set_key not in failed]):
            if not self._settle(job.cell, answer):
                later.append(job.cell)
            self.run.logbook.log_waiting()
        return later

    def _answers(self, cells: list[Cell], model_alone: bool = False) -> Generator[tuple[Job, Answer]]:
        jobs = [
            Job(
                cell,
                self.run.face_sets[cell.dataset],
                self.home,
                self.dispatch.device,
                self.dispatch.threads,
                self.run.store,
                model_alone,
                self.run.keep_features,
                self.run.keep_models,
            )
            for cell in cells
        ]
        with closing(self.dispatch.answers(jobs)) as answers:
            while True:
                with self.run.stop.at_once():
                    found = next(answers, None)
                if found is None:
                    return
                job, answer = found
                for level, text in answer.said:
                    log.log(level, "%s", text)
                yield job, answer

    def _settle(self, cell: Cell, answer: Answer) -> bool:
        """Log what a process did; False where the cell is to come back to."""
        if answer.state in ("held", "there"):
            return False
        if answer.state != "done":
            self._fail(cell, answer.error, answer.text)
            return True
        if not (self.run.results / cell.key).is_dir():
            error = f"computed on another machine, but its result is not in {self.run.results}"
            self._fail(cell, error, f"{error}\n  fix: a folder that all machines of the cluster share as --home")
            return True
        self.run.count_computed(cell, answer.metrics)
        try:
            with filelock.FileLock(self.run.results / f"{cell.key}.lock", timeout=60):
                self.run.logbook.log(cell)
        except filelock.Timeout:  # another process has found the result, and logs it
            return False
        self.run.settled()
        return True

    def _fail(self, cell: Cell, error: str, text: str) -> None:
        mark_path(self.run.results, cell.key).unlink(missing_ok=True)  # of a process that was ended: it is told here
        self.run.logbook.fail(cell, error, text)
        self.run.settled()
