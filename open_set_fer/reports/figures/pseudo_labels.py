"""Figure 6: the labels that open faces are assigned in three pseudo-label settings, and AUROC of `ours` in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC, WITHIN_LABEL, normalised_entropy
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, Regime
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.paper import figure6_value
from open_set_fer.reports.data.results import FINISHED, Results, protocol_order
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure, captioned, cell_scores, chance_line, styled

METHOD = "ours"
CONCENTRATED = Regime("concentrated", 1.0)


@dataclass(frozen=True)
class Group:
    """One group of bars: a pseudo-label setting, its name in the legend and its colour."""

    regime: Regime
    name: str
    colour: str


GROUPS = (
    Group(OWN, "own", "#0072B2"),
    Group(CONCENTRATED, "concentrated", "#D55E00"),
    Group(Regime("released", 1.0), "as released", "#8C6D00"),
)


def label_figures(results: Results) -> Iterator[ReportFigure]:
    """Figure 6 of every choice of open classes that has a finished cell of ours under concentrated labels."""
    for dataset in results.datasets:
        cells = results.of(dataset)
        cells = cells[cells["method"] == METHOD]
        is_drawn = (cells["labels"] == "concentrated") & (cells["label_share"] == 1.0) & (cells["status"] == FINISHED)
        for _, label in protocol_order(cells[is_drawn]):
            opened = label.removesuffix(CONCENTRATED.suffix)
            by_group = [cells[cells["open_classes"] == opened + group.regime.suffix] for group in GROUPS]
            yield _figure(results, dataset, opened, by_group)


@styled
def _figure(results: Results, dataset: str, opened: str, by_group: list[pd.DataFrame]) -> ReportFigure:
    figure, name = Figure(figsize=(PAGE_WIDTH, 2.7), layout="constrained"), dataset_name(dataset)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    sentences = _label_bars(left, [_assigned_labels(results, cells) for cells in by_group], by_group)
    has_published = _auroc_bars(right, by_group, opened, results.title(METHOD))
    values = {group.name: figure6_value(group.regime.labels) for group in GROUPS}
    published = [f"{value:.3f} ({group})" for group, value in values.items() if value is not None]
    caption = (
        f"{name}, {opened} open: the labels that the open faces are assigned, and AUROC of {results.title(METHOD)} on "
        "each (the paper's Figure 6). Own: the closed-set model's predictions. Concentrated: all open faces have the "
        "class that most of them got. As released: open faces of the train split have the predictions for random "
        f"training images, as the released code pairs them. The paper prints {' and '.join(published)}, with RAF-DB "
        f"and surprise open{'; diamonds' if has_published else ''}; the labels that its authors released are those of "
        "the third group. Entropy: 1 when spread evenly. Bars: the lowest seed; AUROC: mean over seeds. Pale bar: "
        "AUROC within the assigned label, which the histogram of labels alone leaves at 0.5."
    )
    alternative = f"Pseudo labels of the open faces of {name}, {opened} open: {'; '.join(sentences)}."
    stem, title = ("figure6", dataset, opened), f"Figure 6: {name}, {opened} open"
    return captioned(results, dataset, stem, title, caption, alternative, figure)


def _assigned_labels(results: Results, cells: pd.DataFrame) -> dict[str, int] | str:
    """Open faces by assigned label, 0 for a closed class that none gets, of the lowest seed; or why there are none."""
    done = cells[cells["status"] == FINISHED].sort_values("seed")
    scores = cell_scores(results, cells if done.empty else done)
    if isinstance(scores, str):
        return scores
    if "given_class" not in scores:
        return "labels not found"
    is_open = scores["is_open"].to_numpy(dtype=bool)
    classes = sorted({*scores.loc[~is_open, "truth"], *scores["given_class"]})
    counts = scores.loc[is_open, "given_class"].value_counts()
    return {str(name): int(counts.get(name, 0)) for name in classes}


def _label_bars(axes: Axes, labels: list[dict[str, int] | str], by_group: list[pd.DataFrame]) -> list[str]:
    classes = sorted(
        {name for counts in labels if not isinstance(counts, str) for name in counts},
        key=lambda name: (BASIC.index(name) if name in BASIC else len(BASIC), name),  # the paper's order
    )
    width, sentences = 0.8 / len(GROUPS), []
    for place, (group, counts, cells) in enumerate(zip(GROUPS, labels, by_group, strict=True)):
        if isinstance(counts, str):
            axes.bar(0, 0, color=group.colour, label=f"{group.name}: {counts}")
            sentences.append(f"{group.name}: {counts}")
            continue
        faces = sum(counts.values())
        entropy = normalised_entropy(np.repeat(np.arange(len(counts)), list(counts.values())), len(counts))
        x = np.arange(len(classes)) + (place - (len(GROUPS) - 1) / 2) * width
        heights = [counts.get(name, 0) / faces for name in classes]
        axes.bar(x, heights, width, color=group.colour, label=f"{group.name} (entropy {entropy:.2f})")
        most, values = max(counts, key=lambda name: counts[name]), cells[AUROC.name].dropna()
        words = f"{group.name}: mostly {most} ({counts[most] / faces:.0%}), entropy {entropy:.2f}"
        within = _finished(cells, WITHIN_LABEL.name)
        words += f", AUROC {values.mean():.3f}" if len(values) else ""
        sentences.append(words + (f", within the label {within.mean():.3f}" if len(within) else ""))
    axes.set_xticks(range(len(classes)), classes)
    axes.set_ylabel("share of the open faces")
    axes.set_title("Pseudo labels assigned to the open faces", loc="left", fontweight="bold")
    axes.legend()
    return sentences


def _auroc_bars(axes: Axes, by_group: list[pd.DataFrame], opened: str, title: str) -> bool:
    """Draw AUROC, also within the label, of each group; returns whether a published number stands beside."""
    has_published = False
    for place, (group, cells) in enumerate(zip(GROUPS, by_group, strict=True)):
        values, within = (_finished(cells, name) for name in (AUROC.name, WITHIN_LABEL.name))
        height = 0.4 if len(within) else 0.6
        at = place - 0.2 if len(within) else place
        published = figure6_value(group.regime.labels) if opened == "surprise" else None
        if len(values):
            text = f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")
            axes.barh(at, values.mean(), height=height, color=group.colour)
        else:
            text = "not planned" if cells.empty else str(cells["status"].iloc[0])
        is_inside = len(values) > 0 and values.mean() > 0.3
        colour, weight = ("white", "bold") if is_inside else ("black", "normal")
        axes.text(0.02, at, text, va="center", color=colour, fontweight=weight)
        if len(within):
            axes.barh(place + 0.2, within.mean(), height=height, color=group.colour, alpha=0.35)
            axes.text(0.02, place + 0.2, f"{within.mean():.3f} within the label", va="center", color="black")
        if published is not None:
            has_published = True
            axes.plot([published], [at], "D", color="black", markersize=4.5, clip_on=False, zorder=4)
            shift: dict[str, Any] = {"xytext": (0, 8), "textcoords": "offset points"}
            axes.annotate(f"{published:.3f}", (published, at), ha="center", fontsize=7, **shift)
    chance_line(axes)
    axes.set_yticks(range(len(GROUPS)), [group.name for group in GROUPS], fontsize=8)
    axes.set(xlim=(0, 1), ylim=(len(GROUPS) - 0.4, -0.6))
    axes.set_title(f"{AUROC.title} of {title}", loc="left", fontweight="bold")
    if has_published:
        axes.set_xlabel("diamond: as published, on RAF-DB")
    return has_published


def _finished(cells: pd.DataFrame, metric: str) -> pd.Series[float]:
    """Values of a metric of the finished cells; none if no cell has it."""
    return cells.reindex(columns=[metric]).loc[cells["status"] == FINISHED, metric].dropna()
