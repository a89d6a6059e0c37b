"""The cheapest method, in a module of its own: a cell's process imports what its method's module does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from open_set_fer.methods.contract import Detection


@dataclass(frozen=True)
class Null:
    """Scores without a thought."""

    name = "null"
    version = 1

    number: int = 0

    def detect(self, task: Any, context: Any) -> Detection:
        count = len(task.test_images)
        return Detection(np.random.default_rng(self.number).random(count), np.zeros(count, dtype=np.int64))
