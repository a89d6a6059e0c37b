"""From MLflow to one row a cell.

Coordinates (data set, open classes, method label, seed) name a cell of a table; `cell_key` also covers the settings.

- Planned: the latest plan that names the coordinates says which cell_key is shown and under which label
  (Tracker.planned). One run may serve two labels with equal settings. Of the runs with that key a finished one counts
  before a failed one; without either the cell is missing, whatever ran with other settings: a warning says so.
- In no plan (the plan was lost): the newest finished run, else the newest failed one, under the label that it was
  logged with, unless its run is shown already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from open_set_fer import plugins
from open_set_fer.benchmark.protocols.pseudo_labels import LABELS, Labels, choice_of, labels_of
from open_set_fer.benchmark.protocols.shifts import SHIFT
from open_set_fer.benchmark.storage.features import FEATURES_TAG
from open_set_fer.benchmark.storage.mlflow_reader import COORDINATES, IMPORTED_FROM, read_notes
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from numpy.typing import NDArray

PAPER_METHODS = ("baseline", "eow", "proser", "dias", "ours")
FAMILY_ORDER = ("single", "pairs", "triples", "compound", "contempt")
ENVIRONMENT = ("version", "python", "torch", "cpu", "gpu", "threads")
"""Tags that say with what a cell was computed; runs of older versions lack them."""
DIFFERING = {
    "fingerprint": "the cells shown were computed on {} contents of the data set ({}).",
    "version": "the cells shown come from {} versions of the suite ({}).",
    "torch": "the cells shown were computed with {} versions of torch ({}).",
    "python": "the cells shown were computed with {} versions of Python ({}).",
    "threads": "the cells shown were computed with {} numbers of threads ({}): the same seed gives other numbers with each.",
}
"""Warnings on columns that should have one value a data set."""
FACTS = ("sees_pool", "label_based")
"""Tags that say what a method states of itself; runs of older versions lack them."""
FINISHED, FAILED, MISSING = "finished", "failed", "missing"
OWN = "this home"
"""Source of a cell that was not imported from somebody else's results."""

Key = tuple[str, str, str, str, int]


@dataclass(frozen=True)
class Warn:
    """Something a reader must know about the displayed cells of some methods of one data set."""

    dataset: str
    methods: tuple[str, ...]
    text: str

    def about(self, shown: list[str]) -> str:
        """The sentence for a table or page that shows these methods."""
        others = [method for method in shown if method not in self.methods]
        concerned = [method for method in shown if method in self.methods]
        return f"{self.dataset}, {', '.join(concerned) if others else 'every method shown'}: {self.text}"


