"""Two experiments on the cells that both have: by how much each method differs, and in how many choices of open classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest, ttest_1samp

from open_set_fer.benchmark.evaluation.metrics import MAIN_METRICS, Metric
from open_set_fer.benchmark.protocols.protocol import display_text
from open_set_fer.benchmark.protocols.pseudo_labels import Regime
from open_set_fer.benchmark.protocols.shifts import SHIFT
from open_set_fer.benchmark.storage.mlflow_reader import COORDINATES
from open_set_fer.errors import SuiteError, some
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FINISHED, Results, method_order
from open_set_fer.reports.tables.text import markdown_escape, pipe_table

FILE = "compare.md"
HEADS = ("protocols", "method", "first", "second", "difference", "signs", "p", "cells")
FEWEST_CHOICES = 3
"""With two, Student's t reaches over a dozen times their difference."""
NOTE = (
    "Difference: second less first, the mean over choices of open classes of the means over seeds. In brackets: its 95 % interval "
    "by Student's t over the choices, which share faces, so that it is narrow rather than wide; of fewer than "
    f"{FEWEST_CHOICES} choices none. Signs: choices in which the second is better, equal, worse; p of the sign test."
)


@dataclass(frozen=True)
class Difference:
    """One method on one family of protocols, over the cells that both have.

    protocol: the family, with the part of the test pool and the label regime where it is not the paper's. first, second:
    means. cells, choices: how many are shared; same: of the cells, those of equal settings (one cell key). low, high: interval of second - first; None
    for too few choices. better, equal, worse: choices by which of the two is better there. p_value: of the sign test.
    """

    dataset: str
    protocol: str
    method: str
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
        """The difference with its interval as displayed."""
        shown = f"{self.difference:+.{self.metric.decimals}f}"
        return shown if self.low is None else f"{shown} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def row(self) -> list[str]:
        """The texts under HEADS."""
        means = [f"{value:.{self.metric.decimals}f}" for value in (self.first, self.second)]
        name = method_name(self.method)
        return [self.protocol, name, *means, self.text, self.signs, f"{self.p_value:.2f}", str(self.cells)]

    @property
    def signs(self) -> str:
        """Choices in which the second is better, equal, worse."""
        return f"{self.better}/{self.equal}/{self.worse}"


def differences(first: Results, second: Results, names: tuple[str, str]) -> list[Difference]:
    """Differences by data set, family and method, of each main metric; SuiteError where no finished cell is shared.

    Cells of closed faces with a shift are left out: nothing is to be found there, so that neither AUROC is the better one.
    """
    place = list(COORDINATES)
    done = [
        results.cells[(results.cells["status"] == FINISHED) & (results.cells["protocol"] != SHIFT)]
        for results in (first, second)
    ]
    shared = done[0].merge(done[1], on=place, suffixes=("_a", "_b"), validate="one_to_one")
    if shared.empty:
        raise SuiteError(
            f"{names[0]} and {names[1]} share no finished cell: {_what_differs(done[0], done[1], names)}",
            "compare experiments with the same data set, open classes, method labels and seeds",
        )
    shared["family"] = [
        display_text(family, open_from, pool, Regime(labels, share))
        for family, open_from, pool, labels, share in shared[
            ["protocol", "open_from_a", "pool_a", "labels_a", "label_share_a"]
        ].itertuples(index=False)
    ]
    order = {method: rank for rank, method in enumerate(method_order(shared["method"]))}
    found = [
        _difference(str(dataset), str(family), str(method), metric, cells)
        for metric in MAIN_METRICS
        for (dataset, family, method), cells in shared.groupby(["dataset", "family", "method"], sort=False)
        if cells.reindex(columns=[f"{metric.name}_a", f"{metric.name}_b"]).notna().all(axis=1).any()
    ]
    places = {key: rank for rank, key in enumerate(dict.fromkeys((d.dataset, d.protocol) for d in found))}
    metrics = {metric: rank for rank, metric in enumerate(MAIN_METRICS)}
    return sorted(found, key=lambda d: (metrics[d.metric], places[d.dataset, d.protocol], order[d.method]))


