"""Results folder: one folder a cell, complete and whole; beside it what is known of cells without a result.

<key>/              scores.parquet (one row a test image), result.json (a CellResult), key.json (what the key is the
                    digest of), profile.toml, histogram.png; on request features.npz, faces.png and the folder model
<key>.lock          held while the cell is computed or logged
<key>.started       the cell is being computed; left behind only by a process that died in it
<key>.failed.json   a failure that MLflow does not have yet
<key>.damaged/      a result that could not be read
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.evaluation.scores import COLUMNS
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.keys import canonical
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.storage.kept import FEATURES, HISTOGRAM, write_features
from open_set_fer.benchmark.storage.pictures import histogram_of
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError, summary
from open_set_fer.files import whole_folder, write_whole
from open_set_fer.methods.contract import FACTS, states


@dataclass(frozen=True)
class Record:
    """What a result says of its cell, whichever profile planned it.

    tags: by name, see docs/mlflow.md. params: every setting, flat. key: the JSON that the cell's key is the digest of.
    profile: the TOML of the profile.
    """

    tags: dict[str, str]
    params: dict[str, str]
    data: DataUsed
    key: str
    profile: str

    @classmethod
    def of(cls, cell: Cell, profile: Profile, faces: FaceSet) -> Record:
        """The record of a cell of this profile."""
        tags = {name: str(value) for name, value in cell.coordinates().items()} | cell.protocol.tags()
        tags |= {"closed_set_key": cell.closed_set_key, "settings_key": cell.settings_key()}
        tags |= {fact: str(states(cell.method, fact)).lower() for fact in FACTS}
        tags |= {"profile": profile.name, "selection": profile.selection}
        recipe = cell.recipe.content()
        parts = {
            "method": {"name": cell.method.name, "version": cell.method.version, **settings_of(cell.method)},
            "closed_set": recipe["closed_set"],
            "backbone": recipe["backbone"],
            **cell.recipe.own_content(),
            "dataset": settings_of(profile.dataset(cell.dataset)),
        }
        params = {f"{part}.{name}": str(value) for part, values in parts.items() for name, value in values.items()}
        data = DataUsed(faces.name, faces.fingerprint, faces.counts())
        tags["demonstration"] = str(faces.demonstration).lower()
        return cls(tags, params, data, canonical(cell.content), profile.text)


def write_result(
    folder: Path,
    result: CellResult,
    scores: pd.DataFrame,
    record: Record,
    features: NDArray[np.floating[Any]] | None = None,
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """Write a complete result in one move that survives a power cut.

    write_more: writes more files into the folder that it is given.
    """
    with whole_folder(folder) as partial:
        scores.to_parquet(partial / "scores.parquet", index=False)
        describe_result(partial, result, scores, record)
        if features is not None:
            write_features(partial / FEATURES, scores["id"].to_numpy(dtype=np.str_), features)
        if write_more:
            write_more(partial)


def update_result(folder: Path, result: CellResult) -> None:
    """Put another result.json in place of the present one, in one move."""
    write_whole(folder / "result.json", result.to_json().encode())


def relabel(folder: Path, record: Record) -> CellResult:
    """Give a result the record of the plan that wants it now; another plan may have computed it."""
    result, scores = read_result(folder)
    labelled = replace(result, tags=result.tags | record.tags, params=record.params, data=record.data)
    if labelled.to_json() != result.to_json() or (folder / "profile.toml").read_text("utf-8") != record.profile:
        describe_result(folder, labelled, scores, record)
    return labelled


def describe_result(folder: Path, result: CellResult, scores: pd.DataFrame, record: Record) -> None:
    """Write what says which cell a result is of, and its numbers; result.json last."""
    (folder / "key.json").write_text(record.key, "utf-8")
    (folder / "profile.toml").write_text(record.profile, "utf-8")
    histogram_of(result, scores).save(folder / HISTOGRAM)
    update_result(folder, result)


def read_result(folder: Path) -> tuple[CellResult, pd.DataFrame]:
    """A result as it was written; SuiteError naming the damaged file."""
    path = folder / "result.json"
    try:
        result = CellResult.from_json(path.read_text("utf-8"))
        path = folder / "scores.parquet"
        scores = pd.read_parquet(path)
        if absent := set(COLUMNS) - set(scores.columns):
            raise ValueError(f"lacks the columns {', '.join(sorted(absent))}")
    except PermissionError:
        raise
    except Exception as error:  # what pyarrow raises for a damaged file depends on where it is damaged
        raise SuiteError(f"{path} is damaged: {summary(error)}", "the cell is computed again") from error
    return result, scores


def set_aside(folder: Path) -> Path:
    """Move a damaged result out of the way; one set aside earlier is removed."""
    aside = folder.with_suffix(".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    return aside


@dataclass(frozen=True)
class Failure:
    """A cell without a result: why, and the traceback; status KILLED where a study stopped it."""

    tags: dict[str, str]
    error: str
    text: str
    status: str = "FAILED"


def failure_path(results: Path, key: str) -> Path:
    """The file of a cell's failure that MLflow does not have yet."""
    return results / f"{key}.failed.json"


def write_failure(path: Path, failure: Failure) -> None:
    """Keep a failure on disk until it is logged."""
    write_whole(path, json.dumps(asdict(failure)).encode())


def read_failure(path: Path) -> Failure | None:
    """A failure that waits to be logged; None for no such file, or a damaged one."""
    try:
        return Failure(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def mark_path(results: Path, key: str) -> Path:
    """The mark of a cell that is being computed."""
    return results / f"{key}.started"


def write_mark(path: Path) -> None:
    """Say that this process computes the cell."""
    content = {"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    path.write_text(json.dumps(content), "utf-8")


def remove_mark(path: Path, number: int | None) -> None:
    """Remove the mark of a process that was ended; another process's stays."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads(path.read_text("utf-8"))["pid"] == number:
            path.unlink()


def read_mark(path: Path) -> str:
    """Who left the mark: 'process 12 on host, since 14:03:05'; '' without a mark."""
    try:
        mark = json.loads(path.read_text("utf-8"))
        since = time.strftime("%F %T", time.localtime(mark["time"]))
        return f"process {mark['pid']} on {mark['host']}, since {since}"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
