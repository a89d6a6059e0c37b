"""Figure 1 as the paper prints it, of CLIP features that a user computed: what separates faces less than other images.

The suite has no CLIP: its weights are no part of it. The features come in a file, the classes from the cells' scores.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.errors import SuiteError, summary
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure
from open_set_fer.reports.figures.contrast import CONTRAST
from open_set_fer.reports.figures.tsne import FACES, NEIGHBOURS, SEED, embed, nearest
from open_set_fer.reports.tables.build import demonstration, slug

METHODS = ("dias", "ours")
"""Whose mean AUROC the figure's small table gives, as printed."""
FEWEST = 20
"""Images of a data set from which on it has a panel."""
MEND = (
    "an .npz with `ids` (N,), the ids of `scores.parquet`, and `features` (N, D), or a .parquet with a column `id` and the features "
    "in the others; where two data sets have the same ids also `dataset`"
)


@dataclass(frozen=True)
class ClipFeatures:
    """The features (N, D) of a file by id; `datasets`: of which data set each row is, where the file says so."""

    path: Path
    ids: NDArray[np.str_]
    features: NDArray[np.float32]
    datasets: NDArray[np.str_] | None = None

    def of(self, dataset: str) -> dict[str, int]:
        """Row of each id that may be of the data set."""
        rows = range(len(self.ids)) if self.datasets is None else np.flatnonzero(self.datasets == dataset)
        return {str(self.ids[row]): int(row) for row in rows}


@dataclass(frozen=True)
class _Images:
    """Features (n, D) of a data set's test images with their classes; of `total` that the file has."""

    features: NDArray[np.float32]
    classes: NDArray[Any]
    total: int


def read_clip_features(path: Path) -> ClipFeatures:
    """The file's features; SuiteError naming what is wrong with it, and what it must hold."""
    try:
        ids, features, datasets = _from_parquet(path) if path.suffix == ".parquet" else _from_npz(path)
        features = features.astype(np.float32)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise SuiteError(f"--clip-features {path} cannot be read: {summary(error)}", MEND) from error
    fault = ""
    if features.ndim != 2 or ids.shape != features.shape[:1] or (datasets is not None and datasets.shape != ids.shape):
        fault = f"ids of shape {ids.shape} and features of shape {features.shape} do not belong together"
    elif not np.isfinite(features).all():
        fault = "a feature is NaN or infinite"
    elif pd.DataFrame({"id": ids, "dataset": "" if datasets is None else datasets}).duplicated().any():
        fault = "an id is there twice"
    if fault:
        raise SuiteError(f"--clip-features {path}: {fault}", MEND)
    return ClipFeatures(path, ids, features, datasets)


def _from_npz(path: Path) -> tuple[NDArray[np.str_], NDArray[Any], NDArray[np.str_] | None]:
    with np.load(path, allow_pickle=False) as file:
        if isinstance(file, np.ndarray):
            raise ValueError("one array without names")
        datasets = file["dataset"].astype(np.str_) if "dataset" in file else None
        return file["ids"].astype(np.str_), file["features"], datasets


def _from_parquet(path: Path) -> tuple[NDArray[np.str_], NDArray[Any], NDArray[np.str_] | None]:
    frame = pd.read_parquet(path)
    datasets = frame.pop("dataset").to_numpy(dtype=np.str_) if "dataset" in frame else None
    ids = frame.pop("id").to_numpy(dtype=np.str_)
    features = np.stack(frame.iloc[:, 0].to_list()) if frame.shape[1] == 1 else frame.to_numpy(dtype=np.float32)
    return ids, features, datasets


def clip_figures(results: Results, clip: ClipFeatures) -> Iterator[ReportFigure]:
    """Figure 1 of each contrast data set beside each one of faces, of faces alone where there is no contrast.

    Raises:
        SuiteError: the file has features of none of the test images.
    """
    images = {dataset: found for dataset in results.datasets if (found := _images(results, dataset, clip))}
    if not images:
        raise SuiteError(
            f"--clip-features {clip.path} has fewer than {FEWEST} test images of each of {', '.join(results.datasets)}: its ids "
            f"are like {clip.ids[0] if len(clip.ids) else 'none'}",
            f"ids are those of the artifact scores.parquet of the cells, such as {_example(results)}",
        )
    contrasts = [name for name in images if name in CONTRAST]
    for faces in (name for name in images if name not in CONTRAST):
        for beside in contrasts or [""]:
            yield _figure(results, {name: images[name] for name in (beside, faces) if name})


def lacking_clip(results: Results) -> list[str]:
    """What to say where nobody gave CLIP features: Figure 1 is drawn otherwise than printed."""
    if not set(results.datasets) & set(CONTRAST) or not set(results.datasets) - set(CONTRAST):
        return []
    return [
        "Figure 1 shows unknown scores in place of the CLIP features that the paper prints: the suite has no CLIP. With features "
        "of your own: osfer report --clip-features FILE."
    ]


