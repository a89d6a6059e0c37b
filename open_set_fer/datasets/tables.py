"""Tables of images: CSV or Parquet with the columns path, label, split and, optionally, a face box.

Rows are numbered as a spreadsheet shows them: the first below the header is 2.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from open_set_fer.console import log
from open_set_fer.datasets.decoding import Box
from open_set_fer.datasets.vocabulary import MISSING, Vocabulary, as_number
from open_set_fer.errors import SuiteError, some

BOX = ["left", "top", "right", "bottom"]
COLUMNS = {
    "path": ("file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path"),
    "label": ("labels", "class", "emotion", "expression"),
    "split": ("usage", "subset", "set"),
}
"""Other names of the columns, taken where a table lacks the first one."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a table as it is: text in CSV, blanks around words removed; SuiteError if it cannot be read."""
    try:
        rows = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise SuiteError(f"manifest: cannot read {path}: {error}", "save it as UTF-8 CSV or as Parquet") from error
    rows = rows.rename(columns=lambda column: str(column).strip())
    again = (re.sub(r"\.\d+$", "", column) for column in rows.columns)  # pandas numbers a repeated column of a CSV
    if repeated := sorted({column for column, n in Counter(again).items() if n > 1 and column in rows.columns}):
        raise SuiteError(f"manifest: {path} has the columns {repeated} twice", "keep one of them")
    for column in rows.columns:  # ' anger' of a row `x.png, anger` is no other class than 'anger'
        if not pd.api.types.is_numeric_dtype(rows[column]):
            rows[column] = rows[column].map(lambda word: (word.strip() or None) if isinstance(word, str) else word)
    return rows


def _read_csv(path: Path) -> pd.DataFrame:
    """Read CSV as text; a row with more words than columns is an error, as one with an unquoted comma in its path."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            path, dtype=str, skipinitialspace=True, keep_default_na=False, na_values=[""], index_col=False
        )


def read_manifest(path: Path, vocabulary: Vocabulary, needed: Sequence[str] = tuple(COLUMNS)) -> pd.DataFrame:
    """Read the rows of a manifest, with path, label and split as text; SuiteError names all rows of one fault."""
    rows = renamed(path, read_table(path), needed)
    if rows.empty:
        raise SuiteError(f"manifest: {path} has no row", "list the images in it")
    empty = rows[list(needed)].isna().all(axis=1)
    if empty.any() and not empty.all():
        log.warning("manifest: %s: %d rows are empty and passed over", path, int(empty.sum()))
        rows = rows[~empty]
    for column in needed:
        is_missing = rows[column].map(vocabulary.is_missing if column == "label" else pd.isna).astype(bool)
        if is_missing.any():
            fix = "fill it in, or remove the row" + "; a word such as NA is a label if the vocabulary has it"
            verb = "has" if is_missing.sum() == 1 else "have"
            fault = f"manifest: {rows_of(is_missing)} of {path} {verb} no {column}"
            raise SuiteError(fault, fix if column == "label" else "fill it in, or remove the row")
    rows["label"] = rows["label"].map(_word)
    for column in set(needed) - {"label"}:
        rows[column] = rows[column].astype(str)
    _check_repeats(path, rows)
    return rows


def renamed(path: Path, rows: pd.DataFrame, needed: Sequence[str]) -> pd.DataFrame:
    """The rows with the columns' usual names; SuiteError for a missing column, or two that may be one."""
    by_word = {str(column).lower(): str(column) for column in rows.columns}
    taken = {}
    for column in needed:
        if column in rows.columns:
            continue
        there = [by_word[word] for word in (column, *COLUMNS[column]) if word in by_word]
        if len(there) > 1:
            raise SuiteError(f"manifest: {path} has the columns {there}: which is the {column}?", f"name it {column}")
        taken.update({name: column for name in there})
    if taken:
        log.info("manifest: %s: %s", path, ", ".join(f"column {a!r} is taken for {b}" for a, b in taken.items()))
    rows = rows.rename(columns=taken)
    if missing := [column for column in needed if column not in rows.columns]:
        fix = "`osfer data split` adds one" if missing == ["split"] else _column_hint(rows)
        raise SuiteError(f"manifest: {path} lacks the columns {missing}", fix)
    return rows


