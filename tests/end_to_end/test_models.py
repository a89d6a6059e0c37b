"""`osfer run --keep-models`: logged models score as the cell did, in a moved home, the registry and over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.task import make_task, split_faces
from open_set_fer.benchmark.storage.mlflow_writer import Tracker

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_address_is_left():
    """mlflow.set_tracking_uri sets the environment variable too, which would send later tests' runs here."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


METHODS = ("baseline", "ours", "ours-plus")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory):
    """A home with three cells of `smoke`, run with --keep-models, then moved; its plan and face sets."""
    first = tmp_path_factory.mktemp("first") / "home"
    profile = load_profile("smoke")
    cells, face_sets = make_plan(profile, Selection(methods=METHODS), first / "cache")
    cells = [cell for cell in cells if not cell.protocol.regime.is_control]
    runner = Runner(first, profile, RunOptions(keep_models=True))
    outcome = runner.run(cells, face_sets, "osfer run --keep-models")
    assert outcome.computed == 3
    assert not outcome.failed
    home = tmp_path_factory.mktemp("moved") / "home"
    shutil.move(first, home)
    return home, cells, face_sets


def logged(home: Path):
    """The tracker of the home, its cells' runs by method, and its logged models by their tag `method`."""
    tracker = Tracker(home, "smoke")
    found = tracker.client.search_logged_models([tracker.experiment_id])
    return (
        tracker,
        {run.data.tags["method"]: run for run in tracker.cells()},
        {model.tags["method"]: model for model in found},
    )


def load(tracker: Tracker, model_id: str):
    import mlflow

    mlflow.set_tracking_uri(tracker.uri)
    return mlflow.pyfunc.load_model(f"models:/{model_id}")


def test_logged_models_score_as_the_cells_did(kept):
    home, cells, face_sets = kept
    tracker, runs, models = logged(home)
    assert set(models) == {"baseline", "ours-plus", "closed-set"}  # once for three cells; ours scores a pool
    assert {run.data.tags["models"] for run in runs.values()} == {"kept", "none"}
    key = models["closed-set"].tags["model_key"]
    assert {run.data.tags["closed_set_key"] for run in runs.values()} == {key}
    assert not list((home / "artifacts").rglob("*.pkl"))
    outputs = {out.model_id for out in tracker.client.get_run(runs["baseline"].info.run_id).outputs.model_outputs}
    assert outputs == {models["baseline"].model_id, models["closed-set"].model_id}
    cell, faces = cells[0], face_sets["synthetic"]
    task = make_task(faces, cell.protocol, split_faces(faces, cell.protocol, cell.seed), cell.seed)
    scores = pd.read_parquet(home / "results" / cell.key / "scores.parquet")
    for method in ("baseline", "closed-set"):
        table = load(tracker, models[method].model_id).predict(task.test_images)
        np.testing.assert_allclose(table["unknown_score"], scores["unknown_score"], rtol=1e-5, atol=1e-7)
        assert list(table["expression"]) == list(scores["predicted_class"])
        np.testing.assert_allclose(table.filter(like="p.").sum(axis=1), 1, rtol=1e-6)
    plus = load(tracker, models["ours-plus"].model_id).predict(task.test_images)
    assert np.isfinite(plus["unknown_score"]).all()
    with pytest.raises(Exception, match="shape"):
        load(tracker, models["baseline"].model_id).predict(task.test_images[:, :, :20])


def test_the_registry_holds_a_kept_model(kept):
    import mlflow

    home, *_ = kept
    tracker, _, models = logged(home)
    mlflow.set_tracking_uri(tracker.uri)
    mlflow.set_registry_uri(tracker.uri)
    version = mlflow.register_model(f"models:/{models['baseline'].model_id}", "faces")
    face = np.zeros((1, 1, 48, 48), dtype=np.uint8)
    table = mlflow.pyfunc.load_model(f"models:/faces/{version.version}").predict(face)
    assert len(table) == 1


def test_mlflow_models_serve_scores_a_posted_face(kept):
    home, cells, face_sets = kept
    tracker, _, models = logged(home)
    scores = pd.read_parquet(home / "results" / cells[0].key / "scores.parquet")
    faces = face_sets["synthetic"]
    face = faces.images[int(np.flatnonzero(faces.ids == scores["id"][0])[0])]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "models",
            "serve",
            "-m",
            f"models:/{models['baseline'].model_id}",
            "-p",
            str(port),
            "-h",
            "127.0.0.1",
            "--env-manager",
            "local",
            "-w",
            "1",
        ],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": tracker.uri,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        body = json.dumps({"inputs": face[None].tolist()}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        end = time.monotonic() + 200
        while True:
            try:
                answer = json.load(urllib.request.urlopen(request, timeout=30))
                break
            except OSError:
                assert time.monotonic() < end
                assert server.poll() is None, "the server ended"
                time.sleep(1)
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
    (row,) = answer["predictions"]
    assert row["expression"] == scores["predicted_class"][0]
    assert row["unknown_score"] == pytest.approx(scores["unknown_score"][0], rel=1e-5)
