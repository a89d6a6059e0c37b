"""The critical-difference diagram: mean ranks of methods, with bars over those that Nemenyi's test joins."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.statistics import LEVEL, Comparison, sentences
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure, styled
from open_set_fer.reports.tables.build import slug


@styled
def rank_figure(dataset: str, comparison: Comparison, remark: str) -> ReportFigure | None:
    """The diagram of a comparison, None with two methods; remark: ends the caption, such as that data are synthetic."""
    if comparison.critical_difference is None or comparison.nemenyi is None:
        return None
    import scikit_posthocs

    ranks, name = pd.Series(comparison.ranks), dataset_name(dataset)
    figure = Figure(figsize=(PAGE_WIDTH, 1.2 + 0.16 * len(ranks)), layout="constrained")
    axes = figure.subplots()
    scikit_posthocs.critical_difference_diagram(
        ranks.rename(index=method_name),
        comparison.nemenyi.rename(index=method_name, columns=method_name),
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
    caption = (
        f"{name}: mean ranks, 1 the best; a bar joins methods that Nemenyi's test does not tell apart. "
        f"{sentences(comparison)}{remark}"
    )
    by_name = ", ".join(f"{method_name(method)} {rank:.2f}" for method, rank in comparison.ranks.items())
    alternative = f"Mean ranks on {name}: {by_name}."
    return ReportFigure(f"ranks_{slug(dataset)}", f"Mean ranks: {name}", caption, alternative, figure)
