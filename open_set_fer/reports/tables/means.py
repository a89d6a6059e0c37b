"""Numbers of tables: means over seeds and over rows, their display, marks of the best."""

from __future__ import annotations

import statistics
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import Metric
from open_set_fer.reports.data.results import FAILED, FINISHED, MISSING

PARTIAL, NOT_PLANNED, NOT_MEASURED, PRINTED = "partial", "not planned", "not measured", "printed"
NOT_RUN, NOT_ASKED = "not run", "not asked"  # of a control: not planned; not applicable to this method
BEST = "best"  # of a paired test: the method that the others are compared with
TEXTS = {FAILED: "failed", MISSING: "—", NOT_PLANNED: "·", NOT_MEASURED: "n/a", NOT_RUN: "not run", NOT_ASKED: ""}
TEXTS[BEST] = BEST

Place = tuple[str, str, str]  # Family, open classes, method
Groups = dict[Place, list[dict[Hashable, Any]]]
"""The cells that each place of a table averages, usually one a seed: rows of Results.cells."""


@dataclass
class Entry:
    """A number of a table and its basis.

    by_seed: the value of each finished seed. n_cells of n_planned cells went into `value`. coverage: the averaged open
    classes.
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
        return "" if self.value is None else f"{self.value:.{self.metric.decimals}f}"

    @property
    def spread(self) -> str:
        is_shown = self.number and self.std is not None and self.show_std
        return f"± {self.std:.{self.metric.decimals}f}" if is_shown else ""

    @property
    def text(self) -> str:
        """The entry as displayed, without bold and mark."""
        return f"{self.number} {self.spread}".strip() if self.number else TEXTS.get(self.status, "·")


@dataclass
class Row:
    """A labelled row; is_mean: the mean of the rows above."""

    label: str
    entries: list[Entry]
    is_mean: bool = False


@dataclass
class Block:
    """Rows under one heading.

    short: the heading in LaTeX; note: a footnote there. printed: the numbers are the paper's.
    """

    heading: str
    rows: list[Row]
    short: str
    note: str = ""
    printed: bool = False

    @property
    def entries(self) -> list[Entry]:
        return [entry for row in self.rows for entry in row.entries]


def group_cells(cells: pd.DataFrame) -> Groups:
    """The cells of a data set by place."""
    groups: Groups = {}
    for cell in cells.to_dict("records"):
        groups.setdefault((cell["protocol"], cell["open_classes"], cell["method"]), []).append(cell)
    return groups


def seed_mean(groups: Groups, place: Place, metric: Metric) -> Entry:
    """Mean over the cells of a place; the deviation is that of the seeds' means."""
    cells = groups.get(place, [])
    entry = Entry(*place, metric, NOT_PLANNED, n_planned=len(cells))
    done = [cell for cell in cells if cell["status"] == FINISHED]
    values = [(int(cell["seed"]), float(cell[metric.name])) for cell in done if pd.notna(cell.get(metric.name))]
    if values:
        seeds = dict.fromkeys(seed for seed, _ in values)
        entry.by_seed = {seed: statistics.fmean(value for s, value in values if s == seed) for seed in seeds}
        entry.value = statistics.fmean(value for _, value in values)
        entry.std = statistics.stdev(entry.by_seed.values()) if len(entry.by_seed) > 1 else None
        entry.n_cells, entry.coverage = len(values), frozenset([place[1]])
        entry.status = FINISHED if entry.n_cells == entry.n_planned else PARTIAL
    elif done:
        entry.status = NOT_MEASURED
    elif cells:
        entry.status = FAILED if any(cell["status"] == FAILED for cell in cells) else MISSING
    return entry


def row_mean(entries: list[Entry]) -> Entry:
    """Mean over rows of the rows' means; the deviation is that of the per-seed means over all rows."""
    families = "+".join(dict.fromkeys(entry.protocol for entry in entries))
    mean = Entry(families, "mean", entries[0].method, entries[0].metric, MISSING)
    mean.n_planned, mean.n_cells = sum(e.n_planned for e in entries), sum(e.n_cells for e in entries)
    mean.coverage = frozenset().union(*(e.coverage for e in entries))
    values = [entry.value for entry in entries if entry.value is not None]
    if not values:
        statuses = {entry.status for entry in entries}
        mean.status = FAILED if FAILED in statuses else MISSING if MISSING in statuses else statuses.pop()
        return mean
    mean.value = statistics.fmean(values)
    shared = set.intersection(*(set(entry.by_seed) for entry in entries if entry.by_seed))
    mean.by_seed = {seed: statistics.fmean(e.by_seed[seed] for e in entries if e.by_seed) for seed in sorted(shared)}
    mean.status = FINISHED if all(entry.status == FINISHED for entry in entries) else PARTIAL
    if mean.status == FINISHED and len(mean.by_seed) > 1:
        mean.std = statistics.stdev(mean.by_seed.values())
    return mean


def mark_best(entries: list[Entry]) -> None:
    """Mark the best displayed number of a metric, and the second best of three or more; ties share the mark.

    A mean over fewer rows than another method's is never marked; if it is the best number, nothing is marked.
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


def metric_block(
    metric: Metric, groups: Groups, protocols: list[tuple[str, str]], methods: list[str], has_mean: bool
) -> Block:
    """A metric's rows with their mean if there are several, the best numbers marked."""
    block = metric_rows(metric, groups, protocols, methods)
    if has_mean and len(block.rows) > 1:
        columns = zip(*(row.entries for row in block.rows), strict=True)
        block.rows.append(Row("mean", [row_mean(list(column)) for column in columns], is_mean=True))
    for row in block.rows:
        mark_best(row.entries)
        for entry in row.entries:
            if entry.status == PARTIAL:
                entry.mark = "†" if row.is_mean else "‡"
    return block


def metric_rows(metric: Metric, groups: Groups, protocols: list[tuple[str, str]], methods: list[str]) -> Block:
    """A row a choice of open classes, an entry a method."""
    rows = [
        Row(open_classes, [seed_mean(groups, (family, open_classes, method), metric) for method in methods])
        for family, open_classes in protocols
    ]
    return Block(metric.heading, rows, metric.short)
