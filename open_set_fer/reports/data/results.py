"""From MLflow to one row a cell.

Coordinates (data set, open classes, method label, seed) name a cell of a table; `cell_key` also covers the settings.

- Planned: the latest plan that names the coordinates says which cell_key is shown and under which label
  (Tracker.planned). One run may serve two labels with equal settings. Of the runs with that key a finished one counts
  before a failed one; without either the cell is missing, whatever ran with other settings: a warning says so.
- In no plan (the plan was lost): the newest finished run, else the newest failed one, under the label that it was
  logged with, unless its run is shown already.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from open_set_fer import plugins
from open_set_fer.benchmark.protocols.pseudo_labels import LABELS, Labels
from open_set_fer.benchmark.protocols.shifts import SHIFT
from open_set_fer.benchmark.storage.features import FEATURES_TAG
from open_set_fer.benchmark.storage.tracking import COORDINATES, Tracker, read_notes
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    import numpy as np
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
"""What a method states of itself: by the tags of its runs, or by the installed method where they have none."""
FINISHED, FAILED, MISSING = "finished", "failed", "missing"

COLUMNS = {
    # the cell; open_classes is the display text of its protocol
    **dict.fromkeys(("dataset", "protocol", "open_classes", "method"), "str"),
    "seed": "int64",
    # its protocol: open classes, splits of the open faces, part of the test pool, pseudo-label setting
    **dict.fromkeys(("choice", "open_from", "pool", "labels"), "str"),
    "label_share": "float64",
    # its method
    **dict.fromkeys(FACTS, "bool"),
    # its run; texts are missing values where the status is `missing`
    **dict.fromkeys(("status", "error", "run_id", "cell_key", "settings_key", "selection"), "str"),
    **dict.fromkeys(("git_commit", "host", "device", *ENVIRONMENT), "str"),
    "demonstration": "bool",
    **dict.fromkeys(("reads_labels", "features", "fingerprint", "counts"), "str"),
    "logged": "datetime64[us, UTC]",
    "notes": "object",
}
"""Columns of `Results.cells` and their types; each metric is one more, of float64."""

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
    """Results that reports show.

    cells: one row a planned or logged cell, with the columns of `COLUMNS` and its metrics by MLflow name.
    params: settings by run id.
    experiment_id: MLflow's.
    tracker: source of the scores of runs.
    labels: the pseudo-label setting of all cells; None before `under`.
    left_out: methods that `under` left out, by data set.
    whole: the cells of every pseudo-label setting, after `under`.
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
        """The cells of one pseudo-label setting.

        Under another setting than own labels, methods are left out whose cells show that they did not read the labels:
        their numbers are those of own labels, or meaningless in a control. The cells decide, not the method's name.
        Cells of closed faces with a shift belong to no setting (`shifted`).
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

    @cached_property
    def _facts(self) -> dict[str, set[str]]:
        """Labels of the methods that state each of `FACTS`."""
        return {fact: set(self.every_cell.loc[self.every_cell[fact], "method"]) for fact in FACTS}

    def states(self, label: str, fact: str) -> bool:
        """Whether the method behind a label states one of `FACTS`."""
        return label in self._facts[fact]

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
                "run `osfer measure` with the same --profile: it computes nothing again",
            )
        failed = f" ({len(runs)} failed)" if runs else ""
        raise SuiteError(
            f"profile {tracker.profile!r} has no finished cell{failed} in {tracker.uri}",
            "run `osfer run` with the same --profile first, or set MLFLOW_TRACKING_URI to the store that has them",
        )
    planned = {_coordinates(cell): cell for cell in tracker.planned()}
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
        | (_run_columns(shown[place]) if place in shown else {"status": MISSING})
        for place in dict.fromkeys([*plan, *shown])
    ]
    params = {run.info.run_id: dict(run.data.params) for run in shown.values()}
    cells = typed_frame(rows, params)
    warnings = _warnings(cells, _hidden(plan, shown, runs))
    warnings += _outdated(tracker.profile, plan, shown, outdated)
    return Results(tracker.profile, tracker.experiment_id, cells, params, warnings, tracker)


def protocol_fields(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a protocol, from a cell of plan.json or from tags."""
    fields = cell if "choice" in cell else _parsed(cell["open_classes"])
    return {
        "choice": fields["choice"],
        "open_from": fields.get("open_from", "both"),
        "pool": fields.get("pool", ""),
        "labels": fields.get("labels", "own"),
        "label_share": float(fields.get("label_share", 0)),
    }


