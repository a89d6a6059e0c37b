"""SIGTERM and SIGHUP, which end a run as Ctrl-C does, and what a signal may interrupt."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from open_set_fer.errors import Stopped

SENT_AGAIN_AFTER = 3.0
"""Seconds: what a signal raises may be swallowed, in torch's imports for one, and what it waits for may hang."""


class Stop:
    """Whether a signal asked the run to stop, and whether its closing has begun.

    What is computed is interrupted `at_once`. All else, above all a write to MLflow or Optuna, comes to its end first, for
    SENT_AGAIN_AFTER at most: one interrupted within SQLAlchemy leaves a transaction open that keeps this process, too, from the
    store. An impatient second Ctrl-C changes nothing in that.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.closing = False
        self._last = -math.inf
        self._at_once = False
        self._waits_until = math.inf

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of the signals; once the closing has begun, it does not disturb that for ten seconds."""
        if self.closing and time.monotonic() - self._last < 10:
            return
        self._last, self.number = time.monotonic(), number
        if not self._at_once:
            self._waits_until = min(self._waits_until, self._last + SENT_AGAIN_AFTER)
        if not self.closing:
            again = threading.Timer(SENT_AGAIN_AFTER, self._send_again)
            again.daemon = True
            again.start()
        if self._at_once or self._last >= self._waits_until:
            raise Stopped(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What may be interrupted anywhere."""
        self.again()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def again(self) -> None:
        """Raise what waits, or what somebody has swallowed."""
        if self.number is not None and not self.closing:
            raise Stopped(self.number)

    def _send_again(self) -> None:
        if self.number is not None and not self.closing:
            os.kill(os.getpid(), self.number)


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """SIGTERM and SIGHUP stop the run as Ctrl-C does, by raising Stopped; set `closing` of what is yielded when it closes.

    The handlers stay after a stop, for the closing. A signal that nothing has raised by the end is raised then.
    """
    stop = Stop()
    # Python admits handlers in the main thread alone; a signal that is ignored (nohup) stays so.
    wanted = (
        (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    )
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, stop)
    say_unraisable = sys.unraisablehook

    def say_others(fault: sys.UnraisableHookArgs) -> None:
        """A signal may come where Python can raise nothing, as in a destructor: it is sent again, and no fault."""
        if not isinstance(fault.exc_value, Stopped):
            say_unraisable(fault)

    sys.unraisablehook = say_others
    try:
        yield stop
    finally:
        if stop.number is None:
            sys.unraisablehook = say_unraisable
        for number, handler in before.items() if stop.number is None else ():
            if handler is not None:
                signal.signal(number, handler)
    if stop.number is not None:
        raise Stopped(stop.number)