def _images(results: Results, dataset: str, clip: ClipFeatures) -> _Images | None:
    """The first images of the first finished cells, which the runner has shuffled; None for too few."""
    rows, cells = clip.of(dataset), results.of(dataset)
    classes: dict[str, str] = {}
    for run_id in cells.loc[(cells["status"] == FINISHED) & (cells["method"] == "baseline"), "run_id"]:
        frame = results.scores(run_id)
        if frame is not None and "true_class" in frame:
            classes |= dict(zip(frame["id"], frame["true_class"], strict=True))
    known = [name for name in classes if name in rows]
    if len(known) < FEWEST:
        return None
    shown = known[:FACES]
    return _Images(
        clip.features[[rows[name] for name in shown]], np.array([classes[name] for name in shown]), len(known)
    )


def _example(results: Results) -> str:
    for run_id in results.cells.loc[results.cells["status"] == FINISHED, "run_id"]:
        frame = results.scores(run_id)
        if frame is not None:
            return str(frame["id"].iloc[0])
    return "fer0000001.png"


def _figure(results: Results, images: dict[str, _Images]) -> ReportFigure:
    figure = Figure(figsize=(PAGE_WIDTH, 3.9), layout="constrained", dpi=200)
    panels = figure.subplots(1, len(images) + 1, width_ratios=[*[3] * len(images), 1.6])
    sentences = []
    for axes, (dataset, of) in zip(panels, images.items(), strict=False):
        share = class_neighbours(of)
        sentences.append(f"{dataset_name(dataset)} {share:.0%}")
        _panel(axes, of)
        axes.set_title(f"{dataset_name(dataset)}\n", fontsize=8, fontweight="bold", loc="left")
        axes.set_title(f"neighbours of the same class: {share:.0%}", fontsize=7.5, pad=3)
    aurocs = _auroc_table(panels[-1], results, list(images))
    some = ", ".join(f"{min(FACES, of.total)} of {of.total} images of {dataset_name(d)}" for d, of in images.items())
    beside = " beside ".join(dataset_name(dataset) for dataset in images)
    faces = next(reversed(images))
    caption = (
        f"{beside}: t-SNE of the CLIP features given by the user (the paper's Figure 1), perplexity 30, seed {SEED}; {some}. Over each "
        f"panel: how many of an image's {NEIGHBOURS} nearest neighbours, by the features themselves, have its class. Right: mean "
        f"{AUROC.title} of the finished cells.{demonstration(results, faces)}"
    )
    alternative = (
        f"t-SNE of CLIP features; neighbours of the same class: {', '.join(sentences)}. {AUROC.title}: {aurocs}."
    )
    name = "_".join(["figure1_clip", *(slug(dataset) for dataset in reversed(images))])
    return ReportFigure(name, f"Figure 1, CLIP features: {beside}", caption, alternative, figure)


def _panel(axes: Axes, images: _Images) -> None:
    places, classes = embed(images.features), sorted(set(images.classes))
    palette = matplotlib.color_sequences["tab10" if len(classes) <= 10 else "tab20"]
    for number, name in enumerate(classes):
        x, y = places[images.classes == name].T
        axes.scatter(
            x, y, color=palette[number % len(palette)], s=5, linewidths=0, alpha=0.8, label=name, rasterized=True
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_alpha(0.3)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=3,
        frameon=False,
        fontsize=7,
        handletextpad=0.1,
        columnspacing=0.8,
        markerscale=2,
    )


def _auroc_table(axes: Axes, results: Results, datasets: list[str]) -> str:
    """Write the small table of the figure; returns it in words."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.text(0, 0.95, f"{AUROC.title}, mean", fontsize=8, fontweight="bold")
    words, height = [], 0.85
    for dataset in datasets:
        axes.text(0, height, dataset_name(dataset), fontsize=7.5, style="italic")
        for method in METHODS:
            height -= 0.07
            cells = results.of(dataset)
            values = cells.loc[(cells["method"] == method) & (cells["status"] == FINISHED), AUROC.name]
            text = f"{values.mean():.3f} (n = {len(values)})" if len(values) else "—"
            axes.text(0.05, height, method_name(method), fontsize=7.5)
            axes.text(0.4, height, text, fontsize=7.5)
            words.append(f"{method_name(method)} on {dataset_name(dataset)} {text}")
        height -= 0.1
    return ", ".join(words)


def class_neighbours(images: _Images) -> float:
    """Mean share of an image's nearest neighbours that have its class."""
    return float((images.classes[nearest(images.features)] == images.classes[:, None]).mean())
