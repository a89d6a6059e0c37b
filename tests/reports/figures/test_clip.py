"""Figure 1 of CLIP features that a user gives: which images, which classes, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.results import Results
from open_set_fer.reports.figures.clip import clip_figures, lacking_clip, read_clip_features
from tests.reports.made import results_of

CLASSES = ("anger", "fear", "sadness")
IDS = np.array([f"image {i}" for i in range(30)])
OF_CLASS = np.arange(30) % 3


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Results:
    """FERPlus and CIFAR-10, whose images have the same ids."""
    cells = {
        (d, "single", "fear", m, 0): (0.5 + 0.25 * (m == "ours"), 0.9)
        for d in ("ferplus", "cifar10")
        for m in ("baseline", "ours")
    }
    scores = pd.DataFrame({"id": IDS, "true_class": np.array(CLASSES)[OF_CLASS]})
    monkeypatch.setattr(Results, "scores", lambda *_: scores)
    return results_of(cells)


def features(separated: bool) -> np.ndarray:
    """Classes of their own, or classes that features know nothing of."""
    noise = np.random.default_rng(0).normal(size=(30, 4))
    return noise + (100 * np.eye(4)[OF_CLASS] if separated else 0)


def test_the_contrast_stands_beside_the_faces_with_how_near_images_of_a_class_are(results, tmp_path):
    path = tmp_path / "clip.npz"
    both = np.vstack([features(True), features(False)])
    np.savez(path, ids=np.tile(IDS, 2), features=both, dataset=np.repeat(["cifar10", "ferplus"], 30))
    (figure,) = clip_figures(results, read_clip_features(path))
    assert figure.name == "figure1_clip_ferplus_cifar10"
    contrast, faces = figure.figure.axes
    assert contrast.get_title("left").strip() == "CIFAR-10\nAUROC DIAS —, Ours 0.750 (n = 1)"
    assert faces.get_title("left").strip() == "FERPlus\nAUROC DIAS —, Ours 0.750 (n = 1)"
    # Of 10 neighbours the 9 others of the class; where features know nothing of classes, a third.
    assert "CIFAR-10 90%, FERPlus 33%" in figure.alternative
    for axes in (contrast, faces):
        assert [len(points.get_offsets()) for points in axes.collections] == [10, 10, 10]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(CLASSES)


def test_a_file_of_faces_alone_is_drawn_alone_from_either_format(results, tmp_path):
    np.savez(tmp_path / "clip.npz", ids=IDS, features=features(True))
    columns = {f"f{i}": column for i, column in enumerate(features(True).T)}
    pd.DataFrame({"id": IDS, "dataset": "ferplus"} | columns).to_parquet(tmp_path / "wide.parquet")
    pd.DataFrame({"id": IDS, "embedding": list(features(True))}).to_parquet(tmp_path / "list.parquet")
    read = [read_clip_features(tmp_path / name) for name in ("clip.npz", "wide.parquet", "list.parquet")]
    for other in read[1:]:
        np.testing.assert_array_equal(other, read[0])
    (figure,) = clip_figures(results, read[1])
    assert figure.name == "figure1_clip_ferplus"


def test_without_features_it_is_said_what_the_figure_shows_instead(results):
    (sentence,) = lacking_clip(results)
    assert "osfer report --clip-features FILE" in sentence
    assert lacking_clip(results_of({("ferplus", "single", "fear", "ours", 0): (0.5, 0.9)})) == []


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"ids": IDS}, "features"),
        ({"ids": IDS, "features": features(True)[:9]}, "do not belong together"),
        ({"ids": np.repeat("a", 30), "features": features(True)}, "an id is there twice"),
        ({"ids": IDS, "features": np.full((30, 2), np.nan)}, "NaN or infinite"),
        ({"ids": IDS.astype(object), "features": features(True)}, "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named_with_what_it_must_hold(tmp_path: Path, content, fault: str) -> None:
    path = tmp_path / "clip.npz"
    if content is not None:
        np.savez(path, **content)
    with pytest.raises(SuiteError, match=fault) as error:
        read_clip_features(path)
    assert "clip.npz" in str(error.value)
    assert "`ids` (N,)" in str(error.value)


def test_ids_of_no_test_image_are_said_with_one_that_would_do(results, tmp_path):
    np.savez(tmp_path / "clip.npz", ids=np.char.add("my ", IDS), features=features(True))
    with pytest.raises(SuiteError, match="its ids are like my image 0") as error:
        list(clip_figures(results, read_clip_features(tmp_path / "clip.npz")))
    assert "such as image 0" in str(error.value)
