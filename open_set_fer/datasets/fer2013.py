"""FER2013 (Goodfellow et al. 2013): 48 px grey faces in one CSV file, with its own labels; also FERPlus' pixels.

The file is `fer2013.csv` (columns emotion, pixels, Usage) or `icml_face_data.csv`, the same rows under ` Usage` and
` pixels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.faceset import BASIC, Channels, Side, data_root
from open_set_fer.datasets.listing import CHUNK, Listing, Rows, file_key
from open_set_fer.errors import SuiteError, some

FILES = ("fer2013.csv", "icml_face_data.csv")
SPLITS = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
"""Published numbers 0..6."""


@dataclass(frozen=True)
class Fer2013(PreparedDataSet):
    """FER2013 with its own labels: 35,887 grey faces, seven basic expressions."""

    name = "fer2013"
    title = "FER2013"
    guide = """FER2013: Kaggle, challenges-in-representation-learning-facial-expression-recognition-challenge.
Expected in data/fer2013 (or $OSFER_DATA/fer2013): fer2013.csv or icml_face_data.csv.
Checked: columns, emotion 0..6, usages, 48x48 pixels of 0..255.
Its labels are noisier than FERPlus', which relabels the same faces (data set `ferplus`)."""
    published = {"train": 28709, "valid": 3589, "test": 3589}
    published_classes = {
        "train": dict(zip(EMOTIONS, (3995, 436, 4097, 7215, 4830, 3171, 4965), strict=True)),
        "valid": dict(zip(EMOTIONS, (467, 56, 496, 895, 653, 415, 607), strict=True)),
        "test": dict(zip(EMOTIONS, (491, 55, 528, 879, 594, 416, 626), strict=True)),
    }
    face_side = 48
    classes = BASIC

    root: str = ""
    """Folder of the file; '': $OSFER_DATA/fer2013 or data/fer2013."""
    image_size: Side = 48
    """Pixels a side; published: 48."""
    channels: Channels = 1

    def listing(self, cache: Path) -> Listing:
        """List labels and usages; raises SuiteError for rows that are not as published."""
        root = data_root(self.name, self.root)
        path = pixel_file(root)
        if path is None:
            raise SuiteError(f"fer2013: no file {root / FILES[0]}", "copy it there from Kaggle's archive")
        table = read_columns(self.name, path, "emotion", "usage")
        numbers = pd.to_numeric(table["emotion"], errors="coerce")
        for column, right in (("emotion", numbers.isin(range(7))), ("Usage", table["usage"].isin(list(SPLITS)))):
            if not right.all():
                values = table[column.lower()].tolist()
                wrong = [f"{row + 2} ({values[row]!r})" for row in np.flatnonzero(~right)]
                fault = f"fer2013: {path} has an unknown {column} in row {some(wrong)}"
                raise SuiteError(fault, f"copy it again; known: 0..6 and {', '.join(SPLITS)}")
        index = np.array([BASIC.index(emotion) for emotion in EMOTIONS], dtype=np.int64)
        ids = [f"fer2013-{row:05d}" for row in range(len(table))]
        rows = Rows.of(index[numbers.to_numpy(np.int64)], table["usage"].map(SPLITS), ids)
        pixels = PixelFile(path, np.arange(len(table)), self.image_size, self.channels, name=self.name)
        return Listing(self.name, BASIC, rows, pixels, f"{self!r}/{file_key(self.name, [str(path)])}")


def pixel_file(root: Path) -> Path | None:
    """The pixel file in a folder, by either name; None if there is none."""
    return next((root / file for file in FILES if (root / file).is_file()), None)


def read_columns(name: str, path: Path, *columns: str) -> pd.DataFrame:
    """Columns of a pixel file, by their names without case and blanks; SuiteError if one is missing."""

    def plain(column: object) -> str:
        return str(column).strip().lower()

    try:
        table = pd.read_csv(path, usecols=lambda column: plain(column) in columns, dtype=str).rename(columns=plain)
        header = list(pd.read_csv(path, nrows=0).columns)
    except (ValueError, OSError) as error:
        raise SuiteError(f"{name}: cannot read {path}: {error}", "copy it again") from error
    if missing := [column for column in columns if column not in table.columns]:
        fix = "copy the published file: columns emotion, pixels, Usage"
        raise SuiteError(f"{name}: {path} lacks the columns {missing}, it has {header[:6]}", fix)
    return pd.DataFrame({column: table[column].str.strip() for column in columns})


@dataclass(frozen=True)
class PixelFile:
    """Faces of a pixel file at rows (N,).

    usages (N,): of the rows in the votes file, with which this file's must agree; None: not checked.
    """

    path: Path
    rows: NDArray[np.int64]
    size: int
    channels: int
    usages: NDArray[np.str_] | None = None
    name: str = "ferplus"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def chunks(self, start: int) -> Iterator[NDArray[np.uint8]]:
        """Chunks uint8 (n, C, H, W) from face `start` on; SuiteError for rows that are missing or not as published."""
        table = read_columns(self.name, self.path, "pixels", *["usage"] * (self.usages is not None))
        texts = table["pixels"]
        if self.rows.max() >= len(texts):
            fault = f"{self.name}: {self.path} has {len(texts)} rows, the votes name row {self.rows.max()}"
            raise SuiteError(fault, "copy it again")
        if self.usages is not None:
            other = self.rows[table["usage"].to_numpy()[self.rows] != self.usages]
            if len(other):
                fault = f"{self.name}: {len(other):,} rows of {self.path} have another Usage than in the votes file"
                rows = some([str(row + 2) for row in other])
                raise SuiteError(f"{fault}: {rows}", "copy it again: its rows must be in the published order")
        if odd := [str(row + 2) for row in self.rows if self._values(texts[row]) is None]:
            fault = f"{self.name}: row {some(odd)} of {self.path} is not 48x48 pixels of 0..255"
            raise SuiteError(fault, "copy it again")
        for at in range(start, len(self.rows), CHUNK):
            faces = [self._face(texts[row]) for row in self.rows[at : at + CHUNK]]
            yield np.stack([np.repeat(face[None], self.channels, axis=0) for face in faces])

    def _values(self, text: object) -> NDArray[np.uint8] | None:
        """Face uint8 (48, 48) of a row's text; None if it is none."""
        try:
            values = np.array(str(text).split(), dtype=np.int64)
        except (ValueError, OverflowError):
            return None
        if len(values) != 48 * 48 or values.min() < 0 or values.max() > 255:
            return None
        return values.reshape(48, 48).astype(np.uint8)

    def _face(self, text: str) -> NDArray[np.uint8]:
        face = self._values(text)
        assert face is not None
        if self.size == 48:
            return face
        return np.asarray(Image.fromarray(face).resize((self.size, self.size), Image.Resampling.BILINEAR))
