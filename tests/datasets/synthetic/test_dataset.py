"""The embedded data set of rendered faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from open_set_fer.datasets.synthetic.dataset import Synthetic
from open_set_fer.datasets.synthetic.expressions import EXPRESSIONS
from open_set_fer.datasets.synthetic.renderer import render_faces


def test_data_set_has_the_promised_splits(tmp_path: Path) -> None:
    dataset = Synthetic(3, 2, 5, 4, valid_per_class=0, seed=7, image_size=32)
    faces = dataset.load(tmp_path)
    assert faces.demonstration
    assert faces.images.shape == (7 * 5 + 11 * 5 + 4, 1, 32, 32)
    assert faces.ids[0] == "synthetic-000000"
    assert len(set(faces.ids)) == len(faces.ids) == len(faces.images)
    for label in range(len(EXPRESSIONS)):
        parts = faces.split[faces.labels == label].tolist()
        expected = (3, 2) if label < 7 else (2, 3) if label < 18 else (2, 2)
        assert (parts.count("train"), parts.count("test")) == expected
    assert np.array_equal(faces.images, render_faces(faces.labels, 7, 32))
    assert dataset.load(tmp_path).fingerprint == faces.fingerprint


def test_a_split_valid_of_the_basic_expressions_changes_no_other_face(tmp_path: Path) -> None:
    without = Synthetic(3, 2, 2, 2, valid_per_class=0, image_size=16).load(tmp_path)
    faces = Synthetic(3, 2, 2, 2, valid_per_class=4, image_size=16).load(tmp_path)
    valid = faces.split == "valid"
    assert np.bincount(faces.labels[valid]).tolist() == [4] * 7
    assert np.array_equal(faces.images[~valid], without.images)
    assert np.array_equal(faces.ids[~valid], without.ids)
    contents = {image.tobytes() for image in faces.images}
    assert len(contents) == len(faces.images)
