"""The way to MLflow for a run that goes on while the tracking server is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from open_set_fer.benchmark.storage.connection import brief_requests, called, public_address, tracking_wait
from open_set_fer.benchmark.storage.tracking import Tracker
from open_set_fer.console import log
from open_set_fer.errors import TrackingAway, summary

T = TypeVar("T")


class Outbox:
    """Asks and tells the tracker; an absent server is asked again now and then, briefly, and never waited for twice."""

    def __init__(self, home: Path, profile: str) -> None:
        """Wait for the server once, for as long as `tracking_wait()` says."""
        self._home, self._profile = home, profile
        self._tracker: Tracker | None = None
        self._absence: TrackingAway | None = None
        self._next_try = 0.0
        try:
            self._tracker = Tracker(home, profile)
        except TrackingAway as error:
            self._lost(error)

    @property
    def away(self) -> bool:
        """Whether the server did not answer the last time it was asked."""
        return self._absence is not None

    @property
    def tracker(self) -> Tracker:
        """The tracker; raises TrackingAway where the server has never answered."""
        if self._tracker is None:
            raise self._absence or TrackingAway("the tracking server does not answer")
        return self._tracker

    def ask(self, question: Callable[[Tracker], T], otherwise: T) -> T:
        """`question(tracker)`, or `otherwise` while the server is away; other errors pass."""
        if self.away and time.monotonic() < self._next_try:
            return otherwise
        try:
            with brief_requests() if self.away else nullcontext():
                self._tracker = self._tracker or Tracker(self._home, self._profile, wait=0)
                answer = question(self._tracker)
        except TrackingAway as error:
            self._lost(error)
            return otherwise
        except Exception as error:
            if self._tracker is None:  # it was away from the start, and what answers now is no store yet
                self._lost(TrackingAway(summary(error)))
                return otherwise
            if self._answers():
                self._back()
                raise
            uri = self.tracker.uri
            self._lost(TrackingAway(f"{called(uri)} {public_address(uri)} does not answer"))
            return otherwise
        self._back()
        return answer

    def knock(self) -> None:
        """Ask an absent server now, even if it was asked a moment ago."""
        self._next_try = 0.0
        self.ask(lambda tracker: tracker.ping(), None)

    def _answers(self) -> bool:
        try:
            self.tracker.ping()
        except Exception:
            return False
        return True

    def _lost(self, error: TrackingAway) -> None:
        if not self.away:
            log.warning(
                "%s; the run goes on without it: results are kept on disk and logged when it answers", error.message
            )
        self._absence = error
        self._next_try = time.monotonic() + max(1.0, tracking_wait())

    def _back(self) -> None:
        if self.away:
            log.info("%s answers again", called(self.tracker.uri))
        self._absence = None
