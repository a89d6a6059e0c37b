"""What is written to MLflow, where it is written to, and which suite is named as its origin."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pytest

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.storage import mlflow_reader
from open_set_fer.benchmark.storage.logged import metric_part
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from tests.complete import finished_cells

pytestmark = pytest.mark.usefixtures("local_store")


def result(seed: int = 0, auroc: float = 0.75, method: str = "ours", **more: Any) -> CellResult:
    tags = {
        "cell_key": f"{method}-{seed}",
        "dataset": "synthetic",
        "protocol": "pairs",
        "open_classes": "fear+anger",
        "method": method,
        "seed": str(seed),
    }
    data = DataUsed("synthetic", "f" * 64, {"test": {"fear": 3}})
    metrics = {"auroc": auroc, "seconds.total": 20.0}
    return CellResult(metrics, {}, tags, params={"method.epochs": 3}, data=data, **more)


def log_cell(tracker: Tracker, tmp_path: Path, finish: str = "FINISHED", **values: Any) -> str:
    """Log one cell under a parent run of its own; returns the parent's id."""
    folder = tmp_path / "logged"
    folder.mkdir(exist_ok=True)
    pd.DataFrame({"id": ["a", "b", "c"]}).to_parquet(folder / "scores.parquet")
    (folder / "profile.toml").write_text("seeds = [0]\n")
    found = result(**values)
    plan = {name: found.tags[name] for name in ("cell_key", *mlflow_reader.COORDINATES)}
    parent = tracker.start_benchmark([plan | {"seed": int(plan["seed"])}], "", "osfer run")
    tracker.log_cell(parent, found, folder, {})
    tracker.end(parent, finish)
    return parent


def test_a_cell_has_its_own_time_name_and_coordinates(tmp_path, home):
    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path, started=1000.5, ended=1012.75, notes=["a note of http://me:word@host/"])
    (run,) = tracker.cells()
    page = run.data.tags["mlflow.note.content"]
    assert page.startswith("**synthetic pairs fear+anger ours seed 0: AUROC 0.750**\n\n- a note of http://")
    assert "word" not in page
    assert (run.info.start_time, run.info.end_time) == (1000500, 1012750)
    assert run.info.run_name == "ours · fear+anger · s0 · synthetic"
    assert run.data.params == {
        "cell.dataset": "synthetic",
        "cell.protocol": "pairs",
        "cell.open_classes": "fear+anger",
        "cell.method": "ours",
        "cell.seed": "0",
        "method.epochs": "3",
    }


def test_an_experiment_that_another_process_makes_meanwhile_is_taken(home, monkeypatch):
    first, find = Tracker(home, "made"), Tracker._find_experiment
    answers = iter([False])
    monkeypatch.setattr(
        Tracker, "_find_experiment", lambda self, wait: next(answers, None) is None and find(self, wait)
    )
    assert Tracker(home, "made").experiment_id == first.experiment_id


def test_the_parent_has_the_means_of_its_plan(tmp_path, home):
    tracker = Tracker(home, "made")
    folder = tmp_path / "logged"
    log_cell(tracker, tmp_path, seed=0, auroc=0.5)
    plan = [{"cell_key": f"ours-{seed}", "method": "ours", "seed": seed} for seed in (0, 1, 2)]
    plan += [{"cell_key": "λ ours-0", "method": "λ ours", "seed": 0}, {"cell_key": "no", "method": "dias", "seed": 0}]
    plan = [cell | {"open_classes": "fear+anger"} for cell in plan]
    plan.append({"cell_key": "ours-7", "method": "ours", "seed": 7, "open_classes": "fear", "labels": "flipped-true"})
    parent = tracker.start_benchmark(plan, "", "osfer run")
    for values in ({"seed": 1, "auroc": 0.75}, {"method": "λ ours", "auroc": 0.25}, {"seed": 7, "auroc": 1.0}):
        tracker.log_cell(parent, result(**values), folder, {})
    tracker.end(parent, "KILLED")
    run = tracker.client.get_run(parent)
    assert run.info.status == "KILLED"
    named = {name: value for name, value in run.data.metrics.items() if not name.endswith(("ours-0", "dias"))}
    odd = metric_part("λ ours")
    assert named == {
        "auroc.ours": 0.625,
        "cells.ours": 2,
        "auroc.control.ours": 1.0,
        "cells.control.ours": 1,
        f"auroc.{odd}": 0.25,
        f"cells.{odd}": 1,
    }
    assert odd.startswith("_ ours-")
    assert odd != metric_part("μ ours")


