"""Results on their way between people: a store into a folder that stands for itself, such a folder into a store.

    export.json     format, name (whose results), profile, suite, evaluation
    cells.parquet   one row a cell: what names it, its keys and versions, all its metrics
    cells/<key>/    result.json (a CellResult), scores.parquet, profile.toml, and key.json: what the key is the digest of
    SHA256SUMS      of all of these; `sha256sum -c SHA256SUMS` reads it

A folder of somebody else's is read as data alone (JSON, TOML, Parquet; nothing is unpickled, no link followed, no name used
that is not of this form), and nothing in it is believed that can be computed: keys come from the settings, metrics from the scores.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pandas as pd
import pydantic

from open_set_fer import __version__
from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.metrics import OF_THE_RUN
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.planning.cells import Selection, dry_plan
from open_set_fer.benchmark.planning.keys import canonical
from open_set_fer.benchmark.planning.profile import read_profile
from open_set_fer.benchmark.planning.profile_tables import regime_of
from open_set_fer.benchmark.protocols.protocol import FAMILIES
from open_set_fer.benchmark.protocols.pseudo_labels import LABELS, OWN
from open_set_fer.benchmark.protocols.shifts import SHIFT
from open_set_fer.benchmark.storage.pictures import names_of, score_histogram
from open_set_fer.benchmark.storage.reevaluate import measured
from open_set_fer.benchmark.storage.results_dir import checked_curves, read_result, write_result
from open_set_fer.benchmark.storage.tracking import COORDINATES, PROTOCOL_FIELDS, Tracker
from open_set_fer.benchmark.storage.verify import faults_of
from open_set_fer.console import log, track
from open_set_fer.errors import SuiteError, summary
from open_set_fer.files import write_whole

if TYPE_CHECKING:
    from mlflow.entities import Run

FORMAT = 1
INDEX, OVERVIEW, SUMS = "export.json", "cells.parquet", "SHA256SUMS"
FILES = ("result.json", "scores.parquet", "profile.toml", "key.json")
FILE_NAME = re.compile(
    rf"{re.escape(INDEX)}|{re.escape(OVERVIEW)}|cells/[0-9a-f]{{64}}/({'|'.join(map(re.escape, FILES))})"
)
"""Every name that a folder may have in SHA256SUMS; no other is opened."""
IMPORTED_FROM, IMPORTED_EXPORT, IMPORTED_KEY = "imported_from", "imported_export", "imported_key"
"""Tags of an imported run: whose results, the digest of their SHA256SUMS, and whether the key was `checked`."""
SMALL = 1 << 24
"""Bytes that a JSON or TOML file of a folder may have."""


class Index(pydantic.BaseModel):
    """export.json."""

    format: int
    name: str = pydantic.Field(min_length=1, max_length=100)
    profile: str = pydantic.Field(pattern=r"^[\w\-][\w.\- ]{0,99}$")
    suite: str
    evaluation: int


@dataclass(frozen=True)
class SharedCell:
    """A cell of a folder whose key, names and metrics were checked.

    content: what the key is the digest of; None where the run is of a suite that did not keep it: then the settings are
    the exporter's word. result: with the metrics of this suite's evaluation.
    """

    result: CellResult
    scores: pd.DataFrame
    profile_toml: str
    content: dict[str, Any] | None

    @property
    def key(self) -> str:
        """The cell key."""
        return self.result.tags["cell_key"]


@dataclass(frozen=True)
class Export:
    """A folder of exported results; refused: why a cell was not taken, by key."""

    index: Index
    digest: str
    cells: list[SharedCell]
    refused: dict[str, str]


@dataclass
class Imported:
    """What an import did, cells by their titles.

    known: in the store already, with the same numbers. differing: in the store with other numbers; they stay. hidden: logged,
    but the store's own plan has other settings at that place, so that reports go on showing those.
    """

    new: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """Computed here by another evaluation, or not logged yet."""


# -- export ------------------------------------------------------------------------------------------------------------


def export(
    tracker: Tracker, out: Path, name: str, cache: Path, datasets: Iterable[str] = (), methods: Iterable[str] = ()
) -> tuple[int, dict[str, str]]:
    """Write the finished cells of a profile (of these data sets and methods alone, where some are named) as a folder.

    name: whose results they are. cache: prepared data sets, from which the key of an older run is worked out again.

    Returns the number of cells, and by title why others were left out.

    Raises:
        SuiteError: nothing to export, or `out` holds something else than an earlier export.
    """
    index = Index(
        format=FORMAT, name=name, profile=tracker.profile, suite=__version__, evaluation=cell_result.EVALUATION
    )
    runs = [run for run in tracker.cells() if run.info.status == "FINISHED" and _is_chosen(run, datasets, methods)]
    if not runs:
        outdated = "; `osfer measure` brings cells of an older evaluation up to date" * bool(tracker.outdated())
        raise SuiteError(
            f"profile {tracker.profile!r} has no finished cell to export{outdated}",
            "run `osfer run` with the same --profile first, or choose other data sets or methods",
        )
    _may_replace(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    left_out: dict[str, str] = {}
    rows = []
    try:
        keys = _keys(tracker, runs, cache)
        for run in track(sorted(runs, key=lambda run: run.data.tags["cell_key"]), "exporting"):
            result = tracker.read_cell(run)
            folder = partial / "cells" / result.tags["cell_key"]
            try:
                _write_cell(tracker, run, result, folder, keys.get(run.info.run_id, ""))
            except Exception as error:
                shutil.rmtree(folder, ignore_errors=True)
                left_out[result.title()] = summary(error)
            else:
                rows.append(_overview(result))
        if not rows:
            raise SuiteError(
                f"none of {len(runs)} cells can be exported: {next(iter(left_out.values()))}",
                "see what is wrong with it",
            )
        pd.DataFrame(rows).to_parquet(partial / OVERVIEW, index=False)
        (partial / INDEX).write_text(index.model_dump_json(indent=1) + "\n", "utf-8")
        names = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
        write_whole(partial / SUMS, "".join(f"{_digest(partial / name)}  {name}\n" for name in names).encode())
        shutil.rmtree(out, ignore_errors=True)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(rows), left_out


def _is_chosen(run: Run, datasets: Iterable[str], methods: Iterable[str]) -> bool:
    tags = run.data.tags
    return (not datasets or tags["dataset"] in datasets) and (not methods or tags["method"] in methods)


def _may_replace(out: Path) -> None:
    """SuiteError where `out` is there and is not an export that nobody has changed."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        listed = {*_read_sums(out), SUMS}
    except SuiteError:
        listed = set()
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if not listed or there - listed:
        raise SuiteError(
            f"{out} holds {sorted(there - listed)[0] if there - listed else 'no export'}, which no export wrote",
            "choose another folder with --out",
        )


