"""AffectNet (Mollahosseini, Hasani and Mahoor, 2017): eight expressions with contempt.

Two published layouts, recognised by the folder's content:
- 2021: `train_set` and `val_set`, each with `images/N.jpg` (cropped faces) and `annotations/N_exp.npy`;
- original: `training.csv` and `validation.csv` with paths below `Manually_Annotated_Images` and face boxes; expressions
  8 to 10 (none, uncertain, no face) are dropped.
The validation set serves as the test split, as is customary.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from open_set_fer.console import log, track
from open_set_fer.datasets.cache import PreparedDataSet, cached_array
from open_set_fer.datasets.decoding import Box, image_listing
from open_set_fer.datasets.faceset import BASIC, CONTEMPT, Channels, Outline, Side, data_root
from open_set_fer.datasets.listing import Listing, Rows, find_images, is_hidden, paths_inside
from open_set_fer.errors import SuiteError, joined, some

CLASSES = (*BASIC, CONTEMPT)
EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
"""Published numbers 0..7."""

FOLDERS = {"train_set": "train", "val_set": "test"}
COLUMNS = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression"]


@dataclass(frozen=True)
class AffectNet(PreparedDataSet):
    """AffectNet in either layout: 287,651 train and 4,000 validation faces."""

    name = "affectnet"
    title = "AffectNet"
    guide = """AffectNet: request it at mohammadmahoor.com/affectnet (academic use, signed agreement).
Expected in data/affectnet: train_set and val_set (images, annotations), or training.csv and validation.csv with
Manually_Annotated_Images.
Checked: every image has an annotation, expression 0..7 (8 to 10 dropped), boxes lie within the image, no path leads
outside."""
    published = {"train": 287651, "test": 4000}
    """Manually annotated faces of expressions 0 to 7, in both layouts (some 2021 trees lack one validation face). The
    paper and others report 286,564 train faces instead, without counts by class."""
    published_classes = {
        "train": dict(zip(CLASSES, (14090, 6378, 3803, 134415, 25459, 24882, 74874, 3750), strict=True)),
        "test": dict.fromkeys(CLASSES, 500),
    }
    classes = CLASSES
    origin_differs = True
    """The validation set is curated: 500 faces a class."""

    root: str = ""
    """Published folder; '': $OSFER_DATA/affectnet or data/affectnet."""
    image_size: Side = 224
    channels: Channels = 3
    clip_boxes: bool = False
    """Clip face boxes of the original layout that reach beyond their picture, at most by half, instead of refusing
    them."""

    def listing(self, cache: Path) -> Listing:
        """Read annotations and image paths of either layout."""
        root = data_root(self.name, self.root)
        if (root / "train_set").is_dir():
            return self._folder_listing(list_folders(root, cache))
        if (root / "training.csv").is_file():
            paths, rows, boxes = read_manifests(root)
            return image_listing(self, CLASSES, rows, paths, boxes)
        raise SuiteError(
            f"affectnet: {root} has neither train_set nor training.csv", "unpack one of the two published layouts there"
        )

    def quick_listing(self, cache: Path) -> Listing | Outline:
        """Listing, or an outline until an earlier run has read the 2021 layout's annotations. These are 287 k files."""
        root = data_root(self.name, self.root)
        if not (root / "train_set").is_dir():
            return self.listing(cache)
        files = list_folders(root, cache)
        if files.labels.is_file():
            return self._folder_listing(files)
        count = len(files.images)
        return Outline(CLASSES, images=count, bytes=count * self.channels * self.image_size**2)

    def _folder_listing(self, files: Files) -> Listing:
        return image_listing(self, CLASSES, read_annotations(files), files.images)


@dataclass(frozen=True)
class Files:
    """Images and annotations (N,) of the 2021 layout; `names`: the images below the root.

    labels: cache file of the annotations' content.
    """

    names: list[str]
    images: list[str]
    annotations: list[str]
    labels: Path


def list_folders(root: Path, cache: Path) -> Files:
    """List the 2021 layout's files by image number; SuiteError for a missing folder."""
    names: list[str] = []
    for folder in FOLDERS:
        for place in (root / folder / "images", root / folder / "annotations"):
            if not place.is_dir():
                raise SuiteError(f"affectnet: no folder {place}", "unpack the published archive again")
        files = ["/".join(parts) for parts in find_images(root / folder / "images", "affectnet")]
        names += [f"{folder}/images/{file}" for file in sorted(files, key=lambda name: (len(name), name))]
    annotations = [
        f"{root}/{folder}/annotations/{file.rpartition('.')[0]}_exp.npy"
        for folder, _, file in (name.split("/", 2) for name in names)
    ]
    _say_orphans(root, annotations)
    images = paths_inside(root, names, "affectnet")
    return Files(names, images, annotations, cache / f"affectnet-labels-{_stamp(images, annotations)[:20]}.npy")


