"""A method in a package of its own: a small gap between the two highest logits means unknown."""

from dataclasses import dataclass

import numpy as np

from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.ranges import Share


@dataclass(frozen=True)
class Margin:
    """Small gap between the two highest logits = unknown."""

    name = "margin"
    version = 1  # raise it whenever the numbers change

    highest_weight: Share = 0.0
    """How much the highest logit itself counts next to the gap."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by the closed-set model's margin."""
        model = context.closed_set_model(task)
        second, highest = np.sort(model.test_logits, axis=1)[:, -2:].T
        return Detection(second - highest - self.highest_weight * highest, model.pseudo_labels)
