"""Figure 6: the pseudo labels that open faces are given under three label regimes, and what `ours` makes of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC, normalised_entropy
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, Regime
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.paper import figure6_value
from open_set_fer.reports.data.results import FINISHED, Results, protocol_order
from open_set_fer.reports.figures.base import PAGE_WIDTH, SOFT, ReportFigure, why_empty
from open_set_fer.reports.tables.build import DEMONSTRATION, slug

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

METHOD = "ours"
CONCENTRATED = Regime("concentrated", 1.0)


@dataclass(frozen=True)
class Group:
    """One bar group: a label regime, its name in the legend and its colour."""

    regime: Regime
    name: str
    colour: str


GROUPS = (
    Group(OWN, "own", "#0072B2"),
    Group(CONCENTRATED, "concentrated", "#D55E00"),
    Group(Regime("released", 1.0), "as released", "#8C6D00"),
)


def label_figures(results: Results) -> Iterator[ReportFigure]:
    """Figure 6 of every choice of open classes that has a finished cell of ours under concentrated labels.

    results: of every label regime.
    """
    for dataset in results.datasets:
        cells = results.of(dataset)
        cells = cells[cells["method"] == METHOD]
        drawn = cells[
            (cells["labels"] == "concentrated") & (cells["label_share"] == 1.0) & (cells["status"] == FINISHED)
        ]
        for _, label in protocol_order(drawn):
            opened = label.removesuffix(CONCENTRATED.suffix)
            by_group = [cells[cells["open_classes"] == opened + group.regime.suffix] for group in GROUPS]
            yield _figure(results, dataset, opened, by_group)


def _figure(results: Results, dataset: str, opened: str, by_group: list[pd.DataFrame]) -> ReportFigure:
    figure = Figure(figsize=(PAGE_WIDTH, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    labels = [_given_labels(results, cells) for cells in by_group]
    classes = _in_order({name for given in labels if given is not None for name in given})
    sentences = []
    for place, (group, given, cells) in enumerate(zip(GROUPS, labels, by_group, strict=True)):
        sentences.append(f"{group.name}: {_bars(left, place, group, given, classes, cells)}")
    left.set_xticks(range(len(classes)), classes)
    left.set_ylabel("share of the open faces", fontsize=8)
    left.set_title("Pseudo labels given to the open faces", fontsize=8, loc="left", fontweight="bold")
    left.legend(frameon=False, fontsize=8)
    has_printed = _aurocs(right, by_group, opened)
    for axes in (left, right):
        axes.tick_params(labelsize=7, length=2)
        axes.spines[["top", "right"]].set_visible(False)
    printed = [
        f"{value:.3f} ({text})"
        for group, text in ((0, "own"), (1, "concentrated"))
        if (value := figure6_value(GROUPS[group].regime.labels)) is not None
    ]
    about = f" {DEMONSTRATION[0].upper()}{DEMONSTRATION[1:]}." if dataset in results.demonstrations else ""
    caption = (
        f"{dataset_name(dataset)}, {opened} open: the labels that the open faces are given, and AUROC of {method_name(METHOD)} on "
        "each (the paper's Figure 6). Own: the closed-set model's answers. Concentrated: all open faces have the class "
        "that most of them got. As released: open faces of the train split have the answers for random training images, as "
        f"the released code pairs them. The paper prints {' and '.join(printed)}, with RAF-DB and surprise open"
        f"{'; diamonds' if has_printed else ''}; the labels that its authors released are those of the third group. Entropy: 1 when "
        f"spread evenly. Bars: the lowest seed; AUROC: mean over seeds.{about}"
    )
    alternative = f"Pseudo labels of the open faces of {dataset_name(dataset)}, {opened} open: {'; '.join(sentences)}."
    name = f"figure6_{slug(dataset)}_{slug(opened)}"
    return ReportFigure(name, f"Figure 6: {dataset_name(dataset)}, {opened} open", caption, alternative, figure)


def _in_order(classes: set[str]) -> list[str]:
    """The basic classes in the paper's order, then the others by name."""
    return sorted(classes, key=lambda name: (BASIC.index(name) if name in BASIC else len(BASIC), name))


