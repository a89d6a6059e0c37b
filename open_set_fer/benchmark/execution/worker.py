"""A cell in a process of its own: what ends that process, whatever it is, is that cell's failure and nobody else's.

The process reads its job from standard input and ends when that is closed, that is, with the process that started it.
Imported by workers, which only start and watch such processes: free of torch until a job runs.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import filelock

from open_set_fer.benchmark.storage.marks import mark_path, write_mark
from open_set_fer.console import log
from open_set_fer.errors import summary

if TYPE_CHECKING:
    from open_set_fer.benchmark.planning.cells import Cell
    from open_set_fer.datasets.faceset import FaceSet

State = Literal["done", "held", "there", "failed", "ended"]
COMMAND = (
    sys.executable,
    "-P",
    "-X",
    "faulthandler",
    "-c",
    "from open_set_fer.benchmark.execution.worker import main; main()",
)
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
WATCHED_EVERY = 0.1
"""Seconds between two looks at the process."""
KEPT_OUTPUT = 4000
"""Characters of what a process that died had printed last."""
_SIZE = 8


@dataclass(frozen=True)
class Answer:
    """What became of a job.

    state: 'done'; 'held' by another process; 'there': its result was on disk already; 'failed': the method raised; 'ended':
    the process did not end by itself. error, text: in one line, and the traceback or what the process printed last.
    said: its log records, (level, message). metrics: of a computed cell.
    """

    state: State
    error: str = ""
    text: str = ""
    said: list[tuple[int, str]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A cell to compute, or with `model_alone` only its closed-set model, and where."""

    cell: Cell
    faces: FaceSet
    home: Path
    device: str
    threads: int
    store: str = ""
    model_alone: bool = False
    keep_features: bool = False
    keep_model: bool = False

    def run(self) -> Answer:
        """In this process; exceptions are part of the answer."""
        from open_set_fer.benchmark.execution.devices import choose_device
        from open_set_fer.benchmark.execution.task_run import Workplace

        gc.enable()
        device = choose_device(self.device, self.threads)
        results, key = self.home / "results", self.cell.key
        if self.model_alone:
            Workplace.of(self.cell, self.faces, self.home, device, self.store).make_closed_set_model()
            return Answer("done")
        try:
            with filelock.FileLock(results / f"{key}.lock", blocking=False):
                if (results / key).is_dir():
                    return Answer("there")
                with _marked(mark_path(results, key)):
                    workplace = Workplace.of(self.cell, self.faces, self.home, device, self.store)
                    return Answer(
                        "done",
                        metrics=workplace.compute(
                            self.cell, results / key, self.keep_features, keep_model=self.keep_model
                        ).metrics,
                    )
        except filelock.Timeout:
            return Answer("held")


def in_own_process(job: bytes, threads: int, timeout: float | None, folder: str) -> Answer:
    """Run a pickled job in a new process with that many threads, and wait for it.

    timeout: seconds, then it is ended. folder: where paths start, if this machine has it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="osfer-") as place:
            answer, printed = Path(place, "answer.json"), Path(place, "printed.txt")
            with printed.open("wb") as output:
                process = subprocess.Popen(
                    [*COMMAND, str(answer)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    cwd=folder if os.path.isdir(folder) else None,
                    start_new_session=True,
                    env={**os.environ, **dict.fromkeys(THREADS, str(threads))},
                )
            try:
                _hand_over(process, job)
                end = None if timeout is None else time.monotonic() + timeout
                while process.poll() is None:
                    if end is not None and time.monotonic() > end:
                        error = f"not done after {timeout:g} s (--cell-timeout), so its process was ended"
                        return Answer("ended", error, _last(printed) or error)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(WATCHED_EVERY)
            finally:
                _end(process)
            if answer.exists():
                values = json.loads(answer.read_text("utf-8"))
                return Answer(**values | {"said": [(level, text) for level, text in values["said"]]})
            error = f"its process {_how(process.returncode)}"
            return Answer("ended", error, f"{error}\n{_last(printed)}")
    except Exception as error:  # no room for the process or its output
        return Answer("failed", f"its process could not be started: {summary(error)}", traceback.format_exc())


def main() -> None:
    """The process: read the job, run it, write the answer."""
    with contextlib.suppress(OSError):  # Linux: where memory ends, this process is to go, not the run
        Path("/proc/self/oom_score_adj").write_text("500")
    given = sys.stdin.buffer
    job = given.read(int.from_bytes(given.read(_SIZE), "big"))
    gc.disable()  # while modules are imported, which leave no garbage: a seventh of that time
    threading.Thread(target=_end_with_starter, args=(given.fileno(),), daemon=True).start()
    records = _Records()
    log.addHandler(records)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        answer = pickle.loads(job).run()
    except BaseException as error:  # sys.exit() in a method is that cell's failure
        answer = Answer("failed", summary(error), traceback.format_exc())
    path = Path(sys.argv[1])
    path.with_suffix(".new").write_text(json.dumps({**asdict(answer), "said": records.said}), "utf-8")
    os.replace(path.with_suffix(".new"), path)
    os._exit(0)  # what a method left running must not keep the process


_mark: list[Path] = []
"""Of the cell that this process computes."""


@contextlib.contextmanager
def _marked(path: Path) -> Iterator[None]:
    write_mark(path)
    _mark.append(path)
    try:
        yield
    finally:
        _mark.clear()
        path.unlink(missing_ok=True)


def _end_with_starter(handle: int) -> None:
    """When the process that started this one is gone, the run was stopped: the cell did nothing wrong, so no mark stays."""
    while os.read(handle, 1):
        pass
    for mark in _mark:
        mark.unlink(missing_ok=True)
    os.killpg(0, signal.SIGKILL)


class _Records(logging.Handler):
    """Keeps what is logged, for the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelno, record.getMessage()))


def _hand_over(process: subprocess.Popen[bytes], job: bytes) -> None:
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):  # it died at once: told by its exit code
            process.stdin.write(len(job).to_bytes(_SIZE, "big") + job)
            process.stdin.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and those that it started, if any are left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended itself with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"was killed by {name}" + " (out of memory?)" * (name == "SIGKILL")


def _last(printed: Path) -> str:
    return printed.read_text("utf-8", errors="replace")[-KEPT_OUTPUT:].strip()
