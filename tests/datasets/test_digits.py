"""The bundled digits."""

from __future__ import annotations

import numpy as np

from open_set_fer.benchmark.protocols.protocol import enumerate_protocols
from open_set_fer.benchmark.protocols.task import split_faces
from open_set_fer.datasets.digits import Digits


def test_digits_allow_every_combination(tmp_path):
    faces = Digits(image_size=24).load(tmp_path)
    assert len(faces.images) == 1797
    assert 0.29 < np.mean(faces.split == "test") < 0.31
    assert faces.images.max() == 255
    protocols = enumerate_protocols(faces.classes, ("single", "pairs"))
    assert len(protocols) == 10 + 45
    split_faces(faces, protocols[0], 0)
