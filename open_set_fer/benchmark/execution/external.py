"""Scores computed elsewhere: a file of them, checked against a protocol's faces, as a result on disk."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from open_set_fer.benchmark.evaluation.intervals import further_intervals
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.evaluation.scores import score_table
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.keys import Recipe, digest
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.protocols.task import face_columns, split_faces
from open_set_fer.benchmark.storage.provenance import host_tags
from open_set_fer.benchmark.storage.reevaluate import measured
from open_set_fer.benchmark.storage.results_dir import Record, read_result, set_aside, write_result
from open_set_fer.console import log
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.datasets.tables import separator_hint
from open_set_fer.errors import SuiteError, some, summary
from open_set_fer.files import TABLES
from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.plugins import nearest

LOW = 0.4
"""Upper end of AUROC's interval below which the sign of a file's scores is suspected to be wrong."""


@dataclass(frozen=True)
class External:
    """Scores that another program computed: nothing is trained for them. sha256: of their file."""

    name, version = "external", 1
    sha256: str
    score: Literal["unknown_score", "logits"]
    """The file's own column, or the maximum softmax probability of its logits."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Refuse: the runner has no file to read the scores from."""
        raise SuiteError("these scores are from a file", "give it again: osfer evaluate --scores FILE")


@dataclass(frozen=True)
class _NoModel(Recipe):
    """The recipe of a cell without a closed-set model."""

    def content(self) -> dict[str, Any]:
        """Part of keys: nothing."""
        return {"backbone": {}, "closed_set": {}, "version": 0}


def external_cell(place: Cell, label: str, method: External) -> Cell:
    """The cell of a file's scores on the protocol and seed of `place`; its key has the file's digest and the label."""
    recipe = _NoModel(place.recipe.backbone, place.recipe.closed_set)
    model = place.content["closed_set"]
    facts = {name: model[name] for name in ("fingerprint", "closed_classes", "seed")}
    content = {name: place.content[name] for name in ("dataset", "protocol")}
    content |= {"closed_set": recipe.content() | facts, "method": method.name, "method_version": method.version}
    content |= {"settings": settings_of(method), "label": label}
    return replace(
        place,
        label=label,
        method=method,
        recipe=recipe,
        closed_set_key=digest(content["closed_set"]),
        key=digest(content),
        content=content,
    )


def read_scores(
    path: Path, ids: NDArray[np.str_], closed: tuple[str, ...], opened: tuple[str, ...] = ()
) -> tuple[External, Detection]:
    """Scores of a CSV or Parquet file for the faces `ids` (N,), in their order.

    The file has a column `id`, and either `unknown_score` and `predicted_class` (a closed class's name or its number),
    or one column of logits for each of the closed classes, with an `unknown_score` or without. SuiteError says what
    does not fit, all of one kind at once.
    opened: the open classes, of which a model that follows the protocol has no logits.
    """
    table = _read(path)
    table = _matched(path, table, ids)
    logits = [name for name in closed if name in table.columns]
    if {"unknown_score", "predicted_class"} <= set(table.columns):
        kind: Literal["unknown_score", "logits"] = "unknown_score"
        score = _numbers(path, table[["unknown_score"]])[:, 0]
        predicted = _classes(path, table["predicted_class"], closed)
    elif len(logits) == len(closed):
        values = _numbers(path, table[list(closed)])
        if known := [name for name in opened if name in table.columns]:
            fix = "train without faces of open classes; if it was, leave the column out"
            raise SuiteError(f"{path}: a column {', '.join(known)}, which is open: the model must not know it", fix)
        if "unknown_score" in table.columns:
            kind, score = "unknown_score", _numbers(path, table[["unknown_score"]])[:, 0]
        else:
            _check_logits(path, values)
            kind, score = "logits", -softmax(values, axis=1).max(axis=1)
        predicted = values.argmax(axis=1)
    else:
        lacking = [name for name in closed if name not in logits] if logits else ["unknown_score", "predicted_class"]
        lacking = [name for name in lacking if name not in table.columns]
        hints = "".join(nearest(name, list(map(str, table.columns))) for name in lacking[:1])
        fix = f"its columns: id with unknown_score and predicted_class, or id with logits {', '.join(closed)}"
        raise SuiteError(f"{path}: no column {', '.join(lacking)}{hints}", fix)
    if np.ptp(score) == 0:
        raise SuiteError(f"{path}: every face has the same unknown_score {score[0]:g}", "write a score for each face")
    with path.open("rb") as file:
        return External(hashlib.file_digest(file, "sha256").hexdigest(), kind), Detection(score, predicted)


def _check_logits(path: Path, values: NDArray[np.float64]) -> None:
    """Raise SuiteError for probabilities, of some or all classes, from 0 to 1 or in percent."""
    total = values.sum(axis=1)
    if (values >= 0).all() and ((total <= 1.001).all() or (np.abs(total - 100) <= 1).all()):
        fix = "write the logits, or their logarithm; or a column unknown_score, higher = more likely unknown"
        raise SuiteError(f"{path}: the columns of classes are probabilities, not logits", fix)


