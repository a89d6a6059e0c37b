"""FERPlus (Barsoum et al. 2016): FER2013's faces with the votes of ten taggers.

Layout: `fer2013new.csv` (votes) with either the folders FER2013Train, FER2013Valid, FER2013Test of PNG files or the
original `fer2013.csv` pixel file, whose rows are in the votes' order.

Label: the option with most votes among all ten; a row whose first place is tied is dropped, and so is one whose majority
is `unknown` or `NF` (not a face) or that names no image. The published file names four images twice: the first row
counts, as in the published folders' own label.csv, so that no image is used twice. Contempt is kept as a class of its own beside the seven basic ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from open_set_fer.datasets.faceset import BASIC, CONTEMPT, FaceSet, Outline, Side, data_root
from open_set_fer.datasets.preparation import (
    CHUNK,
    Listing,
    Table,
    cached_face_set,
    decode_files,
    listing_key,
    outline_of,
)
from open_set_fer.errors import SuiteError

VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
USAGES = {
    "Training": ("train", "FER2013Train"),
    "PublicTest": ("valid", "FER2013Valid"),
    "PrivateTest": ("test", "FER2013Test"),
}
CLASSES = (*BASIC, CONTEMPT)


class FerPlus:
    """FERPlus: FER2013's 35,887 grey faces, labelled anew by ten taggers; eight expressions, contempt among them."""

    name = "ferplus"

    @dataclass(frozen=True)
    class Settings:
        """root: the published folder. image_size: pixels a side (published: 48). channels: 1 grey or 3 RGB."""

        root: str = ""
        image_size: Side = 48
        channels: Literal[1, 3] = 1

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def load(self, cache: Path) -> FaceSet:
        """Votes and images as a FaceSet; raises SuiteError naming what is missing, damaged or not as published."""
        return cached_face_set(cache, self._listing())

    def outline(self, cache: Path) -> Outline:
        """Classes, and the cache's fingerprint where it is prepared; decodes and writes nothing."""
        return outline_of(cache, CLASSES, self._listing)

    def _listing(self) -> Listing:
        s = self.settings
        root = data_root(self.name, s.root)
        votes = read_votes(root / "fer2013new.csv")
        rows = _by_split(votes)
        votes = votes.assign(label=majority(votes))[votes["Image name"] != ""].drop_duplicates("Image name")
        notes = {
            "rows of the votes file": rows,
            "images they name": _by_split(votes),
            "tie, unknown or not a face": _by_split(votes[votes["label"] < 0]),
        }
        pixel_file = root / "fer2013.csv"
        shape = (s.channels, s.image_size, s.image_size)
        if not (root / "FER2013Train").is_dir() and pixel_file.is_file():
            kept = votes[votes["label"] >= 0]
            key = listing_key(self.name, s, [str(root / "fer2013new.csv"), str(pixel_file)])
            places = kept.index.to_numpy()
            return Listing(
                self.name, key, CLASSES, _table(kept), shape,
                lambda start: _pixel_chunks(pixel_file, places, s.image_size, s.channels, start), notes=notes,
            )  # fmt: skip
        paths = _paths(root, votes)
        wanted = votes["label"].to_numpy() >= 0
        kept_paths = [path for path, keep in zip(paths, wanted, strict=True) if keep]
        key = listing_key(self.name, s, [str(root / "fer2013new.csv"), *kept_paths])
        return Listing(
            self.name, key, CLASSES, _table(votes[wanted]), shape,
            lambda start: decode_files(kept_paths, s.image_size, s.channels, start), notes=notes,
        )  # fmt: skip