def other_faces(first: Results, second: Results) -> list[str]:
    """Data sets whose contents differ between the two: their differences are also those of the faces."""
    prints = [
        {str(name): set(of) - {""} for name, of in results.results.groupby("dataset")["fingerprint"]}
        for results in (first, second)
    ]
    return [name for name in prints[0] if prints[1].get(name) and prints[0][name] != prints[1][name]]


def titled(found: list[Difference]) -> list[tuple[str, list[Difference]]]:
    """Title and rows of each table: one a metric and data set."""
    places = dict.fromkeys((row.metric, row.dataset) for row in found)
    return [
        (f"{dataset_name(place[1])}: {place[0].heading}", [row for row in found if (row.metric, row.dataset) == place])
        for place in places
    ]


def remarks(found: list[Difference], names: tuple[str, str], others: list[str]) -> list[str]:
    """What is to be known of the tables; others: as `other_faces` gives them."""
    cells = [row for row in found if row.metric == found[0].metric]
    same, shared = sum(row.same for row in cells), sum(row.cells for row in cells)
    said = [f"first: {names[0]}; second: {names[1]}. {NOTE}"]
    if same:
        said.append(f"{same} of {shared} shared cells have equal settings and so one result.")
    return [*said, *(f"Warning: {dataset_name(name)} has other contents in the second." for name in others)]


def to_markdown(found: list[Difference], names: tuple[str, str], others: list[str]) -> str:
    """All of it as Markdown."""
    lines = [f"# From {markdown_escape(names[0])} to {markdown_escape(names[1])}", ""]
    lines += [
        "By `osfer report --compare` from MLflow; each number is a mean over seeds and choices of open classes.",
        "",
    ]
    for title, rows in titled(found):
        lines += [f"## {markdown_escape(title)}", "", *pipe_table(HEADS, [row.row for row in rows]), ""]
    lines += [f"- {markdown_escape(text)}" for text in remarks(found, names, others)]
    return "\n".join(lines) + "\n"


def _difference(dataset: str, family: str, method: str, metric: Metric, cells: pd.DataFrame) -> Difference:
    columns = [f"{metric.name}_a", f"{metric.name}_b"]
    cells = cells.dropna(subset=columns)
    means = cells.groupby("open_classes", sort=False)[columns].mean().to_numpy(dtype=np.float64)
    gaps = means[:, 1] - means[:, 0]
    better = gaps if metric.higher_is_better else -gaps
    wins, losses = int((better > 0).sum()), int((better < 0).sum())
    low, high = _interval(gaps)
    return Difference(
        dataset,
        family,
        method,
        metric,
        float(means[:, 0].mean()),
        float(means[:, 1].mean()),
        float(gaps.mean()),
        low,
        high,
        wins,
        len(gaps) - wins - losses,
        losses,
        float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        len(gaps),
        len(cells),
        int((cells["cell_key_a"] == cells["cell_key_b"]).sum()),
    )


def _interval(gaps: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float | None, float | None]:
    if len(gaps) < FEWEST_CHOICES:
        return None, None
    if np.ptp(gaps) < 1e-12:  # SciPy warns of the lost precision
        return float(gaps.mean()), float(gaps.mean())
    interval = ttest_1samp(gaps, 0.0).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def _what_differs(first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str]) -> str:
    """The first coordinate of which the two have nothing in common, in words."""
    for frame, name in zip((first, second), names, strict=True):
        if frame.empty:
            return f"{name} has none but of shifted faces, which are not compared"
    for name, word in zip(COORDINATES, ("data set", "family", "open classes", "method", "seed"), strict=True):
        own, other = (list(dict.fromkeys(map(str, frame[name]))) for frame in (first, second))
        if not set(own) & set(other):
            return f"no common {word} ({some(own, 4)} against {some(other, 4)})"
    return "no cell agrees in data set, open classes, method and seed at once"
