"""The critical-difference diagram: mean ranks of methods, with bars over those that Nemenyi's test does not tell apart."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.statistics import LEVEL, Comparison, sentences
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure
from open_set_fer.reports.tables.build import slug


def rank_figure(dataset: str, found: Comparison, said: str) -> ReportFigure | None:
    """The diagram of a comparison, None with two methods; said: what the caption adds, as that faces are rendered."""
    if found.critical_difference is None or found.nemenyi is None:
        return None
    import scikit_posthocs

    ranks = pd.Series(found.ranks)
    figure = Figure(figsize=(PAGE_WIDTH, 1.2 + 0.16 * len(ranks)), layout="constrained")
    axes = figure.subplots()
    scikit_posthocs.critical_difference_diagram(
        ranks.rename(index=method_name),
        found.nemenyi.rename(index=method_name, columns=method_name),
        alpha=LEVEL,
        ax=axes,
        label_fmt_left="{label} ({rank:.2f})",
        label_fmt_right="({rank:.2f}) {label}",
        label_props={"fontsize": 8},
        elbow_props={"linewidth": 0.8, "color": "black", "clip_on": False},
        marker_props={"s": 14, "clip_on": False},
    )
    axes.tick_params(labelsize=7)
    axes.set_xlim(1, len(ranks))
    best = ranks.iloc[0]  # the library's own bar lies on the ticks
    axes.plot([best, best + found.critical_difference], [2.2, 2.2], color="black", linewidth=2, clip_on=False)
    middle, said_bar = best + found.critical_difference / 2, f"critical difference {found.critical_difference:.2f}"
    axes.text(middle, 2.5, said_bar, ha="center", va="bottom", fontsize=7)
    name = dataset_name(dataset)
    caption = f"{name}: mean ranks, 1 the best; a bar joins methods that Nemenyi's test does not tell apart. {sentences(found)}{said}"
    alternative = (
        f"Mean ranks on {name}: {', '.join(f'{method_name(m)} {rank:.2f}' for m, rank in found.ranks.items())}."
    )
    return ReportFigure(f"ranks_{slug(dataset)}", f"Mean ranks: {name}", caption, alternative, figure)
