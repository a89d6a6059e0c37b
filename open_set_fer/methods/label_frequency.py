"""Label frequency: how rare the assigned label is in the pool. No face is looked at, nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from open_set_fer.methods.contract import Context, Detection, OpenSetTask


@dataclass(frozen=True)
class LabelFrequency:
    """Reference without a look at any face: s = -log frequency of the image's pseudo label in the pool.

    What it reaches, a method that learns from the labels may owe to their histogram. Within one label it is constant,
    so that sensitivity S and added information are 0.5.
    """

    name = "label-frequency"
    version = 1
    sees_pool, label_based = True, True

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by the count of each pseudo label."""
        model = context.closed_set_model(task)
        labels = model.pseudo_labels
        counts = np.bincount(labels, minlength=len(task.closed_classes))
        return Detection(-np.log(counts[labels] / len(labels)), model.predictions, extras={"pseudo_label": labels})
