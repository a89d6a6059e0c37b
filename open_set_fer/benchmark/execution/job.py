"""A job for a process: a cell to compute, what it says meanwhile, and what becomes of it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

import filelock

from open_set_fer.benchmark.execution.signals import end_group
from open_set_fer.benchmark.storage.results_dir import mark_path, write_mark

if TYPE_CHECKING:
    from open_set_fer.benchmark.execution.options import RunOptions
    from open_set_fer.benchmark.planning.cells import Cell
    from open_set_fer.benchmark.storage.results_dir import Record
    from open_set_fer.datasets.faceset import FaceSet

State = Literal["done", "held", "there", "failed", "pruned"]
SHOWN_EVERY = 0.2
"""Seconds between two reports of progress."""


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    state: 'done'; 'held' by another process; 'there': its result was on disk already; 'failed': the method raised, or
    the process died; 'pruned': the listener stopped it. error, text: in one line, and the traceback or what the process
    printed last. said: its log records, (level, message). metrics: of a computed cell.
    """

    state: State
    error: str = ""
    text: str = ""
    said: list[tuple[int, str]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


class Talk:
    """The process's end of the pipe: progress and intermediate scores go up, a decision comes back.

    When the starter is gone, the run was stopped: the cell did nothing wrong, so its mark goes and the process ends.
    """

    def __init__(self, pipe: Connection) -> None:
        self.mark: Path | None = None
        self._pipe = pipe
        self._sending = threading.Lock()
        self._decisions: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, kind: str, *content: Any) -> None:
        """Send a message; a starter that is gone ends this process."""
        with self._sending, contextlib.suppress(BrokenPipeError):
            self._pipe.send((kind, *content))

    def progress(self, steps: Iterable[Any], description: str) -> Iterator[Any]:
        """Iterate, and show it in the run's bars; `range(3, 60)` begins with three steps done."""
        before = steps.start if isinstance(steps, range) and steps.step == 1 else 0
        total = before + len(steps) if isinstance(steps, Sized) else None
        shown = 0.0
        for number, step in enumerate(steps, before):
            if time.monotonic() - shown > SHOWN_EVERY:
                shown = time.monotonic()
                self.send("progress", description, number, total, before)
            yield step

    def is_to_stop(self, epoch: int, auroc: float) -> bool:
        """Whether the run wants the method to stop after this epoch."""
        self.send("epoch", epoch, auroc)
        return self._decisions.get()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._decisions.put(self._pipe.recv())
        if self.mark:
            self.mark.unlink(missing_ok=True)
        end_group(os.getpid())


@dataclass(frozen=True)
class Job:
    """A cell to compute, or with `model_alone` only its closed-set model.

    threads: CPU threads; None for torch's own choice. listens: a listener hears the intermediate scores.
    """

    cell: Cell
    faces: FaceSet
    home: Path
    options: RunOptions
    record: Record
    threads: int | None = None
    model_alone: bool = False
    listens: bool = False

    @property
    def title(self) -> str:
        """What progress is shown of."""
        what = "closed set of " if self.model_alone else f"{self.cell.label} · "
        return f"{what}{self.cell.protocol.label} · seed {self.cell.seed}"

    @property
    def mark(self) -> Path:
        """The mark of the cell while it is computed."""
        return mark_path(self.home / "results", self.cell.key)

    def run(self, talk: Talk) -> JobResult:
        """Do the job in this process."""
        from open_set_fer.benchmark.evaluation.intermediate_scores import Pruned
        from open_set_fer.benchmark.execution.devices import choose_device
        from open_set_fer.benchmark.execution.task_run import TaskRun

        device = choose_device(self.options.device, self.threads)
        results, key = self.home / "results", self.cell.key

        def task_run() -> TaskRun:
            return TaskRun.of(self.cell, self.faces, self.home, device, talk.progress, self.options.store)

        if self.model_alone:
            run = task_run()
            run.context.make_closed_set_model(run.task)
            return JobResult("done")
        try:
            with filelock.FileLock(results / f"{key}.lock", blocking=False):
                if (results / key).is_dir():
                    return JobResult("there")
                with _marked(talk, self.mark):
                    listener = talk.is_to_stop if self.listens else None
                    result = task_run().compute(results / key, self.record, self.options, listener)
                    return JobResult("done", metrics=result.metrics)
        except filelock.Timeout:
            return JobResult("held")
        except Pruned as pruned:
            return JobResult("pruned", metrics={"epoch": float(pruned.epoch)})


@contextlib.contextmanager
def _marked(talk: Talk, path: Path) -> Iterator[None]:
    write_mark(path)
    talk.mark = path
    try:
        yield
    finally:
        talk.mark = None
        path.unlink(missing_ok=True)
