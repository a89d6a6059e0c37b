"""RAF-DB (Li, Deng and Du, CVPR 2017): basic expressions, and compound ones as open.

Published layout of either tree: `EmoLabel/list_patition_label.txt` (the published spelling) with lines
`train_00001.jpg 5`, and the aligned 100x100 faces `Image/aligned/train_00001_aligned.jpg`. The name before the
underscore is the split. A tree of copies, `train/5/train_00001_aligned.jpg` with or without `train_labels.csv` and
`test_labels.csv`, in a folder DATASET or not, gives the same faces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.decoding import image_listing
from open_set_fer.datasets.faceset import BASIC, COMPOUND, Channels, Side, data_root
from open_set_fer.datasets.listing import Listing, Rows, find_images, paths_inside, read_lines
from open_set_fer.errors import SuiteError, joined, some

LABELS = "EmoLabel/list_patition_label.txt"
LINE = re.compile(r"((train|test)_\d+)\.jpg\s+(\d+)")
COPY = re.compile(r"(train|test)/([1-9]\d?)/(\1_\d+)(?:_aligned)?\.jpg")


@dataclass(frozen=True)
class RafDb(PreparedDataSet):
    """RAF-DB basic, aligned: seven basic expressions, 12,271 train and 3,068 test images."""

    name = "rafdb"
    title = "RAF-DB"
    guide = """RAF-DB: request it at whdeng.cn/RAF/model1.html (academic use, signed agreement).
Expected in data/rafdb (or $OSFER_DATA/rafdb): EmoLabel/list_patition_label.txt and
Image/aligned/train_00001_aligned.jpg ... of the folder `basic`; or the copies train/5/train_00001_aligned.jpg ... and
test/... (in a folder DATASET or not), whose train_labels.csv and test_labels.csv must agree if they are there.
Checked: form of each label line and name, class 1..7, no face twice, every image exists and decodes."""
    published = {"train": 12271, "test": 3068}
    published_classes = {
        "train": dict(zip(BASIC, (1290, 281, 717, 4772, 1982, 705, 2524), strict=True)),
        "test": dict(zip(BASIC, (329, 74, 160, 1185, 478, 162, 680), strict=True)),
    }
    face_side = 100
    classes = BASIC

    root: str = ""
    """Published folder `basic`; '': $OSFER_DATA/rafdb or data/rafdb."""
    image_size: Side = 100
    """Pixels a side; published: 100."""
    channels: Channels = 3

    def listing(self, cache: Path) -> Listing:
        """List labels and images of the tree."""
        paths, rows = read_tree(self.name, data_root(self.name, self.root), BASIC, 0)
        return image_listing(self, BASIC, rows, paths)


@dataclass(frozen=True)
class RafDbCompound(PreparedDataSet):
    """RAF-DB basic and compound: basic expressions closed, eleven compound ones open."""

    name = "rafdb_compound"
    title = "RAF-DB (compound)"
    guide = """RAF-DB compound: comes with RAF-DB (see `osfer data guide rafdb`).
Expected in data/rafdb_compound: EmoLabel and Image of the folder `compound`; the basic tree in data/rafdb is read too.
Checked: as for rafdb, class 1..11 in the order of the paper; compare the numbering with the tree's readme."""
    published = {"train": 12271 + 3162, "test": 3068 + 792}
    published_classes = RafDb.published_classes
    """For compound classes only the totals are well established."""
    face_side = 100
    classes = (*BASIC, *COMPOUND)

    root: str = ""
    """Published folder `basic`; '': $OSFER_DATA/rafdb or data/rafdb."""
    compound_root: str = ""
    """Published folder `compound`; '': $OSFER_DATA/rafdb_compound or data/rafdb_compound."""
    image_size: Side = 100
    """Pixels a side; published: 100."""
    channels: Channels = 3

    def listing(self, cache: Path) -> Listing:
        """List both trees, 18 classes; ids of compound faces start with `compound/`."""
        paths, basic = read_tree("rafdb", data_root("rafdb", self.root), BASIC, 0)
        more, compound = read_tree(self.name, data_root(self.name, self.compound_root), COMPOUND, len(BASIC))
        rows = Rows(
            np.concatenate([basic.labels, compound.labels]),
            np.concatenate([basic.split, compound.split]),
            np.concatenate([basic.ids, np.char.add("compound/", compound.ids)]),
        )
        return image_listing(self, self.classes, rows, paths + more)