def _read(path: Path) -> pd.DataFrame:
    if path.suffix.lower() not in TABLES:
        raise SuiteError(f"{path}: scores are read from {' or '.join(TABLES)} files", "write one of these")
    if not path.is_file():
        raise SuiteError(f"no file {path}", "check the path given with --scores")
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype={"id": str, "predicted_class": str}, keep_default_na=False)
    except Exception as error:  # what pandas and pyarrow raise for a damaged file
        raise SuiteError(f"{path} cannot be read: {summary(error)}", "write it as CSV or Parquet") from error


def _matched(path: Path, table: pd.DataFrame, ids: NDArray[np.str_]) -> pd.DataFrame:
    """The file's rows in the order of `ids`; SuiteError for missing, doubled and unknown ids."""
    if "id" not in table.columns:
        names = list(map(str, table.columns))
        raise SuiteError(f"{path}: no column id among {some(names)}", separator_hint(names) or _FACES)
    own = table["id"].astype(str)
    known, given = set(ids.tolist()), set(own)
    faults = {
        "has no row for": [name for name in ids.tolist() if name not in given],
        "has several rows for": own[own.duplicated()].unique().tolist(),
        "has rows for faces that the pool does not hold:": [name for name in own if name not in known],
    }
    texts = [f"{words} {len(names):,} ({some(names, 3)})" for words, names in faults.items() if names]
    if texts:
        raise SuiteError(f"{path}: of {len(ids):,} faces in the pool it {'; it '.join(texts)}", _FACES)
    return table.set_index(own).reindex(ids.tolist())


_FACES = "`osfer plan --faces FILE` lists the ids of each protocol's faces"


def _numbers(path: Path, columns: pd.DataFrame) -> NDArray[np.float64]:
    """Finite numbers; SuiteError names the first faces without one."""
    values: NDArray[np.float64] = columns.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = [str(name) for name, row in zip(columns.index, values, strict=True) if not np.isfinite(row).all()]
    if len(wrong):
        fault = f"{path}: {len(wrong):,} faces have no finite {'unknown_score' if values.shape[1] == 1 else 'logits'}"
        has_commas = columns.map(lambda value: isinstance(value, str) and "," in value).to_numpy().any()
        fix = "write decimals with a point, 0.5, not 0,5" if has_commas else "write a number for every face"
        raise SuiteError(f"{fault} ({some(wrong, 3)})", fix)
    return values


def _classes(path: Path, column: pd.Series[Any], closed: tuple[str, ...]) -> NDArray[np.int64]:
    """Predicted classes 0..K-1 from names of closed classes or from their numbers."""
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all() and (numbers == numbers.round()).all() and numbers.between(0, len(closed) - 1).all():
        return numbers.to_numpy(dtype=np.int64)
    places = pd.Index(closed).get_indexer(pd.Index(column.fillna("").astype(str)))
    if (places < 0).any():
        odd = list(dict.fromkeys(column[places < 0].fillna("").astype(str).replace("", "(empty)")))
        fix = f"write one of {', '.join(closed)}, or its number 0 to {len(closed) - 1}"
        raise SuiteError(f"{path}: predicted_class {some(odd, 3)} is no closed class of the protocol", fix)
    return np.asarray(places, dtype=np.int64)


def evaluate_file(path: Path, name: str, place: Cell, faces: FaceSet, profile: Profile, home: Path) -> dict[str, float]:
    """Measure a file's scores on the protocol and seed of `place`, log them as the label `name`; the metrics."""
    ids = faces.ids[split_faces(faces, place.protocol, place.seed).test]
    method, detection = read_scores(path, ids, place.protocol.closed, place.protocol.open)
    cell = external_cell(place, name, method)
    folder = home / "results" / cell.key
    try:
        read_result(folder)
    except SuiteError:  # none yet, or a damaged one
        if folder.is_dir():
            set_aside(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_external(cell, faces, detection, Record.of(cell, profile, faces), folder)
    outcome = Runner(home, profile).run([cell], {cell.dataset: faces}, f"osfer evaluate {name}")
    if outcome.waiting:
        log.warning("%s waits on disk: the tracking server does not answer; the same command logs it", name)
    for _, error in outcome.failed:
        raise SuiteError(f"{name} is measured under {folder}, but not logged: {error}", "give the same command again")
    result, table = read_result(folder)
    for note in result.notes[1:]:
        log.warning("%s: %s", name, note)
    return result.metrics | further_intervals(table)


def write_external(cell: Cell, faces: FaceSet, detection: Detection, record: Record, folder: Path) -> CellResult:
    """Measure a file's scores and write them as the complete result of their cell."""
    split = split_faces(faces, cell.protocol, cell.seed)
    scores = score_table(face_columns(faces, split), split.truth, cell.protocol.closed, detection)
    result = CellResult({}, {}, record.tags | host_tags("cpu"), params=record.params, data=record.data)
    result = replace(result, started=time.time(), ended=time.time())
    result = replace(measured(result, scores), notes=["scores of another program, from a file"])
    if result.metrics.get("auroc_high", result.metrics["auroc"]) < LOW:
        area = f"AUROC {result.metrics['auroc']:.3f}"
        text = f"{area} lies clearly below chance: is the sign wrong? A HIGHER unknown_score must mean unknown"
        result = replace(result, notes=[*result.notes, text])
    write_result(folder, result, scores, record)
    return result
