"""AffectNet (Mollahosseini, Hasani and Mahoor, 2017): eight expressions, contempt among them.

Two published layouts, told apart by what the folder holds:
- 2021: `train_set` and `val_set`, each with `images/N.jpg` (cropped faces) and `annotations/N_exp.npy`;
- original: `training.csv` and `validation.csv` with paths below `Manually_Annotated_Images` and a face box; expressions 8 to 10
  (none, uncertain, no face) are dropped.
The validation set is used as test split, as everywhere.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from open_set_fer.console import track
from open_set_fer.datasets.faceset import BASIC, CONTEMPT, FaceSet, Outline, Side, data_root
from open_set_fer.datasets.preparation import (
    Box,
    Listing,
    Table,
    all_inside,
    cached_face_set,
    decode_files,
    kept_numbers,
    listing_key,
    outline_of,
)
from open_set_fer.errors import SuiteError

CLASSES = (*BASIC, CONTEMPT)
EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
"""Published numbers 0..7."""

FOLDERS = {"train_set": "train", "val_set": "test"}
COLUMNS = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression"]


class AffectNet:
    """AffectNet in either published layout: 287,651 train and 4,000 validation faces of eight expressions."""

    name = "affectnet"

    @dataclass(frozen=True)
    class Settings:
        """root: the published folder. image_size: pixels a side. channels: 1 grey or 3 RGB."""

        root: str = ""
        image_size: Side = 224
        channels: Literal[1, 3] = 3

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def load(self, cache: Path) -> FaceSet:
        """Annotations and faces as a FaceSet; raises SuiteError naming what is missing, damaged or not as published."""
        return cached_face_set(cache, self._listing(cache))

    def outline(self, cache: Path) -> Outline:
        """Classes, and the cache's fingerprint where it is prepared; decodes and writes nothing."""
        return outline_of(cache, CLASSES, lambda: self._listed(cache))

    def _listed(self, cache: Path) -> Listing | Outline:
        """The listing where an earlier run kept what the 287 k annotation files of the 2021 layout say."""
        s = self.settings
        root = data_root(self.name, s.root)
        if (root / "train_set").is_dir():
            files = list_folders(root, cache)
            if files.kept.is_file():
                return self._listing(cache, files)
            count = len(files.images)
            return Outline(CLASSES, images=count, bytes=count * s.channels * s.image_size**2)
        return self._listing(cache)

    def _listing(self, cache: Path, files: Files | None = None) -> Listing:
        s = self.settings
        root = data_root(self.name, s.root)
        boxes: list[Box | None] | None = None
        if (root / "train_set").is_dir():
            paths, table = read_folders(files or list_folders(root, cache))
        elif (root / "training.csv").is_file():
            paths, table, boxes = read_manifests(root)
        else:
            raise SuiteError(
                f"affectnet: {root} has neither train_set nor training.csv",
                "unpack one of the two published layouts there",
            )
        key = listing_key(self.name, (s, boxes), paths)
        return Listing(
            self.name, key, CLASSES, table, (s.channels, s.image_size, s.image_size),
            lambda start: decode_files(paths, s.image_size, s.channels, start, boxes),
        )  # fmt: skip


def read_folders(files: Files) -> tuple[list[str], Table]:
    """Image paths and table of the 2021 layout.

    The 287 k annotation files are read once: what they say is kept in the cache until one of them changes.
    """
    numbers = kept_numbers(
        files.kept,
        lambda: np.array(
            [_expression(path) for path in track(files.annotations, "reading annotations")], dtype=np.int64
        ),
    )
    return files.images, _table(
        numbers,
        [FOLDERS[name.partition("/")[0]] for name in files.names],
        [name.replace("/images/", "/") for name in files.names],
    )


@dataclass(frozen=True)
class Files:
    """The 2021 layout's images as names below the root and as paths, and their annotations' paths, (N,) each.

    kept: where the annotations' content is kept once it was read.
    """

    names: list[str]
    images: list[str]
    annotations: list[str]
    kept: Path


