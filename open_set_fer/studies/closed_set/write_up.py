"""Effect of the closed-set model on each method: the plain recipe against the tuned one."""

from __future__ import annotations

from pathlib import Path

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.compare import compare_results
from open_set_fer.reports.data.results import load

PROFILES = ("ferplus-cpu-plain", "ferplus-cpu")


def write(home: Path, out: Path) -> Path:
    """Write out/closed_set/compare.md from the MLflow store of `home`; SuiteError without a shared finished cell."""
    plain, tuned = (load(Tracker(home, name, create=False)) for name in PROFILES)
    return compare_results(plain, tuned, PROFILES).write(out / "closed_set")
