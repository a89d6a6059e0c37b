"""Warnings on the runs behind displayed cells: other settings, commits, environments, evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from open_set_fer.reports.data.frame import FINISHED, method_order

if TYPE_CHECKING:
    from mlflow.entities import Run

Key = tuple[str, str, str, str, int]
"""Data set, family, open classes, method label, seed."""
DIFFERING = {
    "fingerprint": "the cells shown were computed on {} contents of the data set ({}).",
    "version": "the cells shown come from {} versions of the suite ({}).",
    "torch": "the cells shown were computed with {} versions of torch ({}).",
    "python": "the cells shown were computed with {} versions of Python ({}).",
    "threads": "the cells shown were computed with {} numbers of threads ({}): the same seed gives other numbers with "
    "each.",
}
"""Warnings on columns that should have one value a data set."""


@dataclass(frozen=True)
class Warn:
    """A warning on the displayed cells of some methods of one data set."""

    dataset: str
    methods: tuple[str, ...]
    text: str

    def about(self, shown: list[str]) -> str:
        """The sentence for a table or page that shows these methods."""
        others = [method for method in shown if method not in self.methods]
        concerned = [method for method in shown if method in self.methods]
        return f"{self.dataset}, {', '.join(concerned) if others else 'every method shown'}: {self.text}"


def run_key(run: Run) -> Key:
    return coordinates(run.data.tags)


def coordinates(cell: dict[str, Any]) -> Key:
    return cell["dataset"], cell["protocol"], cell["open_classes"], cell["method"], int(cell["seed"])


def _abbreviated(items: list[str], most: int = 6) -> str:
    return "; ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def setting_warnings(
    cells: pd.DataFrame, plan: dict[Key, str | None], shown: dict[Key, Run], runs: list[Run]
) -> tuple[Warn, ...]:
    """Warnings on displayed cells with different settings, commits or environments, and on hidden runs."""
    done = cells[cells["status"] == FINISHED]
    methods: dict[tuple[str, str], dict[str, None]] = {}  # ordered sets
    for dataset, method, text in [
        *_hidden_warnings(plan, shown, runs),
        *_method_warnings(done),
        *_dataset_warnings(done),
    ]:
        methods.setdefault((dataset, text), {})[method] = None
    return tuple(Warn(dataset, tuple(concerned), text) for (dataset, text), concerned in methods.items())


def _method_warnings(done: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    for (dataset, method), rows in done.groupby(["dataset", "method"], sort=False):
        settings = rows["settings_key"].nunique()
        if settings > 1:
            yield str(dataset), str(method), f"the cells shown were computed with {settings} different settings."
        commits = sorted(set(rows["git_commit"]))
        if len(commits) > 1:
            yield str(dataset), str(method), f"the cells shown come from {len(commits)} commits ({', '.join(commits)})."
        dirty = [commit for commit in commits if commit.endswith("-dirty")]
        if dirty:
            yield str(dataset), str(method), f"computed from a checkout with uncommitted changes ({', '.join(dirty)})."


def _dataset_warnings(done: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    for dataset, rows in done.groupby("dataset", sort=False):
        for column, text in DIFFERING.items():
            values = sorted(set(rows[column]) - {"", "unknown"})
            for method in method_order(rows["method"]) if len(values) > 1 else []:
                yield str(dataset), method, text.format(len(values), ", ".join(values))


def evaluation_warnings(
    profile: str, plan: dict[Key, str | None], shown: dict[Key, Run], outdated: list[Run]
) -> tuple[Warn, ...]:
    """Warnings on cells of another version of the evaluation: old numbers are not shown beside new ones."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for run in outdated:
        planned = [place for place, key in plan.items() if key == run.data.tags.get("cell_key")]
        for place in planned or [run_key(run)]:
            dataset, _, open_classes, method, seed = place
            if place not in shown:
                version = run.data.tags.get("evaluation", "1")
                places.setdefault((dataset, version, method), []).append(f"{open_classes} seed {seed}")
    return tuple(
        Warn(
            dataset,
            (method,),
            f"measured by evaluation {version}, so not shown; run `osfer reevaluate --profile {profile}`: "
            f"{_abbreviated(cells)}.",
        )
        for (dataset, version, method), cells in places.items()
    )


def _hidden_warnings(
    plan: dict[Key, str | None], shown: dict[Key, Run], runs: list[Run]
) -> Iterator[tuple[str, str, str]]:
    used = {run.info.run_id for run in shown.values()}
    finished = {run_key(run) for run in runs if run.info.status == "FINISHED" and run.info.run_id not in used}
    hidden: dict[tuple[str, str], dict[str, list[str]]] = {}
    for place in dict.fromkeys([*plan, *shown]):
        dataset, _, open_classes, method, seed = place
        if place not in finished:
            continue
        if place not in shown:
            text = "finished with other settings than the latest plan's, which are still to be computed"
        elif shown[place].info.status == "FINISHED":
            text = "also finished with other settings; those of the latest plan are shown"
        else:
            text = "failed with the settings of the latest plan; a run with other settings finished and is not shown"
        hidden.setdefault((dataset, method), {}).setdefault(text, []).append(f"{open_classes} seed {seed}")
    for (dataset, method), texts in hidden.items():
        for text, places in texts.items():
            yield dataset, method, f"{text}: {_abbreviated(places)}."
