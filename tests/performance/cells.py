"""Cost of a cell beside its method: start, logging against bare MLflow, planning, side by side, memory."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Metric, Param, Run, RunTag

from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Cell, Selection, dry_plan, make_plan
from open_set_fer.benchmark.planning.keys import digest
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.results_dir import Record, read_result, update_result
from open_set_fer.datasets.faceset import FaceSet
from tests.performance.null import Null
from tests.performance.rows import Row

PROFILE = """
description = "speed"
selection = "nothing was selected"
seeds = {seeds}
default_methods = ["baseline"]
[datasets.synthetic]
train_per_class = 20
test_per_class = 10
compound_per_class = 1
[protocols]
families = ["single"]
open_classes = ["surprise", "fear"]
[backbone]
width = 4
[closed_set]
epochs = {epochs}
batch_size = 32
[methods.baseline]
"""


class Place:
    """A home with its profile."""

    def __init__(self, root: Path, seeds: int = 1, epochs: int = 1) -> None:
        root.mkdir()
        self.home, path = root / "home", root / "speed.toml"
        path.write_text(PROFILE.format(seeds=list(range(seeds)), epochs=epochs), "utf-8")
        self.path = path
        self.profile = load_profile(str(path))
        self.name, self.text = self.profile.name, self.profile.text

    def runner(self) -> Runner:
        return Runner(self.home, self.profile)

    def plan(self) -> tuple[list[Cell], Any]:
        return make_plan(self.profile, Selection(), self.home / "cache")


def bare(client: mlflow.MlflowClient, experiment: str, run: Run, artifacts: Path) -> None:
    """One run with the payload of another, as one would write it by hand: one batch, one call for the files."""
    now = int(1000 * time.time())
    run_id = client.create_run(experiment, run_name=run.info.run_name).info.run_id
    client.log_batch(
        run_id,
        [Metric(name, value, now, 0) for name, value in run.data.metrics.items()],
        [Param(name, value) for name, value in run.data.params.items()],
        [RunTag(name, value) for name, value in run.data.tags.items()],
    )
    client.log_inputs(run_id, run.inputs.dataset_inputs)
    client.log_artifacts(run_id, str(artifacts))
    client.set_terminated(run_id)


def null_cells(root: Path, count: int = 1000, piece: int = 50) -> list[Row]:
    """Null cells from start to logged, and results on disk logged beside bare runs of the same payload, in turn."""
    place = Place(root / "null")
    cells, faces = place.plan()
    runner = place.runner()

    def null(number: int) -> Cell:
        content = {**cells[0].content, "method": "null", "settings": {"number": number}}
        return replace(cells[0], label="null", method=Null(number), content=content, key=digest(content))

    runner.run([null(count)], faces, "osfer run")  # trains the closed-set model
    begun = time.perf_counter()
    runner.run([null(number) for number in range(count + 1, count + 11)], faces, "osfer run")
    started_to_logged = Row("a null cell from start to logged, seconds", [(time.perf_counter() - begun) / 10], 0.5, "<")
    for number in range(count):
        copy_result(place, null(count), null(number), faces["synthetic"])
    tracker = runner.connection.tracker
    run = tracker.client.get_run(tracker.cells()[0].info.run_id)
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    client = mlflow.MlflowClient(f"sqlite:///{root}/bare.db")
    experiment = client.create_experiment("bare", artifact_location=(root / "bare").as_uri())
    bare(client, experiment, run, artifacts)
    suite: list[float] = []
    plain: list[float] = []
    memory: list[float] = []
    whole, logged, since = tracker.log_cell, [0], [time.perf_counter()]

    def log_cell(*given: Any) -> None:
        if logged[0] % piece == 0:
            if logged[0]:
                suite.append(time.perf_counter() - since[0])
            gc.collect()
            memory.append(resident())
            start = time.perf_counter()
            for _ in range(piece):
                bare(client, experiment, run, artifacts)
            plain.append(time.perf_counter() - start)
            since[0] = time.perf_counter()
        logged[0] += 1
        whole(*given)

    tracker.log_cell = log_cell  # type: ignore[method-assign]
    outcome = runner.run([null(number) for number in range(count)], faces, "osfer run")
    assert (outcome.logged_from_disk, outcome.failed) == (count, [])
    ratios = [ours / by_hand for ours, by_hand in zip(suite, plain, strict=False)]
    quarter = max(1, len(memory) // 4)
    growth = float(np.median(memory[-quarter:]) - np.median(memory[quarter : 2 * quarter]))
    spread = [1000 * float(np.median(x)) / piece for x in (plain, suite)]
    return [
        started_to_logged,
        Row(
            f"{count} results on disk logged, against bare MLflow logging of their payload",
            ratios,
            2.0,
            "<=",
            f"{spread[0]:.0f} ms a run, {spread[1]:.0f} ms a cell",
        ),
        Row(
            f"memory of the runner, last quarter of {count} cells against the second",
            [1 + growth / memory[quarter]],
            1.05,
            "<=",
            f"{memory[quarter]:.0f} MiB, then {growth:+.1f} MiB",
        ),
    ]


def copy_result(place: Place, source: Cell, cell: Cell, faces: FaceSet) -> None:
    """Give a cell the result of another one."""
    folder = place.home / "results" / cell.key
    shutil.copytree(place.home / "results" / source.key, folder)
    record = Record.of(cell, place.profile, faces)
    (folder / "key.json").write_text(record.key, "utf-8")
    result, _ = read_result(folder)
    update_result(folder, replace(result, tags=result.tags | record.tags, params=record.params, data=record.data))


def resident() -> float:
    """MiB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def planned(root: Path, count: int = 10_000) -> list[Row]:
    """`osfer plan` of cells that are all done: one is run, the others are copies of its rows in the store."""
    place = Place(root / "plan", seeds=count // 2)
    small = load_profile(str(place.path))
    cells, faces = make_plan(small, Selection(seeds=(0,), open_classes=("fear",)), place.home / "cache")
    place.runner().run(cells, faces, "osfer run")
    every, _ = dry_plan(place.profile, Selection(), place.home / "cache")
    copy_runs(place.home / "mlflow.db", cells[0].key, [cell for cell in every if cell.key != cells[0].key])
    command = [sys.executable, "-c", "from open_set_fer.cli.main import main; main()", "plan"]
    command += ["--profile", str(place.path), "--home", str(place.home)]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"})
        seconds.append(time.perf_counter() - start)
        assert f"nothing to do: all {count} cells are done" in done.stdout, done.stdout[-500:]
    return [Row(f"`osfer plan` on {count} known cells, seconds", seconds, 10.0, "<", "")]


def copy_runs(database: Path, key: str, cells: list[Cell]) -> None:
    """Give each of these cells the run of the cell `key`."""
    with closing(sqlite3.connect(database)) as db, db:
        (source,) = db.execute("SELECT run_uuid FROM tags WHERE key = 'cell_key' AND value = ?", (key,)).fetchone()
        new = [(uuid.uuid4().hex, cell) for cell in cells]
        for table in ("runs", "tags", "params", "latest_metrics", "metrics"):
            names = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
            rows = db.execute(f"SELECT {', '.join(names)} FROM {table} WHERE run_uuid = ?", (source,)).fetchall()
            at = names.index("run_uuid")
            marks = ", ".join("?" * len(names))
            for run, cell in new:
                copies = [[run if n == at else value for n, value in enumerate(row)] for row in rows]
                copies = [[cell.key if value == key else value for value in row] for row in copies]
                db.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", copies)


def side_by_side(root: Path, repeats: int = 2) -> list[Row]:
    """The same cells by one job and by two, each a whole command; each job has one thread."""
    ratios, last = [], (0.0, 0.0)
    for repeat in range(repeats):
        seconds = []
        for jobs in (1, 2):
            place = Place(root / f"jobs{repeat}{jobs}", seeds=3, epochs=EPOCHS)
            command = [
                sys.executable,
                "-c",
                "from open_set_fer.cli.main import main; main()",
                "run",
                "--jobs",
                str(jobs),
            ]
            command += ["--threads", "1", "--profile", str(place.path), "--home", str(place.home)]
            place.plan()  # data prepared before
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            seconds.append(time.perf_counter() - start)
        last = seconds[0], seconds[1]
        ratios.append(seconds[0] / seconds[1])
    return [Row("--jobs 1 against --jobs 2, 6 cells", ratios, 1.5, ">=", f"{last[0]:.0f} s, {last[1]:.0f} s")]


EPOCHS = 150
"""Of closed-set training in the cells that run side by side: some five seconds a cell."""
