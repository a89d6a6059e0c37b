"""Figure 7: which faces are drawn and how, from what MLflow keeps alone; what is said without features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.storage.kept import FEATURES, write_features
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.results import Results, load
from open_set_fer.reports.figures import tsne as embedding

CLASSES = ("anger", "fear", "open")


def log(tracker: Tracker, home: Path, cells: list[tuple[str, str, str, bool]]) -> Results:
    """Cells (data set, open class, method, has features): three classes in groups that do not touch."""
    plan = [
        {"dataset": d, "protocol": "single", "open_classes": o, "method": m, "seed": 0, "cell_key": f"{d}{o}{m}"}
        for d, o, m, _ in cells
    ]
    parent = tracker.start_benchmark(plan, "", "osfer run")
    (home / "profile.toml").write_text("")
    truth = np.array(CLASSES * 10)
    ids = np.array([f"face {i}" for i in range(len(truth))])
    is_open = truth == "open"
    scores = pd.DataFrame({"id": ids, "truth": truth, "is_open": is_open, "unknown_score": is_open * 1.0})
    scores.assign(predicted_class="fear").to_parquet(home / "scores.parquet")
    rng = np.random.default_rng(0)
    for place, (*_, kept) in zip(plan, cells, strict=True):
        features = 10.0 * np.eye(3)[[CLASSES.index(name) for name in truth]] + rng.normal(size=(30, 3))
        (home / FEATURES).unlink(missing_ok=True)
        if kept:
            write_features(home / FEATURES, ids, features)
        tags = {name: str(value) for name, value in place.items()} | {"features": "kept"}
        tracker.log_cell(parent, CellResult({"auroc": 1.0}, {}, tags), home, {})
    return load(tracker)


def test_open_faces_are_red_closed_ones_have_their_class_colour(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "FACES", 24)
    cells = [("ferplus", o, m, m != "ours" or o == "fear") for o in ("anger", "fear") for m in ("baseline", "ours")]
    results = log(Tracker(home, "test"), home, [*cells, ("digits", "0", "baseline", False)])
    (figure,) = embedding.embedding_figures(results)
    assert figure.name == "figure7_ferplus_fear"  # of anger there are features of one method alone
    for panel in figure.figure.axes:
        closed, opened = panel.collections
        assert len(closed.get_offsets()) == 16
        assert len(opened.get_offsets()) == 8
        colours = [to_hex(colour) for colour in closed.get_facecolors()]
        assert colours == [embedding.COLOURS[0].lower(), embedding.COLOURS[1].lower()] * 8
        assert to_hex(opened.get_facecolors()[0]) == embedding.OPEN_RED.lower()
        places = np.vstack([opened.get_offsets(), closed.get_offsets()])
        middle = places[:8].mean(axis=0)
        distances = np.linalg.norm(places - middle, axis=1)
        assert distances[:8].max() < distances[8:].min()  # the groups of the features are groups on the plane
    assert "24 of 30 test faces" in figure.caption
    assert "neighbours: 70%" in figure.alternative  # of 10 the 7 other open faces that are drawn
    (sentence,) = embedding.lacking_features(results)
    assert "Digits needs cells that kept them: osfer run --profile test --dataset digits --open 0" in sentence


def test_a_method_without_features_says_so(home: Path) -> None:
    cells = [("ferplus", "fear", method, method == "ours") for method in ("baseline", "ours")]
    results = log(Tracker(home, "test"), home, cells)
    assert list(results.cells["features"]) == ["", "kept"]  # the tag says nothing where the file is not
    (figure,) = embedding.embedding_figures(results)
    assert [text.get_text() for text in figure.figure.axes[0].texts] == ["no features kept"]
    assert "Without features: Baseline (MSP); osfer run --profile test --dataset ferplus --open fear" in figure.caption


def test_the_same_features_are_laid_out_alike() -> None:
    features = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    np.testing.assert_array_equal(embedding.embed(features), embedding.embed(features))
    assert np.isfinite(embedding.embed(np.ones((6, 4), dtype=np.float32))).all()


def test_neighbours_of_open_faces_are_counted_without_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "NEIGHBOURS", 1)
    places = np.array([[0.0], [1.0], [2.1], [9.0], [10.0]], dtype=np.float32)
    faces = embedding.Faces(places, np.array([True, True, False, False, True]), np.array(list("aabbb")), 5)
    assert embedding.open_neighbours(faces) == pytest.approx(2 / 3)  # of 10 the nearest is 9, which is closed
