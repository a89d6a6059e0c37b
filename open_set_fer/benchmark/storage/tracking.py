"""The names under which callers know the MLflow store of a profile."""

from open_set_fer.benchmark.storage.mlflow_reader import (
    COORDINATES,
    KIND,
    Finished,
    experiment_link,
    read_notes,
    run_link,
    stored_experiments,
)
from open_set_fer.benchmark.storage.mlflow_writer import Tracker

__all__ = [
    "COORDINATES",
    "KIND",
    "Finished",
    "Tracker",
    "experiment_link",
    "read_notes",
    "run_link",
    "stored_experiments",
]
