"""A raised evaluation version: cells are re-evaluated from the kept scores, and old ones are never beside new ones."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from open_set_fer.benchmark.evaluation import metrics
from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.evaluation.scores import score_table
from open_set_fer.benchmark.execution.job import Job
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.storage.reevaluate import measured
from open_set_fer.benchmark.storage.results_dir import read_result
from open_set_fer.cli.main import app
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Detection
from open_set_fer.reports.data.results import load
from tests.complete import finished_cells

pytestmark = pytest.mark.usefixtures("local_store")

CLASSES = ("fear", "anger", "neutral")


AREAS = ("auroc", "auroc_right", "auroc_open_test", "auroc_open_train", "auroc_no_twins")


def turned(values):
    """Metrics as `raise_version` makes them."""
    return values | {name: 1 - values[name] for name in AREAS if name in values}


def raise_version(monkeypatch):
    """The next version of the evaluation, whose areas under the ROC curve are other numbers."""
    whole = metrics.auroc
    monkeypatch.setattr(cell_result, "EVALUATION", cell_result.EVALUATION + 1)
    monkeypatch.setattr(metrics, "auroc", lambda is_open, score: 1 - whole(is_open, score))
    monkeypatch.setattr(Job, "run", None)  # would raise if called


def made_scores(seed=0):
    """The scores of a small pool, and the metrics of its cell. `neutral` is in no row."""
    rng = np.random.default_rng(seed)
    truth = np.array([0, 1] * 10 + [-1] * 10)
    pseudo_labels, predicted = rng.integers(0, 2, 30), rng.integers(0, 2, 30)
    detection = Detection(rng.normal(size=30), predicted)
    ids = np.array([f"face-{i}" for i in range(30)])
    origin = np.where(np.arange(30) < 25, "test", "train")
    given = np.where(origin == "test", pseudo_labels, 1 - pseudo_labels)
    faces = {"id": ids, "true_class": ids, "origin": origin, "twin": np.arange(30), "has_twin": np.zeros(30, bool)}
    scores = score_table(faces, truth, CLASSES, detection, pseudo_labels, given)
    return scores, metrics.cell_metrics(scores, CLASSES)


@pytest.fixture
def store(home):
    """Two finished cells whose folders under results/ are gone, one of them with a sheet of faces."""
    tracker = Tracker(home, "smoke")
    folder = home / "elsewhere"
    folder.mkdir()
    (folder / "profile.toml").write_text("seeds = [0]\n")
    (folder / "key.json").write_text("{}")
    coordinates = [
        {
            "dataset": "synthetic",
            "protocol": "single",
            "open_classes": "surprise",
            "method": method,
            "seed": 0,
            "cell_key": f"key-{method}",
        }
        for method in ("baseline", "ours")
    ]
    parent = tracker.start_benchmark(coordinates, "", "osfer run")
    for number, cell in enumerate(coordinates):
        scores, values = made_scores(number)
        scores.to_parquet(folder / "scores.parquet")
        tags = {name: str(value) for name, value in cell.items()} | {"host": "far", "demonstration": "true"}
        result = CellResult(
            values | {"seconds.total": 2.5},
            {"loss": [2.0, 1.0, 0.5]},
            tags,
            ["a note"],
            1000.0,
            1002.5,
            params={"method.epochs": "3"},
            data=DataUsed("synthetic", "f" * 36, {"test": {"fear": 10}}),
        )
        tracker.log_cell(parent, result, folder, {})
    tracker.end(parent, "FINISHED")
    return tracker


def test_scores_as_they_are_read_back_give_the_metrics_that_were_written(tmp_path):
    for seed in range(5):
        scores, values = made_scores(seed)
        scores.to_parquet(tmp_path / "scores.parquet", index=False)
        again = measured(CellResult({"auroc": 0.0}, {}, {}), pd.read_parquet(tmp_path / "scores.parquet"))
        assert again.metrics == values


def test_times_stay_and_metrics_that_the_evaluation_lost_go(monkeypatch):
    scores, values = made_scores()
    raise_version(monkeypatch)
    old = CellResult(values | {"seconds.train": 3.0, "retired": 1.0}, {}, {}, ["a note"])
    again = measured(old, scores)
    assert again.notes == ["a note"]
    assert again.metrics == turned(values) | {"seconds.train": 3.0}
    assert again.evaluation == cell_result.EVALUATION


@pytest.mark.parametrize("kept", [False, True])
def test_reevaluate_logs_anew_and_computes_nothing(home, store, monkeypatch, kept):
    before = {run.data.tags["cell_key"]: run for run in store.cells()}
    if kept:  # on disk as well, one of them damaged
        for key in before:
            shutil.copytree(home / "elsewhere", home / "results" / key)
            cell = store.read_cell(before[key])
            store.read_scores(before[key].info.run_id).to_parquet(home / "results" / key / "scores.parquet")
            (home / "results" / key / "result.json").write_text(cell.to_json())
        (home / "results" / "key-ours" / "scores.parquet").write_bytes(b"PAR1")
    raise_version(monkeypatch)
    assert store.cells() == []
    assert finished_cells(store) == {}
    done = CliRunner().invoke(app, ["reevaluate", "-p", "smoke", "--home", str(home), "--json"])
    assert done.exit_code == 0, done.exception
    said = json.loads(done.stdout)
    assert (said["evaluation"], len(said["measured"]), said["failed"]) == (cell_result.EVALUATION, 2, [])
    after = {run.data.tags["cell_key"]: run for run in store.cells()}
    assert set(after) == set(before)
    for key, run in after.items():
        old = before[key]
        assert run.info.run_id != old.info.run_id
        assert store.client.get_run(old.info.run_id).info.lifecycle_stage == "deleted"
        expected = turned(old.data.metrics)
        assert run.data.metrics == pytest.approx(expected, abs=0)
        assert run.data.params == old.data.params
        assert (run.info.start_time, run.info.end_time) == (old.info.start_time, old.info.end_time)
        assert run.data.tags["evaluation"] == str(cell_result.EVALUATION)
        assert (run.data.tags["host"], run.data.tags["notes"]) == ("far", '["a note"]')
        assert run.inputs.dataset_inputs[0].dataset.digest == "f" * 36
        assert store.read_cell(run).curves == {"loss": [2.0, 1.0, 0.5]}
        assert read_result(home / "results" / key)[0].metrics == store.read_cell(run).metrics
        assert read_result(home / "results" / key)[0].evaluation == cell_result.EVALUATION
    again = json.loads(CliRunner().invoke(app, ["measure", "-p", "smoke", "--home", str(home), "--json"]).stdout)
    assert again["measured"] == []


def test_a_cell_that_cannot_be_reevaluated_is_named_and_stops_no_other(home, store, monkeypatch):
    (run,) = (run for run in store.cells() if run.data.tags["method"] == "ours")
    (file,) = home.glob(f"artifacts/**/{run.info.run_id}/**/scores.parquet")
    file.unlink()
    raise_version(monkeypatch)
    done = CliRunner().invoke(app, ["reevaluate", "-p", "smoke", "--home", str(home), "--json"])
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert [cell["method"] for cell in said["measured"]] == ["baseline"]
    assert "scores.parquet" in said["failed"][0]["error"]


def test_a_report_never_has_old_numbers_beside_new_ones(home, store, monkeypatch):
    raise_version(monkeypatch)
    with pytest.raises(SuiteError, match=r"osfer reevaluate. with the same --profile"):
        load(store)
    (old,) = (run for run in store.outdated() if run.data.tags["method"] == "ours")
    parent = store.start_benchmark([], "", "osfer run")
    store.log_cell(parent, measured(store.read_cell(old), store.read_scores(old.info.run_id)), home / "elsewhere", {})
    found = load(store)
    assert dict(zip(found.cells["method"], found.cells["status"], strict=True)) == {
        "baseline": "missing",
        "ours": "finished",
    }
    (warning,) = (warn for warn in found.warnings if "evaluation" in warn.text)
    assert (warning.methods, "surprise seed 0" in warning.text) == (("baseline",), True)
    assert "osfer reevaluate --profile smoke" in warning.text


def test_the_next_run_reevaluates_what_it_would_otherwise_count_as_done(home, monkeypatch):
    profile = load_profile("smoke")
    name = profile.name
    cells, faces = make_plan(profile, Selection(methods=("baseline",)), home / "cache")

    def run():
        return Runner(home, profile).run(cells, faces, "osfer run")

    assert run().computed == 1
    old = finished_cells(Tracker(home, name))[cells[0].key]
    raise_version(monkeypatch)
    assert [cell.key for cell in make_plan(profile, Selection(methods=("baseline",)), home / "cache")[0]] == [
        cells[0].key
    ]
    plan = json.loads(
        CliRunner().invoke(app, ["plan", "-p", "smoke", "-m", "baseline", "--home", str(home), "--json"]).stdout
    )
    assert [cell["state"] for cell in plan["cells"]] == ["to measure"]
    for gone in (False, True):
        if gone:  # measured by the run above and then lost from the disk: a third version asks the store
            shutil.rmtree(home / "results" / cells[0].key)
            monkeypatch.setattr(cell_result, "EVALUATION", cell_result.EVALUATION + 1)
        outcome = run()
        assert (outcome.computed, outcome.measured, outcome.logged_from_disk, outcome.failed) == (0, 1, 0, [])
        new = finished_cells(Tracker(home, name))[cells[0].key]
        assert new == pytest.approx(turned(old), abs=0)
    assert run().already_done == 1
