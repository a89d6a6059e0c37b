"""A detector that is made in a moment."""

from __future__ import annotations

from pathlib import Path

from open_set_fer.benchmark.storage.detectors import Source, describe_scorer, write_detector
from open_set_fer.methods.baseline import Baseline
from open_set_fer.testing import task_and_context


def untrained_detector(place: Path) -> Path:
    """A detector with an untrained network, whose threshold divides its scores; the folder that it lies in."""
    task, context, _ = task_and_context()
    scorer = Baseline().detect(task, context).scorer
    source = Source(dataset="bars", fingerprint="f", open_classes=[], seed=0, key="k", closed_set_key="c")
    classes = ("<b>low</b>", "middle", "high")
    description = describe_scorer(scorer, Baseline(), "baseline", classes, (1, 24, 24), source)
    write_detector(place, description.model_copy(update={"threshold": -0.4}), scorer)
    return place
