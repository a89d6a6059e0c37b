"""Figures 1 and 2: faces beside a data set with large inter-class distance."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC, auroc
from open_set_fer.benchmark.storage.pictures import OPEN_COLOUR, draw_histogram
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import FAMILY_ORDER, FINISHED, Results, method_order, protocol_order
from open_set_fer.reports.figures import base

CONTRAST = ("digits", "cifar10")  # data sets with large inter-class distance; every other one is taken for faces
METHODS = 3  # most methods in Figure 1
LETTER_SHARE = 0.0115  # part of Figure 2's whole bar that a letter of its labels takes
DARK = "#111111"
"""Text on segments, which are light on a dark page too: not black, which the page turns into its text colour."""


@dataclass(frozen=True)
class Pair:
    """The cells of one family and seed of a contrast data set, then of one of faces, each by its name."""

    results: Results
    family: str
    seed: int
    cells: dict[str, pd.DataFrame]

    def figure(self, number: int, content: str, more: str, alternative: str, figure: Figure) -> base.ReportFigure:
        """A drawn figure of the paper's `number`, with a caption on its content."""
        contrast, faces = self.cells
        beside = f"{dataset_name(contrast)} (large inter-class distance) beside {dataset_name(faces)} (small)"
        which = f"family {self.family}, seed {self.seed} (the paper's Figure {number})"
        caption = f"{beside}: {content}, {which}. {more}"
        title = f"Figure {number}: {dataset_name(contrast)} beside {dataset_name(faces)}"
        stem = (f"figure{number}", faces, contrast)
        return base.captioned(self.results, faces, stem, title, caption, alternative, figure)


def contrast_figures(results: Results) -> Iterator[base.ReportFigure]:
    """Figures 1 and 2 of every contrast data set beside every one of faces, where both have finished cells."""
    for contrast in (name for name in results.datasets if name in CONTRAST):
        for faces in (name for name in results.datasets if name not in CONTRAST):
            if (pair := _pair(results, contrast, faces)) and (methods := _common_methods(pair)):
                yield _score_contrast(pair, methods)
                if "baseline" in methods:
                    yield _label_contrast(pair)


def _pair(results: Results, contrast: str, faces: str) -> Pair | None:
    """The first family, and its lowest seed, that has finished cells of both data sets; None without one."""
    cells = {name: results.of(name) for name in (contrast, faces)}
    parts = [set(zip(done["protocol"], done["seed"], strict=True)) for done in map(_finished, cells.values())]
    common = sorted(parts[0] & parts[1], key=lambda part: (FAMILY_ORDER.index(part[0]), part[1]))
    if not common:
        return None
    family, seed = common[0]
    drawn = {name: own[(own["protocol"] == family) & (own["seed"] == seed)] for name, own in cells.items()}
    return Pair(results, family, seed, drawn)


def _finished(cells: pd.DataFrame) -> pd.DataFrame:
    return cells[cells["status"] == FINISHED]


def _common_methods(pair: Pair) -> list[str]:
    contrast, faces = (set(_finished(cells)["method"]) for cells in pair.cells.values())
    labels = (label for cells in pair.cells.values() for label in cells["method"])
    return [label for label in method_order(labels) if label in contrast & faces][:METHODS]


@base.styled
def _score_contrast(pair: Pair, methods: list[str]) -> base.ReportFigure:
    def draw(axes: Axes, method: str, dataset: str) -> str:
        cells = pair.cells[dataset]
        words = _pooled_panel(axes, pair.results, cells[cells["method"] == method])
        return f"{pair.results.title(method)} on {dataset_name(dataset)} {words}"

    rows, columns = (
        {m: pair.results.title(m) for m in methods},
        {dataset: dataset_name(dataset) for dataset in pair.cells},
    )
    figure, sentences = base.panel_grid(rows, columns, draw, (base.PAGE_WIDTH, 0.9 + 1.4 * len(methods)))
    figure.legend(handles=base.group_handles(), loc="outside upper right", ncols=2)
    figure.supxlabel("unknown score (higher = more likely open)")
    figure.supylabel("share of images")
    more = (
        "A panel pools the test images of the n finished choices of open classes, each with its closed-set model; over "
        "it the AUROC of the pooled scores, which is what is drawn, and the mean of the tables' n AUROCs. Shares and "
        "axes as in Figure 4."
    )
    alternative = f"Histograms of the unknown score, AUROC: {'; '.join(sentences)}."
    return pair.figure(1, "unknown scores of closed and open images", more, alternative, figure)