def read_votes(path: Path) -> pd.DataFrame:
    """The votes file with its rows in file order; raises SuiteError when a column, usage or vote is not as published."""
    if not path.is_file():
        raise SuiteError(f"ferplus: no votes file {path}", "copy fer2013new.csv of the FERPlus repository there")
    try:
        votes = pd.read_csv(path, keep_default_na=False, dtype={"Usage": str, "Image name": str})
    except (ValueError, UnicodeDecodeError) as error:
        raise SuiteError(f"ferplus: cannot read {path}: {error}", "copy the published file again") from error
    missing = {"Usage", "Image name", *VOTES} - set(votes.columns)
    if missing:
        raise SuiteError(f"ferplus: {path} lacks the columns {sorted(missing)}", "copy the published file again")
    unknown = set(votes["Usage"]) - set(USAGES)
    if unknown:
        raise SuiteError(f"ferplus: {path} has unknown usage {sorted(unknown)}", f"known: {', '.join(USAGES)}")
    counts = votes[list(VOTES)]
    if not all(pd.api.types.is_integer_dtype(kind) for kind in counts.dtypes) or (counts < 0).to_numpy().any():
        raise SuiteError(f"ferplus: {path} has votes that are not counts", "copy the published file again")
    return votes


def majority(votes: pd.DataFrame) -> NDArray[np.int64]:
    """(rows,) index into CLASSES by majority, -1 where the first place is tied, `unknown` or `NF`."""
    counts = votes[list(VOTES)].to_numpy()
    tied = (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) > 1
    index = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in VOTES], dtype=np.int64)
    return np.asarray(np.where(tied, -1, index[counts.argmax(axis=1)]))


def _by_split(votes: pd.DataFrame) -> dict[str, int]:
    counts = votes["Usage"].value_counts()
    return {split: int(counts.get(usage, 0)) for usage, (split, _) in USAGES.items()}


def _table(kept: pd.DataFrame) -> Table:
    split = kept["Usage"].map({usage: split for usage, (split, _) in USAGES.items()})
    return Table(
        kept["label"].to_numpy(np.int64),
        split.to_numpy().astype(np.str_),
        kept["Image name"].to_numpy().astype(np.str_),
    )


def _paths(root: Path, votes: pd.DataFrame) -> list[str]:
    """The image of every row, as strings: 35 k Path objects would cost half a second at every start."""
    present: set[str] = set()
    for _, folder in USAGES.values():
        if not (root / folder).is_dir():
            raise SuiteError(
                f"ferplus: no folder {root / folder}",
                "unpack the PNG folders there, or put fer2013.csv beside the votes",
            )
        present.update(f"{folder}/{name}" for name in os.listdir(root / folder))
    folders = votes["Usage"].map({usage: folder for usage, (_, folder) in USAGES.items()})
    paths: list[str] = (folders + "/" + votes["Image name"]).tolist()
    for path in paths:
        if path not in present:
            raise SuiteError(
                f"ferplus: fer2013new.csv has a row for {path.rpartition('/')[2]!r}, but there is no file {root / path}",
                "unpack the folder again, or remove the row if the image is not to be had",
            )
    return [f"{root}/{path}" for path in paths]


def _pixel_chunks(
    path: Path, rows: NDArray[np.int64], size: int, channels: int, start: int
) -> Iterator[NDArray[np.uint8]]:
    """Faces of the original pixel file (columns emotion, pixels, Usage) at these rows."""
    pixels = pd.read_csv(path, usecols=["pixels"])["pixels"]
    if rows.max() >= len(pixels):
        raise SuiteError(f"ferplus: {path} has {len(pixels)} rows, the votes name row {rows.max()}", "copy it again")
    for at in range(start, len(rows), CHUNK):
        pieces = []
        for row in rows[at : at + CHUNK]:
            values = np.fromstring(pixels[row], dtype=np.int64, sep=" ")
            if len(values) != 48 * 48 or values.min() < 0 or values.max() > 255:
                raise SuiteError(f"ferplus: row {row + 2} of {path} is not 48x48 pixels of 0..255", "copy it again")
            face = values.reshape(48, 48).astype(np.uint8)
            if size != 48:
                face = np.asarray(Image.fromarray(face).resize((size, size), Image.Resampling.BILINEAR))
            pieces.append(np.repeat(face[None], channels, axis=0))
        yield np.stack(pieces)