def _write_cell(tracker: Tracker, run: Run, result: CellResult, folder: Path, key: str) -> None:
    """One cell's folder; key: what its key is the digest of, '' if unknown. SuiteError where its run contradicts itself."""
    scores = tracker.read_scores(run.info.run_id)
    if faults := faults_of(result, scores, json.loads(key) if key else None):
        raise SuiteError("; ".join(faults[:3]), "delete that run in MLflow and run `osfer run` again")
    write_result(folder, result, scores)
    (folder / "profile.toml").write_text(tracker.read_text(run.info.run_id, "profile.toml"), "utf-8")
    if key:
        (folder / "key.json").write_text(key, "utf-8")


def stored_faults(tracker: Tracker, run_id: str, result: CellResult) -> list[str]:
    """What contradicts itself in a finished run of a store, as `faults_of` tells it."""
    key = tracker.read_key(run_id)
    try:
        return faults_of(result, tracker.read_scores(run_id), json.loads(key) if key else None)
    except Exception as error:  # what a damaged file may raise has no end
        return [summary(error)]


def _keys(tracker: Tracker, runs: list[Run], cache: Path) -> dict[str, str]:
    """What each run's key is the digest of, by run id; of older suites, which kept none, from profile and prepared data set.

    A key is the digest of what it stands for, so that what gives the same digest is what was computed.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    keys: dict[str, str] = {}
    for run in runs:
        if key := tracker.read_key(run.info.run_id):
            keys[run.info.run_id] = key
        else:
            text = tracker.read_text(run.info.run_id, "profile.toml")
            place = [run.data.tags.get(name, "") for name in ("dataset", "protocol", "labels", "label_share")]
            groups.setdefault((text, *place), []).append(run)
    for (text, dataset, family, labels, share), group in groups.items():
        tags = [run.data.tags for run in group]
        kind = next((known for known in LABELS if known == labels), None)
        with suppress(SuiteError):
            cells, _ = dry_plan(
                read_profile(text),
                Selection(
                    (dataset,),
                    (family,),
                    tuple({tag.get("choice", tag["open_classes"]) for tag in tags}),
                    tuple({tag["method"] for tag in tags}),
                    tuple({int(tag["seed"]) for tag in tags}),
                    True,
                    True,
                    OWN if kind in (None, "own") else regime_of(kind, float(share) if share else None),
                ),
                cache,
            )
            known = {cell.key: canonical(cell.content) for cell in cells if cell.key}
            keys |= {
                run.info.run_id: known[run.data.tags["cell_key"]] for run in group if run.data.tags["cell_key"] in known
            }
    return keys


def _overview(result: CellResult) -> dict[str, Any]:
    """A cell's row of cells.parquet."""
    tags = result.tags
    return {
        **{name: tags[name] for name in COORDINATES},
        "seed": int(tags["seed"]),
        **{
            name: tags.get(name, "")
            for name in (
                "cell_key",
                "settings_key",
                "labels",
                "demonstration",
                "version",
                "git_commit",
                "python",
                "torch",
                "threads",
                "device",
                "cpu",
                "gpu",
                "host",
                IMPORTED_FROM,
            )
        },
        "evaluation": result.evaluation,
        "method_version": result.params.get("method.version", ""),
        "backbone_version": result.params.get("backbone.version", ""),
        "fingerprint": result.data.fingerprint if result.data else "",
        "started": result.started,
        "ended": result.ended,
        "notes": json.dumps(result.notes),
        **dict(sorted(result.metrics.items())),
    }