def _column_hint(rows: pd.DataFrame) -> str:
    names = [str(column) for column in rows.columns]
    return separator_hint(names) or f"columns: path, label, split; there are: {some(names, 8)}"


def separator_hint(names: list[str]) -> str:
    """Fix of a table whose columns are not separated by commas; '' for another one."""
    for mark, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if any(mark in name for name in names):
            return f"its columns are separated by {word} ({mark!r}): save it with commas"
    return ""


def rows_of(mask: pd.Series[bool]) -> str:
    """'row 2' or 'rows 2, 3, 4 and 7 more' of those that are true."""
    numbers = [str(int(row) + 2) for row in mask.index[mask]]
    return f"row{'s' * (len(numbers) > 1)} {some(numbers)}"


def _word(value: object) -> str:
    """A label as text; a column of numbers with a gap holds floats, whose '1.0' is 1."""
    return as_number(str(value)) if isinstance(value, float | np.floating) else str(value)


def _check_repeats(path: Path, rows: pd.DataFrame) -> None:
    """Raise SuiteError for rows with the path and face box of another one."""
    face = ["path", *(column for column in BOX if column in rows.columns)]
    repeated = rows.duplicated(face)
    if repeated.any():
        names = [repr(name) for name in rows.loc[repeated, "path"].drop_duplicates()]
        labels = rows[rows.duplicated(face, keep=False)].groupby(face, dropna=False)["label"].nunique()
        apart = f"; {int((labels > 1).sum())} of them with different labels" if (labels > 1).any() else ""
        fix = "keep one of the rows" + ("" if len(face) > 1 else "; several faces of one picture need a box each")
        raise SuiteError(f"manifest: {path} lists {some(names)} twice{apart}", fix)


def face_ids(rows: pd.DataFrame) -> list[str]:
    """Id of each row: its path, with `#1`, `#2`, ... for several faces of one picture."""
    several = rows["path"].duplicated(keep=False)
    if several.any():
        splits = rows[several].groupby("path")["split"].nunique()
        if (splits > 1).any():
            log.warning("manifest: %d pictures have faces in more than one split", int((splits > 1).sum()))
    number = rows.groupby("path").cumcount() + 1
    return [f"{p}#{n}" if more else p for p, n, more in zip(rows["path"], number, several, strict=True)]


def read_boxes(path: Path, rows: pd.DataFrame) -> list[Box | None] | None:
    """Face boxes, None for an image whose four columns are empty; None for a manifest without box columns."""
    columns = [column for column in BOX if column in rows.columns]
    if not columns:
        return None
    if columns != BOX:
        raise SuiteError(f"manifest: {path} has {columns} of the box columns {BOX}", "give all four, or none")
    given = rows[BOX].map(lambda value: not (pd.isna(value) or str(value).strip().lower() in MISSING))
    numbers = rows[BOX].apply(pd.to_numeric, errors="coerce").astype(float)
    finite = pd.Series(np.isfinite(numbers.to_numpy()).all(axis=1), index=rows.index)
    wrong = ~finite & given.any(axis=1)
    if wrong.any():
        fault = f"manifest: {rows_of(wrong)} of {path} has a face box that is not four numbers"
        raise SuiteError(fault, "fix it, or leave it empty")
    return [None if np.isnan(a) else (int(a), int(b), int(c), int(d)) for a, b, c, d in numbers.itertuples(index=False)]


def portable(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The rows with `/` in paths that Windows wrote with `\\`, where no file has that name."""
    other = rows["path"].map(lambda path: "\\" in path and not os.path.lexists(root / path))
    if not other.any():
        return rows
    if drives := [path for path in rows.loc[other, "path"] if re.match(r"[A-Za-z]:\\|\\\\", path)]:
        fix = "write paths below the data set's folder, and name that folder as `root` if the table is elsewhere"
        raise SuiteError(f"manifest: {len(drives):,} paths are of another computer: {some(drives)}", fix)
    log.info("manifest: %d paths with \\ are read with /", int(other.sum()))
    return rows.assign(path=rows["path"].where(~other, rows["path"].str.replace("\\", "/", regex=False)))
