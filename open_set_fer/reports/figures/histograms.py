"""The figures of a report: Figures 1 and 2 (contrast.py), AUROC by method, and Figure 4."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.benchmark.storage.pictures import draw_histogram, group_names
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FINISHED, Results, method_order, protocol_order
from open_set_fer.reports.data.statistics import Comparison, compare
from open_set_fer.reports.figures.base import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    SOFT,
    ReportFigure,
    draw_word,
    group_handles,
    grouped_scores,
    why_empty,
)
from open_set_fer.reports.figures.contrast import contrast_figures
from open_set_fer.reports.figures.ranks import rank_figure
from open_set_fer.reports.figures.roc import roc_figures
from open_set_fer.reports.tables.build import demonstration, slug

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

METHODS_PER_FIGURE, ROWS_PER_FIGURE = 6, 8
FAMILY_STYLES = {
    "single": ("o", "#0072B2"),
    "pairs": ("s", "#E69F00"),
    "triples": ("^", "#009E73"),
    "compound": ("D", "#CC79A7"),
    "contempt": ("v", "#D55E00"),
}


def all_figures(results: Results) -> Iterator[ReportFigure]:
    """The figures of pairs of data sets, then those of every data set, one at a time."""
    yield from contrast_figures(results)
    for dataset in results.datasets:
        if (results.of(dataset)["status"] == FINISHED).any():
            yield _auroc_by_method(results, dataset)
            found = compare(results.of(dataset))
            if isinstance(found, Comparison) and (
                ranks := rank_figure(dataset, found, demonstration(results, dataset))
            ):
                yield ranks
            yield from roc_figures(results, dataset)
            yield from _histograms(results, dataset)


# -- AUROC by method ---------------------------------------------------------------------------------------------------


def _auroc_by_method(results: Results, dataset: str) -> ReportFigure:
    cells = results.of(dataset)
    methods = method_order(cells["method"])
    families = [family for family in FAMILY_STYLES if family in set(cells["protocol"])]
    figure = Figure(figsize=(PAGE_WIDTH, 1.0 + 0.26 * len(methods)), layout="constrained")
    axes = figure.subplots()
    sentences = []
    for place, method in enumerate(methods):
        text = _method_line(axes, place, cells[cells["method"] == method], families)
        axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        sentences.append(f"{method_name(method)} {text}")
    _style_auroc_axes(axes, methods, lowest=float(np.nanmin(cells[AUROC.name])))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    caption = (
        f"{dataset_name(dataset)}: AUROC by method. A mark is one choice of open classes (mean over seeds), the bar the mean over "
        f"the n choices that are finished.{demonstration(results, dataset)}"
    )
    alternative = f"Mean AUROC on {dataset_name(dataset)}: {', '.join(sentences)}."
    title = f"AUROC by method: {dataset_name(dataset)}"
    return ReportFigure(f"auroc_{slug(dataset)}", title, caption, alternative, figure)


def _method_line(axes: Axes, place: int, cells: pd.DataFrame, families: list[str]) -> str:
    """Draw a method's marks and their mean; returns the mean in words."""
    choices = cells.groupby(["protocol", "open_classes"], sort=False)[AUROC.name].mean()
    values = choices[np.isfinite(choices)]
    for rank, family in enumerate(families):
        marker, colour = FAMILY_STYLES[family]
        x = values[values.index.get_level_values("protocol") == family]
        offset = 0.12 * (rank - (len(families) - 1) / 2)
        axes.plot(
            x,
            [place + offset] * len(x),
            marker,
            color=colour,
            markersize=4,
            alpha=0.9,
            markeredgewidth=0,
            label=family if place == 0 else None,
            zorder=2,
        )
    if values.empty:
        return "no finished cell"
    mean = statistics.fmean(values)
    axes.plot(
        [mean, mean],
        [place - 0.36, place + 0.36],
        color="black",
        linewidth=2.2,
        zorder=3,
        label="mean" if place == 0 else None,
    )
    return f"{mean:.3f} (n = {len(values)}" + (")" if len(values) == len(choices) else f" of {len(choices)})")


def _style_auroc_axes(axes: Axes, methods: list[str], lowest: float) -> None:
    axes.set_xlim(min(0.45, lowest - 0.03), 1.01)
    axes.axvline(0.5, color="black", alpha=0.5, linewidth=1, linestyle=":", zorder=1)
    axes.annotate(
        "chance",
        (0.5, 0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 3),
        textcoords="offset points",
        fontsize=7,
        color="black",
        alpha=SOFT,
    )
    axes.set_yticks(range(len(methods)), list(map(method_name, methods)), fontsize=8)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="x", color="black", alpha=0.12)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel(AUROC.title, fontsize=8)


