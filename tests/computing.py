"""Cells computed in the test's own process, without a runner."""

from __future__ import annotations

from pathlib import Path

import torch

from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.task_run import TaskRun
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.storage.results_dir import Record
from open_set_fer.datasets.faceset import FaceSet


def compute(cell: Cell, profile: Profile, faces: FaceSet, home: Path, folder: Path | None = None, **keep) -> TaskRun:
    """Compute a cell into `folder`, by default its place in the home; its run."""
    run = TaskRun.of(cell, faces, home, torch.device("cpu"))
    run.compute(folder or home / "results" / cell.key, Record.of(cell, profile, faces), RunOptions(**keep))
    return run
