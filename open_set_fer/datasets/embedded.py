"""Parquet files with the images in them, as the Hugging Face Hub exports data sets.

A column holds {bytes, path} or bytes; another one labels, whose names the schema's metadata may hold. The split is a
column, or in the file's name or folder: `data/train-00000-of-00002.parquet`, `default/test/0000.parquet`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from open_set_fer.datasets.decoding import Encoded, Piece, decode_pieces
from open_set_fer.datasets.listing import chunk_length, is_hidden
from open_set_fer.datasets.tables import COLUMNS, renamed, rows_of
from open_set_fer.datasets.vocabulary import Vocabulary
from open_set_fer.errors import SuiteError, some


@dataclass(frozen=True)
class EmbeddedImages:
    """Images in Parquet files, `column` of each (with `.bytes` for a struct), to decode to `size` pixels a side.

    names (N,): of the images in errors, file by file.
    """

    files: list[Path]
    column: str
    names: list[str]
    size: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def chunks(self, start: int) -> Iterator[NDArray[np.uint8]]:
        """Decode chunks uint8 (n, C, H, W) from image `start` on, in order, on all cores."""
        yield from decode_pieces(self._pieces(start), self.size, self.channels)

    def _pieces(self, start: int) -> Iterator[Piece]:
        step, at = chunk_length(self.channels * self.size * self.size), 0
        for path in self.files:
            with pq.ParquetFile(path) as file:
                if at + file.metadata.num_rows <= start:
                    at += file.metadata.num_rows
                    continue
                for batch in file.iter_batches(step, columns=[self.column]):
                    column = batch.column(0)
                    images = (column.field("bytes") if pa.types.is_struct(column.type) else column).to_pylist()
                    skipped = max(0, min(start - at, len(images)))
                    names = self.names[at + skipped : at + len(images)]
                    at += len(images)
                    sources = [Encoded(*pair) for pair in zip(names, images[skipped:], strict=True)]
                    if sources:
                        yield list(sources), [None] * len(sources)


def parquet_files(source: Path) -> list[Path]:
    """The Parquet files with images at a path: a file, or all in and below a folder; [] if they hold none."""
    files = [source] if source.suffix == ".parquet" else []
    if source.is_dir():
        found = (p for p in source.rglob("*.parquet") if not any(map(is_hidden, p.relative_to(source).parts)))
        files = sorted(found)
    return files if files and image_column(files[0], _schema(files[0])) else []


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise SuiteError(f"manifest: cannot read {path}: {error}", "download it again") from error


def image_column(path: Path, schema: pa.Schema) -> str:
    """Column of encoded images, with `.bytes` for a struct; '' if there is none, SuiteError for several."""
    found = [
        field.name
        for field in schema
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type) or _has_bytes(field.type)
    ]
    if len(found) > 1:
        raise SuiteError(f"manifest: {path} has several columns of bytes: {some(found)}", "keep that of the faces")
    if not found:
        return ""
    return f"{found[0]}.bytes" if pa.types.is_struct(schema.field(found[0]).type) else found[0]


def _has_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and "bytes" in {kind.field(i).name for i in range(kind.num_fields)}


def read_embedded(files: list[Path], root: Path, vocabulary: Vocabulary) -> tuple[pd.DataFrame, str]:
    """Rows path (the image's id), label and split of Parquet files, and the column of the images."""
    columns = {image_column(path, _schema(path)) for path in files}
    if len(columns) > 1:
        raise SuiteError(f"manifest: the Parquet files of {root} differ in their columns: {columns}", "keep one kind")
    column = columns.pop()
    rows = pd.concat([_read(path, root, column, vocabulary) for path in files], ignore_index=True)
    if rows.empty:
        raise SuiteError(f"manifest: {root} has no row", "list the images in it")
    numbered = rows["file"] + "#" + rows.groupby("file").cumcount().astype(str)
    names = rows["name"].where(rows["name"].notna(), "")
    is_unique = (names != "").all() and not names.duplicated().any()
    return rows.assign(path=names if is_unique else numbered).drop(columns=["file", "name"]), column


def _read(path: Path, root: Path, column: str, vocabulary: Vocabulary) -> pd.DataFrame:
    schema = _schema(path)
    image = column.removesuffix(".bytes")
    others = [name for name in schema.names if name != image]
    named = [f"{image}.path"] if column != image and schema.field(image).type.get_field_index("path") >= 0 else []
    with pq.ParquetFile(path) as parquet:
        table = parquet.read(columns=[*others, *named])
    name = table.column(image).combine_chunks().field("path").to_pandas() if named else None
    rows = table.select(others).to_pandas()
    split = "split" if any(word in map(str.lower, rows.columns) for word in ("split", *COLUMNS["split"])) else ""
    rows = with_labels(path, rows, schema, *[split] * bool(split))
    file = str(path.relative_to(root)) if path != root else path.name
    return pd.DataFrame(
        {
            "label": rows["label"],
            "split": rows["split"].astype(str) if split else _split_in(path, root, vocabulary),
            "file": file,
            "name": name if name is not None else None,
        },
        index=rows.index,
    )


def with_labels(path: Path, rows: pd.DataFrame, schema: pa.Schema, *more: str) -> pd.DataFrame:
    """Rows with the column label, of class names where the schema's metadata has them; more: columns needed besides."""
    class_names = _class_names(schema)
    if len(class_names) == 1 and "label" not in rows.columns:
        rows = rows.rename(columns={next(iter(class_names)): "label"})
    rows = renamed(path, rows, ["label", *more])
    if rows["label"].isna().any():
        raise SuiteError(f"manifest: {rows_of(rows['label'].isna())} of {path} have no label", "remove the rows")
    names = next(iter(class_names.values())) if len(class_names) == 1 else class_names.get("label", [])
    return rows.assign(label=_named(path, rows["label"], names))


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes by column, of the schema's metadata."""
    try:
        features: dict[str, Any] = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: list(value["names"]) for column, value in features.items() if _is_class(value)}
    except (KeyError, ValueError, TypeError):
        return {}


def _is_class(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and bool(feature.get("names"))


def _named(path: Path, labels: pd.Series[Any], names: list[str]) -> pd.Series[str]:
    """Names of the labels, or their words and numbers where the file names none."""
    if not names or not pd.api.types.is_integer_dtype(labels):
        is_whole = pd.api.types.is_float_dtype(labels) and (labels % 1 == 0).all()
        return (labels.astype(int) if is_whole else labels).astype(str)
    outside = sorted(set(labels[(labels < 0) | (labels >= len(names))]))
    if outside:
        fault = f"manifest: {path} has labels {outside} beside its {len(names)} named classes"
        raise SuiteError(fault, "remove the rows without a label")
    return labels.map(dict(enumerate(names)))


def _split_in(path: Path, root: Path, vocabulary: Vocabulary) -> str:
    """Split that the file's name or folder says."""
    folders = path.relative_to(root).parts[:-1] if path != root else ()
    for word in (re.split(r"-\d|\.", path.name)[0], *reversed(folders)):
        if vocabulary.split_of(word):
            return word
    fix = "name it train-0.parquet or test-0.parquet, add a column split, or use `osfer data split`"
    raise SuiteError(f"manifest: neither a column nor the name of {path} says its split", fix)
