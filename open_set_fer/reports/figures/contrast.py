"""Figures 1 and 2: faces beside a data set with large inter-class distance."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC, auroc
from open_set_fer.benchmark.storage.pictures import OPEN_COLOUR, draw_histogram
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FAMILY_ORDER, FINISHED, Results, method_order, protocol_order
from open_set_fer.reports.figures.base import (
    PAGE_WIDTH,
    SCORES_GONE,
    ReportFigure,
    draw_word,
    group_handles,
    grouped_scores,
    why_empty,
    word_style,
)
from open_set_fer.reports.tables.build import demonstration, slug

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CONTRAST = ("digits", "cifar10")
"""Data sets with large inter-class distance; every other one is taken for faces."""
METHODS = 3
"""At most as many are drawn in Figure 1."""
LETTER_SHARE = 0.0115
"""Part of Figure 2's whole bar that a letter of its labels takes."""


@dataclass(frozen=True)
class Pair:
    """The cells of one family and seed of a contrast data set, then of one of faces, each by its name."""

    results: Results
    family: str
    seed: int
    cells: dict[str, pd.DataFrame]

    @property
    def contrast(self) -> str:
        """The data set with large inter-class distance."""
        return next(iter(self.cells))

    @property
    def faces(self) -> str:
        """The data set of faces."""
        return next(reversed(self.cells))

    def figure(self, number: int, shows: str, more: str, alternative: str, figure: Figure) -> ReportFigure:
        """A drawn figure of the paper's `number`, with a caption on what it shows of these cells."""
        caption = (
            f"{dataset_name(self.contrast)} (large inter-class distance) beside {dataset_name(self.faces)} (small): {shows}, family "
            f"{self.family}, seed {self.seed} (the paper's Figure {number}). {more}{demonstration(self.results, self.faces)}"
        )
        title = f"Figure {number}: {dataset_name(self.contrast)} beside {dataset_name(self.faces)}"
        name = f"figure{number}_{slug(self.faces)}_{slug(self.contrast)}"
        return ReportFigure(name, title, caption, alternative, figure)


def contrast_figures(results: Results) -> Iterator[ReportFigure]:
    """Figures 1 and 2 of every contrast data set beside every one of faces, where both have finished cells."""
    for contrast in (name for name in results.datasets if name in CONTRAST):
        for faces in (name for name in results.datasets if name not in CONTRAST):
            pair = _pair(results, contrast, faces)
            methods = _common_methods(pair) if pair else []
            if pair and methods:
                yield _score_contrast(pair, methods)
            if pair and "baseline" in methods:
                yield _label_contrast(pair)


def _pair(results: Results, contrast: str, faces: str) -> Pair | None:
    """The first family, and its lowest seed, that has finished cells of both data sets; None without one."""
    cells = {name: results.of(name) for name in (contrast, faces)}
    done = [own[own["status"] == FINISHED] for own in cells.values()]
    parts = [set(zip(own["protocol"], own["seed"], strict=True)) for own in done]
    common = sorted(parts[0] & parts[1], key=lambda part: (FAMILY_ORDER.index(part[0]), part[1]))
    if not common:
        return None
    family, seed = common[0]
    chosen = {name: own[(own["protocol"] == family) & (own["seed"] == seed)] for name, own in cells.items()}
    return Pair(results, family, seed, chosen)


def _common_methods(pair: Pair) -> list[str]:
    """The first methods that have a finished cell of both data sets."""
    finished = [set(cells.loc[cells["status"] == FINISHED, "method"]) for cells in pair.cells.values()]
    labels = (label for cells in pair.cells.values() for label in cells["method"])
    return [label for label in method_order(labels) if label in finished[0] & finished[1]][:METHODS]


def _score_contrast(pair: Pair, methods: list[str]) -> ReportFigure:
    """Figure 1: a row a method, a column a data set."""
    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + 1.4 * len(methods)), layout="constrained")
    grid = figure.subplots(len(methods), 2, squeeze=False)
    sentences = []
    for line, method in zip(grid, methods, strict=True):
        line[0].set_ylabel(method_name(method), fontsize=8, fontweight="bold")
        for axes, (dataset, cells) in zip(line, pair.cells.items(), strict=True):
            shown = _pooled_panel(axes, pair.results, cells[cells["method"] == method])
            sentences.append(f"{method_name(method)} on {dataset_name(dataset)} {shown}")
    for axes, dataset in zip(grid[0], pair.cells, strict=True):
        axes.set_title(f"{dataset_name(dataset)}\n", fontsize=9, fontweight="bold", loc="left")
    figure.legend(handles=group_handles(), loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    figure.supxlabel("unknown score (higher = more likely open)", fontsize=8)
    figure.supylabel("share of images", fontsize=8)
    more = (
        "A panel pools the test images of the n finished choices of open classes, each with a model of its own; over it the "
        "AUROC of the pooled scores, which is what is drawn, and the mean of the tables' n AUROCs. Shares and axes as in "
        "Figure 4."
    )
    alternative = f"Histograms of the unknown score, AUROC: {'; '.join(sentences)}."
    return pair.figure(1, "unknown scores of closed and open images", more, alternative, figure)


def _pooled_panel(axes: Axes, results: Results, cells: pd.DataFrame) -> str:
    """Draw the finished cells' scores together; returns what the title says of their AUROC."""
    done = cells[cells["status"] == FINISHED]
    read = [
        (float(value), scores)
        for value, run_id in zip(done[AUROC.name], done["run_id"], strict=True)
        if (scores := grouped_scores(results, run_id))
    ]
    if not read:
        draw_word(axes, SCORES_GONE)
        return SCORES_GONE
    closed, opened = (np.concatenate([scores[group] for _, scores in read]) for group in (0, 1))
    draw_histogram(axes, closed, opened)
    pooled = auroc(np.repeat([False, True], [len(closed), len(opened)]), np.concatenate([closed, opened]))
    count = f"{len(read)}" if len(read) == len(cells) else f"{len(read)} of {len(cells)}"
    text = f"pooled {pooled:.3f}, mean {statistics.fmean(value for value, _ in read):.3f} (n = {count})"
    axes.set_title(f"{AUROC.title} {text}", fontsize=8, pad=3)
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelsize=7, length=2, pad=1.5)
    return text


