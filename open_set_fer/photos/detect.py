"""From a photograph to an answer for each face in it: expression, probabilities, unknown score, decision; and a picture of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from open_set_fer.benchmark.storage.detectors import CropRule, Detector
from open_set_fer.errors import SuiteError
from open_set_fer.photos.find import crop_face, find_faces

KNOWN, UNKNOWN = (0, 90, 181), (213, 94, 0)
"""Colours of the annotated picture; the words say the same."""
Area = tuple[float, float, float, float]
"""Left, top, right, bottom."""
SHOWN_SIDE = 1600
"""Pixels of the long side of an annotated picture, at most."""


@dataclass(frozen=True)
class Face:
    """One face of a photograph. square: left, top and side of the crop, in its pixels. probabilities: by known class."""

    square: tuple[float, float, float]
    expression: str
    probabilities: dict[str, float]
    unknown_score: float
    decision: str

    def content(self) -> dict[str, Any]:
        """For JSON."""
        left, top, side = (round(value, 1) for value in self.square)
        return {
            "left": left,
            "top": top,
            "side": side,
            "decision": self.decision,
            "expression": self.expression,
            "unknown_score": self.unknown_score,
            "probabilities": self.probabilities,
        }

    def words(self) -> str:
        """What is written beside it."""
        likely = f"{self.expression} {self.probabilities[self.expression]:.0%}"
        return likely if self.decision == "known" else f"unknown ({likely}?)"


def detect_faces(detector: Detector, picture: Image.Image) -> list[Face]:
    """An answer for every face that is found, from left to right; SuiteError for a detector without a threshold."""
    described = detector.description
    threshold, rule = described.threshold, described.crop or CropRule()
    if threshold is None:
        raise SuiteError(
            "this detector has no threshold, so it decides nothing", "osfer detector build makes one that has"
        )
    boxes = find_faces(picture)
    if not boxes:
        return []
    crops = np.stack([crop_face(picture, box, rule, described.shape) for box in boxes])
    scores = detector.score(crops)
    return [
        Face(
            rule.square(box),
            described.classes[int(row.argmax())],
            {name: float(value) for name, value in zip(described.classes, row, strict=True)},
            float(score),
            "known" if score <= threshold else "unknown",
        )
        for box, score, row in zip(boxes, scores.unknown_score, scores.probabilities, strict=True)
    ]


def annotated(picture: Image.Image, faces: list[Face]) -> Image.Image:
    """The picture with a frame and a line of words for each face."""
    factor = min(1.0, SHOWN_SIDE / max(picture.size))
    size = max(1, round(factor * picture.width)), max(1, round(factor * picture.height))
    shown = picture.copy() if factor == 1 else picture.resize(size, Image.Resampling.HAMMING, reducing_gap=1.0)
    draw = ImageDraw.Draw(shown)
    height = max(12, round(max(shown.size) / 45))
    font, line = ImageFont.load_default(height), max(2, round(max(shown.size) / 300))
    if not faces:
        _write(draw, "no face found", [(line, line)], font, (60, 60, 60), shown.size, [])
    for face in faces:
        left, top, side = (factor * value for value in face.square)
        colour = KNOWN if face.decision == "known" else UNKNOWN
        draw.rectangle((left, top, left + side, top + side), outline=colour, width=line)
    written: list[Area] = []
    for face in faces:  # words over all frames
        left, top, side = (factor * value for value in face.square)
        colour = KNOWN if face.decision == "known" else UNKNOWN
        above, below = (left, top - 1.4 * height), (left, top + side)
        places = [above, below] if above[1] >= 0 else [below, above]
        written.append(_write(draw, face.words(), places, font, colour, shown.size, written))
    return shown


def _write(
    draw: ImageDraw.ImageDraw,
    words: str,
    places: list[tuple[float, float]],
    font: Any,
    colour: tuple[int, int, int],
    size: tuple[int, int],
    written: list[Area],
) -> Area:
    """White words on the colour at the first place where none are written, else the first; moved into the picture where they would leave it."""
    found = []
    for at in places:
        left, top, right, bottom = draw.textbbox(at, words, font=font)
        x = max(0.0, min(at[0], size[0] - (right - left) - 6))
        y = max(0.0, min(at[1], size[1] - (bottom - top) - 10))
        left, top, right, bottom = draw.textbbox((x + 3, y), words, font=font)
        found.append(((x + 3, y), (left - 3, top - 3, right + 3, bottom + 3)))
    free = [place for place in found if not any(_overlap(place[1], other) for other in written)]
    at, area = (free or found)[0]
    draw.rectangle(area, fill=colour)
    draw.text(at, words, font=font, fill=(255, 255, 255))
    return area


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
