"""FERPlus (Barsoum et al. 2016): FER2013's faces with the votes of ten annotators.

Layout: `fer2013new.csv` (votes) with either the folders FER2013Train, FER2013Valid, FER2013Test of PNG files or the
original `fer2013.csv` pixel file (or `icml_face_data.csv`), whose rows are in the votes' order.

Labels, by setting `labels`:

- majority, as the publishers' code (`src/ferplus.py`, mode 'majority'): options with a single vote are dropped; the
  label is the option with more than half of the other votes, of all ten options.
- plurality: the option with most votes, unless another one has as many.

Faces without such an option, or with `unknown` or `NF` (not a face) as the option, are dropped, as are rows without an
image name. The published file names four images twice: the first row counts, as in the published folders' label.csv, so
that no image is used twice. Contempt is a class beside the seven basic ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.decoding import image_listing
from open_set_fer.datasets.faceset import BASIC, CONTEMPT, Channels, Side, data_root
from open_set_fer.datasets.fer2013 import PixelFile, pixel_file
from open_set_fer.datasets.listing import Listing, Rows, file_key
from open_set_fer.errors import SuiteError, some

VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
USAGES = {
    "Training": ("train", "FER2013Train"),
    "PublicTest": ("valid", "FER2013Valid"),
    "PrivateTest": ("test", "FER2013Test"),
}
CLASSES = (*BASIC, CONTEMPT)
Labels = Literal["majority", "plurality"]


@dataclass(frozen=True)
class FerPlus(PreparedDataSet):
    """FERPlus: FER2013's 35,887 grey faces, relabelled by ten annotators; eight expressions."""

    name = "ferplus"
    title = "FERPlus"
    guide = """FERPlus labels: github.com/microsoft/FERPlus (fer2013new.csv, MIT licence).
Images: FER2013 on Kaggle (fer2013.csv).
Expected in data/ferplus (or $OSFER_DATA/ferplus): fer2013new.csv with the folders FER2013Train, FER2013Valid,
FER2013Test of PNG files, or with the original fer2013.csv (icml_face_data.csv).
Checked: columns, usages, votes are counts, every named image exists and decodes.
Labels: more than half of the votes after single votes are dropped, as published (labels = "majority"), or most votes
(labels = "plurality"). Faces without such an expression are dropped: ties, unknown, NF."""
    published = {"train": 25060, "valid": 3199, "test": 3153}
    """Rows with a majority by the publishers' rule; three of the training rows name an image again."""
    face_side = 48
    classes = CLASSES

    root: str = ""
    """Published folder; '': $OSFER_DATA/ferplus or data/ferplus."""
    image_size: Side = 48
    """Pixels a side; published: 48."""
    channels: Channels = 1
    labels: Labels = "majority"
    """'majority' (published): more than half of the votes, single votes dropped; 'plurality': most votes."""

    def listing(self, cache: Path) -> Listing:
        """List votes and images; raises SuiteError naming the first file with a fault."""
        root = data_root(self.name, self.root)
        votes_file, pixels_file = root / "fer2013new.csv", pixel_file(root)
        votes = read_votes(votes_file)
        counted = without_single_votes(votes) if self.labels == "majority" else votes
        named = counted.assign(majority=majority(votes), plurality=plurality(votes))
        named = named[votes["Image name"] != ""].drop_duplicates("Image name")
        labelled = named[self.labels] >= 0
        notes = {
            "rows of the votes file": _by_split(votes),
            "images they name": _by_split(named),
            "a majority of the votes": _by_split(named[named["majority"] >= 0]),
            "a plurality of the votes": _by_split(named[named["plurality"] >= 0]),
            f"no {self.labels}, unknown or not a face": _by_split(named[~labelled]),
        }
        faces = named[labelled]
        splits = faces["Usage"].map({usage: split for usage, (split, _) in USAGES.items()})
        rows = Rows.of(faces[self.labels], splits, faces["Image name"])
        rows = replace(rows, votes=faces[list(CLASSES)].to_numpy(np.uint8))
        if not (root / "FER2013Train").is_dir() and pixels_file is not None:
            usages = faces["Usage"].to_numpy(np.str_)
            pixels = PixelFile(pixels_file, faces.index.to_numpy(), self.image_size, self.channels, usages)
            key = f"{self!r}/{file_key(self.name, [str(votes_file), str(pixels_file)])}"
            return Listing(self.name, CLASSES, rows, pixels, key, notes)
        paths = [path for path, keep in zip(_paths(root, named), labelled, strict=True) if keep]
        return image_listing(self, CLASSES, rows, paths, notes=notes)


def read_votes(path: Path) -> pd.DataFrame:
    """Read the votes file in file order; raises SuiteError if it is not as published."""
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
    whole = all(pd.api.types.is_integer_dtype(kind) for kind in counts.dtypes)
    if not whole or not counts.isin(range(256)).to_numpy().all():
        raise SuiteError(f"ferplus: {path} has votes that are not counts", "copy the published file again")
    return votes


def without_single_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """Votes with 0 for every option that a single annotator chose, as the publishers count them."""
    counts = votes[list(VOTES)]
    return votes.assign(**counts.where(counts > 1, 0))


def majority(votes: pd.DataFrame) -> NDArray[np.int64]:
    """Indices (rows,) into CLASSES of the option with more than half of the votes; -1 for none, `unknown` or `NF`.

    Options with a single vote are dropped first.
    """
    counts = without_single_votes(votes)[list(VOTES)].to_numpy()
    return _chosen(counts, 2 * counts.max(axis=1) > counts.sum(axis=1))


def plurality(votes: pd.DataFrame) -> NDArray[np.int64]:
    """Indices (rows,) into CLASSES of the option with most votes; -1 for a tie, `unknown` or `NF`."""
    counts = votes[list(VOTES)].to_numpy()
    return _chosen(counts, (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) == 1)


def _chosen(counts: NDArray[np.int64], is_clear: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Indices (rows,) into CLASSES of the largest counts (rows, options); -1 where they are not clear or no class."""
    index = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in VOTES], dtype=np.int64)
    return np.asarray(np.where(is_clear, index[counts.argmax(axis=1)], -1))


def _by_split(votes: pd.DataFrame) -> dict[str, int]:
    counts = votes["Usage"].value_counts()
    return {split: int(counts.get(usage, 0)) for usage, (split, _) in USAGES.items()}


def _paths(root: Path, votes: pd.DataFrame) -> list[str]:
    """Image path of every row, as a string: 35 k Path objects would cost half a second."""
    present: set[str] = set()
    for _, folder in USAGES.values():
        if not (root / folder).is_dir():
            fix = "unpack the PNG folders there, or put fer2013.csv beside the votes"
            raise SuiteError(f"ferplus: no folder {root / folder}", fix)
        present.update(f"{folder}/{name}" for name in os.listdir(root / folder))
    folders = votes["Usage"].map({usage: folder for usage, (_, folder) in USAGES.items()})
    paths: list[str] = (folders + "/" + votes["Image name"]).tolist()
    missing = [path for path in paths if path not in present]
    if missing:
        names = some([repr(path.rpartition("/")[2]) for path in missing])
        fix = "unpack the folder again, or remove the rows if the images are not available"
        files = some([str(root / path) for path in missing])
        raise SuiteError(f"ferplus: fer2013new.csv has a row for {names}, but there is no file {files}", fix)
    return [f"{root}/{path}" for path in paths]
