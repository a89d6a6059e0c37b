"""What the page says of a single number: the runs behind it, its seeds and interval, its distance from the printed one."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, INTERVAL
from open_set_fer.benchmark.storage.mlflow_reader import experiment_link, run_link
from open_set_fer.reports.data.names import method_name
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.entries import PRINTED, Entry, group_cells
from open_set_fer.reports.tables.text import printed_value

MOST_RUNS = 24
"""How many runs a link names; beyond it the link searches by data set and method."""
DIFFERENCE_NOTE = "With a sign, below a number: its difference to the one that Zhang et al. print for this data set."
TIP_NOTE = (
    "A number says more when it is pointed at, or reached by Tab and arrow keys: its seeds, in brackets the 95 % bootstrap "
    "interval over faces, and the closed accuracy."
)


@dataclass(frozen=True)
class Shown:
    """link: to the runs behind a number. tip: what pointing at it tells. difference: to the printed number. Each '' for none."""

    link: str = ""
    tip: str = ""
    difference: str = ""


class Numbers:
    """What is to be said of the entries of an experiment's tables. ui: address of an MLflow UI, '' for no links."""

    def __init__(self, results: Results, ui: str) -> None:
        self._experiment, self._ui = results.experiment_id, ui
        self._places = {name: group_cells(results.of(name)) for name in results.datasets}

    def of(self, table: Table, entry: Entry) -> Shown:
        """What is said of an entry of a table."""
        if entry.status == PRINTED or entry.value is None:
            return Shown()
        cells = self._cells(table.dataset, entry)
        return Shown(self._link(cells), _tip(entry, cells), _difference(table, entry))

    def differs(self, table: Table) -> bool:
        """Whether a number of the table has a printed one."""
        return any(_difference(table, entry) for entry in table.entries() if not table.is_side)

    def row_link(self, table: Table, entries: list[Entry]) -> str:
        """Where the runs of a row of one method's measurements are."""
        return self._link(self._cells(table.dataset, entries[0]))

    def standing_link(self, dataset: str, method: str) -> str:
        """Where the runs of a method are."""
        places = self._places[dataset].items()
        cells = [cell for place, of in places if place[2] == method for cell in of if cell["status"] == FINISHED]
        return self._link(cells)

    def _link(self, cells: list[dict[Any, Any]]) -> str:
        """Where the runs of these cells are in the UI."""
        runs = [str(cell["run_id"]) for cell in cells if pd.notna(cell["run_id"])]
        if not self._ui or not runs:
            return ""
        if len(runs) == 1:
            return run_link(self._ui, self._experiment, runs[0])
        search = f"attributes.run_id IN ({', '.join(repr(run) for run in runs)})"
        if len(runs) > MOST_RUNS:
            dataset, method = (str(cells[0][name]).replace("'", "") for name in ("dataset", "method"))
            search = f"tags.dataset = '{dataset}' AND tags.method = '{method}'"
        return experiment_link(self._ui, self._experiment, search)

    def _cells(self, dataset: str, entry: Entry) -> list[dict[Any, Any]]:
        """The finished cells that an entry averages; none of a control's, whose regime its label does not tell."""
        opened = entry.coverage if entry.open_classes == "mean" else {entry.open_classes}
        return [
            cell
            for (protocol, open_classes, method), cells in self._places[dataset].items()
            if method == entry.method and protocol in entry.protocol.split("+") and open_classes in opened
            for cell in cells
            if cell["status"] == FINISHED
        ]


def _tip(entry: Entry, cells: list[dict[Any, Any]]) -> str:
    """What an entry rests on, a line each: what it is, its seeds, the closed accuracy."""
    lines = [f"{method_name(entry.method)}, {entry.open_classes}: {entry.metric.title} {entry.text}"]
    if len(entry.by_seed) == len(cells):
        lines += [_seed(entry, int(cell["seed"]), cell) for cell in cells]
    else:
        over = f"{len(entry.coverage)} choices of open classes, " * (entry.open_classes == "mean")
        lines.append(f"mean over {over}{entry.n_cells} of {entry.n_planned} cells")
        lines += [f"seed {seed}: {_written(entry, value)}" for seed, value in sorted(entry.by_seed.items())]
        known = [cell["closed_accuracy"] for cell in cells if pd.notna(cell.get("closed_accuracy"))]
        if known:
            lines.append(f"closed accuracy {statistics.fmean(known):.3f}")
    return "\n".join(lines)


def _seed(entry: Entry, seed: int, cell: dict[Any, Any]) -> str:
    """One seed's value, with what its cell has besides."""
    text = f"seed {seed}: {_written(entry, entry.by_seed[seed])}" if seed in entry.by_seed else f"seed {seed}"
    low, high = (cell.get(metric.name) for metric in INTERVAL)
    if entry.metric.name == AUROC.name and pd.notna(low) and pd.notna(high):
        text += f" [{low:.3f}, {high:.3f}]"
    accuracy = cell.get("closed_accuracy")
    return text + (f", closed accuracy {accuracy:.3f}" if pd.notna(accuracy) else "")


def _written(entry: Entry, value: float) -> str:
    return f"{value:.{entry.metric.decimals}f}"


def _difference(table: Table, entry: Entry) -> str:
    printed = printed_value(table, entry)
    if printed is None or entry.value is None:
        return ""
    shown = _written(entry, abs(round(entry.value - printed, entry.metric.decimals)))
    return ("+" if entry.value >= printed else "−") + shown