# -- a folder, read ----------------------------------------------------------------------------------------------------


def is_export(folder: Path) -> bool:
    """Whether a folder looks like an export."""
    return (folder / INDEX).is_file() and (folder / SUMS).is_file()


def read_export(folder: Path) -> Export:
    """An exported folder with every cell checked; SuiteError where the folder as a whole cannot be read.

    A cell is refused where a file is changed, its key is not the digest of its settings, or a metric is not what its scores give.
    """
    sums = _read_sums(folder)
    if INDEX not in sums:
        raise SuiteError(f"{folder / SUMS} does not list {INDEX}", "ask for the whole folder again")
    try:
        index = Index.model_validate_json(_read(folder, INDEX, sums))
    except pydantic.ValidationError as error:
        raise SuiteError(f"{folder / INDEX} is damaged: {summary(error)}", "ask for the whole folder again") from error
    if index.format != FORMAT:
        raise SuiteError(f"{folder} has format {index.format}, this suite reads {FORMAT}", "update the suite")
    if not index.name.isprintable():
        raise SuiteError(f"{folder / INDEX}: the name {index.name!r} has control characters", "ask for another export")
    keys: dict[str, list[str]] = {}
    for name in sums:
        if name.startswith("cells/"):
            keys.setdefault(name.split("/")[1], []).append(name)
    cells, refused = [], {}
    for key, names in track(keys.items(), f"checking {folder.name}"):
        try:
            cells.append(_read_cell(folder, key, names, sums))
        except Exception as error:  # what a file of somebody else's may raise has no end
            refused[key] = error.message if isinstance(error, SuiteError) else summary(error)
    return Export(index, hashlib.sha256((folder / SUMS).read_bytes()).hexdigest(), cells, refused)


