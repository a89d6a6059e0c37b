"""Comparison of two experiments on the cells that both have, by method and family of protocols."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.stats import binomtest, ttest_1samp

from open_set_fer.benchmark.evaluation.metrics import MAIN_METRICS, Metric
from open_set_fer.benchmark.protocols.pool import SHIFT
from open_set_fer.benchmark.protocols.protocol import display_text
from open_set_fer.benchmark.protocols.pseudo_labels import Regime
from open_set_fer.benchmark.storage.mlflow_reader import COORDINATES
from open_set_fer.errors import SuiteError, some
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import FINISHED, Results, method_order
from open_set_fer.reports.data.statistics import SIMULATED, holm
from open_set_fer.reports.tables.text import markdown_escape, pipe_table

FILE = "compare.md"
HEADS = ("family", "method", "first", "second", "difference", "signs", "p", "cells")
FEWEST_CHOICES = 3  # protocols for an interval: that of two is over a dozen times as wide as their difference
NOTE = (
    "Difference: second minus first, the mean over protocols (choices of open classes) of the means over seeds. In "
    f"brackets: its 95 % interval by Student's t over protocols, omitted below {FEWEST_CHOICES}. Signs: protocols in "
    "which the second is better, equal, worse; p: of the sign test, with Holm's correction over all tests of this "
    "comparison. Protocols share faces, so the interval is too narrow and, with many open faces, p too small: "
    f"{SIMULATED}."
)


@dataclass(frozen=True)
class Difference:
    """Difference of one method on one family of protocols, over the cells that both experiments have.

    protocol: the family, with pool and pseudo-label setting where they differ from the paper's. title: of the method,
    both if they differ. first, second: means. low, high: interval of second - first; None for too few choices. better,
    equal, worse: number of choices in which the second is. p_value: of the sign test; `differences` adjusts it for
    their number. same: number of shared cells with equal settings (one cell key).
    """

    dataset: str
    protocol: str
    method: str
    title: str
    metric: Metric
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    better: int
    equal: int
    worse: int
    p_value: float
    choices: int
    cells: int
    same: int

    @property
    def text(self) -> str:
        text = f"{self.difference:+.{self.metric.decimals}f}"
        return text if self.low is None else f"{text} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def row(self) -> list[str]:
        """Texts under HEADS."""
        means = [f"{value:.{self.metric.decimals}f}" for value in (self.first, self.second)]
        return [self.protocol, self.title, *means, self.text, self.signs, f"{self.p_value:.2f}", str(self.cells)]

    @property
    def signs(self) -> str:
        return f"{self.better}/{self.equal}/{self.worse}"


def differences(first: Results, second: Results, names: tuple[str, str]) -> list[Difference]:
    """Differences by data set, family and method, of each main metric; SuiteError if no finished cell is shared.

    Cells of shifted closed faces are left out: they hold no unknown face, so neither AUROC is the better one.
    """
    cells = (first.cells, second.cells)
    done = [frame[(frame["status"] == FINISHED) & (frame["protocol"] != SHIFT)] for frame in cells]
    shared = done[0].merge(done[1], on=list(COORDINATES), suffixes=("_a", "_b"), validate="one_to_one")
    if shared.empty:
        raise SuiteError(
            f"{names[0]} and {names[1]} share no finished cell: {_what_differs(done[0], done[1], names)}",
            "compare experiments with the same data set, open classes, method labels and seeds",
        )
    fields = shared[["protocol", "open_from_a", "pool_a", "labels_a", "label_share_a"]].itertuples(index=False)
    shared["family"] = [display_text(f, source, pool, Regime(labels, x)) for f, source, pool, labels, x in fields]
    order = {method: rank for rank, method in enumerate(method_order(shared["method"]))}
    rows = [
        _difference(str(dataset), str(family), str(method), metric, cells)
        for metric in MAIN_METRICS
        for (dataset, family, method), cells in shared.groupby(["dataset", "family", "method"], sort=False)
        if cells.reindex(columns=[f"{metric.name}_a", f"{metric.name}_b"]).notna().all(axis=1).any()
    ]
    adjusted = holm([row.p_value for row in rows])
    rows = [replace(row, p_value=p_value) for row, p_value in zip(rows, adjusted, strict=True)]
    places = {key: rank for rank, key in enumerate(dict.fromkeys((d.dataset, d.protocol) for d in rows))}
    metrics = {metric: rank for rank, metric in enumerate(MAIN_METRICS)}
    return sorted(rows, key=lambda d: (metrics[d.metric], places[d.dataset, d.protocol], order[d.method]))


def other_faces(first: Results, second: Results) -> list[str]:
    """Data sets whose contents differ between the two."""
    prints = [
        {str(name): set(values) - {""} for name, values in results.results.groupby("dataset")["fingerprint"]}
        for results in (first, second)
    ]
    return [name for name in prints[0] if prints[1].get(name) and prints[0][name] != prints[1][name]]


def compare_results(first: Results, second: Results, names: tuple[str, str]) -> Comparison:
    return Comparison(names, differences(first, second, names), other_faces(first, second))


@dataclass(frozen=True)
class Comparison:
    """Differences of two experiments, and the data sets whose contents differ between them."""

    names: tuple[str, str]
    rows: list[Difference]
    other_faces: list[str]

    @property
    def tables(self) -> dict[str, list[Difference]]:
        """Rows by the title of their table: one for each metric and data set."""
        tables: dict[str, list[Difference]] = {}
        for row in self.rows:
            tables.setdefault(f"{dataset_name(row.dataset)}: {row.metric.heading}", []).append(row)
        return tables

    @property
    def remarks(self) -> list[str]:
        """Sentences below the tables."""
        rows = [row for row in self.rows if row.metric == self.rows[0].metric]
        same, shared = sum(row.same for row in rows), sum(row.cells for row in rows)
        remarks = [f"first: {self.names[0]}; second: {self.names[1]}. {NOTE}"]
        remarks += [f"{same} of {shared} shared cells have equal settings and so one result."] * (same > 0)
        others = map(dataset_name, self.other_faces)
        return remarks + [f"Warning: {name} has other contents in the second." for name in others]

    def content(self) -> dict[str, Any]:
        """The comparison for JSON."""
        rows = [asdict(row) | {"metric": row.metric.name} for row in self.rows]
        return {"first": self.names[0], "second": self.names[1], "differences": rows}

    def print(self, console: Console) -> None:
        for title, rows in self.tables.items():
            table = Table(*HEADS, title=escape(title), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
            table.columns[4].no_wrap = True
            for row in rows:
                table.add_row(*(escape(text.replace(" [", "\n[")) for text in row.row))
            console.print(table)
        for remark in self.remarks:
            console.print(remark, highlight=False, markup=False)

    def write(self, out: Path) -> Path:
        """Write out/compare.md."""
        lines = [f"# From {' to '.join(map(markdown_escape, self.names))}", ""]
        lines += ["From MLflow; each number is a mean over seeds and protocols (choices of open classes).", ""]
        for title, rows in self.tables.items():
            lines += [f"## {markdown_escape(title)}", "", *pipe_table(HEADS, [row.row for row in rows]), ""]
        lines += [f"- {markdown_escape(remark)}" for remark in self.remarks]
        out.mkdir(parents=True, exist_ok=True)
        path = out / FILE
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path


def _difference(dataset: str, family: str, method: str, metric: Metric, cells: pd.DataFrame) -> Difference:
    columns = [f"{metric.name}_a", f"{metric.name}_b"]
    cells = cells.dropna(subset=columns)
    means = cells.groupby("open_classes", sort=False)[columns].mean().to_numpy(dtype=np.float64)
    gaps = means[:, 1] - means[:, 0]
    better = gaps if metric.higher_is_better else -gaps
    wins, losses = int((better > 0).sum()), int((better < 0).sum())
    ties, p_value = len(gaps) - wins - losses, float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    first, second, gap = float(means[:, 0].mean()), float(means[:, 1].mean()), float(gaps.mean())
    (low, high), same = _interval(gaps), int((cells["cell_key_a"] == cells["cell_key_b"]).sum())
    counts = (wins, ties, losses, p_value, len(gaps), len(cells), same)
    title = " / ".join(dict.fromkeys(cells[["title_a", "title_b"]].iloc[0]))
    return Difference(dataset, family, method, title, metric, first, second, gap, low, high, *counts)


def _interval(gaps: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float | None, float | None]:
    if len(gaps) < FEWEST_CHOICES:
        return None, None
    if np.ptp(gaps) < 1e-12:  # SciPy warns of the lost precision
        return float(gaps.mean()), float(gaps.mean())
    interval = ttest_1samp(gaps, 0.0).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def _what_differs(first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str]) -> str:
    for frame, name in zip((first, second), names, strict=True):
        if frame.empty:
            return f"{name} has only cells of shifted faces, which are not compared"
    for name, noun in zip(COORDINATES, ("data set", "family", "open classes", "method", "seed"), strict=True):
        own, other = (list(dict.fromkeys(map(str, frame[name]))) for frame in (first, second))
        if not set(own) & set(other):
            return f"no common {noun} ({some(own, 4)} against {some(other, 4)})"
    return "no cell agrees in data set, open classes, method and seed at once"
