"""What is written to MLflow, where it is written to, and which suite is named as its origin."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import open_set_fer
from open_set_fer.benchmark import server, tracking
from open_set_fer.benchmark.cell_result import CellResult, DataUsed
from open_set_fer.benchmark.provenance import host_tags
from open_set_fer.benchmark.results import COLUMNS, read_result
from open_set_fer.benchmark.tracking import Tracker
from open_set_fer.cli import app
from open_set_fer.errors import SuiteError


@pytest.fixture(autouse=True)
def local_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def result(seed: int = 0, auroc: float = 0.75, method: str = "ours", **more: Any) -> CellResult:
    tags = {
        "cell_key": f"{method}-{seed}", "dataset": "synthetic", "protocol": "pairs", "open_classes": "fear+anger",
        "method": method, "seed": str(seed),
    }  # fmt: skip
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
    plan = {name: found.tags[name] for name in ("cell_key", *tracking.COORDINATES)}
    parent = tracker.start_benchmark([plan | {"seed": int(plan["seed"])}], "", "osfer run")
    tracker.log_cell(parent, found, folder, {})
    tracker.end(parent, finish)
    return parent


def test_a_cell_has_its_own_time_name_and_coordinates(tmp_path, home):
    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path, started=1000.5, ended=1012.75)
    (run,) = tracker.cells()
    assert (run.info.start_time, run.info.end_time) == (1000500, 1012750)
    assert run.info.run_name == "ours · fear+anger · s0 · synthetic"
    assert run.data.params == {
        "cell.dataset": "synthetic", "cell.protocol": "pairs", "cell.open_classes": "fear+anger", "cell.method": "ours",
        "cell.seed": "0", "method.epochs": "3",
    }  # fmt: skip


def test_a_result_of_an_older_suite_has_its_duration_and_the_files_time(tmp_path):
    old = {"metrics": {"auroc": 0.75, "seconds.total": 20.0}, "curves": {}, "tags": {"host": "h", "notes": '["a"]'}}
    (tmp_path / "result.json").write_text(json.dumps(old))
    os.utime(tmp_path / "result.json", (5000, 5000))
    pd.DataFrame({name: [0] for name in COLUMNS if name != "closed_set_class"}).to_parquet(tmp_path / "scores.parquet")
    found, _ = read_result(tmp_path)
    assert (found.started, found.ended, found.evaluation) == (4980.0, 5000.0, 1)
    assert (found.notes, found.tags) == (["a"], {"host": "h"})


def test_the_parent_has_the_means_of_its_plan(tmp_path, home):
    tracker = Tracker(home, "made")
    folder = tmp_path / "logged"
    log_cell(tracker, tmp_path, seed=0, auroc=0.5)
    plan = [{"cell_key": f"ours-{seed}", "method": "ours", "seed": seed} for seed in (0, 1, 2)]
    plan += [{"cell_key": "λ ours-0", "method": "λ ours", "seed": 0}, {"cell_key": "no", "method": "dias", "seed": 0}]
    parent = tracker.start_benchmark(plan, "", "osfer run")
    for values in ({"seed": 1, "auroc": 0.75}, {"method": "λ ours", "auroc": 0.25}):
        tracker.log_cell(parent, result(**values), folder, {})
    tracker.end(parent, "KILLED")
    run = tracker.client.get_run(parent)
    assert run.info.status == "KILLED"
    named = {name: value for name, value in run.data.metrics.items() if not name.endswith(("ours-0", "dias"))}
    odd = tracking._metric_part("λ ours")
    assert named == {"auroc.ours": 0.625, "cells.ours": 2, f"auroc.{odd}": 0.25, f"cells.{odd}": 1}
    assert odd.startswith("_ ours-")
    assert odd != tracking._metric_part("μ ours")


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
    assert (tracker.cells(), tracker.planned(), tracker.finished_cells()) == ([], [], {})
    tracker.log_report(tmp_path)
    assert not (tmp_path / "home").exists()
    log_cell(Tracker(tmp_path / "home", "made"), tmp_path)
    assert Tracker(tmp_path / "home", "other", create=False).cells() == []
    assert list(tracking.stored_experiments(tmp_path / "home")) == ["made"]


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
    found = tracking.stored_experiments(home)
    assert list(found) == ["new", "old"]
    link = tracking.experiment_link("http://127.0.0.1:5000/", found["new"])
    assert link.startswith(f"http://127.0.0.1:5000/#/experiments/{found['new']}/runs?workflowType=machine_learning&")
    assert (
        tracking.run_link("http://h", "3", "abc") == "http://h/#/experiments/3/runs/abc?workflowType=machine_learning"
    )


@pytest.mark.parametrize(
    "uri",
    ["foo://x", "runs", "/tmp/runs", "file:///tmp/runs", "file://", " ", "http://", "http://[", "sqlite:", "http:x"],
)
def test_an_address_that_is_none_is_one_clear_error(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for act in (lambda: Tracker(tmp_path / "home", "made"), lambda: tracking.stored_experiments(tmp_path)):
        with pytest.raises(SuiteError, match="is no address of a tracking server or database"):
            act()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "uri", ["https://h:1/mlflow", "sqlite:////x/y.db", "postgresql+psycopg2://u:p@h/d", "databricks"]
)
def test_addresses_that_are_some(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert server.tracking_uri(tmp_path) == (uri, None)


def test_a_database_of_ones_own_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/own.db")
    log_cell(Tracker(tmp_path / "home", "made"), tmp_path)
    assert len(Tracker(tmp_path / "home", "made", create=False).cells()) == 1
    assert not (tmp_path / "home" / "mlflow.db").exists()


def test_ui_says_where_a_remote_server_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@tracker.example:5000/ml")
    done = CliRunner().invoke(app, ["ui", "--home", str(tmp_path)])
    assert done.exit_code == 0
    assert "http://tracker.example:5000/ml" in done.output
    assert "secret" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_ui_names_what_is_wrong(tmp_path, home):
    done = CliRunner().invoke(app, ["ui", "--home", str(tmp_path / "none")])
    assert "no MLflow store under" in str(done.exception)
    assert not (tmp_path / "none").exists()
    log_cell(Tracker(home, "made"), tmp_path)
    done = CliRunner().invoke(app, ["ui", "--home", str(home), "-p", "smoke"])
    assert "no run of profile smoke" in str(done.exception)
    assert "it has: made" in str(done.exception)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = CliRunner().invoke(app, ["ui", "--home", str(home), "--port", str(taken.getsockname()[1])])
    assert "is not free" in str(done.exception)
    for port in ("0", "99999", "-5"):
        assert CliRunner().invoke(app, ["ui", "--home", str(home), "--port", port]).exit_code == 2


def test_tags_say_what_computed_without_importing_torch():
    code = (
        "import sys, json; from open_set_fer.benchmark.provenance import host_tags\n"
        "print(json.dumps(host_tags('cpu'))); assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    )
    tags = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert {**tags, "git_commit": ""} == {**host_tags("cpu"), "git_commit": ""}  # one may be writing in the checkout
    assert set(tags) == {"version", "git_commit", "python", "torch", "cpu", "host", "device"}
    assert tags["version"] == open_set_fer.__version__
    assert all(tags.values())


def git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit_seen(site: Path, **environment: str) -> str:
    code = (
        "import open_set_fer; from open_set_fer.benchmark.provenance import git_commit; print(open_set_fer.__file__); "
        "print(git_commit())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(site), **environment}, cwd=site,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    place, commit = done.stdout.splitlines()
    assert Path(place).is_relative_to(site)
    return commit


@pytest.fixture
def other_project(tmp_path: Path) -> Path:
    """Another project's repository, with a commit of its own and a folder of installed packages that holds the suite."""
    project = tmp_path / "project"
    site = project / "lib"
    shutil.copytree(
        Path(open_set_fer.__file__).parent, site / "open_set_fer", ignore=shutil.ignore_patterns("__pycache__")
    )
    info = site / "open_set_fer-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: open-set-fer\nVersion: 0.1.0\n")
    (project / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "theirs")
    return project


