"""Conformance test of data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from open_set_fer import plugins
from open_set_fer.datasets.faceset import DataSet, FaceSet, Outline
from open_set_fer.testing.plugin import check_plugin, require


def check_data_set(dataset: DataSet, cache: Path) -> FaceSet:
    """Assert that a data set keeps the contract; returns its FaceSet.

    dataset: an instance, best on a few small files: `check_data_set(MyFaces(root="tests/few"), tmp_path / "cache")`.
    Each of its classes needs an image, and so do the splits train and test. cache: an empty or missing folder.

    Raises AssertionError naming the fault: name and settings; classes, labels, splits and ids; a second load that
    decodes again or gives another data set; an outline that writes, or contradicts the load. SuiteErrors of its files
    pass through.
    """
    check_plugin(dataset, plugins.DATASETS)
    require(not _content(cache), f"{cache} is not empty: what the first load decodes would not show")
    before = _outline(dataset, cache)
    require(not _content(cache), "its outline writes to the cache: `osfer plan` must leave no trace")
    faces = dataset.load(cache)
    _check_faces(dataset, faces)
    _check_second_load(faces, _load_again(dataset, cache))
    _check_outlines(faces, before, _outline(dataset, cache))
    return faces


def _check_faces(dataset: DataSet, faces: FaceSet) -> None:
    """Assert what FaceSet does not: names, and that every class and split can be used."""
    require(isinstance(faces, FaceSet), f"load returns a {type(faces).__name__}, not a FaceSet")
    require(faces.name == dataset.name, f"its FaceSet is named {faces.name!r}, the class {dataset.name!r}")
    require(len(set(faces.classes)) == len(faces.classes) > 1, f"classes are two or more, each once: {faces.classes}")
    require(faces.labels.dtype == np.int64, f"labels are {faces.labels.dtype}, not int64")
    empty = [name for index, name in enumerate(faces.classes) if not np.any(faces.labels == index)]
    require(not empty, f"no image of class {', '.join(empty)}")
    lacking = {"train", "test"} - set(faces.split.tolist())
    require(not lacking, f"no image of split {', '.join(sorted(lacking))}")
    ids, counts = np.unique(faces.ids, return_counts=True)
    require(len(ids) == len(faces.ids), f"two images have the id {ids[counts > 1][:1].tolist()}: give each its own")
    hexadecimal = re.fullmatch("[0-9a-f]{64}", faces.fingerprint) is not None
    require(hexadecimal, f"the fingerprint {faces.fingerprint!r} is no SHA-256: take `content_fingerprint`")


def _load_again(dataset: DataSet, cache: Path) -> FaceSet:
    """Load a second time; no image may be decoded."""
    fault = "a second load decodes again: keep the arrays in the cache, under a key that stays the same"
    stop: dict[str, Any] = {"side_effect": AssertionError(fault)}
    with patch("open_set_fer.datasets.cache.prepare", **stop), patch("PIL.Image.open", **stop):
        return dataset.load(cache)


def _check_second_load(first: FaceSet, second: FaceSet) -> None:
    same = first.fingerprint == second.fingerprint
    require(same, "a second load has another fingerprint: is its order or split drawn?")
    for name in ("images", "labels", "split", "ids", "classes"):
        same = np.array_equal(getattr(first, name), getattr(second, name))
        require(same, f"a second load has other {name} under the same fingerprint")


def _check_outlines(faces: FaceSet, before: Outline | None, after: Outline | None) -> None:
    """Assert that outlines are true; before the first load the fingerprint may be missing."""
    for when, outline in (("before", before), ("after", after)):
        if outline is not None:
            require(not outline.missing, f"its outline {when} the first load misses: {outline.missing}")
            same = outline.classes == faces.classes
            require(same, f"its outline {when} the first load has classes {outline.classes}")
            expected = {"", faces.fingerprint} if when == "before" else {faces.fingerprint}
            require(outline.fingerprint in expected, f"its outline {when} the first load has another fingerprint")
            size = (outline.images, outline.bytes)
            true_size = (len(faces.images), faces.images.nbytes)
            require(size in ((0, 0), true_size), f"its outline {when} the first load announces {size}, not {true_size}")


def _outline(dataset: DataSet, cache: Path) -> Outline | None:
    outline: Outline | None = dataset.outline(cache) if hasattr(dataset, "outline") else None
    return outline


def _content(cache: Path) -> list[Path]:
    return list(cache.iterdir()) if cache.is_dir() else []
