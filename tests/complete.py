"""Cells of the smoke profile, computed for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open_set_fer.benchmark.execution.runner import Outcome, Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile


def run_smoke(home: Path, prepared: Path, **selection: Any) -> Outcome:
    """Run cells of the smoke profile; prepared: a home with the data set."""
    profile = load_profile("smoke")
    cells, faces = make_plan(profile, Selection(**selection), prepared / "cache")
    return Runner(home, profile).run(cells, faces, "osfer run")
