"""One job in its own process: whatever ends that process is that job's failure alone.

The process is forked from a server that has imported torch and nothing of the run's state (`spawn` where fork is
unsafe). It ends when its starter closes the pipe between them, or dies.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_set_fer.benchmark.execution.job import JobResult, Talk
from open_set_fer.benchmark.execution.signals import end_group
from open_set_fer.benchmark.storage.results_dir import remove_mark
from open_set_fer.console import Bar, log
from open_set_fer.errors import summary

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

PRELOADED = ["open_set_fer.benchmark.execution.preloaded"]
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
WAITING = "OMP_WAIT_POLICY", "PASSIVE"
"""Threads of torch sleep while they wait for each other. By default they spin: on cores that other processes use, an
epoch of two threads took ten times as long. torch reads it when it is loaded."""
WATCHED_EVERY = 0.1
"""Seconds between two looks at the process."""
KEPT_OUTPUT = 4000
"""Characters kept of what a process that died had printed last."""


def in_child(
    job: Any,
    timeout: float | None = None,
    stopping: threading.Event | None = None,
    listener: Callable[[int, float], bool] | None = None,
    folder: str = "",
) -> JobResult:
    """Run `job.run(talk)` in a new process, and wait for its result.

    timeout: seconds, then the process is ended. stopping: ends it once it is set. listener: decides after an epoch.
    folder: working directory, if this machine has it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="osfer-") as place:
            printed = Path(place, "printed.txt")
            pipe, process = _started(job, str(printed), folder or os.getcwd())
            try:
                result = _watched(
                    pipe, process, timeout, stopping or threading.Event(), listener, getattr(job, "title", "job")
                )
            finally:
                pipe.close()
                number = process.pid
                code = _ended(process)
                if mark := getattr(job, "mark", None):
                    remove_mark(mark, number)
            if result is not None:
                if result.state == "failed" and not result.text:
                    return JobResult("failed", result.error, _last(printed) or result.error)
                return result
            error = f"its process {_how(code)}"
            return JobResult("failed", error, f"{error}\n{_last(printed)}")
    except Exception as error:  # no room for the process or its output
        return JobResult("failed", f"its process could not be started: {summary(error)}", traceback.format_exc())


_starting = threading.Lock()
"""Held while a process is started or reaped: multiprocessing keeps its list of children without a lock."""


def _context() -> multiprocessing.context.BaseContext:
    os.environ.setdefault(*WAITING)  # the new process, or the server that forks it, loads torch
    if sys.platform in ("win32", "darwin"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _started(job: Any, printed: str, folder: str) -> tuple[Connection, BaseProcess]:
    """The starter's end of the pipe, and the process."""
    threads = getattr(job, "threads", None)
    environment = {**os.environ, **(dict.fromkeys(THREADS, str(threads)) if threads else {})}
    content = pickle.dumps(job)
    with _starting, _without_main():
        context = _context()
        ours, theirs = context.Pipe()
        process = context.Process(target=_main, args=(theirs, content, environment, folder, printed), daemon=False)  # type: ignore[attr-defined]
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
    return ours, process


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """The process does not run the caller's script a second time: what it needs lies in modules."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _watched(
    pipe: Connection,
    process: BaseProcess,
    timeout: float | None,
    stopping: threading.Event,
    listener: Callable[[int, float], bool] | None,
    title: str,
) -> JobResult | None:
    """The job's result; None if the process ended without one."""
    end = None if timeout is None else time.monotonic() + timeout
    with Bar(title) as bar, contextlib.suppress(EOFError, ConnectionResetError):
        while not stopping.is_set():
            if end is not None and time.monotonic() > end:
                return JobResult("failed", f"not done after {timeout:g} s (--cell-timeout), so its process was ended")
            if not pipe.poll(WATCHED_EVERY):
                continue
            kind, *content = pipe.recv()
            if kind == "progress":
                bar.show(*content)
            elif kind == "epoch":
                pipe.send(bool(listener and listener(*content)))
            else:
                result: JobResult = content[0]
                return result
    return None


def _ended(process: BaseProcess) -> int | None:
    """End the process with everything that it started; its exit code, negative for a signal."""
    end_group(process.pid)
    with _starting:
        process.kill()  # if it leads no group yet
        process.join(10)
        code = process.exitcode
        with contextlib.suppress(ValueError):
            process.close()
    return code


def _main(pipe: Connection, content: bytes, environment: Mapping[str, str], folder: str, printed: str) -> None:
    """The process: set what it must not inherit, run the job, send its result."""
    os.setsid()
    with contextlib.suppress(OSError):  # Linux: where memory ends, this process is to go, not the run
        Path("/proc/self/oom_score_adj").write_text("500")
    output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable(2)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    with contextlib.suppress(OSError):
        os.chdir(folder)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    records = _Records()
    log.addHandler(records)
    log.setLevel(logging.WARNING)
    log.propagate = False
    talk = Talk(pipe)
    try:
        result = pickle.loads(content).run(talk)
    except BaseException as error:  # sys.exit() in a method is that cell's failure
        result = JobResult("failed", summary(error), traceback.format_exc())
    talk.send("result", JobResult(result.state, result.error, result.text, records.said, result.metrics))
    sys.stdout.flush()
    os._exit(0)  # what a method left running must not keep the process


class _Records(logging.Handler):
    """Keeps what is logged, for the result."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelno, record.getMessage()))


def _how(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"ended itself with exit code {code}" if code else "ended without an answer"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + " (out of memory?)" * (code == -signal.SIGKILL)


def _last(printed: Path) -> str:
    with contextlib.suppress(OSError):
        return printed.read_text("utf-8", errors="replace")[-KEPT_OUTPUT:].strip()
    return ""
