"""Complete result folders: each with the tags, params and data of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open_set_fer.benchmark.execution.runner import Outcome, Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.mlflow_writer import Tracker


def run_smoke(home: Path, prepared: Path, **selection: Any) -> Outcome:
    """Run cells of the smoke profile; prepared: a home with the data set."""
    profile = load_profile("smoke")
    cells, faces = make_plan(profile, Selection(**selection), prepared / "cache")
    return Runner(home, profile).run(cells, faces, "osfer run")


def complete(home: Path, profile: str = "smoke") -> None:
    """Write into every result of a home what MLflow has of it."""
    tracker = Tracker(home, profile, uri="")
    for run in tracker.cells():
        result = tracker.read_cell(run)
        (home / "results" / result.tags["cell_key"] / "result.json").write_text(result.to_json())
