"""Results of other people: the cell folders of their home, verified, and logged with whose they are.

A folder of somebody else's is read as data alone (JSON, TOML, Parquet; nothing is unpickled, no link is followed), and
everything that can be recomputed is verified: keys from the settings, metrics from the scores.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from open_set_fer.benchmark.evaluation.agreement import is_copy, largest_gap
from open_set_fer.benchmark.evaluation.metrics import OF_THE_RUN
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.evaluation.scores import checked_curves
from open_set_fer.benchmark.planning.keys import canonical
from open_set_fer.benchmark.protocols.pool import SHIFT
from open_set_fer.benchmark.protocols.protocol import FAMILIES
from open_set_fer.benchmark.storage.kept import HISTOGRAM
from open_set_fer.benchmark.storage.mlflow_reader import COORDINATES, IMPORTED_FROM, coordinates, plan_entry
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.storage.pictures import histogram_of
from open_set_fer.benchmark.storage.reevaluate import measured
from open_set_fer.benchmark.storage.results_dir import read_result
from open_set_fer.benchmark.storage.verify import faults_of
from open_set_fer.console import log, track
from open_set_fer.errors import SuiteError, summary

CELL_KEY = re.compile(r"[0-9a-f]{64}")
RESULTS = "results"
FILES = ("result.json", "scores.parquet", "profile.toml", "key.json")
"""What is read of a cell's folder; features, models and pictures are not: nothing could verify them."""
SMALL = 1 << 24
"""Bytes that a JSON or TOML file of a cell may have."""
STUDIES = "-tuning"
"""Ending of the profiles of hyperparameter studies: their cells are no results."""
OWN_TAGS = ("error", "pid", "command", "planned", "plan_number")
"""Tags that only this store's own runs have."""


@dataclass(frozen=True)
class SharedCell:
    """A verified cell of another home; result: with the metrics of this suite's evaluation.

    content: what its key is the digest of.
    """

    result: CellResult
    scores: pd.DataFrame
    profile_toml: str
    content: dict[str, Any]

    @property
    def key(self) -> str:
        """The cell key."""
        return self.result.tags["cell_key"]


@dataclass
class Synced:
    """What a sync did, cells by their titles.

    same: computed here with the same numbers. differing: computed here with other numbers, which stay; the leaderboard
    shows both. hidden: logged, but this store's own plan has other settings there, which reports go on showing.
    waiting: not logged, because this home computes it, has not logged it yet, or must re-evaluate it.
    refused: why a cell was not taken, by its folder's name.
    """

    new: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def owner_of(folder: Path) -> str:
    """Whose results a folder holds if nothing else is said: the name of the home."""
    folder = folder.resolve()
    while folder.name == RESULTS or CELL_KEY.fullmatch(folder.name):
        folder = folder.parent
    return folder.name


def sync_folder(home: Path, folder: Path, name: str, command: str) -> Synced:
    """Log the cells of a home, of its results or of one cell's folder as finished runs; a second time: none.

    name: whose results they are. SuiteError if the folder holds no cell.
    """
    done = Synced()
    profiles: dict[str, list[SharedCell]] = {}
    for place in track(_cells_in(folder), f"verifying the results of {name}"):
        try:
            cell = read_cell(place)
        except Exception as error:  # a file of somebody else's may raise anything
            done.refused[place.name] = error.message if isinstance(error, SuiteError) else summary(error)
        else:
            profiles.setdefault(cell.result.tags["profile"], []).append(cell)
    for profile, cells in profiles.items():
        if profile.endswith(STUDIES):
            log.info("%d cells of hyperparameter studies (%s) are left out", len(cells), profile)
        else:
            _Import(Tracker(home, profile), home / RESULTS, name, done).log(cells, command)
    return done


def _cells_in(folder: Path) -> list[Path]:
    folder = folder.resolve()
    if CELL_KEY.fullmatch(folder.name):
        return [folder]
    results = folder / RESULTS if (folder / RESULTS).is_dir() else folder
    cells = sorted(path for path in results.iterdir() if CELL_KEY.fullmatch(path.name)) if results.is_dir() else []
    if not cells:
        raise SuiteError(f"{folder} holds no results", "name a home, its folder `results`, or one cell's folder in it")
    return cells


# -- verification ------------------------------------------------------------------------------------------------------


def read_cell(folder: Path) -> SharedCell:
    """A cell's files, verified; raises if anything in them contradicts itself. The path of `folder` has no link.

    They are copied first, so that what is verified is what is logged.
    """
    with tempfile.TemporaryDirectory() as copy:
        for name in FILES:
            shutil.copyfile(_plain_file(folder, name), Path(copy, name))
        result, scores = read_result(Path(copy))
        text = Path(copy, "profile.toml").read_text("utf-8")
        content = json.loads(Path(copy, "key.json").read_text("utf-8"))
    _check_names(result, folder.name)
    if faults := faults_of(result, scores, content):
        raise SuiteError("; ".join(faults[:3]) + f" and {len(faults) - 3} more" * (len(faults) > 3))
    checked_curves(result.curves)
    if not all(re.fullmatch(r"[\w.\-]{1,100}", name) for name in result.metrics if name.startswith(OF_THE_RUN)):
        raise SuiteError("a metric has a name that no suite writes")
    return SharedCell(measured(result, scores), scores, text, content)


