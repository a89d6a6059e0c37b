"""One console for log lines and progress bars, so that neither overwrites the other.

Bars appear on stderr and only on a terminal, elsewhere a line every half minute; log lines pass through the same rich
console, which prints them above the bars. Labels, classes and errors may contain `[...]` or `:M:`, so no console
interprets markup or emoji codes.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from open_set_fer.errors import masked

T = TypeVar("T")
console = Console(stderr=True, markup=False, emoji=False)
out = Console(markup=False, emoji=False)
"""Standard output, for scripts: results and tables."""
log = logging.getLogger("open_set_fer")
LINE_EVERY = 30.0
"""Seconds between two lines of progress where stderr is no terminal."""
SPEED_OVER = 600.0
"""Seconds over which a bar measures its speed: an epoch may take minutes."""
_live: list[Progress] = []


def print_what_the_terminal_can() -> None:
    """Print question marks for characters that stdout or stderr cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def set_up_logging() -> None:
    """Send the suite's log lines (and other libraries' warnings) through the console."""
    handler = RichHandler(console=console, show_path=False, rich_tracebacks=False, markup=False, log_time_format="[%X]")
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    handler.setFormatter(_Masking("%(message)s"))
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)


class _Masking(logging.Formatter):
    """Formatter that masks passwords in addresses, of all libraries and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error's traceback with passwords masked, for `sys.excepthook`."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


@contextmanager
def bars() -> Iterator[Progress]:
    """Live area of progress bars, or off a terminal a line every LINE_EVERY seconds; nested calls share the outer."""
    if _live:
        yield _live[-1]
        return
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=SPEED_OVER,
    )
    ended = threading.Event()
    if not console.is_terminal:
        threading.Thread(target=_write_lines, args=(progress, ended), daemon=True).start()
    with progress:
        _live.append(progress)
        try:
            yield progress
        finally:
            _live.pop()
            ended.set()


class Bar:
    """The progress bar of one job: of its present steps, or without an end until there are any."""

    def __init__(self, title: str) -> None:
        self._title, self._steps = title, ""
        self._bars = ExitStack()

    def __enter__(self) -> Bar:
        self._progress = self._bars.enter_context(bars())
        self._task = self._progress.add_task(self._title, total=None)
        return self

    def show(self, description: str, done: int, total: int | None, before: int) -> None:
        """Show how many steps are done; another description takes the bar's place."""
        if description != self._steps:
            self._steps = description
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(f"{self._title} · {description}", total=total, before=before)
        self._progress.update(self._task, completed=done)

    def __exit__(self, *error: object) -> None:
        self._progress.remove_task(self._task)
        self._bars.close()


def _write_lines(progress: Progress, ended: threading.Event) -> None:
    while not ended.wait(LINE_EVERY):
        if parts := [_in_words(task) for task in progress.tasks]:
            log.info("%s", "; ".join(parts))


def _in_words(task: Task) -> str:
    """How far a task is: 'cells 3 of 8, about 12 min left'."""
    elapsed, before = task.elapsed or 0.0, task.fields.get("before", 0)
    if task.total is None:
        return f"{task.description} {duration(elapsed)} so far"
    text = f"{task.description} {task.completed:,.0f} of {task.total:,.0f}"
    if not before < task.completed < task.total:
        return text
    left = elapsed * (task.total - task.completed) / (task.completed - before)
    return f"{text}, about {duration(left)} left"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> [duration(seconds) for seconds in (42, 720, 12_000, 700_000)]
    ['42 s', '12 min', '3 h 20 min', '8 days']
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 60 * 72 else f"{minutes / 1440:.0f} days"


def track(steps: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar."""
    if total is None and isinstance(steps, Sized):
        total = len(steps)
    with bars() as progress:
        task = progress.add_task(description, total=total)
        try:
            for step in steps:
                yield step
                progress.advance(task)
        finally:
            progress.remove_task(task)
