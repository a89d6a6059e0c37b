"""What a result holds beside its scores: pictures; on request features for figures, and a detector.

None is part of a cell's key: they change no number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_set_fer.errors import SuiteError, summary

HISTOGRAM, FACES = "histogram.png", "faces.png"
"""The histogram of the scores, and the sheet of faces."""
FEATURES, FEATURES_TAG = "features.npz", "features"
"""The file of the features of a cell's own network on its test faces, and the tag of a cell that was asked for it:
`kept`, or `none` where its method names no network."""
MODEL, MODELS_TAG = "model", "models"
"""The folder with the cell's detector, and the tag of a cell run with --keep-models: `kept`, or `none` if its method
cannot score a single face."""


@dataclass(frozen=True)
class KeptModel:
    """A detector's folder, the key and the name that it is logged under, and more tags."""

    folder: Path
    key: str
    name: str
    tags: dict[str, str]


def write_features(path: Path, ids: NDArray[np.str_], features: NDArray[np.floating[Any]]) -> None:
    """Write the features of faces, (N, D); in half precision where that holds them, which is enough for a figure."""
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    kept = half if np.array_equal(np.isfinite(half), np.isfinite(features)) else features
    np.savez_compressed(path, ids=ids, features=kept)


def read_features(path: Path) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Ids (N,) and features (N, D) as they were written; SuiteError where the file holds no such thing."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, features = file["ids"], file["features"]
        if features.ndim != 2 or features.dtype.kind != "f" or ids.shape != features.shape[:1] or ids.dtype.kind != "U":
            raise ValueError(f"ids of shape {ids.shape} and features of shape {features.shape} ({features.dtype})")
    except Exception as error:  # what NumPy raises for a damaged file depends on where it is damaged
        raise SuiteError(f"{path} is damaged: {summary(error)}", "compute its cell again") from error
    return ids, features.astype(np.float32)