def read_tree(name: str, root: Path, classes: tuple[str, ...], first: int) -> tuple[list[str], Rows]:
    """Read image paths and rows of one tree, in the published layout or as copies by class.

    Number k of a label is class first + k - 1, named classes[k - 1]. The eleven compound classes are numbered in the
    paper's order; compare it with a licensed tree's readme.
    """
    copies = next((place for place in (root, root / "DATASET") if (place / "train" / "1").is_dir()), None)
    if copies is not None and not (root / LABELS).exists():
        files, numbers = _read_copies(name, copies, len(classes))
        root = copies
    else:
        numbers = {stem: label + 1 for stem, (_, label) in read_labels(name, root / LABELS, len(classes)).items()}
        files = {stem: f"Image/aligned/{stem}_aligned.jpg" for stem in numbers}
    labels = [first + numbers[stem] - 1 for stem in files]
    splits = [stem.partition("_")[0] for stem in files]
    ids = [f"{stem}_aligned.jpg" for stem in files]
    return paths_inside(root, files.values(), name), Rows.of(labels, splits, ids)


def read_labels(name: str, file: Path, classes: int) -> dict[str, tuple[str, int]]:
    """Split and label (0..classes - 1) of each face of a label file, by its name such as `train_00001`.

    Raises SuiteError naming all faulty lines.
    """
    faces: dict[str, tuple[str, int]] = {}
    faults = []
    for number, line in enumerate(map(str.strip, read_lines(file)), 1):
        match = LINE.fullmatch(line)
        if not line:
            continue
        if match is None:
            fault = f"is not of the form 'train_00001.jpg 5': {line!r}"
        elif not 1 <= int(match[3]) <= classes:
            fault = f"has class {match[3]}, outside 1..{classes}"
        elif match[1] in faces:
            fault = f"repeats {match[1]}.jpg"
        else:
            faces[match[1]] = match[2], int(match[3]) - 1
            continue
        faults.append(SuiteError(f"{name}: line {number} of {file} {fault}", "restore the published file"))
    if faults:
        raise joined(faults, "lines")
    if not faces:
        raise SuiteError(f"{name}: {file} is empty", "restore the published file")
    return faces


def _read_copies(name: str, root: Path, classes: int) -> tuple[dict[str, str], dict[str, int]]:
    """Path below the root and number of the class of each face of a tree of copies, by stem, in the list's order.

    Raises SuiteError for a missing split, and for files whose name, class or split is not as published: they may be
    changed copies, of test faces among others.
    """
    for split in ("train", "test"):
        if not (root / split).is_dir():
            there = ", ".join(sorted(place.name for place in root.iterdir() if place.is_dir()))
            fix = f"rename the folder with the published {split} faces ({split}_0001_aligned.jpg ...)"
            raise SuiteError(f"{name}: {root} has no folder {split}, only {there}", fix)
    files: dict[str, str] = {}
    numbers: dict[str, int] = {}
    odd = []
    found = [parts for parts in find_images(root, name) if parts[0] in ("train", "test")]
    for parts in sorted(found, key=lambda parts: (parts[0] == "test", parts[-1])):
        match = COPY.fullmatch("/".join(parts))
        if match is None or int(match[2]) > classes or match[3] in files:
            odd.append("/".join(parts))
        else:
            files[match[3]], numbers[match[3]] = "/".join(parts), int(match[2])
    if odd:
        fault = f"{name}: {len(odd):,} files of {root} are no published faces, or are there twice: {some(odd)}"
        raise SuiteError(fault, "move them elsewhere: expected train/5/train_00001_aligned.jpg; or use `manifest`")
    if other := _disagreements(name, root, numbers):
        fault = f"{name}: {len(other):,} labels of {root} differ between its folders and tables: {some(other)}"
        raise SuiteError(fault, "restore the published tree, or remove the tables")
    return files, numbers


def _disagreements(name: str, root: Path, numbers: dict[str, int]) -> list[str]:
    """Faces whose label in train_labels.csv or test_labels.csv, if there, is not that of their folder."""
    other = []
    for split in ("train", "test"):
        tables = (place / f"{split}_labels.csv" for place in (root, root.parent))
        table = next((path for path in tables if path.is_file()), None)
        if table is None:
            continue
        lines = [line.split(",") for line in read_lines(table)[1:] if line.strip()]
        if any(len(line) != 2 for line in lines):
            raise SuiteError(f"{name}: {table} has not the columns image,label", "restore the file, or remove it")
        labels = {image.strip().removesuffix(".jpg").removesuffix("_aligned"): label.strip() for image, label in lines}
        stems = {stem for stem in numbers if stem.startswith(split)} | labels.keys()
        other += sorted(stem for stem in stems if labels.get(stem) != str(numbers.get(stem)))
    return other