def test_the_report_is_an_artifact_of_the_newest_parent(tmp_path, home):
    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path)
    time.sleep(0.01)
    newest = log_cell(tracker, tmp_path, seed=1)
    report = tmp_path / "report"
    for name in ("index.html", "tables/a.tex", "figures/b.png", "figures/private.jpg", "notes.txt"):
        (report / name).parent.mkdir(parents=True, exist_ok=True)
        (report / name).write_text(name)
    tracker.log_report(report)
    logged = {file.path for file in tracker.client.list_artifacts(newest, "report")}
    assert logged == {"report/index.html", "report/tables", "report/figures"}
    assert [file.path for file in tracker.client.list_artifacts(newest, "report/figures")] == ["report/figures/b.png"]


def test_a_report_that_cannot_be_logged_is_a_warning(tmp_path, home, monkeypatch, caplog):
    from mlflow.exceptions import MlflowException

    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path)
    (tmp_path / "index.html").write_text("page")

    def away(*_: Any) -> None:
        raise MlflowException("connection refused")

    monkeypatch.setattr(tracker.client, "log_artifact", away)
    tracker.log_report(tmp_path)
    assert "the report was not logged to MLflow: connection refused" in caplog.text


def test_reading_makes_nothing(tmp_path):
    tracker = Tracker(tmp_path / "home", "made", create=False)
    assert (tracker.cells(), tracker.planned(), finished_cells(tracker)) == ([], [], {})
    tracker.log_report(tmp_path)
    assert not (tmp_path / "home").exists()
    log_cell(Tracker(tmp_path / "home", "made"), tmp_path)
    assert Tracker(tmp_path / "home", "other", create=False).cells() == []
    assert list(mlflow_reader.stored_experiments(tmp_path / "home")) == ["made"]


def test_lost_artifacts_are_named(tmp_path, home):
    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path)
    shutil.rmtree(home / "artifacts")
    with pytest.raises(SuiteError, match=r"scores\.parquet of run \w+ cannot be read under .*artifacts"):
        tracker.read_scores(tracker.cells()[0].info.run_id)


def test_experiments_are_newest_first_and_links_open_the_runs(tmp_path, home):
    log_cell(Tracker(home, "old"), tmp_path, started=1.0, ended=2.0)
    time.sleep(0.01)
    log_cell(Tracker(home, "new"), tmp_path)
    found = mlflow_reader.stored_experiments(home)
    assert list(found) == ["new", "old"]
    link = mlflow_reader.experiment_link("http://127.0.0.1:5000/", found["new"])
    page = f"http://127.0.0.1:5000/#/experiments/{found['new']}/runs?workflowType=machine_learning"
    assert link == f"{page}&viewStateShareKey=osfer"
    searched = mlflow_reader.experiment_link("http://127.0.0.1:5000/", found["new"], "tags.a = 'b'")
    assert searched.startswith(f"{page}&searchFilter=tags.a%20%3D%20%27b%27&")
    assert "&orderByKey=metrics.%60auroc%60&" in searched  # sorted by time the page folds cells into their parents
    assert (
        mlflow_reader.run_link("http://h", "3", "abc")
        == "http://h/#/experiments/3/runs/abc?workflowType=machine_learning"
    )


def test_the_view_that_links_open_finds_results_without_controls(tmp_path, home):
    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path, seed=0)
    for labels, seed in (("own", 1), ("released", 2), ("spiked", 3), ("flipped-true", 4)):
        made = log_cell(tracker, tmp_path, seed=seed)
        runs = [run for run in tracker.cells() if run.data.tags["seed"] == str(seed)]
        assert made
        tracker.client.set_tag(runs[0].info.run_id, "labels", labels)
    view = json.loads(tracker.client.get_experiment(tracker.experiment_id).tags["mlflow.sharedViewState.osfer"])
    found = tracker._search(view["searchFilter"])
    assert {run.data.tags["seed"] for run in found} - {"0"} == {"1", "2"}
    columns = view["selectedColumns"]
    assert {"metrics.`auroc`", "metrics.`closed_accuracy`", "params.`cell.method`"} <= set(columns)
    assert set(columns) <= set(view["columnOrder"]) == set(view["columnWidths"])


def test_an_experiment_of_an_older_version_gets_the_view(tmp_path, home):
    tracker = Tracker(home, "made")
    for read in (lambda: log_cell(tracker, tmp_path), lambda: mlflow_reader.stored_experiments(home)):
        tracker.client.set_experiment_tag(tracker.experiment_id, "mlflow.sharedViewState.osfer", "")
        read()
        assert tracker.client.get_experiment(tracker.experiment_id).tags["mlflow.sharedViewState.osfer"]


