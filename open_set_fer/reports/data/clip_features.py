"""CLIP features of test images that a user computed: the suite has no CLIP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from open_set_fer.errors import SuiteError, summary
from open_set_fer.reports.data.results import FINISHED, Results

FEWEST = 20
"""Images of a data set that are worth a figure."""
CONTENT = (
    "an .npz with `ids` (N,), the ids of `scores.parquet`, and `features` (N, D), or a .parquet with a column `id` "
    "and the features in the others; where two data sets have the same ids also `dataset`"
)


@dataclass(frozen=True)
class ClipFeatures:
    """A row for each image, indexed by data set ('' in a file that names none) and id."""

    frame: pd.DataFrame


def read_clip_features(path: Path) -> ClipFeatures:
    """The file's features; SuiteError naming what is wrong with it, and what it must hold."""
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
    return ClipFeatures(clip)


def _read_npz(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as file:
        columns = {"id": file["ids"].astype(np.str_), "features": list(file["features"])}
        if len(columns["id"]) != len(columns["features"]):
            raise ValueError(f"{len(columns['id'])} ids and {len(columns['features'])} features do not belong together")
        return pd.DataFrame(columns | ({"dataset": file["dataset"].astype(np.str_)} if "dataset" in file else {}))


def images_by_class(clip: ClipFeatures, results: Results) -> dict[str, pd.DataFrame]:
    """Features of each data set's test images, indexed by class, in random order.

    Raises:
        SuiteError: there are too few of every data set.
    """
    classes = {dataset: _classes(results, dataset) for dataset in results.datasets}
    images = {}
    for dataset, by_id in classes.items():
        features = clip.frame[clip.frame.index.get_level_values("dataset").isin(["", dataset])].droplevel("dataset")
        ids = [name for name in by_id if name in features.index]
        if len(ids) >= FEWEST:
            images[dataset] = features.loc[ids].rename(index=by_id)
    if not images:
        given, needed = [*clip.frame.index.unique("id")], [name for by_id in classes.values() for name in by_id]
        raise SuiteError(
            f"--clip-features has fewer than {FEWEST} test images of each of {', '.join(classes)}: its ids are like "
            f"{given[0] if given else 'none'}",
            f"ids are those of the artifact scores.parquet of the cells, such as {needed[0] if needed else 'none'}",
        )
    return images


def _classes(results: Results, dataset: str) -> dict[str, str]:
    """Class of each test image by id, in the order of the finished cells, which the runner has shuffled."""
    cells = results.of(dataset)
    runs = cells.loc[(cells["status"] == FINISHED) & (cells["method"] == "baseline"), "run_id"]
    frames = [frame for run in runs if (frame := results.scores(run)) is not None and "true_class" in frame]
    return {name: label for frame in frames for name, label in zip(frame["id"], frame["true_class"], strict=True)}
