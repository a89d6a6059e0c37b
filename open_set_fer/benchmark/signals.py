"""SIGTERM and SIGHUP, which end a run as Ctrl-C does."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from open_set_fer.errors import Stopped


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], None]]:
    """SIGTERM and SIGHUP stop the run as Ctrl-C does, by raising Stopped; yields what to call when closing begins.

    Once it has begun, a signal does not disturb the closing for ten seconds; so the handlers stay after a stop.
    """
    last, closing = -math.inf, False

    def stop(number: int, frame: FrameType | None) -> None:
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
