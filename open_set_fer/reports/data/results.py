"""From MLflow to one row a cell: data set, open classes, method label and seed; `cell_key` also covers the settings.

- Planned: the latest plan says which cell_key is shown and under which label; one run may serve two labels with equal
  settings. A finished run with that key counts before a failed one; without either the cell is missing, whatever ran
  with other settings: a warning says so.
- In no plan (it was lost): the newest finished run, else the newest failed one, under its own label, unless shown
  already.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from open_set_fer.benchmark.protocols.pool import SHIFT
from open_set_fer.benchmark.protocols.pseudo_labels import LABELS, Labels
from open_set_fer.benchmark.storage.mlflow_reader import COORDINATES
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.frame import (
    ENVIRONMENT,
    FACTS,
    FAILED,
    FAMILY_ORDER,
    FINISHED,
    MISSING,
    OWN,
    PAPER_METHODS,
    method_order,
    protocol_fields,
    protocol_order,
    run_columns,
    typed_frame,
)
from open_set_fer.reports.data.names import method_name
from open_set_fer.reports.data.run_warnings import Key, Warn, coordinates, warnings_on

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Run
    from numpy.typing import NDArray

__all__ = ["ENVIRONMENT", "FACTS", "FAILED", "FAMILY_ORDER", "FINISHED", "MISSING", "OWN", "PAPER_METHODS", "Results"]
__all__ += ["load", "method_order", "protocol_fields", "protocol_order", "typed_frame"]


@dataclass(frozen=True)
class Results:
    """Results that reports show.

    cells: one row a planned or logged cell, with the columns of `COLUMNS` and its metrics by MLflow name.
    params: settings by run id. labels: the pseudo-label setting of all cells; None before `under`. left_out: methods
    that `under` left out, by data set. whole: the cells of every pseudo-label setting, after `under`. areas: computed
    from scores once a run.
    """

    profile: str
    experiment_id: str
    cells: pd.DataFrame
    params: dict[str, dict[str, str]]
    warnings: tuple[Warn, ...]
    tracker: Tracker
    labels: Labels | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)
    whole: pd.DataFrame | None = None
    areas: dict[tuple[str, str, str], Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def results(self) -> pd.DataFrame:
        """The cells that have a run."""
        return self.cells[self.cells["status"] != MISSING]

    @cached_property
    def regimes(self) -> list[Labels]:
        """The pseudo-label settings of the cells."""
        present = set(self.cells.loc[self.cells["protocol"] != SHIFT, "labels"]) or {"own"}
        return [labels for labels in LABELS if labels in present]

    def under(self, labels: Labels) -> Results:
        """The cells of one pseudo-label setting; those of closed faces with a shift belong to none (`shifted`).

        Under another setting than own labels, methods whose cells did not read the labels are left out: their numbers
        are those of own labels, or meaningless in a control.
        """
        cells = self.cells[(self.cells["labels"] == labels) & (self.cells["protocol"] != SHIFT)]
        left_out: dict[str, list[str]] = {}
        if labels != "own":
            for (dataset, method), reads in cells.groupby(["dataset", "method"], sort=False)["reads_labels"]:
                if "false" in set(reads) and "true" not in set(reads):
                    left_out.setdefault(str(dataset), []).append(str(method))
        for dataset, methods in left_out.items():
            cells = cells[(cells["dataset"] != dataset) | ~cells["method"].isin(methods)]
        return replace(self, cells=cells, labels=labels, left_out=left_out, whole=self.every_cell)

    @property
    def shifted(self) -> pd.DataFrame:
        """The cells of closed faces with a shift."""
        return self.every_cell[self.every_cell["protocol"] == SHIFT]

    @property
    def every_cell(self) -> pd.DataFrame:
        """The cells of every pseudo-label setting."""
        return self.cells if self.whole is None else self.whole

    def states(self, label: str, fact: str) -> bool:
        """Whether the method behind a label states one of `FACTS`."""
        return bool(self.every_cell.loc[self.every_cell["method"] == label, fact].any())

    def title(self, label: str) -> str:
        """Display name of a method's label."""
        cells = self.every_cell
        return str(next(iter(cells.loc[cells["method"] == label, "title"]), method_name(label)))

    @cached_property
    def datasets(self) -> list[str]:
        """Data set names in planned order."""
        return list(dict.fromkeys(self.cells["dataset"]))

    @cached_property
    def demonstrations(self) -> set[str]:
        """Data sets whose results say nothing about real faces."""
        return set(self.cells.loc[self.cells["demonstration"], "dataset"])

    def of(self, dataset: str) -> pd.DataFrame:
        """The cells of a data set."""
        return self.cells[self.cells["dataset"] == dataset]

    def methods(self, dataset: str) -> list[str]:
        """Method labels in the tables' order: inductive methods, then transductive ones."""
        return self.in_blocks(method_order(self.of(dataset)["method"]))

    def in_blocks(self, labels: Iterable[str]) -> list[str]:
        """The same labels, those of transductive methods last."""
        return sorted(labels, key=lambda label: self.states(label, "sees_pool"))

    def warnings_for(self, dataset: str, methods: Iterable[str]) -> list[Warn]:
        """The warnings on any of these methods."""
        concerned = set(methods)
        return [warn for warn in self.warnings if warn.dataset == dataset and concerned & set(warn.methods)]

    def scores(self, run_id: str) -> pd.DataFrame | None:
        """A run's scores.parquet, one row a test image; None when the artifact is gone."""
        from mlflow.exceptions import MlflowException

        try:
            return self.tracker.read_scores(run_id)
        except (MlflowException, OSError):
            return None

    def features(self, run_id: str) -> tuple[NDArray[np.str_], NDArray[np.float32]] | None:
        """Ids and features of a run's test faces; None when the artifact is gone or damaged."""
        from mlflow.exceptions import MlflowException

        try:
            return self.tracker.read_features(run_id)
        except (MlflowException, OSError, SuiteError):
            return None


