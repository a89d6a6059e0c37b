"""ROC curves: a panel a choice of open classes, a line a method, from the scores that were logged."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FINISHED, Results, protocol_order
from open_set_fer.reports.figures.base import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    SOFT,
    ReportFigure,
    draw_word,
    grouped_scores,
    why_empty,
)
from open_set_fer.reports.tables.build import demonstration, slug

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = 4
STYLES = tuple(
    zip(
        ("black", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C6D00"),
        ("-", "-", "--", "-.", "-", (0, (4, 1, 1, 1, 1, 1)), "--", ":"),
        strict=True,
    )
)
"""A method's colour (Okabe and Ito, told apart by the colour-blind) and dashes, which tell it without colour too."""
POINTS = 120
"""Of a curve: more are not to be seen at this size."""


def roc_figures(results: Results, dataset: str) -> Iterator[ReportFigure]:
    """ROC curves of every family on the lowest seed, as many methods to a figure as there are styles."""
    cells = results.of(dataset)
    if results.labels in CONTROLS or not (cells["status"] == FINISHED).any():
        return
    cells = cells[cells["seed"] == cells["seed"].min()]
    methods = results.methods(dataset)
    places = protocol_order(cells)
    for family in dict.fromkeys(family for family, _ in places):
        members = cells[cells["protocol"] == family]
        choices = [opened for of, opened in places if of == family]
        planned = [method for method in methods if method in set(members["method"])]
        parts = [list(part) for part in np.array_split(planned, math.ceil(len(planned) / len(STYLES)))]
        for number, part in enumerate(parts, start=1):
            said, suffix = (f", part {number} of {len(parts)}", f"_{number}") if len(parts) > 1 else ("", "")
            figure, aucs = _draw(results, members, choices, part)
            name = dataset_name(dataset)
            caption = (
                f"{name}, family {family}{said}: ROC curves, seed {cells['seed'].iloc[0]}. A face is accepted as closed where its "
                "unknown score is low enough; the dotted line is where 95 % of closed faces are accepted, so that a curve meets "
                f"it at its FPR@TPR95.{demonstration(results, dataset)}"
            )
            alternative = f"ROC curves on {name}, family {family}; AUROC with {'; '.join(aucs)}."
            title = f"ROC curves: {name}, {family}{said}"
            yield ReportFigure(f"roc_{slug(dataset)}_{slug(family)}{suffix}", title, caption, alternative, figure)


def _draw(results: Results, cells: pd.DataFrame, choices: list[str], methods: list[str]) -> tuple[Figure, list[str]]:
    """The panels, and each one's AUROCs in words."""
    columns = min(COLUMNS, len(choices))
    rows = math.ceil(len(choices) / columns)
    width = COLUMN_WIDTH if columns < 3 else PAGE_WIDTH
    side = 1.9 if columns < 4 else PAGE_WIDTH / COLUMNS
    figure = Figure(figsize=(width, rows * side + 0.8), layout="compressed")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    said = []
    for axes, opened in zip(grid.flat, choices, strict=False):
        here = cells[cells["open_classes"] == opened]
        said.append(f"{opened} open: {_panel(results, axes, opened, here, methods)}")
    for axes in grid.flat[len(choices) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("closed faces accepted", fontsize=7)
    for place, axes in enumerate(grid.flat[: len(choices)]):
        if place + columns >= len(choices):  # nothing below it
            axes.set_xlabel("open faces accepted", fontsize=7)
            axes.tick_params(labelbottom=True)
    handles = {line.get_label(): line for axes in grid.flat for line in axes.get_lines() if line.get_label()[0] != "_"}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=2 if width == COLUMN_WIDTH else 4,
        frameon=False,
        fontsize=8,
        handlelength=3,
    )
    return figure, said


def _panel(results: Results, axes: Axes, opened: str, cells: pd.DataFrame, methods: list[str]) -> str:
    """The curves of one choice of open classes; returns the AUROCs in words."""
    axes.set_title(textwrap.fill(opened, 20), fontsize=8)
    axes.set_aspect("equal")
    axes.axline((0, 0), slope=1, color="black", alpha=0.3, linewidth=0.8)
    axes.axhline(0.95, color="black", alpha=SOFT, linewidth=0.8, linestyle=":")
    said, drawn = [], False
    for (colour, dashes), method in zip(STYLES, methods, strict=False):
        found = cells[cells["method"] == method]
        cell = None if found.empty else found.iloc[0]
        groups = (
            grouped_scores(results, str(cell["run_id"])) if cell is not None and cell["status"] == FINISHED else None
        )
        if groups is None or cell is None:
            said.append(f"{method_name(method)} {why_empty(cell)}")
            continue
        drawn = True
        said.append(f"{method_name(method)} {cell[AUROC.name]:.{AUROC.decimals}f}")
        axes.plot(*curve(*groups), color=colour, linestyle=dashes, linewidth=1.2, label=method_name(method))
    if not drawn:
        draw_word(axes, "no scores")
        return ", ".join(said)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(labelsize=7)
    return ", ".join(said)


def curve(closed: NDArray[np.float64], opened: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of open and of closed faces accepted, at POINTS of all thresholds at most, both ends among them."""
    is_closed = np.r_[np.ones(len(closed), bool), np.zeros(len(opened), bool)]
    fpr, tpr, _ = roc_curve(is_closed, -np.r_[closed, opened])
    length = fpr + tpr  # thinned evenly along the curve
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(0, len(length) - 1))
    return fpr[kept], tpr[kept]
