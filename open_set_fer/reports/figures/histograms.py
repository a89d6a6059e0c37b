"""The figures of a report: Figures 1 and 2 (contrast.py), AUROC by method, ranks, ROC curves, and Figure 4."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.benchmark.storage.pictures import draw_histogram, group_names
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import FAMILY_ORDER, FINISHED, Results, method_order
from open_set_fer.reports.data.statistics import LEVEL, Comparison, compare, sentences
from open_set_fer.reports.figures import base
from open_set_fer.reports.figures.contrast import contrast_figures
from open_set_fer.reports.figures.roc import roc_figures
from open_set_fer.reports.tables.build import demonstration, slug

METHODS_PER_FIGURE, ROWS_PER_FIGURE = 6, 8
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00")
FAMILY_STYLES = dict(zip(FAMILY_ORDER, zip("os^Dv", COLOURS, strict=True), strict=True))


def all_figures(results: Results) -> Iterator[base.ReportFigure]:
    yield from contrast_figures(results)
    for dataset in results.datasets:
        cells = results.of(dataset)
        if (cells["status"] == FINISHED).any():
            yield _auroc_by_method(results, dataset, cells)
            comparison = compare(cells)
            remark = demonstration(results, dataset)
            if isinstance(comparison, Comparison) and (ranks := rank_figure(dataset, comparison, remark)):
                yield ranks
            yield from roc_figures(results, dataset)
            yield from _histograms(results, dataset)


@base.styled
def _auroc_by_method(results: Results, dataset: str, cells: pd.DataFrame) -> base.ReportFigure:
    methods, name = method_order(cells["method"]), dataset_name(dataset)
    figure = Figure(figsize=(base.PAGE_WIDTH, 1.0 + 0.26 * len(methods)), layout="constrained")
    axes = figure.subplots()
    sentences = []
    for place, method in enumerate(methods):
        text = _method_line(axes, place, cells[cells["method"] == method], set(cells["protocol"]))
        axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center")
        sentences.append(f"{results.title(method)} {text}")
    axes.set_xlim(min(0.45, float(np.nanmin(cells[AUROC.name])) - 0.03), 1.01)
    base.chance_line(axes)
    axes.set_yticks(range(len(methods)), list(map(results.title, methods)), fontsize=8)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="x", color="black", alpha=0.12)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(AUROC.title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    caption = f"{name}: AUROC by method. A mark is one choice of open classes (mean over seeds), the bar the mean over "
    caption += "the n choices that are finished."
    alternative = f"Mean AUROC on {name}: {', '.join(sentences)}."
    return base.captioned(
        results, dataset, ("auroc", dataset), f"AUROC by method: {name}", caption, alternative, figure
    )


def _method_line(axes: Axes, place: int, cells: pd.DataFrame, families: set[str]) -> str:
    choices = cells.groupby(["protocol", "open_classes"], sort=False)[AUROC.name].mean()
    values = choices[np.isfinite(choices)]
    styles = {family: style for family, style in FAMILY_STYLES.items() if family in families}
    for rank, (family, (marker, colour)) in enumerate(styles.items()):
        x = values[values.index.get_level_values("protocol") == family]
        y = np.full(len(x), place + 0.12 * (rank - (len(styles) - 1) / 2))
        label = family if place == 0 else None
        axes.plot(x, y, marker, color=colour, markersize=4, alpha=0.9, markeredgewidth=0, label=label)
    if values.empty:
        return "no finished cell"
    mean, label = statistics.fmean(values), "mean" if place == 0 else None
    axes.plot([mean, mean], [place - 0.36, place + 0.36], color="black", linewidth=2.2, zorder=3, label=label)
    return f"{mean:.3f} (n = {len(values)}" + (")" if len(values) == len(choices) else f" of {len(choices)})")


@base.styled
def rank_figure(dataset: str, comparison: Comparison, remark: str) -> base.ReportFigure | None:
    """The critical-difference diagram, None with two methods; remark: end of the caption, such as on synthetic data."""
    if comparison.critical_difference is None or comparison.nemenyi is None:
        return None
    import scikit_posthocs

    ranks, name = pd.Series(comparison.ranks), dataset_name(dataset)
    figure = Figure(figsize=(base.PAGE_WIDTH, 1.2 + 0.16 * len(ranks)), layout="constrained")
    axes = figure.subplots()
    scikit_posthocs.critical_difference_diagram(
        ranks.rename(index=comparison.titles),
        comparison.nemenyi.rename(index=comparison.titles, columns=comparison.titles),
        alpha=LEVEL,
        ax=axes,
        label_fmt_left="{label} ({rank:.2f})",
        label_fmt_right="({rank:.2f}) {label}",
        label_props={"fontsize": 8},
        elbow_props={"linewidth": 0.8, "color": "black", "clip_on": False},
        marker_props={"s": 14, "clip_on": False},
    )
    axes.spines["top"].set_visible(True)
    axes.set_xlim(1, len(ranks))
    ends = ranks.iloc[0], ranks.iloc[0] + comparison.critical_difference  # the library's own bar lies on the ticks
    axes.plot(ends, [2.2, 2.2], color="black", linewidth=2, clip_on=False)
    text = f"critical difference {comparison.critical_difference:.2f}"
    axes.text(sum(ends) / 2, 2.5, text, ha="center", va="bottom", fontsize=7)
    caption = f"{name}: mean ranks, 1 the best; a bar joins methods that Nemenyi's test does not tell apart. "
    caption += f"{sentences(comparison)}{remark}"
    by_name = ", ".join(f"{comparison.titles[method]} {rank:.2f}" for method, rank in comparison.ranks.items())
    alternative = f"Mean ranks on {name}: {by_name}."
    return base.ReportFigure(f"ranks_{slug(dataset)}", f"Mean ranks: {name}", caption, alternative, figure)


def _histograms(results: Results, dataset: str) -> Iterator[base.ReportFigure]:
    groups = "faces with flipped labels and of the others" if results.labels in CONTROLS else "closed and open faces"
    name = dataset_name(dataset)
    for family, cells, choices in base.by_family(results, dataset):
        for (rows, methods), part, number in base.numbered(_parts(cells, choices)):
            caption = (
                f"{name}, family {family}{part}: unknown scores of {groups}, seed {cells['seed'].iloc[0]} (the paper's "
                "Figure 4). Each panel: share of the group's faces in common bins; the axis runs from the 1st to the "
                "99th percentile, faces beyond it are counted in the outermost bins."
            )
            alternative = (
                f"Histograms of the unknown score on {name}: rows {', '.join(rows)}; columns "
                f"{', '.join(map(results.title, methods))}. The AUROC over each panel is that of the tables."
            )
            figure = _grid(results, cells, rows, methods)
            stem, title = ("figure4", dataset, family, number), f"Figure 4: {name}, {family}{part}"
            yield base.captioned(results, dataset, stem, title, caption, alternative, figure)


def _parts(cells: pd.DataFrame, choices: list[str]) -> list[tuple[Sequence[str], Sequence[str]]]:
    """(rows, methods) of each part of a family's figure, without rows that none of a part's methods has."""
    planned = set(zip(cells["open_classes"], cells["method"], strict=True))
    return [
        (rows, methods)
        for methods in base.chunks(method_order(cells["method"]), METHODS_PER_FIGURE)
        for rows in base.chunks([c for c in choices if any((c, m) in planned for m in methods)], ROWS_PER_FIGURE)
    ]


@base.styled
def _grid(results: Results, cells: pd.DataFrame, rows: Sequence[str], methods: Sequence[str]) -> Figure:
    def draw(axes: Axes, label: str, method: str) -> str:
        drawn = cells[(cells["open_classes"] == label) & (cells["method"] == method)]
        scores = base.cell_scores(results, drawn)
        if isinstance(scores, str):
            return base.placeholder(axes, scores)
        draw_histogram(axes, *base.grouped(scores), bins=30)
        axes.set_title(f"{AUROC.title} {drawn[AUROC.name].iloc[0]:.3f}", pad=3)
        axes.locator_params(axis="x", nbins=3)
        axes.xaxis.set_major_formatter("{x:g}")  # else small scores have labels that touch
        axes.locator_params(axis="y", nbins=2)
        axes.tick_params(pad=1.5)
        return ""

    labels = {label: textwrap.fill(label.replace("+", " + "), 20) for label in rows}
    headings = {method: textwrap.fill(results.title(method), 14) for method in methods}
    width = base.PAGE_WIDTH if len(methods) > 2 else base.COLUMN_WIDTH
    figure, _ = base.panel_grid(labels, headings, draw, (width, 0.9 + 1.05 * len(rows)))
    names = group_names(results.labels in CONTROLS)
    figure.legend(handles=base.group_handles(names), loc="outside upper left", ncols=2)
    figure.supxlabel(f"unknown score (higher = more likely {names[1]})")
    figure.supylabel("share of faces")
    return figure