def _plain_file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        raise SuiteError(f"the cell lacks {name}")
    if path.resolve() != path or not path.is_file():
        raise SuiteError(f"{name} is no plain file of its folder")
    if path.suffix != ".parquet" and path.stat().st_size > SMALL:
        raise SuiteError(f"{name} has more than {SMALL} bytes")
    return path


def _check_names(result: CellResult, key: str) -> None:
    """SuiteError for names that could be taken for something else: a file, another run, a command of the terminal."""
    tags = result.tags
    if lacking := [name for name in (*COORDINATES, "settings_key", "profile") if name not in tags]:
        raise SuiteError(f"it lacks the tags {', '.join(lacking)}")
    if tags.get("cell_key") != key:
        raise SuiteError("its tag cell_key is not the name of its folder")
    if tags["protocol"] not in (*FAMILIES, SHIFT):
        raise SuiteError(f"there is no protocol family {tags['protocol']!r}")
    if not re.fullmatch(r"[\w\-]{1,100}", tags["dataset"]) or not re.fullmatch(r"\d{1,10}", tags["seed"]):
        raise SuiteError(f"{tags['dataset']!r} seed {tags['seed']!r} names no cell")
    if not re.fullmatch(r"[\w\-][\w.\- ]{0,99}", tags["profile"]):
        raise SuiteError(f"{tags['profile']!r} names no profile")
    texts = [*tags.values(), *tags, *result.notes, *result.params, *map(str, result.params.values())]
    if odd := [text for text in texts if not text.replace("\n", " ").replace("\t", " ").isprintable()]:
        raise SuiteError(f"{odd[0][:80]!r} has control characters")


# -- logging -----------------------------------------------------------------------------------------------------------


class _Import:
    """Verified cells on their way into the experiment of one profile."""

    def __init__(self, tracker: Tracker, results: Path, name: str, done: Synced) -> None:
        self.tracker, self.results, self.name, self.done = tracker, results, name, done
        self.computations: dict[str, list[CellResult]] = {}
        """Computations of finished cells by key: the displayed first, then its replicates."""
        finished = [run for run in tracker.cells() if run.info.status == "FINISHED"]
        for run in [*finished, *tracker.replicates()]:
            result = tracker.read_cell(run, with_curves=False)
            self.computations.setdefault(result.tags["cell_key"], []).append(result)
        self.outdated = {run.data.tags["cell_key"] for run in tracker.outdated()}
        self.planned = {coordinates(cell): cell["cell_key"] for cell in tracker.planned()}

    def log(self, cells: list[SharedCell], command: str) -> None:
        """Log what this store lacks under one parent run."""
        cells = [cell for cell in cells if self._is_new(cell)]
        if not cells:
            return
        new = [cell for cell in cells if cell.key not in self.computations and not self._is_hidden(cell)]
        self.results.mkdir(parents=True, exist_ok=True)
        plan = [plan_entry(cell.result.tags) for cell in new]
        with self.tracker.benchmark(plan, cells[0].profile_toml, command) as parent:
            for cell in track(cells, "logging"):
                self._log(parent, cell)

    def _is_new(self, cell: SharedCell) -> bool:
        title = cell.result.title()
        if here := self.computations.get(cell.key):
            same = largest_gap(cell.result, here[0]) == 0
            (self.done.same if same else self.done.differing).append(title)
            return not any(is_copy(cell.result, other) for other in here)
        if cell.key in self.outdated or (self.results / cell.key).is_dir():
            self.done.waiting.append(title)
            return False
        return True

    def _is_hidden(self, cell: SharedCell) -> bool:
        return bool(self.planned.get(coordinates(plan_entry(cell.result.tags)), cell.key) != cell.key)

    def _log(self, parent: str, cell: SharedCell) -> None:
        names = [name for name in cell.result.tags if re.fullmatch(r"[a-z][a-z_]{0,40}", name) and name not in OWN_TAGS]
        tags = {name: cell.result.tags[name] for name in names}
        before = f" (who had it from {tags[IMPORTED_FROM]})" if IMPORTED_FROM in tags else ""
        result = replace(cell.result, tags=tags | {IMPORTED_FROM: self.name + before})
        title = result.title()
        pictures = {HISTOGRAM: histogram_of(result, cell.scores)}
        lock = filelock.FileLock(self.results / f"{cell.key}.lock", timeout=0)
        kind = "replicate" if cell.key in self.computations else "cell"
        try:
            with tempfile.TemporaryDirectory() as folder, lock:
                cell.scores.to_parquet(Path(folder, "scores.parquet"), index=False)
                Path(folder, "profile.toml").write_text(cell.profile_toml, "utf-8")
                Path(folder, "key.json").write_text(canonical(cell.content), "utf-8")
                self.tracker.log_cell(parent, result, Path(folder), pictures, kind=kind)
        except filelock.Timeout:
            self.done.waiting.append(title)
            return
        if kind == "cell":
            (self.done.hidden if self._is_hidden(cell) else self.done.new).append(title)
            log.info("from %s: %s", self.name, title)