@dataclass(frozen=True)
class Results:
    """What the reports show.

    results: one row a displayed run: coordinates, status, error, tags, `notes` (tuple), metrics by MLflow name.
    planned: coordinates of every planned cell, then of those that ran unplanned.
    cells: `planned` with the columns of `results`; status 'missing' where a cell has no run.
    params: settings by run id.
    experiment_id: MLflow's.
    tracker: where the scores of a run are read from.
    labels: the label regime of all cells; None where nobody has asked for one (`under`).
    left_out: methods that `under` left out, by data set.
    whole: `cells` of every regime, where `under` left some out.
    """

    profile: str
    experiment_id: str
    results: pd.DataFrame
    planned: pd.DataFrame
    cells: pd.DataFrame
    params: dict[str, dict[str, str]]
    warnings: tuple[Warn, ...]
    tracker: Tracker
    labels: Labels | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)
    whole: pd.DataFrame | None = None

    @cached_property
    def regimes(self) -> list[Labels]:
        """The label regimes of the cells."""
        present = set(self.cells.loc[self.cells["protocol"] != SHIFT, "open_classes"].map(labels_of)) or {"own"}
        return [labels for labels in LABELS if labels in present]

    def under(self, labels: Labels) -> Results:
        """The cells of one label regime.

        Under another one than own labels a method is left out whose cells tell that it did not read the labels: it gives
        the numbers of own labels, or in a control has nothing to find. It is the cells that tell, not the method's name.
        Cells of closed faces with a shift are in none: nothing is to be found in them (`shifted`).
        """
        cells, results, planned = (
            frame[(frame["open_classes"].map(labels_of) == labels) & (frame["protocol"] != SHIFT)]
            for frame in (self.cells, self.results, self.planned)
        )
        left_out: dict[str, list[str]] = {}
        if labels != "own":
            for (dataset, method), reads in cells.groupby(["dataset", "method"], sort=False)["reads_labels"]:
                if (reads == "false").any() and not (reads == "true").any():
                    left_out.setdefault(str(dataset), []).append(str(method))
        cells, results, planned = (
            frame[np.array([method not in left_out.get(dataset, ())
                            for dataset, method in zip(frame["dataset"], frame["method"], strict=True)], dtype=bool)]
            for frame in (cells, results, planned)
        )  # fmt: skip  # an empty list would choose columns
        return replace(
            self, cells=cells, results=results, planned=planned, labels=labels, left_out=left_out, whole=self.every_cell
        )

    @property
    def shifted(self) -> pd.DataFrame:
        """The cells of closed faces with a shift."""
        return self.every_cell[self.every_cell["protocol"] == SHIFT]

    @property
    def every_cell(self) -> pd.DataFrame:
        """The cells of every label regime."""
        return self.cells if self.whole is None else self.whole

    def states(self, label: str, fact: str) -> bool:
        """Whether the method behind a label states a fact of itself: as its runs are tagged, else as it does now."""
        of = self.every_cell[self.every_cell["method"] == label]
        tagged = [tag for tag in of.get(fact, ()) if tag in ("true", "false")]
        if tagged:
            return bool(tagged[-1] == "true")
        named = (self.params.get(run, {}).get("method.name") for run in of.get("run_id", ()))
        try:
            return bool(getattr(plugins.load(plugins.METHODS, next(filter(None, named), label)), fact, False))
        except SuiteError:  # not installed here, or broken
            return False

    @cached_property
    def datasets(self) -> list[str]:
        """Data set names in planned order."""
        return list(dict.fromkeys(self.cells["dataset"]))

    @cached_property
    def demonstrations(self) -> set[str]:
        """Data sets whose results say nothing about real faces."""
        return set(self.results.loc[self.results["demonstration"].astype(bool), "dataset"])

    def of(self, dataset: str) -> pd.DataFrame:
        """The cells of a data set."""
        return self.cells[self.cells["dataset"] == dataset]

    def methods(self, dataset: str) -> list[str]:
        """Method labels in the tables' order: those that see one face at a time, then those that see the pool."""
        return self.in_blocks(method_order(self.of(dataset)["method"]))

    def in_blocks(self, labels: Iterable[str]) -> list[str]:
        """The same labels, those whose methods see the pool last."""
        return sorted(labels, key=lambda label: self.states(label, "sees_pool"))

    def warnings_for(self, dataset: str, methods: Iterable[str]) -> list[Warn]:
        """The warnings on any of these methods."""
        wanted = set(methods)
        return [warn for warn in self.warnings if warn.dataset == dataset and wanted & set(warn.methods)]

    def scores(self, run_id: str) -> pd.DataFrame | None:
        """A run's scores.parquet, one row a test image; None when the artifact is gone."""
        from mlflow.exceptions import MlflowException

        try:
            frame: pd.DataFrame = self.tracker.read_scores(run_id)
        except (MlflowException, OSError):
            return None
        return frame

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
    plan = {_coordinates(cell): cell.get("cell_key") for cell in tracker.planned()}
    shown = _shown(plan, runs)
    if not shown:
        raise SuiteError(
            f"none of the {finished} finished cells of profile {tracker.profile!r} has the settings of its latest plan",
            "run `osfer run` with the same --profile: it computes the planned ones",
        )
    results = pd.DataFrame([_row(key, run) for key, run in shown.items()])
    planned = pd.DataFrame(list(dict.fromkeys([*plan, *shown])), columns=list(COORDINATES))
    cells = planned.merge(results, how="left", on=list(COORDINATES), validate="one_to_one")
    cells["status"] = cells["status"].fillna(MISSING)
    params = {run.info.run_id: dict(run.data.params) for run in shown.values()}
    warnings = _warnings(results, _hidden(plan, shown, runs))
    warnings += _outdated(tracker.profile, plan, shown, outdated)
    return Results(tracker.profile, tracker.experiment_id, results, planned, cells, params, warnings, tracker)


