"""One number of a table: what it averages, what it rests on, how it is displayed."""

from __future__ import annotations

import statistics
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import Metric
from open_set_fer.reports.data.results import FAILED, FINISHED, MISSING

PARTIAL, NOT_PLANNED, NOT_MEASURED, PRINTED = "partial", "not planned", "not measured", "printed"
NOT_RUN, NOT_ASKED = "not run", "not asked"
"""Of a control: nobody has planned it; it asks nothing of the method."""
TEXTS = {FAILED: "failed", MISSING: "—", NOT_PLANNED: "·", NOT_MEASURED: "n/a", NOT_RUN: "not run", NOT_ASKED: ""}

Place = tuple[str, str, str]
"""Family, open classes, method."""
Groups = dict[Place, list[dict[Hashable, Any]]]
"""The cells, one a seed, that each place of a table averages: rows of Results.cells."""


@dataclass
class Entry:
    """One number of a table and what it rests on.

    by_seed: the value of each finished seed. n_cells of n_planned cells went into `value`. coverage: the open classes
    that it averages over.
    """

    protocol: str
    open_classes: str
    method: str
    metric: Metric
    status: str
    value: float | None = None
    std: float | None = None
    by_seed: dict[int, float] = field(default_factory=dict)
    n_cells: int = 0
    n_planned: int = 0
    coverage: frozenset[str] = frozenset()
    show_std: bool = True
    mark: str = ""
    best: bool = False
    second: bool = False

    @property
    def number(self) -> str:
        """The value as displayed; empty where there is none."""
        return "" if self.value is None else f"{self.value:.{self.metric.decimals}f}"

    @property
    def spread(self) -> str:
        """The deviation as displayed; empty where there is none or it is not shown."""
        shown = self.value is not None and self.std is not None and self.show_std
        return f"± {self.std:.{self.metric.decimals}f}" if shown else ""

    @property
    def text(self) -> str:
        """What is displayed, without bold and mark."""
        return f"{self.number} {self.spread}".strip() if self.number else TEXTS.get(self.status, "·")


@dataclass
class Row:
    """A labelled row; `is_mean` sets it off from the rows it averages."""

    label: str
    entries: list[Entry]
    is_mean: bool = False


@dataclass
class Block:
    """Rows under one heading; short: the heading where there is no room; note: what it leaves unsaid.

    printed: the numbers are the paper's.
    """

    heading: str
    rows: list[Row]
    short: str
    note: str = ""
    printed: bool = False


def group_cells(cells: pd.DataFrame) -> Groups:
    """The cells of a data set by place."""
    groups: Groups = {}
    for cell in cells.to_dict("records"):
        groups.setdefault((cell["protocol"], cell["open_classes"], cell["method"]), []).append(cell)
    return groups


def seed_mean(groups: Groups, place: Place, metric: Metric) -> Entry:
    """Mean over the seeds of one place."""
    _, open_classes, _ = place
    cells = groups.get(place, [])
    entry = Entry(*place, metric, NOT_PLANNED, n_planned=len(cells))
    if not cells:
        return entry
    done = [cell for cell in cells if cell["status"] == FINISHED]
    entry.by_seed = {int(c["seed"]): float(c[metric.name]) for c in done if pd.notna(c.get(metric.name))}
    entry.n_cells = len(entry.by_seed)
    if entry.by_seed:
        entry.coverage = frozenset([open_classes])
        entry.value, entry.std = _mean_and_std(list(entry.by_seed.values()))
        entry.status = FINISHED if entry.n_cells == entry.n_planned else PARTIAL
    elif done:
        entry.status = NOT_MEASURED
    else:
        entry.status = FAILED if any(cell["status"] == FAILED for cell in cells) else MISSING
    return entry


def _mean_and_std(values: list[float]) -> tuple[float, float | None]:
    # A single value is passed on as it is, so that tables repeat MLflow's number to the last bit.
    return (statistics.fmean(values), statistics.stdev(values)) if len(values) > 1 else (values[0], None)


def row_mean(column: list[Entry]) -> Entry:
    """Mean over rows of the rows' means; the deviation is that of the per-seed means over all rows."""
    families = "+".join(dict.fromkeys(entry.protocol for entry in column))
    mean = Entry(families, "mean", column[0].method, column[0].metric, MISSING)
    mean.n_planned, mean.n_cells = sum(e.n_planned for e in column), sum(e.n_cells for e in column)
    mean.coverage = frozenset().union(*(e.coverage for e in column))
    values = [entry.value for entry in column if entry.value is not None]
    if not values:
        statuses = {entry.status for entry in column}
        mean.status = FAILED if FAILED in statuses else MISSING if MISSING in statuses else statuses.pop()
        return mean
    mean.value = statistics.fmean(values)
    shared = set.intersection(*(set(entry.by_seed) for entry in column if entry.by_seed))
    mean.by_seed = {seed: statistics.fmean(e.by_seed[seed] for e in column if e.by_seed) for seed in sorted(shared)}
    mean.status = FINISHED if all(entry.status == FINISHED for entry in column) else PARTIAL
    if mean.status == FINISHED and len(mean.by_seed) > 1:
        mean.std = statistics.stdev(mean.by_seed.values())
    return mean


def mark_best(entries: list[Entry]) -> None:
    """Mark the best displayed number of one metric, and the second best of three; equal ones share the mark.

    A mean over fewer rows than another method's is never marked; where it is the better number nothing is.
    """
    rivals = [(round(entry.value, entry.metric.decimals), entry) for entry in entries if entry.value is not None]
    if len(rivals) < 2:
        return
    everything = frozenset().union(*(entry.coverage for _, entry in rivals))
    ranked = sorted({value for value, _ in rivals}, reverse=bool(entries[0].metric.higher_is_better))
    for value, entry in rivals:
        entry.best = value == ranked[0] and entry.coverage == everything
    if len(rivals) > 2 and any(entry.best for _, entry in rivals):
        for value, entry in rivals:
            entry.second = value in ranked[1:2] and entry.coverage == everything
