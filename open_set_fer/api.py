"""Python interface: tasks and their measures, runs, results, reports and studies. The commands go the same way.

Names of data sets, methods, profiles and pseudo-label settings are those of `osfer list`. Functions raise SuiteError
with the fault and its fix. `home` is the folder of results, caches and the default MLflow store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation.scores import score_table
from open_set_fer.benchmark.planning.cells import Cell, Selection, make_plan
from open_set_fer.benchmark.planning.profile import Profile, load_profile
from open_set_fer.benchmark.planning.profile_files import default_profile
from open_set_fer.benchmark.planning.profile_tables import regime_named
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.protocols.pseudo_labels import OWN
from open_set_fer.benchmark.protocols.task import Split, face_columns, split_faces
from open_set_fer.console import log
from open_set_fer.errors import SuiteError
from open_set_fer.files import writable
from open_set_fer.methods.contract import Detection, Method
from open_set_fer.plugins import METHODS, class_faults

if TYPE_CHECKING:
    from open_set_fer.benchmark.execution.options import RunOptions
    from open_set_fer.benchmark.execution.pending import Outcome
    from open_set_fer.benchmark.execution.runner import Runner
    from open_set_fer.benchmark.execution.task_run import TaskRun
    from open_set_fer.benchmark.tuning.study import Objective, Study
    from open_set_fer.datasets.faceset import FaceSet

HOME = Path("runs")
Names = Sequence[str] | str
"""Several names, or one."""


def _tuple(names: Names) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    if not all(isinstance(name, str) for name in found):
        raise SuiteError(
            f"{names!r} is neither a name nor a list of names", 'for example "energy", or ["energy", "knn"]'
        )
    return found


def _whole(*seeds: int) -> tuple[int, ...]:
    """The seeds; SuiteError for any that is no whole number."""
    try:
        return tuple(map(index, seeds))
    except TypeError as error:
        fix = "whole numbers from 0 on: seed=0, or seeds=[0, 1]"
        raise SuiteError(f"seeds are {', '.join(map(repr, seeds))}", fix) from error


def _several(seeds: Sequence[int]) -> tuple[int, ...]:
    return _whole(*(seeds if isinstance(seeds, Iterable) else [seeds]))


@dataclass(frozen=True, eq=False)
class Task:
    """Faces of one protocol: train on some, score the others.

    name: data set, protocol, open classes and seed. closed_classes: K names.
    train_images: uint8 (M, C, H, W), closed classes alone. train_labels: int64 (M,), 0..K-1 in the order of
    `closed_classes`. images: uint8 (N, C, H, W), the pool to score: closed and open faces in shuffled order.
    ids: (N,) names of the pool's faces in the data set. Which of them are open only `measure` knows.
    """

    name: str
    closed_classes: tuple[str, ...]
    train_images: NDArray[np.uint8] = field(repr=False)
    train_labels: NDArray[np.int64] = field(repr=False)
    images: NDArray[np.uint8] = field(repr=False)
    ids: NDArray[np.str_] = field(repr=False)
    _source: _Source = field(repr=False)

    def measure(
        self, unknown_score: NDArray[np.floating[Any]], predicted_class: NDArray[np.integer[Any]]
    ) -> pd.DataFrame:
        """Measure scores of the pool: every metric, and its 95 % interval (counts and shares have none).

        unknown_score: (N,), higher = more likely unknown. predicted_class: (N,), 0..K-1.
        Intervals: DeLong's of an AUROC, by bootstrap of the others, in both with groups of twins as units.
        Returns columns `value`, `low`, `high` and `better` ('higher', 'lower' or ''), with the metric's name as index:
        those of docs/mlflow.md that need neither the shared closed-set model nor held-out faces, which a run has.
        Raises SuiteError for other shapes, numbers that are not finite, and classes outside 0..K-1.
        """
        from open_set_fer.benchmark.evaluation.intervals import further_intervals
        from open_set_fer.benchmark.evaluation.metrics import cell_metrics, metric_table

        faces, split, closed = self._source.faces, self._source.split, self.closed_classes
        detection = Detection(np.asarray(unknown_score), np.asarray(predicted_class))
        scores = score_table(face_columns(faces, split), split.truth, closed, detection)
        return metric_table(cell_metrics(scores, closed) | further_intervals(scores))


@dataclass(frozen=True, eq=False)
class _Source:
    """What a task is made of; it knows the truth."""

    cell: Cell
    faces: FaceSet
    profile: Profile
    selection: Selection
    home: Path

    @property
    def split(self) -> Split:
        return split_faces(self.faces, self.cell.protocol, self.cell.seed)

    def run(self, cell: Cell) -> TaskRun:
        from open_set_fer.benchmark.execution.devices import choose_device
        from open_set_fer.benchmark.execution.task_run import TaskRun

        return TaskRun.of(cell, self.faces, self.home, choose_device("auto"))


def load_task(
    dataset: str, open: Names, seed: int = 0, *, profile: str = "", labels: str = "", home: Path | str = HOME
) -> Task:
    """Load the faces of one protocol; the data set is prepared if it is not yet.

    open: the open classes, `["surprise"]` or `["surprise", "fear"]`. profile: settings of data set, closed-set model
    and methods (default: the data set's own, such as `ferplus-cpu`). labels: the pseudo-label setting that `detect`
    gives methods; `measure` does not depend on it, except in a control ('spiked', 'flipped-true').

    For example, with rendered faces:

        task = osf.load_task("synthetic", open=["surprise"], profile="demo")
        detection = osf.detect(task, "energy")
        task.measure(detection.unknown_score, detection.predicted_class).loc["auroc"]
    """
    loaded, home = load_profile(default_profile(profile, (dataset,))), Path(home)
    name = "+".join(_tuple(open))
    selection = Selection((dataset,), (), (name,), ("baseline",), _whole(seed), regime=regime_named(labels) or OWN)
    cells, face_sets = make_plan(loaded, selection, writable(home) / "cache")
    if len(cells) > 1:
        fix = "choose with profile= one without [[protocols.pools]]"
        raise SuiteError(f"{len(cells)} tasks open {name}: {', '.join(cell.protocol.label for cell in cells)}", fix)
    source = _Source(cells[0], face_sets[dataset], loaded, selection, home)
    run = source.run(cells[0])
    faces, task = source.faces, run.task
    arrays = task.train_images, task.train_labels, task.test_images, faces.ids[run.split.test]
    title = f"{dataset}, {cells[0].protocol.family}, {cells[0].protocol.label} open, seed {seed}"
    return Task(title, task.closed_classes, *arrays, source)


def detect(task: Task, method: str | Method, **settings: Any) -> Detection:
    """Score a task's pool by a method's label, or by a method of your own.

    The closed-set model is trained first if the home does not have it. settings: in place of the label's. For example
    `osf.detect(task, "knn", knn_k=10)`, or `osf.detect(task, MyMethod())` (see `methods.contract.Method`).
    """
    source = task._source
    if isinstance(method, str):
        profile = source.profile.with_values(method, settings) if settings else source.profile
        selection = replace(source.selection, methods=(method,))
        (cell, *_), _ = make_plan(profile, selection, source.home / "cache")
    else:
        if faults := class_faults(type(method), METHODS):
            fix = "give a label of `osfer list`, or an instance such as MyMethod(): see docs/guide/own.md"
            raise SuiteError(f"the method {method!r} {faults[0]}", fix)
        if foreign := [name for name in settings if name not in settings_of(method)]:
            fix = f"its settings: {', '.join(settings_of(method)) or 'none'}"
            raise SuiteError(f"{method.name} has no setting {', '.join(foreign)}", fix)
        cell = replace(source.cell, label=method.name, method=replace(method, **settings))
    return source.run(cell).detect()[0]


def run(
    profile: str = "",
    methods: Names = (),
    *,
    datasets: Names = (),
    open: Names = (),
    seeds: Sequence[int] = (),
    labels: str = "",
    options: RunOptions | None = None,
    home: Path | str = HOME,
) -> pd.DataFrame:
    """Compute the cells of a profile that are not done yet, log them to MLflow; returns their results (`results`).

    profile: default: that of a single data set named (`ferplus-cpu`), else `demo`. methods, datasets, open, seeds: a
    part of the profile; empty: all of it. open: one entry a protocol, such as "surprise+fear". options: how and where
    cells are computed. A cell that fails has the status 'failed' and an `error`. For example
    `osf.run("demo", ["baseline", "energy"], open="surprise")[["method", "auroc"]]`.
    """
    parts = _tuple(datasets), (), _tuple(open), _tuple(methods), _several(seeds)
    selection = Selection(*parts, regime=regime_named(labels))
    ran = run_cells(
        load_profile(default_profile(profile, selection.datasets)), selection, Path(home), options, "osf.run"
    )
    keys = {cell.key for cell in ran.cells}
    frame = results(home, ran.runner.profile.name)
    return frame[frame["cell_key"].isin(keys)].reset_index(drop=True)


@dataclass(frozen=True)
class Ran:
    """A run that has ended: its runner, the planned cells and what became of them."""

    runner: Runner
    cells: list[Cell]
    outcome: Outcome


def run_cells(
    profile: Profile, selection: Selection, home: Path, options: RunOptions | None = None, command: str = ""
) -> Ran:
    """Plan and run the chosen cells of a profile; command: how the run was started, for its record."""
    from open_set_fer.benchmark.execution.options import RunOptions
    from open_set_fer.benchmark.execution.runner import Runner

    cells, face_sets = make_plan(profile, selection, writable(home) / "cache")
    runner = Runner(home, profile, options or RunOptions())
    log.info("profile %s: %d cells, results under %s", profile.name, len(cells), home)
    return Ran(runner, cells, runner.run(cells, face_sets, command))


def evaluate(
    scores: Path | str,
    name: str,
    dataset: str,
    open: Names,
    seed: int = 0,
    *,
    profile: str = "",
    home: Path | str = HOME,
) -> pd.DataFrame:
    """Measure a file of scores computed elsewhere and log it as a cell of the profile; nothing is trained.

    scores: CSV or Parquet with `id` and `unknown_score`, `predicted_class`, or `id` and a column of logits for each
    closed class (then the score is `unknown_score` where there is one, else the maximum softmax probability).
    name: how tables call it.
    Returns the metrics as `Task.measure` does.
    """
    from open_set_fer.benchmark.evaluation.metrics import metric_table
    from open_set_fer.benchmark.execution.external import evaluate_file

    task = load_task(dataset, open, seed, profile=profile, home=home)
    source = task._source
    is_name = name and name == name.strip() and name.isprintable() and "," not in name
    if not is_name or name in source.profile.known_labels():
        fault = "is a method of this suite" if name in source.profile.known_labels() else "cannot be a name"
        raise SuiteError(f"{name!r} {fault}", "choose another with --name: a word without commas")
    return metric_table(evaluate_file(Path(scores), name, source.cell, source.faces, source.profile, source.home))


def results(home: Path | str = HOME, profile: str = "demo") -> pd.DataFrame:
    """Read the cells of a profile from MLflow, one row a cell.

    docs/mlflow.md describes the columns, of which each metric is one; a cell that is planned and not computed has the
    status 'missing'. SuiteError for a home without a finished cell of the profile. For example
    `osf.results("runs", "demo").pivot_table("auroc", "open_classes", "title")`.
    """
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker
    from open_set_fer.reports.data.results import load

    return load(Tracker(Path(home), load_profile(profile).name, create=False)).cells


def report(
    profile: str = "demo",
    home: Path | str = HOME,
    *,
    out: Path | str | None = None,
    ui: str = "",
    clip_features: Path | None = None,
) -> Path:
    """Render tables, figures and page of a profile, attach them to its newest run; returns the path of index.html.

    out: the folder (default: home/report/<profile>). ui: address of an MLflow UI that numbers link to.
    clip_features: your CLIP features for Figure 1, see `osfer report --help`.
    """
    from open_set_fer.benchmark.storage.connection import public_address
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker
    from open_set_fer.reports.figures.clip import read_clip_features
    from open_set_fer.reports.render import render

    home, name = Path(home), load_profile(profile).name
    if not name.strip("."):
        raise SuiteError(f"the profile {profile} has no name that a folder may have", "rename the file")
    if ui and not ui.startswith(("http://", "https://")):
        raise SuiteError(f"--ui {ui} is not an address", "write it as http://127.0.0.1:5000")
    clip = read_clip_features(clip_features) if clip_features else None
    tracker = Tracker(home, name, create=False)
    if not ui and tracker.uri.startswith(("http://", "https://")):
        ui = tracker.uri
    index = render(tracker, Path(out) if out else home / "report" / name, public_address(ui), clip)
    place = index.resolve().parent
    tracker.log_report(place, sorted(path for path in place.rglob("[!.]*") if path.is_file()))
    return index


def tune(
    profile: str,
    method: str,
    *,
    dataset: str = "",
    open: Names = (),
    seeds: Sequence[int] = (),
    objective: Objective = "auroc",
    trials: int | None = None,
    home: Path | str = HOME,
) -> Study:
    """Work on a hyperparameter study of one label, on faces outside the test split; see `osfer tune --help`.

    Returns the study: `trials`, `best()`, and `verdict()`, whether the best values beat the profile's own.
    """
    from open_set_fer.benchmark.execution.options import RunOptions
    from open_set_fer.benchmark.tuning import tune as tuning
    from open_set_fer.benchmark.tuning.plan import StudyPlan

    loaded, home = load_profile(profile), Path(home)
    datasets = (dataset,) if dataset else tuple(loaded.default_datasets or loaded.datasets)[:1]
    selection = Selection(datasets, (), _tuple(open), (method,), _several(seeds))
    plan = StudyPlan.of(loaded, method, selection, writable(home) / "cache", objective)
    return tuning.tune(plan, tuning.Search(trials), home, RunOptions(), "osf.tune")