def list_folders(root: Path, cache: Path) -> Files:
    """The files of the 2021 layout, in the order of the image numbers; raises SuiteError for a missing folder."""
    names: list[str] = []
    for folder in FOLDERS:
        for place in (root / folder / "images", root / folder / "annotations"):
            if not place.is_dir():
                raise SuiteError(f"affectnet: no folder {place}", "unpack the published archive again")
        files = sorted(os.listdir(root / folder / "images"), key=lambda name: (len(name), name))
        names += [f"{folder}/images/{file}" for file in files]
    annotations = [
        f"{root}/{folder}/annotations/{file.rpartition('.')[0]}_exp.npy"
        for folder, _, file in (name.split("/") for name in names)
    ]
    images = all_inside(root, names, "affectnet")
    return Files(names, images, annotations, cache / f"affectnet-labels-{_stamp(images, annotations)[:20]}.npy")


def _stamp(images: list[str], annotations: list[str]) -> str:
    """Digest of the annotations' sizes and times of change; raises SuiteError for an image without one."""
    digest = hashlib.sha256()
    for image, annotation in zip(images, annotations, strict=True):
        try:
            stat = os.stat(annotation)
        except FileNotFoundError as error:
            raise SuiteError(f"affectnet: {image} has no {annotation}", "unpack the archive again") from error
        digest.update(f"{annotation}/{stat.st_size}/{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _expression(path: str) -> int:
    """The number in an annotation: published as an array of one text such as '3'."""
    try:
        number = int(np.load(path, allow_pickle=False).item())
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise SuiteError(f"affectnet: cannot read {path}: {error}", "unpack the archive again") from error
    if not 0 <= number < len(EXPRESSIONS):
        raise SuiteError(f"affectnet: {path} has expression {number}, outside 0..7", "unpack the archive again")
    return number


def read_manifests(root: Path) -> tuple[list[str], Table, list[Box | None]]:
    """Image paths, table and face boxes (left, top, right, bottom) of the original layout."""
    pieces = []
    for file, split in (("training.csv", "train"), ("validation.csv", "test")):
        try:
            manifest = pd.read_csv(root / file)
        except FileNotFoundError as error:
            raise SuiteError(f"affectnet: no file {root / file}", "copy the published manifest there") from error
        except (ValueError, UnicodeDecodeError) as error:
            raise SuiteError(f"affectnet: cannot read {root / file}: {error}", "copy the manifest again") from error
        lacking = sorted(set(COLUMNS) - set(manifest.columns))
        if lacking:
            raise SuiteError(f"affectnet: {root / file} lacks the columns {lacking}", "copy the manifest again")
        outside = manifest[~manifest["expression"].isin(range(11))]
        if len(outside):
            raise SuiteError(
                f"affectnet: row {outside.index[0] + 2} of {root / file} has expression "
                f"{outside['expression'].iloc[0]}, outside 0..10", "copy the manifest again",
            )  # fmt: skip
        repeated = manifest["subDirectory_filePath"].duplicated()
        if repeated.any():
            name = manifest.loc[repeated, "subDirectory_filePath"].iloc[0]
            raise SuiteError(f"affectnet: {root / file} lists {name!r} twice", "copy the manifest again")
        pieces.append(manifest[manifest["expression"] < len(EXPRESSIONS)].assign(split=split))
    faces = pd.concat(pieces, ignore_index=True)
    images = root / "Manually_Annotated_Images"
    paths = all_inside(images, faces["subDirectory_filePath"].astype(str), "affectnet")
    # Rows without a face, dropped by now, may hold words here, which makes text of the whole column.
    box = faces[["face_x", "face_y", "face_width", "face_height"]].apply(pd.to_numeric, errors="coerce")
    for row in np.flatnonzero(~np.isfinite(box.to_numpy(float)).all(axis=1))[:1]:
        raise SuiteError(f"affectnet: {paths[row]} has no face box in its manifest", "copy the manifest again")
    left, top, width, height = (column.astype(int) for column in box.to_numpy().T)
    corners = np.stack([left, top, left + width, top + height], axis=1).tolist()
    boxes: list[Box | None] = [(a, b, c, d) for a, b, c, d in corners]
    return (
        paths,
        _table(faces["expression"].tolist(), faces["split"].tolist(), faces["subDirectory_filePath"].tolist()),
        boxes,
    )


def _table(numbers: list[int] | NDArray[np.int64], splits: list[str], ids: list[str]) -> Table:
    index = np.array([CLASSES.index(name) for name in EXPRESSIONS], dtype=np.int64)
    return Table(
        index[np.array(numbers, dtype=np.int64)], np.array(splits, dtype=np.str_), np.array(ids, dtype=np.str_)
    )