def _pooled_panel(axes: Axes, results: Results, cells: pd.DataFrame) -> str:
    done = _finished(cells)
    scores = [base.cell_scores(results, done[done["run_id"] == run_id]) for run_id in done["run_id"]]
    frames = [frame for frame in scores if not isinstance(frame, str)]
    if not frames:
        return base.placeholder(axes, str(scores[0]))
    pooled = pd.concat(frames)
    draw_histogram(axes, *base.grouped(pooled))
    value = auroc(pooled["is_open"].to_numpy(dtype=bool), pooled["unknown_score"].to_numpy(dtype=np.float64))
    values = [x for x, frame in zip(done[AUROC.name], scores, strict=True) if not isinstance(frame, str)]
    count = f"{len(frames)}" if len(frames) == len(cells) else f"{len(frames)} of {len(cells)}"
    text = f"pooled {value:.3f}, mean {statistics.fmean(values):.3f} (n = {count})"
    axes.set_title(f"{AUROC.title} {text}", pad=3)
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(pad=1.5)
    return text


@base.styled
def _label_contrast(pair: Pair) -> base.ReportFigure:
    baseline = {name: cells[cells["method"] == "baseline"] for name, cells in pair.cells.items()}
    heights = [sum(label.count("+") + 1 for label in cells["open_classes"]) for cells in baseline.values()]

    def draw(axes: Axes, dataset: str, _: str) -> str:
        words = _label_panel(axes, pair.results, baseline[dataset])
        axes.set_title(dataset_name(dataset), fontweight="bold", loc="left")
        return f"{dataset_name(dataset)}: {words}"

    rows, size = dict.fromkeys(baseline, ""), (base.PAGE_WIDTH, 1.3 + 0.21 * sum(heights))
    figure, sentences = base.panel_grid(rows, {"": ""}, draw, size, height_ratios=heights, sharex=True)
    label = "share of the open images that get the closed class's label"
    figure.supxlabel(f"{label}; dashed: an even spread's share of each class")
    accuracies = [f"{cells['closed_set_accuracy'].mean():.3f} ({dataset_name(d)})" for d, cells in baseline.items()]
    more = (
        "A bar is one choice of open classes; its segments are the closed classes, the most frequent first, each named "
        "where there is room. Beside it the entropy of these pseudo labels: 0 when all are one class, 1 when spread "
        "evenly like symmetric label noise. A model that is often wrong on closed images scatters labels too: its mean "
        f"accuracy on them is {' and '.join(accuracies)}."
    )
    alternative = (
        "Shares of the open images' pseudo labels over the closed classes; for each open class the most frequent "
        f"label, its share and the entropy. {'. '.join(sentences)}."
    )
    return pair.figure(2, "what the closed-set model takes open images for", more, alternative, figure)


def _label_panel(axes: Axes, results: Results, cells: pd.DataFrame) -> str:
    order = [label for _, label in protocol_order(cells)]
    parts = [cells[cells["open_classes"] == label] for label in order]
    bars = [f"{order[place]} {_share_bar(axes, place, results, part)}" for place, part in enumerate(parts)]
    axes.set_title(f"entropy, mean {cells['pseudo_label_entropy_open'].mean():.2f}", loc="right")
    axes.set_yticks(range(len(order)), [label.replace("+", " +\n") for label in order], fontsize=8)
    axes.set(ylim=(len(order) - 0.5, -0.5), xlim=(0, 1))
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=True)
    return ", ".join(bars)


def _share_bar(axes: Axes, place: int, results: Results, cells: pd.DataFrame) -> str:
    scores = base.cell_scores(results, cells)
    if isinstance(scores, str):
        axes.text(0.01, place, scores, va="center", **base.placeholder_style(scores))
        return scores
    shares = _label_shares(scores)
    start, strongest = 0.0, np.array(to_rgb(OPEN_COLOUR))
    for rank, (name, share) in enumerate(shares.items()):
        paler = 0.85 * rank / (len(shares) - 1)  # at least two closed classes
        colour = tuple(strongest * (1 - paler) + paler)
        axes.barh(place, share, left=start, height=0.8, color=colour, edgecolor="white", linewidth=0.8)
        fitting = [text for text in (f"{name}: {share:.0%}", name) if (len(text) + 1) * LETTER_SHARE < share]
        if fitting:  # on a patch of the segment's colour, so that the dashed line does not cross it
            patch = {"facecolor": colour, "edgecolor": "none", "pad": 1}
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "zorder": 4, "bbox": patch}
            axes.text(start + share / 2, place, fitting[0], color=DARK, **style)
        start += share
    axes.plot([1 / len(shares)] * 2, [place - 0.5, place + 0.5], color="black", linewidth=1.2, linestyle="--")
    entropy = float(cells["pseudo_label_entropy_open"].iloc[0])
    axes.text(1.015, place, f"{entropy:.2f}", va="center")
    name, share = next(iter(shares.items()))
    return f"mostly {name} ({share:.0%}, entropy {entropy:.2f})"


def _label_shares(scores: pd.DataFrame) -> dict[str, float]:
    """Share of the open images by predicted class (the baseline's: the pseudo label), largest first, 0 if none."""
    is_open = scores["is_open"].to_numpy(dtype=bool)
    shares = scores.loc[is_open, "predicted_class"].value_counts(normalize=True)
    others = {*scores.loc[~is_open, "truth"], *scores["predicted_class"]} - set(shares.index)
    return {str(name): float(share) for name, share in shares.items()} | dict.fromkeys(sorted(others), 0.0)