def _read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by name; SuiteError for a name that no export has, one that leads out of the folder above all."""
    try:
        lines = _plain(folder, SUMS).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(
            f"{folder} is no exported folder: {summary(error)}", "name one that `osfer export` wrote"
        ) from error
    sums: dict[str, str] = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not FILE_NAME.fullmatch(name) or name in sums:
            raise SuiteError(
                f"{folder / SUMS} has the line {line[:200]!r}, which no export wrote", "do not use this folder"
            )
        sums[name] = digest
    return sums


def _plain(folder: Path, name: str) -> Path:
    """The path of a plain file below the folder; SuiteError where a link or anything else is in its place."""
    path = folder / name
    if path.resolve() != folder.resolve() / name or not path.is_file():
        raise SuiteError(f"{path} is no plain file of its folder", "ask for the whole folder again")
    return path


def _read(folder: Path, name: str, sums: dict[str, str]) -> bytes:
    """A small file whose digest is the listed one."""
    path = _plain(folder, name)
    if path.stat().st_size > SMALL:
        raise SuiteError(f"{path} has more than {SMALL} bytes", "ask for the whole folder again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sums[name]:
        raise SuiteError(f"{name} was changed after it was exported", "ask for the whole folder again")
    return content


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_cell(folder: Path, key: str, names: list[str], sums: dict[str, str]) -> SharedCell:
    """A cell's files, checked; raises where anything is not as it says.

    They are copied first, so that what is checked is what is read.
    """
    lacking = {"result.json", "scores.parquet", "profile.toml"} - {name.rpartition("/")[2] for name in names}
    if lacking:
        raise SuiteError(f"the cell lacks {', '.join(sorted(lacking))}")
    with tempfile.TemporaryDirectory() as copy:
        for name in names:
            target = Path(copy, name.rpartition("/")[2])
            shutil.copyfile(_plain(folder, name), target)
            if _digest(target) != sums[name]:
                raise SuiteError(f"{name} was changed after it was exported")
            if target.suffix != ".parquet" and target.stat().st_size > SMALL:
                raise SuiteError(f"{name} has more than {SMALL} bytes")
        result, scores = read_result(Path(copy))
        text = Path(copy, "profile.toml").read_text("utf-8")
        content = json.loads(Path(copy, "key.json").read_text("utf-8")) if Path(copy, "key.json").exists() else None
    _check_names(result, key)
    if faults := faults_of(result, scores, content):
        raise SuiteError("; ".join(faults[:3]) + f" and {len(faults) - 3} more" * (len(faults) > 3))
    checked_curves(result.curves)
    times = {name: value for name, value in result.metrics.items() if name.startswith(OF_THE_RUN)}
    if not all(re.fullmatch(r"[\w.\-]{1,100}", name) for name in times):
        raise SuiteError("a metric has a name that is none")
    return SharedCell(measured(result, scores), scores, text, content)


def _check_names(result: CellResult, key: str) -> None:
    """SuiteError for names that could be taken for something else: of a file, another run, a command of the terminal."""
    tags = result.tags
    if lacking := [name for name in (*COORDINATES, "settings_key") if name not in tags]:
        raise SuiteError(f"it lacks the tags {', '.join(lacking)}")
    if tags.get("cell_key") != key:
        raise SuiteError("its tag cell_key is not the name of its folder")
    if tags["protocol"] not in (*FAMILIES, SHIFT):
        raise SuiteError(f"there is no protocol family {tags['protocol']!r}")
    if not re.fullmatch(r"[\w\-]{1,100}", tags["dataset"]) or not re.fullmatch(r"\d{1,10}", tags["seed"]):
        raise SuiteError(f"{tags['dataset']!r} seed {tags['seed']!r} names no cell")
    texts = [*tags.values(), *tags, *result.notes, *result.params, *map(str, result.params.values())]
    if odd := [text for text in texts if not text.replace("\n", " ").replace("\t", " ").isprintable()]:
        raise SuiteError(f"{odd[0][:80]!r} has control characters")


# -- import ------------------------------------------------------------------------------------------------------------


def import_export(tracker: Tracker, results: Path, shared: Export, command: str) -> Imported:
    """Log the cells of a folder that the store lacks as finished runs, tagged with where they came from; a second time: none.

    results: the home's folder of results, where they are written first, as those of a run are.
    """
    done = Imported()
    finished, outdated = tracker.finished_cells(), {run.data.tags["cell_key"] for run in tracker.outdated()}
    planned = {tuple(cell[name] for name in COORDINATES): cell.get("cell_key") for cell in tracker.planned()}
    new = []
    for cell in shared.cells:
        if cell.key in finished:
            into = done.known if same_numbers(cell.result.metrics, finished[cell.key]) else done.differing
            into.append(cell.result.title())
        elif cell.key in outdated or not _is_importable(results / cell.key, shared):
            done.waiting.append(cell.result.title())
        else:
            new.append(cell)
    if not new:
        return done
    places = {cell.key: _coordinates(cell) for cell in new}
    held = {key for key, place in places.items() if planned.get(tuple(place[n] for n in COORDINATES), key) != key}
    results.mkdir(parents=True, exist_ok=True)
    plan = [place for key, place in places.items() if key not in held]
    parent = tracker.start_benchmark(plan, new[0].profile_toml, command)
    status = "KILLED"
    try:
        for cell in track(new, "importing"):
            with filelock.FileLock(results / f"{cell.key}.lock"):
                _log(tracker, parent, results / cell.key, cell, shared)
            (done.hidden if cell.key in held else done.new).append(cell.result.title())
        status = "FINISHED"
    finally:
        tracker.end(parent, status)
    return done


def same_numbers(a: dict[str, float], b: dict[str, float]) -> bool:
    """Whether the metrics that both have and that scores give are the same."""
    shared = [name for name in a.keys() & b.keys() if not name.startswith((*OF_THE_RUN, "curve."))]
    return all(a[name] == b[name] or (math.isnan(a[name]) and math.isnan(b[name])) for name in shared)


def _is_importable(folder: Path, shared: Export) -> bool:
    """Whether no result of another origin is on the disk: one that waits to be logged is this home's own."""
    if not folder.is_dir():
        return True
    try:
        return read_result(folder)[0].tags.get(IMPORTED_EXPORT) == shared.digest[:16]
    except SuiteError:
        return True  # damaged: replaced


