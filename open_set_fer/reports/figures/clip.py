"""Figure 1 as published, from CLIP features that a user gives in a file: the suite has no CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.reports.data.clip_features import ClipFeatures, images_by_class
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure, captioned, panel_grid, styled, without_ticks
from open_set_fer.reports.figures.contrast import CONTRAST
from open_set_fer.reports.figures.tsne import FACES, NEIGHBOURS, SEED, embed, nearest


def clip_figures(results: Results, clip: ClipFeatures) -> Iterator[ReportFigure]:
    """Figure 1 of each contrast data set beside each one of faces, or of faces alone."""
    images = images_by_class(clip, results)
    for faces in (name for name in images if name not in CONTRAST):
        for contrast in [name for name in images if name in CONTRAST] or [""]:
            yield _figure(results, {name: images[name] for name in (contrast, faces) if name})


def lacking_clip(results: Results) -> list[str]:
    """What to say without CLIP features: Figure 1 is drawn otherwise than published."""
    if not set(results.datasets) & set(CONTRAST) or not set(results.datasets) - set(CONTRAST):
        return []
    return [
        "Figure 1 shows unknown scores in place of the paper's CLIP features: the suite has no CLIP. With features "
        "that you computed: osfer report --clip-features FILE."
    ]


@styled
def _figure(results: Results, images: dict[str, pd.DataFrame]) -> ReportFigure:
    names = {dataset: dataset_name(dataset) for dataset in images}
    headings = {dataset: f"{name}\n{_mean_aurocs(results, dataset)}" for dataset, name in names.items()}

    def draw(axes: Axes, _: str, dataset: str) -> str:
        return f"{names[dataset]} {_panel(axes, images[dataset]):.0%}"

    figure, near = panel_grid({"": ""}, headings, draw, (PAGE_WIDTH, 3.9))
    counts = ", ".join(f"{min(FACES, len(images[d]))} of {len(images[d])} images of {names[d]}" for d in images)
    beside, stem = " beside ".join(names.values()), ("figure1_clip", *reversed(names))
    caption = (
        f"{beside}: t-SNE of the CLIP features given by the user (the paper's Figure 1), perplexity 30, seed {SEED}; "
        f"{counts}. Over each panel: mean {AUROC.title} of the finished cells, and how many of an image's "
        f"{NEIGHBOURS} nearest neighbours, by the features themselves, have its class."
    )
    texts = f"{', '.join(near)}. {', '.join(headings.values())}".replace("\n", ": ")
    alternative = f"t-SNE of CLIP features; neighbours of the same class: {texts}."
    return captioned(results, stem[1], stem, f"Figure 1, CLIP features: {beside}", caption, alternative, figure)


def _mean_aurocs(results: Results, dataset: str) -> str:
    cells, words = results.of(dataset), []
    for method in ("dias", "ours"):
        values = cells.loc[(cells["method"] == method) & (cells["status"] == FINISHED), AUROC.name]
        words.append(f"{method_name(method)} " + (f"{values.mean():.3f} (n = {len(values)})" if len(values) else "—"))
    return f"{AUROC.title} {', '.join(words)}"


def _panel(axes: Axes, images: pd.DataFrame) -> float:
    """Draw a data set's images; returns the mean share of an image's nearest neighbours that have its class."""
    features, classes = images.to_numpy()[:FACES], images.index.to_numpy()[:FACES]
    names, places = sorted(set(classes)), embed(features)
    axes.set_prop_cycle(color=matplotlib.color_sequences["tab10" if len(names) <= 10 else "tab20"])
    for name in names:
        x, y = places[classes == name].T
        axes.scatter(x, y, s=5, linewidths=0, alpha=0.8, label=name, rasterized=True)
    without_ticks(axes)
    share = float((classes[nearest(features)] == classes[:, None]).mean())
    axes.set_title(f"neighbours of the same class: {share:.0%}", fontsize=7.5, pad=3)
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.01), "ncols": 3}
    axes.legend(**place, fontsize=7, handletextpad=0.1, columnspacing=0.8, markerscale=2)
    return share