def _shown(plan: dict[Key, str | None], runs: list[Run]) -> dict[Key, Run]:
    """The run shown for each coordinate; runs: oldest first."""
    by_key: dict[str, Run] = {}
    loose: dict[Key, Run] = {}
    for run in sorted(runs, key=lambda run: run.info.status == "FINISHED"):  # a finished one overwrites a failed one
        by_key[run.data.tags.get("cell_key", "")] = run
        loose[_key(run)] = run
    shown = {
        place: by_key[key] if key else loose[place]
        for place, key in plan.items()
        if (key in by_key if key else place in loose)
    }
    used = {run.info.run_id for run in shown.values()}
    return shown | {key: run for key, run in loose.items() if key not in plan and run.info.run_id not in used}


def method_order(labels: Iterable[str]) -> list[str]:
    """The paper's methods in the paper's order, then the others as they come."""
    distinct = list(dict.fromkeys(labels))
    return [m for m in PAPER_METHODS if m in distinct] + [m for m in distinct if m not in PAPER_METHODS]


def protocol_order(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(family, open_classes) by family, then by the classes' order in the paper; other classes as they come."""
    distinct = list(dict.fromkeys(pairs))

    def rank(item: tuple[str, str]) -> tuple[int, list[int], int]:
        family, label = item
        names = choice_of(label).split("+")  # without what is said of pool and labels
        classes = [BASIC.index(name) if name in BASIC else len(BASIC) for name in names]
        place = FAMILY_ORDER.index(family) if family in FAMILY_ORDER else len(FAMILY_ORDER)
        return place, classes, distinct.index(item)

    return sorted(distinct, key=rank)


def _key(run: Run) -> Key:
    return _coordinates(run.data.tags)


def _coordinates(cell: dict[str, Any]) -> Key:
    return cell["dataset"], cell["protocol"], cell["open_classes"], cell["method"], int(cell["seed"])


def _row(key: Key, run: Run) -> dict[str, Any]:
    tags, data = run.data.tags, [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
    metrics = {name: value for name, value in run.data.metrics.items() if not name.startswith("curve.")}
    return {
        **dict(zip(COORDINATES, key, strict=True)),
        "status": FINISHED if run.info.status == "FINISHED" else FAILED,
        "error": tags.get("error", "") or "no error recorded",
        "run_id": run.info.run_id,
        "logged": datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        "source": tags.get(IMPORTED_FROM, OWN),
        "cell_key": tags.get("cell_key", ""),
        "settings_key": tags.get("settings_key", ""),
        "selection": tags.get("selection", "") or "not stated",
        "git_commit": tags.get("git_commit", "unknown"),
        "host": tags.get("host", "unknown"),
        "device": tags.get("device", "unknown"),
        **{name: tags.get(name, "unknown") for name in ENVIRONMENT},
        "demonstration": tags.get("demonstration", "").lower() == "true",
        "reads_labels": tags.get("reads_labels", "unknown"),
        "features": tags.get(FEATURES_TAG, ""),
        **{fact: tags.get(fact, "unknown") for fact in FACTS},
        "notes": tuple(read_notes(tags.get("notes", ""))),
        "fingerprint": data[0].digest if data else "",
        "counts": (data[0].profile or "") if data else "",
        **metrics,
    }


def _some(items: list[str], most: int = 6) -> str:
    return "; ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _warnings(results: pd.DataFrame, hidden: dict[tuple[str, str], dict[str, list[str]]]) -> tuple[Warn, ...]:
    """What a reader must know of the runs shown; hidden: as _hidden gives it."""
    done = results[results["status"] == FINISHED]
    single = [
        (dataset, method, f"{text}: {_some(places)}.")
        for (dataset, method), texts in hidden.items()
        for text, places in texts.items()
    ]
    methods: dict[tuple[str, str], dict[str, None]] = {}  # ordered sets
    for dataset, method, text in [*single, *_method_warnings(done), *_dataset_warnings(done)]:
        methods.setdefault((dataset, text), {})[method] = None
    return tuple(Warn(dataset, tuple(concerned), text) for (dataset, text), concerned in methods.items())


def _method_warnings(done: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """(data set, method, text) on finished runs of one method that differ in settings or commit."""
    for dataset, method in dict.fromkeys(zip(done["dataset"], done["method"], strict=True)):
        rows = done[(done["dataset"] == dataset) & (done["method"] == method)]
        settings = rows["settings_key"].nunique()
        if settings > 1:
            yield dataset, method, f"the cells shown were computed with {settings} different settings."
        commits = sorted(set(rows["git_commit"]))
        if len(commits) > 1:
            yield dataset, method, f"the cells shown come from {len(commits)} commits ({', '.join(commits)})."
        dirty = [commit for commit in commits if commit.endswith("-dirty")]
        if dirty:
            yield dataset, method, f"computed from a checkout with uncommitted changes ({', '.join(dirty)})."


def _dataset_warnings(done: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """(data set, method, text) on what should be the same in all finished runs of a data set."""
    for dataset in done["dataset"].unique():
        rows = done[done["dataset"] == dataset]
        for column, text in DIFFERING.items():
            values = sorted(set(rows[column]) - {"", "unknown"})
            for method in method_order(rows["method"]) if len(values) > 1 else []:
                yield str(dataset), method, text.format(len(values), ", ".join(values))


def _outdated(
    profile: str, plan: dict[Key, str | None], shown: dict[Key, Run], outdated: list[Run]
) -> tuple[Warn, ...]:
    """What is missing because another version of the evaluation measured it: old numbers never stand beside new ones."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for run in outdated:
        planned = [place for place, key in plan.items() if key == run.data.tags.get("cell_key")]
        for place in planned or [_key(run)]:
            dataset, _, opened, method, seed = place
            if place not in shown:
                version = run.data.tags.get("evaluation", "1")
                places.setdefault((dataset, version, method), []).append(f"{opened} seed {seed}")
    return tuple(
        Warn(
            dataset,
            (method,),
            f"measured by evaluation {version}, so not shown; run `osfer reevaluate --profile {profile}`: {_some(of)}.",
        )
        for (dataset, version, method), of in places.items()
    )


def _hidden(
    plan: dict[Key, str | None], shown: dict[Key, Run], runs: list[Run]
) -> dict[tuple[str, str], dict[str, list[str]]]:
    """What finished and is not shown, in words, with its places, by data set and method."""
    used = {run.info.run_id for run in shown.values()}
    finished = Counter(_key(run) for run in runs if run.info.status == "FINISHED" and run.info.run_id not in used)
    hidden: dict[tuple[str, str], dict[str, list[str]]] = {}
    for place in dict.fromkeys([*plan, *shown]):
        dataset, _, open_classes, method, seed = place
        if not finished[place]:
            continue
        if place not in shown:
            text = "finished with other settings than the latest plan's, which are still to be computed"
        elif shown[place].info.status == "FINISHED":
            text = "also finished with other settings; those of the latest plan are shown"
        else:
            text = "failed with the settings of the latest plan; a run with other settings finished and is not shown"
        hidden.setdefault((dataset, method), {}).setdefault(text, []).append(f"{open_classes} seed {seed}")
    return hidden
