"""RAF-DB (Li, Deng and Du, CVPR 2017): basic expressions, and compound ones as open.

Layout of either tree: `EmoLabel/list_patition_label.txt` (the published spelling) with lines `train_00001.jpg 5`, and
the aligned 100x100 faces `Image/aligned/train_00001_aligned.jpg`. The name before the underscore is the split.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.decoding import image_listing
from open_set_fer.datasets.faceset import BASIC, COMPOUND, Channels, Side, data_root
from open_set_fer.datasets.listing import Listing, Rows, paths_inside, read_lines
from open_set_fer.errors import SuiteError

LABELS = "EmoLabel/list_patition_label.txt"
LINE = re.compile(r"((train|test)_\d+)\.jpg\s+(\d+)")


@dataclass(frozen=True)
class RafDb(PreparedDataSet):
    """RAF-DB basic, aligned: seven basic expressions, 12,271 train and 3,068 test images."""

    name = "rafdb"
    title = "RAF-DB"
    guide = """RAF-DB: request it at whdeng.cn/RAF/model1.html (academic use, signed agreement).
Expected in data/rafdb (or $OSFER_DATA/rafdb): EmoLabel/list_patition_label.txt and
Image/aligned/train_00001_aligned.jpg ... of the folder `basic`.
Checked: form of each label line, class 1..7, no line twice, every image exists and decodes."""
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
    """Read image paths and rows of one tree.

    Number k of the label file is class first + k - 1, named classes[k - 1]. The eleven compound classes are numbered
    in the paper's order; compare it with a licensed tree's readme.
    """
    faces = read_labels(name, root / LABELS, len(classes))
    splits, labels = zip(*faces.values(), strict=True)
    ids = [f"{stem}_aligned.jpg" for stem in faces]
    rows = Rows.of([first + label for label in labels], splits, ids)
    return paths_inside(root, [f"Image/aligned/{file}" for file in ids], name), rows


def read_labels(name: str, file: Path, classes: int) -> dict[str, tuple[str, int]]:
    """Split and label (0..classes - 1) of each face of a label file, by its name such as `train_00001`."""
    faces: dict[str, tuple[str, int]] = {}
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
        raise SuiteError(f"{name}: line {number} of {file} {fault}", "restore the published file")
    if not faces:
        raise SuiteError(f"{name}: {file} is empty", "restore the published file")
    return faces
