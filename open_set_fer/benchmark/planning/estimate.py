"""Estimated time of a plan: measured where cells of the kind are finished, else by a rule of thumb."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.console import duration
from open_set_fer.datasets.faceset import Outline
from open_set_fer.methods.shared.recipe import BackboneSettings

STEP = {"small": (0.5, 48), "shallow": (0.2, 48), "resnet18": (250.0, 224), "resnet50": (600.0, 224)}
"""Milliseconds that one core takes to learn one image of so many pixels a side ('small', 'shallow': at width 16)."""
MOST_CORES = 8
"""More cores hardly shorten the training of these networks."""
FACTOR = 5
"""The rule of thumb is wrong by at most so much, upwards or downwards, on most machines."""
START = 1.5
"""Seconds of a cell or training besides: its process, its scores, MLflow."""
TRAINED_SHARE, METHOD_PASSES = 0.8, 1.5
"""Of a data set: images that a closed-set model learns in an epoch, and images that a method learns in its epoch."""


def estimate(
    missing: list[Cell],
    seconds: Mapping[tuple[str, str], Sequence[float]],
    outlines: Mapping[str, Outline],
    models: Path,
) -> str:
    """Text on the time of the missing cells and of the closed-set models that they lack.

    seconds: of the finished cells, by (data set, method). models: folder of the trained closed-set models.
    """
    known = [seconds[pair] for cell in missing if (pair := (cell.dataset, cell.label)) in seconds]
    measured = sum(sum(values) / len(values) for values in known)
    new = [cell for cell in missing if (cell.dataset, cell.label) not in seconds]
    files = {cell.closed_set_key: cell for cell in missing}
    untrained = [cell for key, cell in files.items() if not (models / f"{key}.safetensors").exists()]
    parts = [f"about {duration(measured)} by finished cells of the same kind"] if known else []
    kinds = [f"{len(untrained)} closed-set models"] * bool(untrained) + [f"{len(new)} cells of new kinds"] * bool(new)
    if not kinds:
        return ", ".join(parts)
    what = " and ".join(kinds)
    if not all(outlines[cell.dataset].images for cell in (*untrained, *new)):
        return ", ".join([*parts, f"{what} with nothing to estimate from"])
    cores = os.cpu_count() or 1
    rough = sum(_training(cell, outlines[cell.dataset]) for cell in untrained)
    rough += sum(_method(cell, outlines[cell.dataset]) for cell in new)
    rough = rough / min(cores, MOST_CORES) + START * (len(untrained) + len(new))
    thumb = f"by a rule of thumb for {cores} idle cores, right within a factor of {FACTOR}; less with a GPU"
    return ", ".join([*parts, f"roughly {duration(_rounded(rough))} for {what} ({thumb})"])


def _training(cell: Cell, outline: Outline) -> float:
    """Seconds of one core for a cell's closed-set model; 0 where the profile gives a trained one."""
    recipe = cell.recipe.closed_set
    epochs = 0 if recipe.model else recipe.epochs
    return TRAINED_SHARE * outline.images * epochs * _step(cell.recipe.backbone, outline)


def _method(cell: Cell, outline: Outline) -> float:
    """Seconds of one core for a cell without its closed-set model: its own epochs, and scoring."""
    epochs = getattr(cell.method, "epochs", 0)
    passes = METHOD_PASSES * epochs if isinstance(epochs, int) else 0
    return (passes + 0.3) * outline.images * _step(cell.recipe.own_backbone or cell.recipe.backbone, outline)


def _step(backbone: BackboneSettings, outline: Outline) -> float:
    """Seconds of one core to learn one image."""
    milliseconds, side = STEP.get(backbone.name, STEP["resnet18"])
    pixels = (backbone.input.size or math.sqrt(outline.bytes / outline.images)) ** 2  # of three channels: within FACTOR
    width = backbone.width / 16 if backbone.name in ("small", "shallow") else 1.0
    return milliseconds / 1000 * width**2 * pixels / side**2


def _rounded(seconds: float) -> float:
    """Seconds to one digit of the unit in which they are said."""
    unit = 86_400 if seconds > 3 * 86_400 else 3600 if seconds > 90 * 60 else 60 if seconds > 90 else 1
    return unit * round(seconds / unit, -math.floor(math.log10(max(seconds / unit, 1.0))))