def test_a_store_in_a_file_is_asked_what_mlflow_would_say(tmp_path, home):
    """The short questions to SQLite against MLflow's own search, on finished, failed, deleted and outdated runs."""
    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path, seed=0, auroc=0.25)
    log_cell(tracker, tmp_path, seed=1, auroc=0.75)
    log_cell(Tracker(home, "other"), tmp_path, seed=2)
    parent = log_cell(tracker, tmp_path, seed=3)
    tracker.log_failure(parent, result(seed=4).tags, "Traceback", "no")
    old, gone = (run for seed in (1, 3) for run in tracker.cells() if run.data.tags["seed"] == str(seed))
    tracker.client.set_tag(old.info.run_id, mlflow_reader.EVALUATION, "1")
    tracker.client.delete_run(gone.info.run_id)
    local = [tracker.finished(), tracker.outdated()]
    tracker._local = False  # as of a server
    by_search = [tracker.finished(), tracker.outdated()]
    assert sorted(local[0], key=str) == sorted(by_search[0], key=str)
    assert [tracker.is_finished(f"ours-{seed}") for seed in range(5)] == [True, False, False, False, False]
    assert [run.info.run_id for run in local[1]] == [run.info.run_id for run in by_search[1]] == [old.info.run_id]
    assert {cell.key: (cell.auroc, cell.is_current) for cell in local[0]} == {
        "ours-0": (0.25, True),
        "ours-1": (0.75, False),
    }


def test_what_a_request_taken_twice_has_left_is_removed_at_the_runs_end(tmp_path, home):
    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path, seed=0)
    parent, other = (tracker.start_benchmark([], "", "osfer run") for _ in range(2))
    for owner in (parent, other):
        tags = {mlflow_reader.KIND: "cell", "cell_key": "ours-1", "mlflow.parentRunId": owner}
        tracker.client.create_run(tracker.experiment_id, tags=tags)
    tracker.end(parent, "FINISHED")
    left = [run for run in tracker._search(f"tags.`{mlflow_reader.KIND}` = 'cell'") if run.info.status == "RUNNING"]
    assert [run.data.tags["mlflow.parentRunId"] for run in left] == [other]  # another run may be writing its own


def documented(head: str) -> set[str]:
    """The names in the first column of a table of docs/mlflow.md."""
    text = (Path(__file__).parents[3] / "docs" / "mlflow.md").read_text("utf-8")
    table = text.partition(f"\n| {head} | ")[2].partition("\n\n")[0]
    return {name for line in table.splitlines()[2:] for name in re.findall("`(.*?)`", line.split("|")[1])}


def test_the_documented_schema_is_that_of_a_logged_cell(ran):
    tracker = Tracker(ran, "smoke", create=False)
    run = tracker.cells()[0]
    patterns = {
        head: re.compile("|".join(re.sub(r"\\\*|<\w+>", ".+", re.escape(name)) for name in documented(head)))
        for head in ("tag", "param", "metric", "artifact")
    }
    logged = {
        "tag": {name for name in run.data.tags if not name.startswith("mlflow.")} - {mlflow_reader.KIND},
        "param": set(run.data.params),
        "metric": set(run.data.metrics),
        "artifact": {file.path for file in tracker.client.list_artifacts(run.info.run_id)},
    }
    for head, names in logged.items():
        assert [name for name in names if not patterns[head].fullmatch(name)] == [], head
    sometimes = {
        "gpu",
        "label_share",
        "open_from",
        "pool",
        "features",
        "models",
        "imported_from",
        "study",
        "study_run",
        "trial",
    }
    assert documented("tag") - logged["tag"] == sometimes
    always = {name for name in documented("metric") if "<" not in name}
    assert always - logged["metric"] == set()
    assert documented("artifact") - logged["artifact"] == {"features.npz"}


def test_homes_with_one_sqlite_address_wait_for_each_other(tmp_path, empty_store):
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.copy(empty_store, shared / "mlflow.db")
    homes = [tmp_path / name for name in ("one", "two")]
    first, second = (Tracker(home, "made", uri=f"sqlite:///{shared / 'mlflow.db'}") for home in homes)
    with first.writing(), pytest.raises(filelock.Timeout):
        second._lock.acquire(timeout=0.1)
    assert not [path for home in homes for path in home.glob("*.lock")]