def _given_labels(results: Results, cells: pd.DataFrame) -> dict[str, int] | None:
    """Open faces by the label that they are given, 0 for a closed class that none gets; of the lowest seed."""
    done = cells[cells["status"] == FINISHED]
    frame = results.scores(done.sort_values("seed")["run_id"].iloc[0]) if len(done) else None
    if frame is None or "given_class" not in frame:
        return None
    is_open = frame["is_open"].to_numpy(dtype=bool)
    classes = sorted({*frame.loc[~is_open, "truth"], *frame["given_class"]})
    counts = frame.loc[is_open, "given_class"].value_counts()
    return {str(name): int(counts.get(name, 0)) for name in classes}


def _bars(
    axes: Axes, place: int, group: Group, given: dict[str, int] | None, classes: list[str], cells: pd.DataFrame
) -> str:
    """Draw a group's bars; returns what they show in words."""
    if given is None:
        word = why_empty(cells.iloc[0] if len(cells) else None)
        axes.bar([], [], color=group.colour, label=f"{group.name}: {word}")
        return word
    width = 0.8 / len(GROUPS)
    faces = sum(given.values())
    heights = [given.get(name, 0) / faces for name in classes]
    entropy = normalised_entropy(np.repeat(np.arange(len(given)), list(given.values())), len(given))
    name = f"{group.name} (entropy {entropy:.2f})"
    offset = (place - (len(GROUPS) - 1) / 2) * width
    axes.bar(np.arange(len(classes)) + offset, heights, width, color=group.colour, label=name)
    most = max(given, key=lambda key: given[key])
    return f"mostly {most} ({given[most] / faces:.0%}), entropy {entropy:.2f}{_auroc_words(cells)}"


def _auroc_words(cells: pd.DataFrame) -> str:
    values = cells.loc[cells["status"] == FINISHED, AUROC.name]
    return f", AUROC {values.mean():.3f}" if len(values) else ""


def _aurocs(axes: Axes, by_group: list[pd.DataFrame], opened: str) -> bool:
    """Draw a bar of AUROC a group with the printed number beside, where there is one; returns whether there is."""
    has_printed = False
    for place, (group, cells) in enumerate(zip(GROUPS, by_group, strict=True)):
        values = cells.loc[cells["status"] == FINISHED, AUROC.name]
        printed = figure6_value(group.regime.labels) if opened == "surprise" else None
        text = why_empty(cells.iloc[0] if len(cells) else None)
        if len(values):
            spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
            text = f"{values.mean():.3f}{spread}"
            axes.barh(place, values.mean(), height=0.6, color=group.colour)
        inside = len(values) > 0 and values.mean() > 0.3
        axes.text(
            0.02,
            place,
            text,
            va="center",
            fontsize=8,
            color="white" if inside else "black",
            fontweight="bold" if inside else "normal",
        )
        if printed is not None:
            has_printed = True
            axes.plot([printed], [place], "D", color="black", markersize=4.5, clip_on=False, zorder=4)
            axes.annotate(
                f"{printed:.3f}",
                (printed, place),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color="black",
            )
    axes.axvline(0.5, color="black", alpha=0.5, linewidth=1, linestyle=":", zorder=3)
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
    axes.set_yticks(range(len(GROUPS)), [group.name for group in GROUPS], fontsize=8)
    axes.set_ylim(len(GROUPS) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_title(f"{AUROC.title} of {method_name(METHOD)}", fontsize=8, loc="left", fontweight="bold")
    if has_printed:
        axes.set_xlabel("diamond: as printed, on RAF-DB", fontsize=8)
    return has_printed
