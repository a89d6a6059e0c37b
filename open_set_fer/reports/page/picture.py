"""Figure of the result: AUROC of each method on each choice of open classes, and the mean, of one data set."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import Results
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure, captioned, chance_line, styled
from open_set_fer.reports.page.summary import Summary, summaries

NAME = "result"
CHOICE_COLOUR, MEAN_COLOUR = "#0072B2", "#000000"


def result_figures(results: Results) -> Iterator[ReportFigure]:
    """A figure for each data set with a finished cell."""
    yield from (_figure(results, summary) for summary in summaries(results))


@styled
def _figure(results: Results, summary: Summary) -> ReportFigure:
    rows = [row for row in summary.standings if row.means[0].values]
    figure = Figure(figsize=(PAGE_WIDTH, 0.6 + 0.2 * len(rows)), layout="constrained")
    axes, words = figure.subplots(), []
    for place, row in enumerate(rows):
        mean = row.means[0]
        alpha = 0.4 if row.mark else 1.0
        axes.plot(mean.values, [place] * len(mean.values), "o", color=CHOICE_COLOUR, markersize=3, alpha=0.6 * alpha)
        axes.plot([mean.entry.value or 0], [place], "D", color=MEAN_COLOUR, markersize=4, alpha=alpha)
        words.append(f"{row.name} {mean.entry.number}")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(AUROC.title)
    chance_line(axes)
    name = dataset_name(summary.dataset)
    caption = f"{name}: {AUROC.title} on each choice of open classes (circles) and the mean (diamonds). Pale: marked."
    alternative = f"{AUROC.title} by method on {name}: {'; '.join(words)}."
    return captioned(results, summary.dataset, (NAME, summary.dataset), f"{name}: result", caption, alternative, figure)
