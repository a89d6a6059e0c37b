"""Features kept on request: whose they are, that they change nothing, and what a cell without them is told."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.kept import FEATURES, FEATURES_TAG, read_features, write_features
from open_set_fer.benchmark.storage.reevaluate import restore
from open_set_fer.benchmark.storage.results_dir import read_result
from open_set_fer.errors import SuiteError
from tests.computing import compute
from tests.conftest import without_controls


@pytest.fixture
def smoke(tmp_path):
    """Profile, its text, cells of baseline and ours-plus, faces; the smallest there are."""
    text = without_controls(load_profile("smoke").text)
    text = text.replace("train_per_class = 40", "train_per_class = 8").replace(
        "test_per_class = 20", "test_per_class = 6"
    )
    (tmp_path / "few.toml").write_text(text, "utf-8")
    profile = load_profile(str(tmp_path / "few.toml"))
    cells, face_sets = make_plan(profile, Selection(methods=("baseline", "ours-plus")), tmp_path / "cache")
    return profile, cells, face_sets


def test_features_are_those_of_the_cells_network_and_change_nothing(tmp_path, smoke):
    profile, (cell, _), face_sets = smoke
    run = compute(cell, profile, face_sets["synthetic"], tmp_path, tmp_path / "kept", keep_features=True)
    compute(cell, profile, face_sets["synthetic"], tmp_path, tmp_path / "plain")
    (kept, scores), (plain, _) = (read_result(tmp_path / name) for name in ("kept", "plain"))
    assert kept.metrics["auroc"] == plain.metrics["auroc"]
    assert (kept.tags["features"], plain.tags.get("features")) == ("kept", None)
    assert not (tmp_path / "plain" / FEATURES).exists()
    ids, features = read_features(tmp_path / "kept" / FEATURES)
    assert list(ids) == list(scores["id"])
    model = run.context.closed_set_model(run.task)
    with torch.no_grad():  # the linear layer makes the model's logits of them
        logits = model.network.fc(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(logits, model.test_logits, atol=2e-2)


def test_a_network_that_cannot_be_asked_costs_no_cell(tmp_path, smoke, monkeypatch, caplog):
    profile, (cell, _), face_sets = smoke
    detect = type(cell.method).detect
    monkeypatch.setattr(type(cell.method), "detect", lambda *given: _broken(detect(*given)))
    compute(cell, profile, face_sets["synthetic"], tmp_path, tmp_path / "kept", keep_features=True)
    assert read_result(tmp_path / "kept")[0].tags["features"] == "none"
    assert (tmp_path / "kept" / "scores.parquet").exists()
    assert "no features are kept" in caplog.text


def _broken(detection):
    detection.network.feature_map = None
    return detection


def test_what_half_precision_cannot_hold_is_kept_whole(tmp_path):
    ids = np.array(["a", "b"])
    for features, kept in (([[1.5], [2.0]], np.float16), ([[1e6], [2.0]], np.float32)):
        write_features(tmp_path / FEATURES, ids, np.array(features, dtype=np.float32))
        with np.load(tmp_path / FEATURES) as file:
            assert file["features"].dtype == kept
        assert read_features(tmp_path / FEATURES)[1].tolist() == features
    (tmp_path / FEATURES).write_bytes(b"PK\3\4 torn")
    with pytest.raises(SuiteError, match=f"{FEATURES} is damaged"):
        read_features(tmp_path / FEATURES)


@pytest.mark.parametrize("jobs", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_the_artifact_and_the_cells_that_lack_it(home, smoke, jobs):
    """Computed here or in processes of their own; a measured-again cell gets its features back from MLflow."""
    profile, cells, face_sets = smoke
    first, second = (Runner(home, profile, RunOptions(jobs=jobs, keep_features=keep)) for keep in (False, True))
    assert first.run(cells[:1], face_sets, "").computed == 1
    assert second.run(cells, face_sets, "").computed == 1
    assert second.without(cells, FEATURES_TAG) == cells[:1]  # ours-plus was asked, and has no network to show
    run = next(run for run in second.connection.tracker.cells() if run.data.tags["method"] == "baseline")
    second.connection.tracker.client.delete_run(run.info.run_id)  # as the warning says
    shutil.rmtree(home / "results" / cells[0].key)
    assert second.run(cells, face_sets, "").computed == 1
    assert second.without(cells, FEATURES_TAG) == []
    run = next(run for run in second.connection.tracker.cells() if run.data.tags["method"] == "baseline")
    ids, features = second.connection.tracker.read_features(run.info.run_id)
    assert list(ids) == list(second.connection.tracker.read_scores(run.info.run_id)["id"])
    assert run.data.tags["features"] == "kept"
    assert features.shape == (len(ids), 32)
    restore(second.connection.tracker, run, home / "restored")
    np.testing.assert_array_equal(read_features(home / "restored" / FEATURES)[1], features)
