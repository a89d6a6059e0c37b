"""Warnings on the runs behind displayed cells: other settings, commits, environments, evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from open_set_fer.reports.data.frame import FINISHED, method_order

if TYPE_CHECKING:
    from mlflow.entities import Run

Key = tuple[str, str, str, str, int]  # data set, family, open classes, method label, seed
Runs = list["Run"]
MOST = 6  # cells that a warning names
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


def coordinates(cell: dict[str, Any]) -> Key:
    return cell["dataset"], cell["protocol"], cell["open_classes"], cell["method"], int(cell["seed"])


def warnings_on(
    profile: str, cells: pd.DataFrame, plan: dict[Key, str | None], shown: dict[Key, Run], runs: Runs, outdated: Runs
) -> tuple[Warn, ...]:
    """Warnings on displayed cells with different settings, commits or environments, and on runs that are not shown."""
    done = cells[cells["status"] == FINISHED]
    methods: dict[tuple[str, str], dict[str, None]] = {}  # ordered sets
    not_shown = _with_cells(_hidden(plan, shown, runs))
    outdated_cells = _with_cells(_outdated(profile, plan, shown, outdated))
    from_files = {coordinates(run.data.tags)[3] for run in shown.values() if _is_external(run)}
    for dataset, method, text in [
        *not_shown,
        *_method_warnings(done, from_files),
        *_dataset_warnings(done),
        *outdated_cells,
    ]:
        methods.setdefault((dataset, text), {})[method] = None
    return tuple(Warn(dataset, tuple(concerned), text) for (dataset, text), concerned in methods.items())


def _is_external(run: Run) -> bool:
    """Whether its scores are from a file, whose digest is among its settings."""
    return bool(run.data.params.get("method.name") == "external")


def _method_warnings(done: pd.DataFrame, from_files: set[str]) -> Iterator[tuple[str, str, str]]:
    """from_files: methods whose scores are from files, one a cell: their settings differ."""
    for (dataset, method), rows in done.groupby(["dataset", "method"], sort=False):
        settings, commits = rows["settings_key"].nunique(), sorted(set(rows["git_commit"]))
        dirty = ", ".join(commit for commit in commits if commit.endswith("-dirty"))
        if settings > 1 and method not in from_files:
            yield str(dataset), str(method), f"the cells shown were computed with {settings} different settings."
        if len(commits) > 1:
            yield str(dataset), str(method), f"the cells shown come from {len(commits)} commits ({', '.join(commits)})."
        if dirty:
            yield str(dataset), str(method), f"computed from a checkout with uncommitted changes ({dirty})."


def _dataset_warnings(done: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    for dataset, rows in done.groupby("dataset", sort=False):
        for column, text in DIFFERING.items():
            values = sorted(set(rows[column]) - {"", "unknown"})
            for method in method_order(rows["method"]) if len(values) > 1 else []:
                yield str(dataset), method, text.format(len(values), ", ".join(values))


def _hidden(plan: dict[Key, str | None], shown: dict[Key, Run], runs: Runs) -> Iterator[tuple[Key, str]]:
    """Finished runs that are not shown."""
    used = {run.info.run_id for run in shown.values()}
    finished = {
        coordinates(run.data.tags) for run in runs if run.info.status == "FINISHED" and run.info.run_id not in used
    }
    for place in dict.fromkeys([*plan, *shown]):
        if place not in finished:
            continue
        if place not in shown:
            yield place, "finished with other settings than the latest plan's, which are still to be computed"
        elif _is_external(shown[place]):
            yield place, "also measured from another file; the latest is shown"
        elif shown[place].info.status == "FINISHED":
            yield place, "also finished with other settings; those of the latest plan are shown"
        else:
            text = "failed with the settings of the latest plan; a run with other settings finished and is not shown"
            yield place, text


def _outdated(
    profile: str, plan: dict[Key, str | None], shown: dict[Key, Run], outdated: Runs
) -> Iterator[tuple[Key, str]]:
    """Cells of another version of the evaluation: old numbers are not shown beside new ones."""
    for run in outdated:
        version = run.data.tags.get("evaluation", "1")
        text = f"measured by evaluation {version}, so not shown; run `osfer reevaluate --profile {profile}`"
        planned = [place for place, key in plan.items() if key == run.data.tags.get("cell_key")]
        yield from ((place, text) for place in planned or [coordinates(run.data.tags)] if place not in shown)


def _with_cells(places: Iterator[tuple[Key, str]]) -> Iterator[tuple[str, str, str]]:
    """(data set, method, text) with the first cells that each text is about."""
    cells: dict[tuple[str, str, str], list[str]] = {}
    for (dataset, _, open_classes, method, seed), text in places:
        cells.setdefault((dataset, method, text), []).append(f"{open_classes} seed {seed}")
    for (dataset, method, text), items in cells.items():
        more = f" and {len(items) - MOST} more" if len(items) > MOST else ""
        yield dataset, method, f"{text}: {'; '.join(items[:MOST])}{more}."
