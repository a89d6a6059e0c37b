"""One cell: which networks its method builds, which outputs cells share, and its threshold on held-out faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from open_set_fer.benchmark.evaluation.decisions import open_set_metrics
from open_set_fer.benchmark.execution import context as contexts
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.pseudo_labels import Regime
from open_set_fer.benchmark.storage.reevaluate import measured
from open_set_fer.benchmark.storage.results_dir import read_result
from open_set_fer.methods.baseline import Baseline
from open_set_fer.methods.ours import Ours
from open_set_fer.methods.shared.training import evaluate, softmax
from open_set_fer.photos.build import with_valid_split
from tests.computing import compute


def test_a_labels_own_backbone_is_for_its_own_networks_alone(tmp_path, monkeypatch):
    text = load_profile("smoke").text.replace("[methods.ours]\n", "[methods.ours]\nbackbone = { width = 4 }\n")
    text = text.replace("pretrained_stages = 4", "pretrained_stages = 0")
    (tmp_path / "own.toml").write_text(text, "utf-8")
    profile = load_profile(str(tmp_path / "own.toml"))
    cells, face_sets = make_plan(profile, Selection(methods=("ours", "baseline")), tmp_path / "cache")
    seen = {}

    def record(kind):
        original = kind.detect

        def detect(self, task, context):
            seen[self.name] = context.backbone.width, context.closed_set_model(task).network.widths[0]
            return original(self, task, context)

        monkeypatch.setattr(kind, "detect", detect)

    record(Ours)
    record(Baseline)
    for cell in cells:
        compute(cell, profile, face_sets["synthetic"], tmp_path)
    assert seen == {"ours": (4, 8), "baseline": (8, 8)}


def without_valid_split(faces):
    return replace(faces, split=np.where(faces.split == "valid", "train", faces.split))


def cells_of(tmp_path, methods, view=with_valid_split, regime=None):
    profile = load_profile("smoke")
    chosen = Selection(methods=methods, open_classes=("surprise",), regime=regime)
    cells, face_sets = make_plan(profile, chosen, tmp_path / "cache", view)
    return profile, [cell for cell in cells if cell.label in methods], face_sets["synthetic"]


def test_the_threshold_accepts_95_percent_of_held_out_faces_and_decides_the_test_faces(tmp_path):
    profile, cells, faces = cells_of(tmp_path, ("baseline", "knn", "odin", "dias"))
    names = np.array(faces.classes)[faces.labels]
    is_held_out = (faces.split == "valid") & np.isin(names, cells[0].protocol.closed)
    held_out = faces.images[is_held_out]
    for cell in cells:
        run = compute(cell, profile, faces, tmp_path)
        result, scores = read_result(tmp_path / "results" / cell.key)
        threshold, classes = result.metrics["threshold"], run.task.closed_classes
        assert (run.task.held_out_images == held_out).all()
        assert [classes[label] for label in run.task.held_out_labels] == names[is_held_out].tolist()
        if cell.label == "baseline":
            confidence = softmax(evaluate(run.context.closed_set_model(run.task).network, held_out)).max(axis=1)
            expected = np.sort(-confidence)[int(np.ceil(0.95 * len(held_out))) - 1]
            assert threshold == pytest.approx(expected, abs=1e-5)
        predicted = np.array([classes.index(name) for name in scores["predicted_class"]])
        found = open_set_metrics(
            run.split.truth, scores["unknown_score"].to_numpy(), predicted, len(classes), threshold
        )
        found["threshold"] = threshold
        assert {name: result.metrics[name] for name in found} == found
        again = measured(result, scores).metrics
        assert {name: again[name] for name in found} == found, "a re-evaluation keeps the threshold"


@pytest.mark.parametrize("lack", ["split valid", "the model's own labels", "scores of other faces"])
def test_without_scores_of_held_out_faces_there_is_no_threshold(tmp_path, lack):
    view = without_valid_split if lack == "split valid" else with_valid_split
    regime = Regime("flipped-true", 0.2) if lack == "the model's own labels" else None
    method = "ours" if lack == "scores of other faces" else "baseline"
    profile, (cell, *_), faces = cells_of(tmp_path, (method,), view, regime)
    compute(cell, profile, faces, tmp_path)
    metrics = read_result(tmp_path / "results" / cell.key)[0].metrics
    assert not {"threshold", "open_set_accuracy", "open_set_f1"} & set(metrics)


def test_post_hoc_cells_share_the_outputs_of_their_model(tmp_path, monkeypatch):
    profile, cells, faces = cells_of(tmp_path, ("knn", "fdbd", "ash", "kl-matching", "energy"))
    compute(cells[0], profile, faces, tmp_path)

    def fail(*given):
        raise AssertionError("the network runs again")

    monkeypatch.setattr(contexts, "pooled_features", fail)
    monkeypatch.setattr(contexts, "evaluate", fail)
    for cell in cells[1:]:
        compute(cell, profile, faces, tmp_path)
