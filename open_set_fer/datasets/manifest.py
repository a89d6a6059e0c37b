"""The user's faces: a CSV or Parquet manifest or a folder tree, with a class vocabulary.

Manifest: columns `path` (below the manifest's folder), `label`, `split` (train, valid or test) and, optionally, a
face box `left`, `top`, `right`, `bottom` in pixels of the picture as viewers show it (turned as its EXIF says).
Folder tree: `<root>/<split>/<class>/<image>`. Vocabulary: `anger = ["angry", "ang", 6]` maps the data set's words and
numbers to the suite's class names.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.decoding import Box, image_listing
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, Channels, Side, check_class_names
from open_set_fer.datasets.listing import IMAGE_ENDINGS, Listing, Rows, paths_inside, read_lines
from open_set_fer.errors import SuiteError

SPLITS = ("train", "valid", "test")
BOX = ["left", "top", "right", "bottom"]


@dataclass(frozen=True)
class Manifest(PreparedDataSet):
    """The user's faces, from a manifest or a folder tree."""

    name = "manifest"
    title = "Own faces"
    guide = """Your faces: needs a manifest or a folder tree, and a vocabulary unless its labels are class names.
Expected at `path` under [datasets.manifest] in a profile: a CSV or Parquet file with the columns path (below the file's
folder), label, split (train, valid or test) and optionally left, top, right, bottom; or a folder
<split>/<class>/<image>.
Vocabulary: a TOML file named by `vocabulary`, with lines such as  anger = ["angry", "ang", 6].
Checked: columns, splits, labels are in the vocabulary, no file twice, every image decodes, boxes (in the picture as
viewers show it, turned as its EXIF says) lie within the image, no path leads out of the folder."""

    path: str = ""
    """Manifest file, or root of the tree."""
    vocabulary: str = ""
    """TOML file; '' if labels are class names."""
    image_size: Side = 112
    channels: Channels = 3

    def listing(self, cache: Path) -> Listing:
        """List the faces of the manifest or tree, with the classes of their labels."""
        source = Path(self.path)
        if not self.path or not source.exists():
            raise SuiteError(
                f"manifest: no file or folder {self.path!r}", "set `path` under [datasets.manifest] in a profile"
            )
        table = read_tree(source) if source.is_dir() else read_manifest(source)
        names = self._class_names(table["label"])
        check_class_names(self.name, dict.fromkeys(names))
        expressions = [name for name in (*BASIC, *COMPOUND, CONTEMPT) if name in set(names)]
        classes = (*expressions, *sorted(set(names) - set(expressions)))
        labels = names.map({name: index for index, name in enumerate(classes)})
        root = source if source.is_dir() else source.parent
        paths = paths_inside(root, table["path"].astype(str), self.name)
        rows = Rows.of(labels, table["split"], table["path"])
        return image_listing(self, classes, rows, paths, read_boxes(source, table))

    def _class_names(self, labels: pd.Series[str]) -> pd.Series[str]:
        """Class name of each label; raises SuiteError naming labels missing from the vocabulary."""
        if not self.vocabulary:
            return labels.astype(str)
        aliases = read_vocabulary(Path(self.vocabulary))
        names = labels.map(lambda label: aliases.get(str(label)))
        if names.isna().any():
            unknown = sorted(set(labels[names.isna()].astype(str)))
            raise SuiteError(f"manifest: labels {unknown} are not in {self.vocabulary}", "add them to the vocabulary")
        return names


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet manifest; raises SuiteError naming its first fault."""
    try:
        is_parquet = path.suffix == ".parquet"
        rows = pd.read_parquet(path) if is_parquet else pd.read_csv(path, dtype=str, skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise SuiteError(f"manifest: cannot read {path}: {error}", "save it as UTF-8 CSV or as Parquet") from error
    rows = rows.rename(columns=lambda name: str(name).strip())
    missing = [name for name in ("path", "label", "split") if name not in rows.columns]
    if missing:
        raise SuiteError(f"manifest: {path} lacks the columns {missing}", _column_hint(rows))
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


def _column_hint(rows: pd.DataFrame) -> str:
    header = "".join(map(str, rows.columns))
    for mark, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if mark in header:
            return f"its columns are separated by {word} ({mark!r}): save it with commas"
    return "columns: path, label, split"


def read_boxes(path: Path, rows: pd.DataFrame) -> list[Box | None] | None:
    """Face boxes, None for an image whose four columns are empty; None for a manifest without box columns."""
    columns = [column for column in BOX if column in rows.columns]
    if not columns:
        return None
    if columns != BOX:
        raise SuiteError(f"manifest: {path} has {columns} of the box columns {BOX}", "give all four, or none")
    numbers = rows[BOX].apply(pd.to_numeric, errors="coerce")
    finite = np.isfinite(numbers.to_numpy(float)).all(axis=1)
    for row in np.flatnonzero(~finite & rows[BOX].notna().any(axis=1))[:1]:
        raise SuiteError(
            f"manifest: row {row + 2} of {path} has a face box that is not four numbers", "fix it, or leave it empty"
        )
    return [None if np.isnan(a) else (int(a), int(b), int(c), int(d)) for a, b, c, d in numbers.itertuples(index=False)]


def read_tree(root: Path) -> pd.DataFrame:
    """List a tree <root>/<split>/<class>/<image>; raises SuiteError for an unknown split."""
    for folder in sorted(root.iterdir()):
        if folder.name not in SPLITS and any(file.suffix.lower() in IMAGE_ENDINGS for file in folder.glob("*/*")):
            raise SuiteError(f"manifest: {folder} is no split", f"name it {', '.join(SPLITS)}, or move it elsewhere")
    files = sorted(p for split in SPLITS for p in (root / split).glob("*/*") if p.suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise SuiteError(f"manifest: no image at {root}/<split>/<class>/", f"splits: {', '.join(SPLITS)}")
    places = [file.relative_to(root) for file in files]
    rows = [(str(place), place.parts[1], place.parts[0]) for place in places]
    return pd.DataFrame(rows, columns=["path", "label", "split"])


def read_vocabulary(path: Path) -> dict[str, str]:
    """Read class names by the data set's words and numbers; a class name maps to itself."""
    fix = 'write lines such as anger = ["angry", 6]'
    try:
        content = tomllib.loads("\n".join(read_lines(path)))
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"manifest: {path} is not TOML: {error}", fix) from error
    aliases: dict[str, str] = {}
    for name, words in content.items():
        if not isinstance(words, list):
            raise SuiteError(f"manifest: {path}: {name} is not a list", fix)
        for word in [name, *words]:
            if (other := aliases.setdefault(str(word), name)) != name:
                raise SuiteError(f"manifest: {path} maps {word!r} to {other} and {name}", "keep one of them")
    return aliases