def _coordinates(cell: SharedCell) -> dict[str, Any]:
    tags = cell.result.tags
    fields = {name: tags[name] for name in PROTOCOL_FIELDS if name in tags}
    return {name: tags[name] for name in COORDINATES} | {"seed": int(tags["seed"]), "cell_key": cell.key} | fields


def _log(tracker: Tracker, parent: str, folder: Path, cell: SharedCell, shared: Export) -> None:
    tags = {
        name: text
        for name, text in cell.result.tags.items()
        if re.fullmatch(r"[a-z][a-z_]{0,40}", name)
        and name not in ("error", "pid", "command", "planned", "plan_number")
    }
    before = f" (who had it from {tags[IMPORTED_FROM]})" if IMPORTED_FROM in tags else ""
    tags |= {
        IMPORTED_FROM: shared.index.name + before,
        IMPORTED_EXPORT: shared.digest[:16],
        "profile": tracker.profile,
        IMPORTED_KEY: "checked" if cell.content else "not checked",
    }
    result = replace(cell.result, tags=tags)
    shutil.rmtree(folder, ignore_errors=True)
    write_result(folder, result, cell.scores)
    (folder / "profile.toml").write_text(cell.profile_toml, "utf-8")
    if cell.content:
        (folder / "key.json").write_text(canonical(cell.content), "utf-8")
    histogram = score_histogram(cell.scores, result.title(), names_of(result))
    tracker.log_cell(parent, result, folder, {"histogram.png": histogram.draw()})
    log.info("imported from %s: %s", shared.index.name, result.title())
