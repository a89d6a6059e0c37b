"""ROC curves: a panel for each protocol, a line for each method, from the scores that were logged."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.figures import base

COLUMNS = 4
COLOURS = ("black", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C6D00")
STYLES = tuple(zip(COLOURS, ("-", "-", "--", "-.", "-", (0, (4, 1, 1, 1, 1, 1)), "--", ":"), strict=True))
"""A method's colour (Okabe and Ito, told apart by the colour-blind) and dashes, which tell it without colour too."""
POINTS = 120  # of a curve: more are not to be seen at this size


def roc_figures(results: Results, dataset: str) -> Iterator[base.ReportFigure]:
    """ROC curves of every family on the lowest seed, as many methods to a figure as there are styles."""
    if results.labels in CONTROLS or not (results.of(dataset)["status"] == FINISHED).any():
        return
    name = dataset_name(dataset)
    for family, cells, choices in base.by_family(results, dataset):
        planned = [method for method in results.methods(dataset) if method in set(cells["method"])]
        for methods, part, number in base.numbered(base.chunks(planned, len(STYLES))):
            figure, words = _draw(results, cells, choices, methods)
            caption = (
                f"{name}, family {family}{part}: ROC curves, seed {cells['seed'].iloc[0]}. A face is accepted as "
                "closed where its unknown score is low enough; the dotted line is where 95 % of closed faces are "
                "accepted, so that a curve meets it at its FPR@TPR95."
            )
            alternative = f"ROC curves on {name}, family {family}; AUROC with {'; '.join(words)}."
            stem, title = ("roc", dataset, family, number), f"ROC curves: {name}, {family}{part}"
            yield base.captioned(results, dataset, stem, title, caption, alternative, figure)


@base.styled
def _draw(
    results: Results, cells: pd.DataFrame, choices: list[str], methods: Sequence[str]
) -> tuple[Figure, list[str]]:
    columns = min(COLUMNS, len(choices))
    rows = math.ceil(len(choices) / columns)

    def draw(axes: Axes, row: int, column: int) -> str:
        place = row * columns + column
        if place >= len(choices):
            axes.set_visible(False)
            return ""
        words = _panel(results, axes, cells[cells["open_classes"] == choices[place]], methods)
        axes.set_title(textwrap.fill(choices[place], 20))
        if place + columns >= len(choices):  # nothing below it
            axes.set_xlabel("open faces accepted")
            axes.tick_params(labelbottom=True)
        return f"{choices[place]} open: {words}"

    width = base.COLUMN_WIDTH if columns < 3 else base.PAGE_WIDTH
    side = 1.9 if columns < 4 else base.PAGE_WIDTH / COLUMNS
    labels, headings = dict.fromkeys(range(rows), "closed faces accepted"), dict.fromkeys(range(columns), "")
    size, options = (width, rows * side + 0.8), {"sharex": True, "sharey": True}
    figure, words = base.panel_grid(labels, headings, draw, size, layout="compressed", **options)
    lines = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    ncols = 2 if width == base.COLUMN_WIDTH else 4
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=ncols, handlelength=3)
    return figure, [text for text in words if text]


def _panel(results: Results, axes: Axes, cells: pd.DataFrame, methods: Sequence[str]) -> str:
    axes.set_aspect("equal")
    axes.axline((0, 0), slope=1, color="black", alpha=0.3, linewidth=0.8)
    axes.axhline(0.95, color="black", alpha=base.SOFT, linewidth=0.8, linestyle=":")
    words = []
    for (colour, dashes), method in zip(STYLES, methods, strict=False):
        name, drawn = results.title(method), cells[cells["method"] == method]
        scores = base.cell_scores(results, drawn)
        if isinstance(scores, str):
            words.append(f"{name} {scores}")
            continue
        words.append(f"{name} {drawn[AUROC.name].iloc[0]:.{AUROC.decimals}f}")
        axes.plot(*curve(*base.grouped(scores)), color=colour, linestyle=dashes, linewidth=1.2, label=name)
    if not axes.get_legend_handles_labels()[0]:
        base.placeholder(axes, "no scores")
    else:
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    return ", ".join(words)


def curve(closed: NDArray[np.float64], opened: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of open and of closed faces accepted, at POINTS of all thresholds at most, both ends among them."""
    is_closed = np.r_[np.ones(len(closed), bool), np.zeros(len(opened), bool)]
    fpr, tpr, _ = roc_curve(is_closed, -np.r_[closed, opened])
    length = fpr + tpr  # thinned evenly along the curve
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], POINTS)).clip(0, len(length) - 1))
    return fpr[kept], tpr[kept]
