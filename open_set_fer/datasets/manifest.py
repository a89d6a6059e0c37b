"""Any user's faces: a CSV or Parquet manifest, or a folder a class, with a class vocabulary in a small TOML file.

Manifest: columns `path` (below the manifest's folder), `label`, `split` (train, valid or test) and, optionally, a face box
`left`, `top`, `right`, `bottom` in pixels of the picture as a viewer shows it (turned as its EXIF says). Folder tree: `<root>/<split>/<class>/<image>`.
Vocabulary: `anger = ["angry", "ang", 6]` maps the data set's words and numbers to the suite's class names.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, FaceSet, Outline, Side
from open_set_fer.datasets.preparation import (
    Box,
    Listing,
    Table,
    all_inside,
    cached_face_set,
    decode_files,
    listing_key,
    outlined,
    read_lines,
)
from open_set_fer.errors import SuiteError

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
SPLITS = ("train", "valid", "test")
BOX = ["left", "top", "right", "bottom"]


class Manifest:
    """A user's own faces, from a manifest or a class-per-folder tree."""

    name = "manifest"

    @dataclass(frozen=True)
    class Settings:
        """path: the manifest file, or the root of the tree. vocabulary: TOML file ('' where labels are class names already).

        image_size: pixels a side. channels: 1 grey or 3 RGB.
        """

        path: str = ""
        vocabulary: str = ""
        image_size: Side = 112
        channels: Literal[1, 3] = 3

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def load(self, cache: Path) -> FaceSet:
        """The faces as a FaceSet; raises SuiteError naming the file, row or label at fault."""
        return cached_face_set(cache, self._listing())

    def outline(self, cache: Path) -> Outline:
        """Classes, and the cache's fingerprint where it is prepared; decodes and writes nothing.

        Raises SuiteError as `load` does: without the files nobody knows the classes.
        """
        return outlined(cache, self._listing())

    def _listing(self) -> Listing:
        s = self.settings
        source = Path(s.path)
        if not s.path or not source.exists():
            raise SuiteError(
                f"manifest: no file or folder {s.path!r}", "set `path` under [datasets.manifest] in a profile"
            )
        rows = read_tree(source) if source.is_dir() else read_manifest(source)
        root = source if source.is_dir() else source.parent
        aliases = read_vocabulary(Path(s.vocabulary)) if s.vocabulary else {}
        names = rows["label"].map(lambda label: aliases.get(str(label), None if aliases else str(label)))
        if names.isna().any():
            unknown = sorted(set(rows.loc[names.isna(), "label"].astype(str)))
            raise SuiteError(f"manifest: labels {unknown} are not in {s.vocabulary}", "add them to the vocabulary")
        known = [name for name in (*BASIC, *COMPOUND, CONTEMPT) if name in set(names)]
        classes = (*known, *sorted(set(names) - set(known)))
        labels = names.map({name: index for index, name in enumerate(classes)}).to_numpy(np.int64)
        paths = all_inside(root, rows["path"].astype(str), "manifest")
        boxes = read_boxes(source, rows)
        table = Table(labels, rows["split"].to_numpy().astype(np.str_), rows["path"].to_numpy().astype(np.str_))
        key = listing_key(self.name, (s, boxes), paths)
        return Listing(
            self.name, key, classes, table, (s.channels, s.image_size, s.image_size),
            lambda start: decode_files(paths, s.image_size, s.channels, start, boxes),
        )  # fmt: skip