def _label_contrast(pair: Pair) -> ReportFigure:
    """Figure 2: a panel a data set, from the baseline's cells."""
    baseline = {name: cells[cells["method"] == "baseline"] for name, cells in pair.cells.items()}
    heights = [sum(label.count("+") + 1 for label in cells["open_classes"]) for cells in baseline.values()]
    figure = Figure(figsize=(PAGE_WIDTH, 1.3 + 0.21 * sum(heights)), layout="constrained")
    panels = figure.subplots(2, 1, height_ratios=heights, sharex=True)
    sentences, accuracies = [], []
    for axes, (dataset, cells) in zip(panels, baseline.items(), strict=True):
        name = dataset_name(dataset)
        sentences.append(f"{name}: {_label_panel(axes, pair.results, cells)}")
        accuracies.append(f"{cells['closed_set_accuracy'].mean():.3f} ({name})")
        axes.set_title(name, fontsize=9, fontweight="bold", loc="left")
    figure.supxlabel(
        "share of the open images that get the closed class's label; dashed: an even spread's share of each class",
        fontsize=8,
    )
    more = (
        "A bar is one choice of open classes; its segments are the closed classes, the most frequent first, each named where "
        "there is room. Beside it the entropy of these pseudo labels: 0 when all are one class, 1 when spread evenly like "
        "symmetric label noise. A model that is often wrong on closed images scatters labels too: its mean accuracy on them is "
        f"{' and '.join(accuracies)}."
    )
    alternative = (
        "Shares of the open images' pseudo labels over the closed classes; for each open class the most frequent "
        f"label, its share and the entropy. {'. '.join(sentences)}."
    )
    return pair.figure(2, "what the closed-set model takes open images for", more, alternative, figure)


def _label_panel(axes: Axes, results: Results, cells: pd.DataFrame) -> str:
    """Draw a bar a choice of open classes; returns what the bars show in words."""
    order = [label for _, label in protocol_order(cells)]
    by_label = {cell["open_classes"]: cell for _, cell in cells.iterrows()}
    bars = [f"{label} {_share_bar(axes, place, results, by_label[label])}" for place, label in enumerate(order)]
    axes.set_title(f"entropy, mean {cells['pseudo_label_entropy_open'].mean():.2f}", fontsize=8, loc="right")
    axes.set_yticks(range(len(order)), [label.replace("+", " +\n") for label in order], fontsize=8)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7, length=2, labelbottom=True)
    return ", ".join(bars)


def _share_bar(axes: Axes, place: int, results: Results, cell: pd.Series[Any]) -> str:
    """Draw a cell's shares of pseudo labels as a stacked bar; returns what it shows in words."""
    shares = _label_shares(results, cell["run_id"]) if cell["status"] == FINISHED else None
    if shares is None:
        axes.text(0.01, place, why_empty(cell), va="center", **word_style(why_empty(cell)))
        return why_empty(cell)
    start, strongest = 0.0, np.array(to_rgb(OPEN_COLOUR))
    for rank, (name, share) in enumerate(shares.items()):
        paler = 0.85 * rank / (len(shares) - 1)  # at least two closed classes
        colour = tuple(strongest * (1 - paler) + paler)
        axes.barh(place, share, left=start, height=0.8, color=colour, edgecolor="white", linewidth=0.8)
        fitting = [text for text in (f"{name}: {share:.0%}", name) if (len(text) + 1) * LETTER_SHARE < share]
        if fitting:  # on a patch of the segment's colour, so that the dashed line does not cross it
            axes.text(
                start + share / 2,
                place,
                fitting[0],
                ha="center",
                va="center",
                fontsize=7,
                zorder=4,
                color="#111111",  # dark on a dark page too: the segments are light
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
            )
        start += share
    axes.plot([1 / len(shares)] * 2, [place - 0.5, place + 0.5], color="black", linewidth=1.2, linestyle="--")
    entropy = float(cell["pseudo_label_entropy_open"])
    axes.text(1.015, place, f"{entropy:.2f}", va="center", fontsize=8)
    name, share = next(iter(shares.items()))
    return f"mostly {name} ({share:.0%}, entropy {entropy:.2f})"


def _label_shares(results: Results, run_id: str) -> dict[str, float] | None:
    """Share of the open images by predicted class, largest first, 0 for a class none gets; None without the artifact.

    For the baseline, whose predicted class is the closed-set model's pseudo label.
    """
    frame = results.scores(run_id)
    if frame is None:
        return None
    is_open = frame["is_open"].to_numpy(dtype=bool)
    shares = frame.loc[is_open, "predicted_class"].value_counts(normalize=True)
    classes = {*frame.loc[~is_open, "truth"], *frame["predicted_class"]}
    return {str(name): float(share) for name, share in shares.items()} | dict.fromkeys(
        sorted(classes - set(shares.index)), 0.0
    )
