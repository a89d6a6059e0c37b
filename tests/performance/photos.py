"""How long one photograph takes `osfer detect`, from its bytes to those of the annotated picture."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from open_set_fer.benchmark.storage.detectors import Detector, load_detector
from open_set_fer.datasets.synthetic.renderer import render_faces
from open_set_fer.photos.detect import annotated, detect_faces
from open_set_fer.photos.find import finder, read_photo
from tests.detectors import untrained_detector
from tests.performance.rows import Row


def photos(root: Path) -> list[Row]:
    """Photographs of 12 megapixels with one face and with eight, by an untrained network: it takes as long."""
    finder()  # says what is missing
    detector = load_detector(untrained_detector(root / "detector"))
    return [photo_row(detector, count) for count in (1, 8)]


def photo_row(detector: Detector, count: int) -> Row:
    """A photograph with so many rendered faces."""
    picture = Image.new("RGB", (4000, 3000), (190, 200, 210))
    for number, face in enumerate(render_faces(np.array([3, 0] * 4), 7, 64, start=0)[:count]):
        place = 100 + 950 * (number % 4), 400 + 1200 * (number // 4)
        picture.paste(Image.fromarray(face[0]).resize((640, 640)), place)
    file = BytesIO()
    picture.save(file, "JPEG", quality=92)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        photo = read_photo(file.getvalue())
        found = detect_faces(detector, photo)
        annotated(photo, found).save(BytesIO(), "JPEG", quality=92)
        seconds.append(time.perf_counter() - start)
        assert len(found) == count
    return Row(f"`osfer detect`: 12 megapixels, faces: {count}; seconds", seconds[1:], 0.3, "<")