def read_manifest(path: Path) -> pd.DataFrame:
    """Rows of a CSV or Parquet manifest; raises SuiteError for a missing column, unknown split or repeated path."""
    try:
        rows = (
            pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str, skipinitialspace=True)
        )
    except (ValueError, OSError) as error:
        raise SuiteError(f"manifest: cannot read {path}: {error}", "save it as UTF-8 CSV or as Parquet") from error
    rows = rows.rename(columns=lambda name: str(name).strip())
    lacking = [name for name in ("path", "label", "split") if name not in rows.columns]
    if lacking:
        raise SuiteError(f"manifest: {path} lacks the columns {lacking}", _columns_wanted(rows))
    for column in ("label", "split"):  # ' anger' of a row `x.png, anger` is no other class than 'anger'
        rows[column] = rows[column].map(lambda word: (word.strip() or None) if isinstance(word, str) else word)
    for column in ("path", "label", "split"):
        if rows[column].isna().any():
            row = int(np.flatnonzero(rows[column].isna())[0])
            raise SuiteError(f"manifest: row {row + 2} of {path} has no {column}", "fill it in, or remove the row")
    unknown = sorted(set(rows["split"]) - set(SPLITS))
    if unknown:
        raise SuiteError(f"manifest: {path} has unknown splits {unknown}", f"use {', '.join(SPLITS)}")
    if rows["path"].duplicated().any():
        name = rows.loc[rows["path"].duplicated(), "path"].iloc[0]
        raise SuiteError(f"manifest: {path} lists {name!r} twice", "keep one of the rows")
    if rows.empty:
        raise SuiteError(f"manifest: {path} has no row", "list the images in it")
    return rows


def _columns_wanted(rows: pd.DataFrame) -> str:
    found = "".join(map(str, rows.columns))
    for mark, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if mark in found:
            return f"its columns are separated by {word} ({mark!r}): save it with commas"
    return "columns: path, label, split"


def read_boxes(path: Path, rows: pd.DataFrame) -> list[Box | None] | None:
    """Face boxes, None for an image whose four columns are empty; None where the manifest has no box columns."""
    given = [column for column in BOX if column in rows.columns]
    if not given:
        return None
    if given != BOX:
        raise SuiteError(f"manifest: {path} has {given} of the box columns {BOX}", "give all four, or none")
    numbers = rows[BOX].apply(pd.to_numeric, errors="coerce")
    finite = np.isfinite(numbers.to_numpy(float)).all(axis=1)
    for row in np.flatnonzero(~finite & rows[BOX].notna().any(axis=1))[:1]:
        raise SuiteError(
            f"manifest: row {row + 2} of {path} has a face box that is not four numbers", "mend it, or leave it empty"
        )
    return [None if np.isnan(a) else (int(a), int(b), int(c), int(d)) for a, b, c, d in numbers.itertuples(index=False)]


def read_tree(root: Path) -> pd.DataFrame:
    """Rows of a tree <root>/<split>/<class>/<image>, in sorted order; raises SuiteError for a folder of another split."""
    for folder in sorted(root.iterdir()):
        if folder.name not in SPLITS and any(file.suffix.lower() in IMAGES for file in folder.glob("*/*")):
            raise SuiteError(f"manifest: {folder} is no split", f"name it {', '.join(SPLITS)}, or move it elsewhere")
    files = sorted(p for split in SPLITS for p in (root / split).glob("*/*") if p.suffix.lower() in IMAGES)
    if not files:
        raise SuiteError(f"manifest: no image at {root}/<split>/<class>/", f"splits: {', '.join(SPLITS)}")
    places = [file.relative_to(root) for file in files]
    return pd.DataFrame({
        "path": [str(place) for place in places],
        "label": [place.parts[1] for place in places],
        "split": [place.parts[0] for place in places],
    })  # fmt: skip


def read_vocabulary(path: Path) -> dict[str, str]:
    """Class name by the word or number that a data set uses for it; a class name stands for itself too."""
    try:
        content = tomllib.loads("\n".join(read_lines(path)))
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(
            f"manifest: {path} is not TOML: {error}", 'write lines such as anger = ["angry", 6]'
        ) from error
    aliases: dict[str, str] = {}
    for name, words in content.items():
        if not isinstance(words, list):
            raise SuiteError(f"manifest: {path}: {name} is not a list", 'write lines such as anger = ["angry", 6]')
        for word in [name, *words]:
            if aliases.setdefault(str(word), name) != name:
                raise SuiteError(
                    f"manifest: {path} maps {word!r} to {aliases[str(word)]} and {name}", "keep one of them"
                )
    return aliases
