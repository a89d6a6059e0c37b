"""One console for log lines and progress bars, so that neither overwrites the other.

Bars appear on stderr and only on a terminal; log lines pass through the same rich console, which prints them above
the bars. Labels, classes and errors may contain `[...]` or `:M:`, so no console interprets markup or emoji codes.
"""

from __future__ import annotations

import io
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from open_set_fer.errors import masked

T = TypeVar("T")
console = Console(stderr=True, markup=False, emoji=False)
out = Console(markup=False, emoji=False)
"""Standard output, for scripts: results and tables."""
log = logging.getLogger("open_set_fer")
_live: list[Progress] = []


def print_what_the_terminal_can() -> None:
    """Print question marks for characters that stdout or stderr cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def set_up_logging(verbose: bool = False) -> None:
    """Send the suite's log lines (and other libraries' warnings) through the console."""
    handler = RichHandler(console=console, show_path=False, rich_tracebacks=False, markup=False, log_time_format="[%X]")
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    handler.setFormatter(_Masking("%(message)s"))
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
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
    """Live area of progress bars; nested calls share the outer one."""
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
    )
    with progress:
        _live.append(progress)
        try:
            yield progress
        finally:
            _live.pop()


def track(steps: Iterable[T], description: str, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Iterate with a progress bar; `done` steps were finished by an earlier attempt."""
    if total is None and isinstance(steps, Sized):
        total = len(steps)
    with bars() as progress:
        task = progress.add_task(description, total=total, completed=done)
        try:
            for step in steps:
                yield step
                progress.advance(task)
        finally:
            progress.remove_task(task)