_LABELS: dict[str, Labels] = {
    "labels as released": "released",
    "labels concentrated": "concentrated",
    "labels flipped": "flipped",
    "true labels flipped": "flipped-true",
}
_DISPLAY = re.compile(
    r"(?P<choice>.*?)(?P<test> \(open faces of the test split\))?"
    r"(?: \((?P<pool>\d+ (?:images, \S+% open|closed faces, half with \w+)[^()]*)\))?"
    rf"(?: \((?:(?P<percent>\S+)% of )?(?P<labels>{'|'.join(_LABELS)})\))?"
)


def _parsed(open_classes: str) -> dict[str, Any]:
    """The columns of a protocol from its display text: of plans and runs that were logged without them."""
    match = _DISPLAY.fullmatch(open_classes)
    if match is None:  # a line break in it
        return {"choice": open_classes}
    labels = _LABELS.get(match["labels"], "own")
    return {
        "choice": match["choice"],
        "open_from": "test" if match["test"] else "both",
        "pool": match["pool"] or "",
        "labels": labels,
        "label_share": float(match["percent"]) / 100 if match["percent"] else float(labels != "own"),
    }


def typed_frame(rows: list[dict[str, Any]], params: dict[str, dict[str, str]]) -> pd.DataFrame:
    """The frame of `COLUMNS` and metrics; rows: coordinates, and what is known of the cell's run. Others are filled."""
    facts = {
        (method, fact): _states(method, fact, [row for row in rows if row["method"] == method], params)
        for method in {row["method"] for row in rows}
        for fact in FACTS
    }
    rows = [row | protocol_fields(row) | {fact: facts[row["method"], fact] for fact in FACTS} for row in rows]
    frame = pd.DataFrame(rows)
    metrics = [name for name in frame.columns if name not in COLUMNS]
    frame = frame.reindex(columns=[*COLUMNS, *metrics])
    frame["demonstration"] = frame["demonstration"].eq(True)
    frame["logged"] = pd.to_datetime(frame["logged"], utc=True)
    return frame.astype(COLUMNS | dict.fromkeys(metrics, "float64"))


def _states(label: str, fact: str, rows: list[dict[str, Any]], params: dict[str, dict[str, str]]) -> bool:
    """Whether the method behind a label states a fact: by the tags of its runs, else by its installed version."""
    tagged = [row[fact] for row in rows if row.get(fact) in ("true", "false")]
    if tagged:
        return bool(tagged[-1] == "true")
    names = (params.get(row.get("run_id", ""), {}).get("method.name") for row in rows)
    try:
        return bool(getattr(plugins.load(plugins.METHODS, next(filter(None, names), label)), fact, False))
    except SuiteError:  # not installed here, or broken
        return False


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


def protocol_order(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(family, open_classes) by family, then by the classes' order in the paper; other classes as they come."""
    distinct = cells[["protocol", "open_classes", "choice"]].drop_duplicates().itertuples(index=False, name=None)

    def rank(item: tuple[str, str, str]) -> tuple[int, list[int]]:
        family, _, choice = item
        classes = [BASIC.index(name) if name in BASIC else len(BASIC) for name in choice.split("+")]
        return FAMILY_ORDER.index(family) if family in FAMILY_ORDER else len(FAMILY_ORDER), classes

    return [(family, label) for family, label, _ in sorted(distinct, key=rank)]


def _key(run: Run) -> Key:
    return _coordinates(run.data.tags)


def _coordinates(cell: dict[str, Any]) -> Key:
    return cell["dataset"], cell["protocol"], cell["open_classes"], cell["method"], int(cell["seed"])


def _run_columns(run: Run) -> dict[str, Any]:
    """Status, tags, data and metrics of a run."""
    tags, data = run.data.tags, [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
    return {
        "status": FINISHED if run.info.status == "FINISHED" else FAILED,
        "error": tags.get("error", "") or "no error recorded",
        "run_id": run.info.run_id,
        "logged": datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        "cell_key": tags.get("cell_key", ""),
        "settings_key": tags.get("settings_key", ""),
        "selection": tags.get("selection", "") or "not stated",
        **{name: tags.get(name, "unknown") for name in ("git_commit", "host", "device", *ENVIRONMENT, "reads_labels")},
        "demonstration": tags.get("demonstration", "").lower() == "true",
        "features": tags.get(FEATURES_TAG, ""),
        **{fact: tags.get(fact) for fact in FACTS},
        "notes": tuple(read_notes(tags.get("notes", ""))),
        "fingerprint": data[0].digest if data else "",
        "counts": (data[0].profile or "") if data else "",
        **{name: value for name, value in run.data.metrics.items() if not name.startswith("curve.")},
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
            f"measured by evaluation {version}, so not shown; run `osfer measure --profile {profile}`: {_some(of)}.",
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
