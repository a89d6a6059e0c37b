"""Figure 1 as published, from CLIP features that a user gives in a file: the suite has no CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.errors import SuiteError, summary
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure, captioned, panel_grid, styled, without_ticks
from open_set_fer.reports.figures.contrast import CONTRAST
from open_set_fer.reports.figures.tsne import FACES, NEIGHBOURS, SEED, embed, nearest

FEWEST = 20  # images of a data set that are worth a figure
CONTENT = (
    "an .npz with `ids` (N,), the ids of `scores.parquet`, and `features` (N, D), or a .parquet with a column `id` "
    "and the features in the others; where two data sets have the same ids also `dataset`"
)


def read_clip_features(path: Path) -> pd.DataFrame:
    """A row for each image, indexed by data set ('' in a file that names none) and id; SuiteError for a broken file."""
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
        frame = frame.assign(dataset=frame.get("dataset", ""))
        clip = frame.astype({"dataset": str, "id": str}).set_index(["dataset", "id"])
        if clip.shape[1] == 1:  # a column of lists
            clip = pd.DataFrame(np.stack(clip.iloc[:, 0].to_list()), clip.index)
        clip = clip.astype(np.float32)
        if not np.isfinite(clip.to_numpy()).all():
            raise ValueError("a feature is NaN or infinite")
        if clip.index.has_duplicates:
            raise ValueError("an id is there twice")
    except (OSError, KeyError, ValueError, TypeError, BadZipFile) as error:
        raise SuiteError(f"--clip-features {path} cannot be read: {summary(error)}", CONTENT) from error
    return clip


def _read_npz(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as file:
        columns = {"id": file["ids"].astype(np.str_), "features": list(file["features"])}
        if len(columns["id"]) != len(columns["features"]):
            raise ValueError(f"{len(columns['id'])} ids and {len(columns['features'])} features do not belong together")
        return pd.DataFrame(columns | ({"dataset": file["dataset"].astype(np.str_)} if "dataset" in file else {}))


def _images_by_class(clip: pd.DataFrame, results: Results) -> dict[str, pd.DataFrame]:
    """Features of each data set's test images, indexed by class, in random order; SuiteError for too few of every."""
    classes = {dataset: _classes(results, dataset) for dataset in results.datasets}
    images = {}
    for dataset, by_id in classes.items():
        features = clip[clip.index.get_level_values("dataset").isin(["", dataset])].droplevel("dataset")
        ids = [name for name in by_id if name in features.index]
        if len(ids) >= FEWEST:
            images[dataset] = features.loc[ids].rename(index=by_id)
    if not images:
        some, names = (
            next(iter(clip.index.unique("id")), "none"),
            [name for by_id in classes.values() for name in by_id],
        )
        lack = f"fewer than {FEWEST} test images of each of {', '.join(classes)}: its ids are like {some}"
        fix = f"ids are those of the artifact scores.parquet of the cells, such as {names[0] if names else 'none'}"
        raise SuiteError(f"--clip-features has {lack}", fix)
    return images


def _classes(results: Results, dataset: str) -> dict[str, str]:
    """Class of each test image by id, in the order of the finished cells, which the runner has shuffled."""
    cells = results.of(dataset)
    runs = cells.loc[(cells["status"] == FINISHED) & (cells["method"] == "baseline"), "run_id"]
    frames = [frame for run in runs if (frame := results.scores(run)) is not None and "true_class" in frame]
    return {name: label for frame in frames for name, label in zip(frame["id"], frame["true_class"], strict=True)}


def clip_figures(results: Results, clip: pd.DataFrame) -> Iterator[ReportFigure]:
    """Figure 1 of each contrast data set beside each one of faces, or of faces alone."""
    images = _images_by_class(clip, results)
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
        words.append(f"{results.title(method)} " + (f"{values.mean():.3f} (n = {len(values)})" if len(values) else "—"))
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