def test_a_wheel_in_anothers_repository_does_not_take_its_commit(other_project):
    site = other_project / "lib"
    assert commit_seen(site) == "unknown"
    assert commit_seen(site, GIT_DIR=str(other_project / ".git"), GIT_WORK_TREE=str(site)) == "unknown"
    noted = {"url": "https://x/y.git", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef0123"}}
    (site / "open_set_fer-0.1.0.dist-info" / "direct_url.json").write_text(json.dumps(noted))
    assert commit_seen(site) == "0123456789ab"


def test_the_suites_own_checkout_is_named(other_project):
    site = other_project / "lib"
    (site / "pyproject.toml").write_text('[project]\nname = "open-set-fer"\n')
    assert commit_seen(site) == "unknown"  # a folder of their repository, still
    git(site, "init", "-q")
    git(site, "add", "pyproject.toml")
    git(site, "commit", "-qm", "without the package")
    assert commit_seen(site) == "unknown"
    git(site, "add", ".")
    git(site, "commit", "-qm", "ours")
    own = git(site, "rev-parse", "HEAD")
    assert own.startswith(commit_seen(site))
    assert len(commit_seen(site)) == 12
    (site / "pyproject.toml").write_text('[project]\nname = "open-set-fer"\nversion = "2"\n')
    assert commit_seen(site) == commit_seen(site)[:12] + "-dirty"
