"""Tooltips of the page's numbers: their seeds and intervals, links to their runs, differences to published numbers."""

from __future__ import annotations

import statistics
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, INTERVAL
from open_set_fer.benchmark.storage.mlflow_reader import experiment_link, run_link
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.means import PRINTED, Entry, group_cells
from open_set_fer.reports.tables.text import printed_value
from open_set_fer.reports.tables.wording import ABOUT

MOST_RUNS = 24  # runs that a link names; beyond it the link searches by data set and method
Cells = list[dict[Any, Any]]


class Tooltips:
    """Tooltips and links of an experiment's tables. ui: address of an MLflow UI, '' for no links."""

    def __init__(self, results: Results, ui: str) -> None:
        self._experiment, self._ui, self._title = results.experiment_id, ui, results.title
        done = results.cells[results.cells["status"] == FINISHED]
        self._groups = {name: group_cells(done[done["dataset"] == name]) for name in results.datasets}

    def about(self, table: Table, entry: Entry) -> tuple[str, str, str]:
        """Link to the runs of an entry, its tooltip, its difference to the published number; each may be ''."""
        if entry.status == PRINTED or entry.value is None:
            return "", "", ""
        cells = self._cells(table.dataset, entry)
        return self._link(cells), _text(self._title(entry.method), entry, cells), _difference(table, entry)

    def has_differences(self, table: Table) -> bool:
        """Whether a number of the table has a published one."""
        return not table.is_side and any(_difference(table, entry) for entry in table.entries())

    def row_link(self, table: Table, entries: list[Entry]) -> str:
        """Link to the runs of a row of one method's measurements."""
        return self._link(self._cells(table.dataset, entries[0]))

    def method_link(self, dataset: str, method: str) -> str:
        """Link to the runs of a method."""
        groups = self._groups[dataset].items()
        return self._link([cell for place, cells in groups if place[2] == method for cell in cells])

    def _link(self, cells: Cells) -> str:
        runs = [str(cell["run_id"]) for cell in cells if pd.notna(cell["run_id"])]
        if not self._ui or not runs:
            return ""
        if len(runs) == 1:
            return run_link(self._ui, self._experiment, runs[0])
        search = f"attributes.run_id IN ({', '.join(map(repr, runs))})"
        if len(runs) > MOST_RUNS:
            dataset, method = (str(cells[0][name]).replace("'", "") for name in ("dataset", "method"))
            search = f"tags.dataset = '{dataset}' AND tags.method = '{method}'"
        return experiment_link(self._ui, self._experiment, search)

    def _cells(self, dataset: str, entry: Entry) -> Cells:
        """Finished cells that an entry averages; none for a control, whose label does not name its setting."""
        families, open_classes = entry.protocol.split("+"), entry.coverage or {entry.open_classes}
        return [
            cell
            for (family, choice, method), cells in self._groups[dataset].items()
            if method == entry.method and family in families and choice in open_classes
            for cell in cells
        ]


def _text(title: str, entry: Entry, cells: Cells) -> str:
    lines = [f"{title}, {entry.open_classes}: {entry.metric.title} {entry.text}"]
    if entry.metric.name in ABOUT and entry.metric != AUROC:
        lines.append(ABOUT[entry.metric.name])
    if not entry.by_seed:
        return "\n".join(lines)
    if len(entry.by_seed) == len(cells):
        return "\n".join([*lines, *(_seed(entry, int(cell["seed"]), cell) for cell in cells)])
    over = f"{len(entry.coverage)} choices of open classes, " * (entry.open_classes == "mean")
    lines.append(f"mean over {over}{entry.n_cells} of {entry.n_planned} cells")
    lines += [_seed(entry, seed, {}) for seed in sorted(entry.by_seed)]
    accuracies = [cell["closed_accuracy"] for cell in cells if pd.notna(cell.get("closed_accuracy"))]
    if accuracies:
        lines.append(f"closed accuracy {statistics.fmean(accuracies):.3f}")
    return "\n".join(lines)


def _seed(entry: Entry, seed: int, cell: dict[Any, Any]) -> str:
    text = f"seed {seed}" + (f": {entry.by_seed[seed]:.{entry.metric.decimals}f}" if seed in entry.by_seed else "")
    low, high = (cell.get(metric.name) for metric in INTERVAL)
    if entry.metric.name == AUROC.name and pd.notna(low) and pd.notna(high):
        text += f" [{low:.3f}, {high:.3f}]"
    accuracy = cell.get("closed_accuracy")
    return text + (f", closed accuracy {accuracy:.3f}" if pd.notna(accuracy) else "")


def _difference(table: Table, entry: Entry) -> str:
    """Signed difference to the published number, '' without one."""
    published = printed_value(table, entry)
    if published is None or entry.value is None:
        return ""
    sign = "+" if entry.value >= published else "−"
    decimals = entry.metric.decimals
    return f"{sign}{abs(round(entry.value - published, decimals)):.{decimals}f}"
