"""Intermediate scores of a training: kept after chosen epochs, or measured at once for a pruner.

A separate thread measures; the method only learns whether to stop.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation.metrics import auroc
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    import pandas as pd

Listener = Callable[[int, float], bool]
"""Gets epoch and the value of the scores after it; returns whether the training is to stop."""
PREFIX = "unknown_score.epoch_"
"""Of a column of scores.parquet with the scores after an epoch; their AUROC is the metric `auroc.epoch_N`."""


class Pruned(BaseException):
    """The listener stops a method; no Exception, so that `except Exception` in a method does not swallow it."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"stopped after epoch {epoch}")
        self.epoch = epoch


class Reading:
    """Intermediate scores of one cell. kept: by epoch."""

    def __init__(self, count: int, epochs: tuple[int, ...] = (), asks: bool = False) -> None:
        """count: of test images. epochs: after which scores are kept. asks: whether a listener is asked each time."""
        self.kept: dict[int, NDArray[np.float64]] = {}
        self._count, self._epochs = count, epochs
        self.questions: SimpleQueue[tuple[int, NDArray[np.float64]] | None] | None = SimpleQueue() if asks else None
        self.answers: SimpleQueue[bool | BaseException] = SimpleQueue()

    def __call__(self, epoch: int, scores: Callable[[], NDArray[np.floating[Any]]]) -> None:
        """Take a report; calls `scores` only if they are used. Raises Pruned, and SuiteError for invalid scores."""
        if epoch not in self._epochs and self.questions is None:
            return
        values = np.array(scores(), dtype=np.float64)
        if values.shape != (self._count,) or not np.isfinite(values).all():
            raise SuiteError(
                f"the scores reported after epoch {epoch} are not {self._count} finite numbers",
                "report one for each test image, in the order of task.test_images",
            )
        if epoch in self._epochs:
            self.kept[epoch] = values
        if self.questions is not None:
            self.questions.put((epoch, values))
            answer = self.answers.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer:
                raise Pruned(epoch)


@contextmanager
def listened(
    reading: Reading, value: Callable[[NDArray[np.float64]], float], listener: Listener | None
) -> Iterator[None]:
    """Let a thread measure what is reported and ask the listener. value: of scores (N,) of the test images."""
    questions = reading.questions
    if questions is None or listener is None:
        yield
        return
    listen = listener

    def measure() -> None:
        while (question := questions.get()) is not None:
            epoch, scores = question
            try:
                reading.answers.put(listen(epoch, value(scores)))
            except BaseException as error:
                reading.answers.put(error)

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    try:
        yield
    finally:
        questions.put(None)
        thread.join()


def columns_of(kept: dict[int, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Intermediate scores as columns of scores.parquet."""
    return {f"{PREFIX}{epoch}": values for epoch, values in sorted(kept.items())}


def epoch_metrics(scores: pd.DataFrame) -> dict[str, float]:
    """`auroc.epoch_N` of each column of intermediate scores."""
    is_open = scores["is_open"].to_numpy(dtype=bool)
    found = {int(m[1]): name for name in scores.columns if (m := re.fullmatch(rf"{re.escape(PREFIX)}(\d+)", str(name)))}
    return {
        f"auroc.epoch_{epoch}": auroc(is_open, scores[name].to_numpy(dtype=np.float64))
        for epoch, name in sorted(found.items())
    }
