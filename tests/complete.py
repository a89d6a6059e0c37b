"""Cells of the smoke profile, computed for a test; what is finished in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open_set_fer.benchmark.execution.pending import Outcome
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.mlflow_writer import Tracker


def run_smoke(home: Path, prepared: Path, **selection: Any) -> Outcome:
    """Run cells of the smoke profile; prepared: a home with the data set."""
    profile = load_profile("smoke")
    cells, faces = make_plan(profile, Selection(**selection), prepared / "cache")
    return Runner(home, profile).run(cells, faces, "osfer run")


def finished_cells(tracker: Tracker) -> dict[str, dict[str, float]]:
    """Metrics of every finished cell of the present evaluation by cell_key."""
    return {run.data.tags["cell_key"]: run.data.metrics for run in tracker.cells() if run.info.status == "FINISHED"}
