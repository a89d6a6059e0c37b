"""Predictions for the faces of a photograph, and the annotated picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from open_set_fer.benchmark.storage.detectors import CropRule, Detector
from open_set_fer.errors import SuiteError
from open_set_fer.photos.find import crop_face, find_faces

KNOWN, UNKNOWN, NEUTRAL = (0, 90, 181), (213, 94, 0), (60, 60, 60)
"""Colours of the annotated picture; the decision is also given as text."""
Area = tuple[float, float, float, float]  # Left, top, right, bottom
MOST_SIDE = 1600  # pixels of an annotated picture's long side


@dataclass(frozen=True)
class Face:
    """One face of a photograph. square: left, top and side of the crop. probabilities: by known class."""

    square: tuple[float, float, float]
    expression: str
    probabilities: dict[str, float]
    unknown_score: float
    decision: str

    def content(self) -> dict[str, Any]:
        """The face for JSON."""
        place = {name: round(value, 1) for name, value in zip(("left", "top", "side"), self.square, strict=True)}
        names = ("decision", "expression", "unknown_score", "probabilities")
        return place | {name: getattr(self, name) for name in names}

    def caption(self) -> str:
        """Text of the annotated picture."""
        likely = f"{self.expression} {self.probabilities[self.expression]:.0%}"
        return likely if self.decision == "known" else f"unknown ({likely}?)"


def detect_faces(detector: Detector, picture: Image.Image) -> list[Face]:
    """Predict every face, from left to right; raise SuiteError for a detector without a threshold."""
    description = detector.description
    threshold, rule = description.threshold, description.crop or CropRule()
    if threshold is None:
        raise SuiteError("this detector has no threshold, so it cannot decide", "build one: osfer detector build")
    boxes = find_faces(picture)
    if not boxes:
        return []
    crops = np.stack([crop_face(picture, box, rule, description.shape) for box in boxes])
    scores = detector.score(crops)
    return [
        Face(
            rule.square(box),
            description.classes[int(row.argmax())],
            {name: float(value) for name, value in zip(description.classes, row, strict=True)},
            float(score),
            "known" if score <= threshold else "unknown",
        )
        for box, score, row in zip(boxes, scores.unknown_score, scores.probabilities, strict=True)
    ]


def annotated(picture: Image.Image, faces: list[Face]) -> Image.Image:
    """Draw a frame and a caption for each face."""
    factor = min(1.0, MOST_SIDE / max(picture.size))
    size = max(1, round(factor * picture.width)), max(1, round(factor * picture.height))
    result = picture.copy() if factor == 1 else picture.resize(size, Image.Resampling.HAMMING, reducing_gap=1.0)
    draw = ImageDraw.Draw(result)
    height, line = max(12, round(max(size) / 45)), max(2, round(max(size) / 300))
    draw.font = ImageFont.load_default(height)
    if not faces:
        _write(draw, "no face found", [(line, line)], NEUTRAL, size, [])
    squares = [tuple(factor * value for value in face.square) for face in faces]
    colours = [KNOWN if face.decision == "known" else UNKNOWN for face in faces]
    for (left, top, side), colour in zip(squares, colours, strict=True):
        draw.rectangle((left, top, left + side, top + side), outline=colour, width=line)
    captions: list[Area] = []
    for face, (left, top, side), colour in zip(faces, squares, colours, strict=True):  # captions over all frames
        above, below = (left, top - 1.4 * height), (left, top + side)
        places = [above, below] if above[1] >= 0 else [below, above]
        captions.append(_write(draw, face.caption(), places, colour, size, captions))
    return result


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    places: list[tuple[float, float]],
    colour: tuple[int, int, int],
    size: tuple[int, int],
    captions: list[Area],
) -> Area:
    """Write white text on the colour at the first place free of captions, else the first, moved into the picture."""
    options = []
    for left, top in places:
        area = draw.textbbox((left, top), text)
        x = max(0.0, min(left, size[0] - (area[2] - area[0]) - 6)) + 3
        y = max(0.0, min(top, size[1] - (area[3] - area[1]) - 10))
        area = draw.textbbox((x, y), text)
        options.append(((x, y), (area[0] - 3, area[1] - 3, area[2] + 3, area[3] + 3)))
    free = [option for option in options if not any(_overlap(option[1], other) for other in captions)]
    place, area = (free or options)[0]
    draw.rectangle(area, fill=colour)
    draw.text(place, text, fill=(255, 255, 255))
    return area


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
