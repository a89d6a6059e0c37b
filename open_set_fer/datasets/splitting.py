"""Splits of a table: train, test and, optionally, valid, stratified by the label and with groups kept together."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from open_set_fer.console import log
from open_set_fer.datasets.embedded import image_column, parquet_files, with_labels
from open_set_fer.datasets.folders import read_classes
from open_set_fer.datasets.tables import read_manifest, rows_of
from open_set_fer.datasets.vocabulary import Vocabulary
from open_set_fer.errors import SuiteError, some
from open_set_fer.files import write_table


@dataclass(frozen=True)
class Shares:
    """Shares of the images that the splits test and valid shall get; with groups they are met about."""

    test: float = 0.2
    valid: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.test < 1 and 0 <= self.valid < 1 and self.test + self.valid < 1):
            fault = f"shares of test {self.test:g} and valid {self.valid:g} leave no part for a split"
            raise SuiteError(fault, "name shares between 0 and 1, together below 1")


def split_table(source: Path, target: Path, group: str, shares: Shares, seed: int) -> pd.DataFrame:
    """Write a copy of a table, or a table of a tree <class>/<image>, with a column split; returns label, split, group.

    group: column whose rows of one value, as of one person, go into one split; '': rows of one picture go into one.
    Raises SuiteError for a missing column, an empty group, or a class that a split would not have.
    """
    if not source.exists():
        raise SuiteError(f"no file or folder {source}", "name a CSV or Parquet table, or a folder <class>/<image>")
    if files := parquet_files(source):
        return _split_parquet(files, target, group, shares, seed)
    rows = read_classes(source) if source.is_dir() else read_manifest(source, Vocabulary(), ("path", "label"))
    result = _drawn(source, rows, group, shares, seed)
    write_table(target, rows.assign(split=result["split"]))
    return result


def _split_parquet(files: list[Path], target: Path, group: str, shares: Shares, seed: int) -> pd.DataFrame:
    """The same for Parquet files with the images in them, written as one; the schema's metadata is kept."""
    if target.suffix != ".parquet":
        fix = "let the name of --out end in .parquet"
        raise SuiteError(f"{target}: the images are within {some([file.name for file in files])}", fix)
    try:
        table = pa.concat_tables(pq.read_table(file) for file in files)
    except (OSError, pa.ArrowInvalid) as error:
        fix = "download them again, or give files of one kind"
        raise SuiteError(f"cannot read {some(list(map(str, files)))}: {error}", fix) from error
    image = image_column(files[0], table.schema).removesuffix(".bytes")
    rows = with_labels(files[0], table.drop_columns([image]).to_pandas(), table.schema)
    rows = rows.assign(path=[f"#{row}" for row in range(len(rows))])
    result = _drawn(files[0], rows, group, shares, seed)
    pq.write_table(table.append_column("split", pa.array(result["split"].tolist())), target)
    return result


def _drawn(source: Path, rows: pd.DataFrame, group: str, shares: Shares, seed: int) -> pd.DataFrame:
    """Label, split and group of each row."""
    if "split" in rows.columns:
        raise SuiteError(f"{source} has a column split", "remove it to draw another split")
    if group and group not in rows.columns:
        columns = some([str(column) for column in rows.columns], 8)
        raise SuiteError(f"{source} has no column {group!r}", f"its columns: {columns}")
    if group and rows[group].isna().any():
        fault = f"{rows_of(rows[group].isna())} of {source} have no {group}"
        raise SuiteError(fault, f"fill it in: faces of one {group} must not be in two splits")
    groups = rows[group or "path"].astype(str)
    labels = rows["label"].astype(str)
    if not group and not groups.duplicated().any():
        log.warning(
            "no --group: faces of one person may be in train and test, which raises the accuracy on the test faces"
        )
    split = assign(labels.to_numpy(np.str_), groups.to_numpy(np.str_), shares, seed)
    result = pd.DataFrame({"label": labels, "split": split, "group": groups}, index=rows.index)
    _check(source, result, shares, group)
    return result


def assign(labels: NDArray[np.str_], groups: NDArray[np.str_], shares: Shares, seed: int) -> NDArray[np.str_]:
    """Split (N,) of each row, stratified by the labels (N,); rows of one group are in one split."""
    split = np.full(len(labels), "train", dtype="<U5")
    rest = np.arange(len(labels))
    for name, share in (("test", shares.test), ("valid", shares.valid)):
        if share:
            chosen = _part(labels[rest], groups[rest], share * len(labels) / len(rest), seed)
            split[rest[chosen]] = name
            rest = np.delete(rest, chosen)
    return split


def _part(labels: NDArray[np.str_], groups: NDArray[np.str_], share: float, seed: int) -> NDArray[np.int64]:
    """Indices of about this share of the rows, with whole groups."""
    from sklearn.model_selection import StratifiedGroupKFold, train_test_split

    rows = np.arange(len(labels))
    counts = np.unique(labels, return_counts=True)[1]
    if len(np.unique(groups)) == len(groups) and counts.min() >= 2:
        try:
            return np.sort(train_test_split(rows, test_size=share, stratify=labels, random_state=seed)[1])
        except ValueError as error:  # fewer rows in a part than classes
            raise SuiteError(f"{len(rows)} rows are too few: {error}", "take a larger share, or more images") from error
    folds = max(2, round(1 / min(share, 1 - share)))
    largest = min(folds, len(np.unique(groups)), int(counts.max()))
    if largest < 2:
        raise SuiteError("all rows are of one group, which cannot be divided", "name another column with --group")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class with fewer rows than folds: `_check` says what it lacks
        parts = StratifiedGroupKFold(largest, shuffle=True, random_state=seed).split(rows, labels, groups)
        tests = [test for _, test in parts]
    few = min(tests, key=lambda test: abs(len(test) / len(rows) - min(share, 1 - share)))
    return few if share <= 0.5 else np.setdiff1d(rows, few)


def _check(source: Path, result: pd.DataFrame, shares: Shares, group: str) -> None:
    """Raise SuiteError for classes that a split lacks."""
    wanted = ["train", "test", *["valid"] * bool(shares.valid)]
    lacking = [
        f"{label} in {split} ({len(of_label):,} images, {of_label['group'].nunique():,} groups)"
        for label, of_label in result.groupby("label")
        for split in wanted
        if not (of_label["split"] == split).any()
    ]
    if lacking:
        fix = "a class needs as many groups as there are splits: try another --seed, other shares, or join classes"
        raise SuiteError(f"{source}: no image of {some(lacking, 6)}", fix if group else fix.replace("groups", "images"))