def _say_orphans(root: Path, annotations: list[str]) -> None:
    """Log the annotations that have no image."""
    known = set(annotations)
    places = [f"{root}/{folder}/annotations" for folder in FOLDERS]
    there = (f"{place}/{file}" for place in places for file in os.listdir(place) if file.endswith("_exp.npy"))
    if orphans := sorted(path for path in there if path not in known and not is_hidden(path.rpartition("/")[2])):
        log.warning("affectnet: %d annotations have no image: %s", len(orphans), some(orphans))


def read_annotations(files: Files) -> Rows:
    """Read the rows of the 2021 layout; its annotation files are read again only if changed."""

    def read() -> NDArray[np.int64]:
        numbers, faults = [], []
        for path in track(files.annotations, "reading annotations"):
            try:
                numbers.append(_expression(path))
            except SuiteError as error:
                faults.append(error)
        if faults:
            raise joined(faults, "annotations")
        return np.array(numbers, dtype=np.int64)

    splits = [FOLDERS[name.partition("/")[0]] for name in files.names]
    ids = [name.replace("/images/", "/") for name in files.names]
    return Rows.of(_labels(cached_array(files.labels, read)), splits, ids)


def _stamp(images: list[str], annotations: list[str]) -> str:
    """Digest of the annotations' sizes and times; SuiteError for an image without annotation."""
    digest = hashlib.sha256()
    missing = []
    for image, annotation in zip(images, annotations, strict=True):
        try:
            stat = os.stat(annotation)
        except FileNotFoundError:
            missing.append(f"{image} has no {annotation}")
        else:
            digest.update(f"{annotation}/{stat.st_size}/{stat.st_mtime_ns}\n".encode())
    if missing:
        raise SuiteError(f"affectnet: {some(missing)}", "unpack the archive again")
    return digest.hexdigest()


def _expression(path: str) -> int:
    """Read the number in an annotation, published as an array of one text such as '3'."""
    try:
        number = int(np.load(path, allow_pickle=False).item())
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise SuiteError(f"affectnet: cannot read {path}: {error}", "unpack the archive again") from error
    if not 0 <= number < len(EXPRESSIONS):
        raise SuiteError(f"affectnet: {path} has expression {number}, outside 0..7", "unpack the archive again")
    return number


def read_manifests(root: Path) -> tuple[list[str], Rows, list[Box | None]]:
    """Read image paths, rows and face boxes (left, top, right, bottom) of the original layout."""
    files = (("training.csv", "train"), ("validation.csv", "test"))
    pieces = [_read_manifest(root / file).assign(split=split) for file, split in files]
    faces = pd.concat(pieces, ignore_index=True)
    images = root / "Manually_Annotated_Images"
    paths = paths_inside(images, faces["subDirectory_filePath"].astype(str), "affectnet")
    # Dropped rows without a face may hold words here, which make the whole column text.
    box = faces[["face_x", "face_y", "face_width", "face_height"]].apply(pd.to_numeric, errors="coerce")
    without = [paths[row] for row in np.flatnonzero(~np.isfinite(box.to_numpy(float)).all(axis=1))]
    if without:
        verb = "has" if len(without) == 1 else "have"
        raise SuiteError(f"affectnet: {some(without)} {verb} no face box in its manifest", "copy the manifest again")
    left, top, width, height = (column.astype(int) for column in box.to_numpy().T)
    corners = np.stack([left, top, left + width, top + height], axis=1).tolist()
    boxes: list[Box | None] = [(a, b, c, d) for a, b, c, d in corners]
    return paths, Rows.of(_labels(faces["expression"]), faces["split"], faces["subDirectory_filePath"]), boxes


def _read_manifest(path: Path) -> pd.DataFrame:
    """Read the rows of expressions 0 to 7."""
    try:
        manifest = pd.read_csv(path)
    except FileNotFoundError as error:
        raise SuiteError(f"affectnet: no file {path}", "copy the published manifest there") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise SuiteError(f"affectnet: cannot read {path}: {error}", "copy the manifest again") from error
    missing = sorted(set(COLUMNS) - set(manifest.columns))
    if missing:
        raise SuiteError(f"affectnet: {path} lacks the columns {missing}", "copy the manifest again")
    outside = manifest[~manifest["expression"].isin(range(11))]
    if len(outside):
        values = zip(outside.index.tolist(), outside["expression"], strict=True)
        rows = [f"row {row + 2} has expression {value}" for row, value in values]
        raise SuiteError(f"affectnet: {path}: {some(rows)}, outside 0..10", "copy the manifest again")
    repeated = manifest["subDirectory_filePath"].duplicated()
    if repeated.any():
        names = [repr(name) for name in manifest.loc[repeated, "subDirectory_filePath"]]
        raise SuiteError(f"affectnet: {path} lists {some(names)} twice", "copy the manifest again")
    return manifest[manifest["expression"] < len(EXPRESSIONS)]


def _labels(numbers: ArrayLike) -> NDArray[np.int64]:
    """Convert published numbers to indices into CLASSES."""
    index = np.array([CLASSES.index(name) for name in EXPRESSIONS], dtype=np.int64)
    return index[np.asarray(numbers, dtype=np.int64)]