# -- Figure 4 ----------------------------------------------------------------------------------------------------------


def _histograms(results: Results, dataset: str) -> Iterator[ReportFigure]:
    """Figure 4 of every family, on the lowest seed, in as many parts as it takes."""
    cells = results.of(dataset)
    cells = cells[cells["seed"] == cells["seed"].min()]
    groups = "faces with flipped labels and of the others" if results.labels in CONTROLS else "closed and open faces"
    for family in dict.fromkeys(family for family, _ in _protocols(cells)):
        members = cells[cells["protocol"] == family]
        parts = _parts(members)
        for number, (rows, methods) in enumerate(parts, start=1):
            part, suffix = (f", part {number} of {len(parts)}", f"_{number}") if len(parts) > 1 else ("", "")
            caption = (
                f"{dataset_name(dataset)}, family {family}{part}: unknown scores of {groups}, seed "
                f"{cells['seed'].iloc[0]} (the paper's Figure 4). Each panel: share of the group's faces in common bins; the axis "
                "runs from the 1st to the 99th percentile, faces beyond it are counted in the outermost bins."
                f"{demonstration(results, dataset)}"
            )
            alternative = (
                f"Histograms of the unknown score on {dataset_name(dataset)}: rows {', '.join(rows)}; columns "
                f"{', '.join(map(method_name, methods))}. The AUROC over each panel is that of the tables."
            )
            name = f"figure4_{slug(dataset)}_{slug(family)}{suffix}"
            title = f"Figure 4: {dataset_name(dataset)}, {family}{part}"
            yield ReportFigure(name, title, caption, alternative, _grid(results, members, rows, methods))


def _protocols(cells: pd.DataFrame) -> list[tuple[str, str]]:
    return protocol_order(cells)


def _parts(cells: pd.DataFrame) -> list[tuple[list[str], list[str]]]:
    """(rows, methods) of each part of a family's figure; a row that none of a part's methods has is left out."""
    planned = set(zip(cells["open_classes"], cells["method"], strict=True))
    parts = []
    for methods in _chunks(method_order(cells["method"]), METHODS_PER_FIGURE):
        rows = [label for _, label in _protocols(cells) if any((label, method) in planned for method in methods)]
        parts += [(some, methods) for some in _chunks(rows, ROWS_PER_FIGURE)]
    return parts


def _grid(results: Results, cells: pd.DataFrame, rows: list[str], methods: list[str]) -> Figure:
    by_place = {(cell["open_classes"], cell["method"]): cell for _, cell in cells.iterrows()}
    width = PAGE_WIDTH if len(methods) > 2 else COLUMN_WIDTH
    figure = Figure(figsize=(width, 0.9 + 1.05 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(methods), squeeze=False)
    for line, label in zip(grid, rows, strict=True):
        for axes, method in zip(line, methods, strict=True):
            _panel(axes, results, by_place.get((label, method)))
        line[0].set_ylabel(textwrap.fill(label.replace("+", " + "), 20), fontsize=7)
    for axes, method in zip(grid[0], methods, strict=True):
        name = textwrap.fill(method_name(method), 14)
        axes.set_title(f"{name}\n", fontsize=7, fontweight="bold", loc="left")
    names = group_names(results.labels in CONTROLS)
    figure.legend(handles=group_handles(names), loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    figure.supxlabel(f"unknown score (higher = more likely {names[1]})", fontsize=8)
    figure.supylabel("share of faces", fontsize=8)
    return figure


def _panel(axes: Axes, results: Results, cell: pd.Series[Any] | None) -> None:
    scores = grouped_scores(results, cell["run_id"]) if cell is not None and cell["status"] == FINISHED else None
    if cell is None or scores is None:
        draw_word(axes, why_empty(cell))
        return
    draw_histogram(axes, *scores, bins=30)
    axes.set_title(f"{AUROC.title} {cell[AUROC.name]:.3f}", fontsize=7.5, pad=3)
    axes.locator_params(axis="x", nbins=3)
    axes.xaxis.set_major_formatter("{x:g}")  # else small scores have labels that touch
    axes.locator_params(axis="y", nbins=2)
    axes.tick_params(labelsize=7, length=2, pad=1.5)


def _chunks(items: list[str], size: int) -> list[list[str]]:
    """Runs of at most `size` items, of nearly equal length."""
    length = math.ceil(len(items) / math.ceil(len(items) / size))
    return [items[start : start + length] for start in range(0, len(items), length)]
