"""RAF-DB (Li, Deng and Du, CVPR 2017): basic expressions, and the compound ones as open classes.

Layout of either tree: `EmoLabel/list_patition_label.txt` (the published spelling) with lines `train_00001.jpg 5`, and the aligned
100x100 faces `Image/aligned/train_00001_aligned.jpg`. The part of the name before the underscore is the split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from open_set_fer.datasets.faceset import BASIC, COMPOUND, FaceSet, Outline, Side, data_root
from open_set_fer.datasets.preparation import (
    Listing,
    Table,
    all_inside,
    cached_face_set,
    decode_files,
    listing_key,
    outline_of,
    read_lines,
)
from open_set_fer.errors import SuiteError

LABELS = "EmoLabel/list_patition_label.txt"
LINE = re.compile(r"((train|test)_\d+)\.jpg\s+(\d+)")


class RafDb:
    """RAF-DB basic, aligned: seven basic expressions, 12,271 train and 3,068 test images."""

    name = "rafdb"

    @dataclass(frozen=True)
    class Settings:
        """root: the published folder `basic`. image_size: pixels a side (published: 100). channels: 1 grey or 3 RGB."""

        root: str = ""
        image_size: Side = 100
        channels: Literal[1, 3] = 3

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def load(self, cache: Path) -> FaceSet:
        """Labels and images as a FaceSet; raises SuiteError naming what is missing, damaged or not as published."""
        return cached_face_set(cache, self._listing())

    def outline(self, cache: Path) -> Outline:
        """Classes, and the cache's fingerprint where it is prepared; decodes and writes nothing."""
        return outline_of(cache, BASIC, self._listing)

    def _listing(self) -> Listing:
        paths, table = read_tree(self.name, data_root(self.name, self.settings.root), BASIC, 0)
        return _listed(self.name, self.settings, BASIC, paths, table)


class RafDbCompound:
    """RAF-DB basic and compound together: the basic expressions closed, the eleven compound ones open."""

    name = "rafdb_compound"

    @dataclass(frozen=True)
    class Settings:
        """root: the folder `basic`; compound_root: the folder `compound`; else as for `rafdb`."""

        root: str = ""
        compound_root: str = ""
        image_size: Side = 100
        channels: Literal[1, 3] = 3

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def load(self, cache: Path) -> FaceSet:
        """Both trees as one FaceSet with 18 classes; ids of compound faces start with `compound/`."""
        return cached_face_set(cache, self._listing())

    def outline(self, cache: Path) -> Outline:
        """Classes, and the cache's fingerprint where it is prepared; decodes and writes nothing."""
        return outline_of(cache, (*BASIC, *COMPOUND), self._listing)

    def _listing(self) -> Listing:
        s = self.settings
        paths, basic = read_tree("rafdb", data_root("rafdb", s.root), BASIC, 0)
        more, compound = read_tree(self.name, data_root(self.name, s.compound_root), COMPOUND, len(BASIC))
        table = Table(
            np.concatenate([basic.labels, compound.labels]),
            np.concatenate([basic.split, compound.split]),
            np.concatenate([basic.ids, np.char.add("compound/", compound.ids)]),
        )
        return _listed(self.name, s, (*BASIC, *COMPOUND), paths + more, table)


def read_tree(name: str, root: Path, classes: tuple[str, ...], first: int) -> tuple[list[str], Table]:
    """Image paths and table of one tree; number k of the label file is class first + k - 1, named classes[k - 1].

    The eleven compound classes are numbered in the paper's order; a licensed tree's own readme may be compared with it.
    """
    names, labels, splits = [], [], []
    seen: set[str] = set()
    for number, line in _lines(root / LABELS):
        match = LINE.fullmatch(line)
        if match is None:
            raise SuiteError(
                f"{name}: line {number} of {root / LABELS} is not of the form 'train_00001.jpg 5': {line!r}",
                "restore the published file",
            )
        stem, split, label = match[1], match[2], int(match[3])
        if not 1 <= label <= len(classes):
            raise SuiteError(
                f"{name}: line {number} of {root / LABELS} has class {label}, outside 1..{len(classes)}",
                "restore the published file",
            )
        if stem in seen:
            raise SuiteError(
                f"{name}: line {number} of {root / LABELS} repeats {stem}.jpg", "restore the published file"
            )
        seen.add(stem)
        names.append(f"Image/aligned/{stem}_aligned.jpg")
        labels.append(first + label - 1)
        splits.append(split)
    if not names:
        raise SuiteError(f"{name}: {root / LABELS} is empty", "restore the published file")
    ids = np.array([path.rpartition("/")[2] for path in names], dtype=np.str_)
    return all_inside(root, names, name), Table(np.array(labels, dtype=np.int64), np.array(splits, dtype=np.str_), ids)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield number, line.strip()


def _listed(
    name: str,
    settings: RafDb.Settings | RafDbCompound.Settings,
    classes: tuple[str, ...],
    paths: list[str],
    table: Table,
) -> Listing:
    shape = (settings.channels, settings.image_size, settings.image_size)
    key = listing_key(name, settings, paths)
    return Listing(
        name, key, classes, table, shape,
        lambda start: decode_files(paths, settings.image_size, settings.channels, start),
    )  # fmt: skip
