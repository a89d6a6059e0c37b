"""Runs the cells of a plan: done ones are skipped, results reach the disk before MLflow, a failure stops nobody else."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import torch

from open_set_fer.benchmark.closed_set import TaskContext, in_training
from open_set_fer.benchmark.metrics import cell_metrics
from open_set_fer.benchmark.outbox import Outbox
from open_set_fer.benchmark.pictures import face_sheet, score_histogram
from open_set_fer.benchmark.plan import Cell
from open_set_fer.benchmark.profiles import Profile
from open_set_fer.benchmark.protocols import Split, make_task, split_faces
from open_set_fer.benchmark.provenance import host_tags
from open_set_fer.benchmark.results import (
    checked_curves,
    checked_notes,
    mark_path,
    read_mark,
    read_result,
    score_table,
    set_aside,
    write_mark,
    write_result,
)
from open_set_fer.benchmark.tracking import Tracker, brief_requests
from open_set_fer.console import bars, log
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import Stopped, SuiteError, summary
from open_set_fer.methods.contract import OpenSetTask
from open_set_fer.methods.recipe import ClosedSetSettings

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

Shared = tuple[OpenSetTask, Split, TaskContext]

POLL_SECONDS = 0.5
"""Between two looks at cells that other processes hold, when there is nothing else to do."""


@dataclass
class Outcome:
    """What a run did; `waiting` are cells whose result is on disk and not logged, because the tracking server was away."""

    computed: int = 0
    logged_from_disk: int = 0
    already_done: int = 0
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    waiting: list[Cell] = field(default_factory=list)


@dataclass
class _Run:
    """What one call of `Runner.run` keeps in mind.

    open_parent: creates the parent run. settled: called after each cell. computed: keys of what this run computed.
    waiting, refused: results on disk that are not logged, because the server was away or did not take them (with the
    error). untold: failures not logged yet. died: cells in which a process died; they are computed once `try_again` is
    set. said: marks that a line was written about.
    """

    outcome: Outcome
    face_sets: dict[str, FaceSet]
    open_parent: Callable[[Tracker], str]
    settled: Callable[[], None] = lambda: None
    computed: set[str] = field(default_factory=set)
    said: set[tuple[str, str]] = field(default_factory=set)
    parent: str | None = None
    waiting: dict[str, Cell] = field(default_factory=dict)
    refused: dict[str, tuple[Cell, str, str]] = field(default_factory=dict)
    untold: list[Callable[[], None]] = field(default_factory=list)
    died: set[str] = field(default_factory=set)
    try_again: bool = False

    def parent_in(self, tracker: Tracker) -> str:
        """The parent run, created where there is none yet."""
        if self.parent is None:
            self.parent = self.open_parent(tracker)
        return self.parent


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], None]]:
    """SIGTERM and SIGHUP stop the run as Ctrl-C does, by raising Stopped; yields what to call when closing begins.

    Once it has begun, a signal does not disturb the closing for ten seconds; so the handlers stay after a stop.
    """
    last, closing = -math.inf, False

    def stop(number: int, frame: Any) -> None:
        nonlocal last
        if closing and time.monotonic() - last < 10:
            return
        last = time.monotonic()
        raise Stopped(number)

    def close() -> None:
        nonlocal closing
        closing = True

    # Python admits handlers in the main thread alone; a signal that is ignored (nohup) stays so.
    wanted = (
        (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    )
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, stop)
    try:
        yield close
    finally:
        for number, handler in before.items() if last == -math.inf else ():
            if handler is not None:
                signal.signal(number, handler)


def choose_device(name: str, threads: int | None = None) -> torch.device:
    """'auto' is a GPU where there is one; `threads`: of the CPU, for torch. SuiteError: it does not compute here."""
    if threads is not None:
        torch.set_num_threads(threads)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mend = f"choose among: {', '.join(['auto', 'cpu', *['cuda'] * (gpus > 0), *(f'cuda:{i}' for i in range(gpus))])}"
    try:
        device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise SuiteError(f"no kind of device is named {name!r}", mend) from error
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SuiteError(f"device {name!r} does not compute on this machine", mend) from error
    return device


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
        open_cells = [cell for cell in cells if cell.key not in done]
        outcome = Outcome(already_done=len(cells) - len(open_cells))
        plan = [cell.coordinates() for cell in cells]
        if not open_cells:
            self.outbox.ask(
                lambda tracker: tracker.record_plan(plan, self.profile_toml, command, str(self.device)), None
            )
            return outcome
        self.results.mkdir(parents=True, exist_ok=True)
        this = _Run(
            outcome, face_sets,
            lambda tracker: tracker.start_benchmark(plan, self.profile_toml, command, str(self.device)),
        )  # fmt: skip
        status = "KILLED"
        with stopped_by_signals() as closing:
            try:
                self.outbox.ask(this.parent_in, None)
                with bars() as progress:
                    bar = progress.add_task("cells", total=len(cells), completed=outcome.already_done)
                    this.settled = lambda: progress.advance(bar)
                    try:
                        self._run_all(open_cells, this)
                        self._log_waiting(this, last=True)
                    finally:
                        progress.remove_task(bar)
                status = "FAILED" if outcome.failed else "FINISHED"
            finally:
                closing()
                if parent := this.parent:
                    with brief_requests():
                        self.outbox.ask(lambda tracker: tracker.end(parent, status), None)
        return outcome

    def _run_all(self, cells: list[Cell], this: _Run) -> None:
        """Every cell once: free ones first, then those that other processes held, last those in which a process died."""
        suspects = [cell for cell in cells if mark_path(self.results, cell.key).exists()]
        marked = {cell.key for cell in suspects}
        left = [cell for cell in cells if cell.key not in marked] + suspects
        while left:
            held = [
                cell for _, group in groupby(left, key=Cell.group) for cell in self._run_group(list(group), this)
            ]  # fmt: skip
            if len(held) == len(left):
                others = [cell for cell in held if cell.key not in this.died]
                if others or this.try_again:
                    self._say_who_holds(others or held, this)
                    time.sleep(POLL_SECONDS)
                this.try_again = not others
            left = held

    def _run_group(self, group: list[Cell], this: _Run) -> list[Cell]:
        """Cells of one (data set, protocol, seed): one task, one closed-set model, in memory until the group ends.

        Returns those to come back to: another process holds them, or trains their closed-set model, or died in them.
        """
        share = cache(lambda: self._share(group[0], this.face_sets[group[0].dataset]))
        later: list[Cell] = []
        for cell in group:
            try:
                with filelock.FileLock(self.results / f"{cell.key}.lock", blocking=False):
                    settled = self._settle(cell, this, share)
            except filelock.Timeout:
                settled = False
            if settled:
                this.settled()
            else:
                later.append(cell)
            if this.waiting and not self.outbox.away:
                self._log_waiting(this)
        return later

    def _settle(self, cell: Cell, this: _Run, share: _lru_cache_wrapper[Shared]) -> bool:
        """Compute and log a cell whose lock this process holds; False where it is to come back to."""
        if self.outbox.ask(lambda tracker: tracker.is_finished(cell.key), False):  # by another process
            this.outcome.already_done += 1
            return True
        mark = mark_path(self.results, cell.key)
        # A mark whose lock is free is a dead process's. With a result beside it, it died after its work was done.
        if not this.try_again and not (self.results / cell.key).is_dir() and (who := read_mark(mark)):
            self._put_off(cell, this, who)
            return False
        try:
            if not self._usable(cell):
                if in_training(self.home / "closed_set", cell.closed_set):
                    return False
                write_mark(mark)
                metrics = self._compute(cell, this.face_sets[cell.dataset], *share(), self.results / cell.key)
                log.info("%s", _finished(cell, metrics))
                this.outcome.computed += 1
                this.computed.add(cell.key)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit() in a method is that cell's failure, not the end of the run
            share.cache_clear()  # a method that failed may have spoilt its task
            self._failed(cell, this, summary(error), traceback.format_exc())
            return True
        finally:
            mark.unlink(missing_ok=True)
        self._try_to_log(cell, this)
        return True

    def _say_who_holds(self, cells: list[Cell], this: _Run) -> None:
        """One line for each mark that this run waits for."""
        known = [(cell, who) for cell in cells if (who := read_mark(mark_path(self.results, cell.key)))]
        cell, who = known[0] if known else (cells[0], "another process")
        if (cell.key, who) not in this.said:
            this.said.add((cell.key, who))
            log.info("nothing else to do: waiting for %s, held by %s", _describe(cell), who)

    def _put_off(self, cell: Cell, this: _Run, who: str) -> None:
        """Log a cell in which a process died as FAILED; it must not keep the others from being computed."""
        if cell.key not in this.died:
            this.died.add(cell.key)
            error = f"the process died while computing this cell ({who})"
            log.error("%s: %s; it is tried again after all other cells", _describe(cell), error)
            self._log_failure(cell, this, error, error)

    def _usable(self, cell: Cell) -> bool:
        """Whether a sound result of the cell is on disk; a damaged one is set aside."""
        folder = self.results / cell.key
        if not folder.is_dir():
            return False
        try:
            read_result(folder)
        except SuiteError as error:
            aside = set_aside(folder)
            log.warning("%s: %s; set aside as %s and computed again", _describe(cell), error.message, aside.name)
            return False
        return True

    def _failed(self, cell: Cell, this: _Run, error: str, text: str) -> None:
        this.outcome.failed.append((cell, error))
        log.error("failed: %s: %s", _describe(cell), error)
        self._log_failure(cell, this, error, text)

    def _log_failure(self, cell: Cell, this: _Run, error: str, text: str) -> None:
        tags = self._tags(cell, this.face_sets[cell.dataset]) | host_tags(str(self.device))

        def tell(tracker: Tracker) -> bool:
            tracker.log_failure(this.parent_in(tracker), tags, text, error)
            return True

        try:
            if not self.outbox.ask(tell, False):
                this.untold.append(lambda: self._log_failure(cell, this, error, text))
        except Exception as refusal:
            log.error("the failure of %s cannot be logged: %s", _describe(cell), summary(refusal))

    def _try_to_log(self, cell: Cell, this: _Run) -> None:
        """Log a result on disk; it waits there where the server is away or refuses it."""

        def tell(tracker: Tracker) -> bool:
            self._log(cell, this.face_sets[cell.dataset], self.results / cell.key, this.parent_in(tracker), tracker)
            return True

        try:
            logged = self.outbox.ask(tell, False)
        except Exception as error:
            log.warning("%s cannot be logged: %s; its result stays on disk", _describe(cell), summary(error))
            this.refused[cell.key] = (cell, summary(error), traceback.format_exc())
            return
        if not logged:
            this.waiting[cell.key] = cell
        elif cell.key not in this.computed:
            log.info("logged from disk: %s", _describe(cell))
            this.outcome.logged_from_disk += 1

    def _log_waiting(self, this: _Run, last: bool = False) -> None:
        """Log what waits for the server; at the `last` chance also what it refused the first time."""
        if last and self.outbox.away:
            self.outbox.knock()
        if not self.outbox.away:
            for cell in [*this.waiting.values(), *(cell for cell, _, _ in this.refused.values() if last)]:
                try:
                    with filelock.FileLock(self.results / f"{cell.key}.lock", timeout=60 if last else 0):
                        this.waiting.pop(cell.key, None)
                        this.refused.pop(cell.key, None)
                        self._try_to_log(cell, this)
                except filelock.Timeout:  # another process is logging it
                    continue
            untold, this.untold = this.untold, []
            for tell in untold:
                tell()
        if last:
            this.outcome.waiting = list(this.waiting.values())
            for cell, error, text in this.refused.values():
                self._failed(cell, this, f"computed, but cannot be logged: {error}", text)

    def _share(self, cell: Cell, faces: FaceSet) -> tuple[OpenSetTask, Split, TaskContext]:
        split = split_faces(faces, cell.protocol, cell.seed)
        context = TaskContext(
            self.home / "closed_set", cell.closed_set, self.profile.backbone_settings(),
            ClosedSetSettings(**cell.closed_set["closed_set"]), self.device,
        )  # fmt: skip
        return make_task(faces, cell.protocol, split, cell.seed), split, context

    def _compute(
        self, cell: Cell, faces: FaceSet, task: OpenSetTask, split: Split, context: TaskContext, folder: Path
    ) -> dict[str, float]:
        """Detect, measure, and write the result to disk in one move; the metrics."""
        log.info("computing %s", _describe(cell))
        started = time.time()
        start = time.perf_counter()
        with context.cell(cell.method.name, task):
            detection = cell.method.detect(task, context)
            total = time.perf_counter() - start
        pseudo_labels = context.pseudo_labels(task)
        metrics = cell_metrics(
            split.truth, detection.unknown_score, detection.predicted_class, pseudo_labels, len(task.closed_classes)
        )
        metrics["seconds.total"] = total
        metrics |= {f"seconds.{name}": value for name, value in context.seconds.items()}
        metrics |= {f"peak_mib.{name}": value for name, value in context.peak_mib.items()}
        notes = checked_notes(detection.notes)
        if notes:
            log.warning("%s: %s", _describe(cell), "; ".join(notes))
        result = {
            "tags": host_tags(str(self.device))
            | {"threads": str(torch.get_num_threads()), "notes": json.dumps(notes[:20])},
            "metrics": metrics,
            "curves": checked_curves(detection.curves),
            "started": started,
            "ended": started + total,
        }
        true_class = np.array(faces.classes)[faces.labels[split.test]]
        scores = score_table(faces.ids[split.test], split.truth, true_class, task.closed_classes, detection)
        write_result(folder, result, scores)
        return metrics

    def _log(self, cell: Cell, faces: FaceSet, folder: Path, parent: str, tracker: Tracker) -> None:
        """Log a result on disk; tags and settings are this plan's, whichever profile computed it."""
        result, scores = read_result(folder)
        result["tags"] |= self._tags(cell, faces)
        result["params"] = self._params(cell)
        result["input"] = {"name": faces.name, "fingerprint": faces.fingerprint, "counts": faces.counts()}
        (folder / "profile.toml").write_text(self.profile_toml, "utf-8")
        title = f"{_describe(cell)}: AUROC {result['metrics']['auroc']:.3f}"
        pictures: dict[str, Any] = {"histogram.png": score_histogram(scores, title)}
        # A licence for faces seldom covers a tracking server; the rendered ones are nobody's.
        if self.allow_face_artifacts or (faces.demonstration and faces.name == "synthetic"):
            pool = split_faces(faces, cell.protocol, cell.seed).test
            pictures["faces.png"] = face_sheet(faces, pool, scores, title)
        tracker.log_cell(parent, result, folder, pictures)

    def _tags(self, cell: Cell, faces: FaceSet) -> dict[str, str]:
        tags = {name: str(value) for name, value in cell.coordinates().items()}
        return tags | {
            "settings_key": cell.settings_key(),
            "profile": self.profile_name,
            "selection": self.profile.selection,
            "demonstration": str(faces.demonstration).lower(),
        }

    def _params(self, cell: Cell) -> dict[str, Any]:
        parts = {
            "method": {"name": cell.method.name, "version": cell.method.version, **asdict(cell.method)},
            "closed_set": cell.closed_set["closed_set"],
            "backbone": cell.closed_set["backbone"],
            "dataset": asdict(self.profile.dataset(cell.dataset)),
        }
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


def _describe(cell: Cell) -> str:
    return f"{cell.dataset} {cell.protocol.family} {cell.protocol.label} {cell.label} seed {cell.seed}"


def _finished(cell: Cell, metrics: dict[str, float]) -> str:
    """'ours · surprise · seed 0: AUROC 0.722, FPR@TPR95 0.81 in 9 s'."""
    said = f"AUROC {metrics['auroc']:.3f}, FPR@TPR95 {metrics['fpr_at_tpr95']:.2f} in {metrics['seconds.total']:.0f} s"
    return f"{cell.label} · {cell.protocol.label} · seed {cell.seed}: {said}"
