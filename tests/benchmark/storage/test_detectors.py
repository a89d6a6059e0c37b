"""A detector on disk: what is written scores the same, and what is damaged or foreign is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from open_set_fer.benchmark.storage.detectors import Source, describe_scorer, load_detector, write_detector
from open_set_fer.errors import SuiteError
from open_set_fer.methods.posthoc import PostHoc
from open_set_fer.testing import task_and_context


@pytest.fixture
def written(tmp_path: Path):
    """A folder with a kNN detector, and its scores of four faces."""
    task, context, _ = task_and_context()
    method = PostHoc("knn", knn_k=3)
    scorer = method.detect(task, context).scorer
    source = Source(dataset="bars", fingerprint="f", open_classes=[], seed=0, key="k", closed_set_key="c")
    description = describe_scorer(scorer, method, "knn", task.closed_classes, task.test_images.shape[1:], source)
    write_detector(tmp_path / "made", description, scorer)
    return tmp_path / "made", task.test_images[:4], scorer.score(task.test_images[:4])


def test_a_written_detector_scores_the_same(written):
    folder, faces, scores = written
    detector = load_detector(folder)
    again = detector.score(faces)
    np.testing.assert_allclose(again.unknown_score, scores.unknown_score, rtol=1e-6)
    np.testing.assert_allclose(again.probabilities, scores.probabilities, rtol=1e-6)
    assert detector.description.method.settings["knn_k"] == 3
    assert detector.score(faces[:0]).probabilities.shape == (0, 3)
    with pytest.raises(SuiteError, match=r"shape \(1, 24, 24\), not uint8 \(1, 20, 24\)"):
        detector.score(faces[:, :, :20])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda d: d["method"].update(version=99), "version 99, installed is version 2"),
        (lambda d: d["method"].update(name="posthock"), "unknown method 'posthock', did you mean 'posthoc'"),
        (lambda d: d["method"].update(name="noisy-label", version=1), "has no scorer"),
        (lambda d: d.update(threshold="high"), r"detector\.json\.threshold"),
        (lambda d: d.update(sha256="0"), "is not the file that"),
        (lambda d: d["networks"]["classifier"]["backbone"].update(width=8), "do not fit"),
    ],
)
def test_what_cannot_be_used_is_named(written, change, fault):
    folder, *_ = written
    path = folder / "detector.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(SuiteError, match=fault):
        load_detector(folder)


def test_a_folder_without_a_detector(tmp_path):
    with pytest.raises(SuiteError, match=r"holds no detector: detector\.json"):
        load_detector(tmp_path)


def test_weights_named_in_a_foreign_folder_are_not_read(written, monkeypatch):
    """A path in `backbone` would have this machine's file read."""
    folder, *_ = written
    path = folder / "detector.json"
    content = json.loads(path.read_text("utf-8"))
    content["networks"]["classifier"]["backbone"].update(name="resnet18", weights="/etc/hostname")
    path.write_text(json.dumps(content), "utf-8")

    def refuse(*_):
        raise AssertionError("a file was read")

    monkeypatch.setattr("open_set_fer.methods.shared.backbones.load_weights", refuse)
    with pytest.raises(SuiteError, match="do not fit"):
        load_detector(folder)