def load(tracker: Tracker) -> Results:
    """Read an experiment; raises SuiteError when it holds no finished cell, or none with planned settings."""
    runs, outdated = tracker.cells(), tracker.outdated()
    finished = sum(run.info.status == "FINISHED" for run in runs)
    if not finished:
        if outdated:
            raise SuiteError(
                f"every finished cell of profile {tracker.profile!r} was measured by another version of the evaluation",
                "run `osfer reevaluate` with the same --profile: it computes nothing again",
            )
        failed = f" ({len(runs)} failed)" if runs else ""
        raise SuiteError(
            f"profile {tracker.profile!r} has no finished cell{failed} in {tracker.uri}",
            "run `osfer run` with the same --profile first, or set MLFLOW_TRACKING_URI to the store that has them",
        )
    planned = {coordinates(cell): cell for cell in tracker.planned()}
    plan = {place: cell.get("cell_key") for place, cell in planned.items()}
    shown = _shown(plan, runs)
    if not shown:
        raise SuiteError(
            f"none of the {finished} finished cells of profile {tracker.profile!r} has the settings of its latest plan",
            "run `osfer run` with the same --profile: it computes the planned ones",
        )
    rows = [
        dict(zip(COORDINATES, place, strict=True))
        | protocol_fields(planned.get(place) or shown[place].data.tags)
        | (run_columns(shown[place]) if place in shown else {"status": MISSING})
        for place in dict.fromkeys([*plan, *shown])
    ]
    params = {run.info.run_id: dict(run.data.params) for run in shown.values()}
    cells = typed_frame(rows, params)
    warnings = warnings_on(tracker.profile, cells, plan, shown, runs, outdated)
    return Results(tracker.profile, tracker.experiment_id, cells, params, warnings, tracker)


def _shown(plan: dict[Key, str | None], runs: list[Run]) -> dict[Key, Run]:
    """The run shown for each coordinate; runs: oldest first."""
    by_key: dict[str, Run] = {}
    loose: dict[Key, Run] = {}
    for run in sorted(runs, key=lambda run: run.info.status == "FINISHED"):  # a finished one overwrites a failed one
        by_key[run.data.tags.get("cell_key", "")] = run
        loose[coordinates(run.data.tags)] = run
    shown = {
        place: by_key[key] if key else loose[place]
        for place, key in plan.items()
        if (key in by_key if key else place in loose)
    }
    used = {run.info.run_id for run in shown.values()}
    return shown | {key: run for key, run in loose.items() if key not in plan and run.info.run_id not in used}
