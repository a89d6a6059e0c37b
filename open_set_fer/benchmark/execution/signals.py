"""Signals: a run stops at its next safe point; a process is killed with its whole group."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from open_set_fer.errors import Stopped

PATIENCE = 3.0
"""Seconds in which further signals change nothing, so that a write to MLflow or Optuna comes to its end."""
CLOSING = 10.0
"""The same, once the run is closing."""


class Stop:
    """Whether a signal asked the run to stop, and whether its closing has begun."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.closing = False
        self._since = 0.0

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal: the first one is kept for `check`, one after PATIENCE interrupts what hangs."""
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
        elif now - self._since > (CLOSING if self.closing else PATIENCE):
            raise Stopped(number)

    def check(self) -> None:
        """Raise Stopped if a signal asked for it; call it where nothing is half done."""
        if self.number is not None and not self.closing:
            raise Stopped(self.number)


_stop: Stop | None = None


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Inside, SIGINT, SIGTERM and SIGHUP are kept for `Stop.check`; raised at the end if nothing has raised them.

    Set `closing` when the closing begins. Nested uses share the outer one. The handlers stay after a stop.
    """
    global _stop
    if _stop is not None:
        yield _stop
        return
    stop = _stop = Stop()
    # Python admits handlers in the main thread alone; a signal that is ignored (nohup) stays so.
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if is_main else ()
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, stop)
    try:
        yield stop
    finally:
        _stop = None
        if stop.number is None:
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)
    if stop.number is not None:
        raise Stopped(stop.number)


def end_group(number: int | None) -> None:
    """Kill a process that leads a group, with everything in it."""
    if number is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(number, signal.SIGKILL)
