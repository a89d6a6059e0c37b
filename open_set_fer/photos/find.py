"""Detection of faces in photographs by dlib's frontal face detector, and their crops.

A network needs faces cropped as in its data set: a rule measured on training faces widens and moves the detected box.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from open_set_fer.benchmark.storage.detectors import Box, CropRule
from open_set_fer.datasets.decoding import opaque
from open_set_fer.datasets.listing import FORMATS
from open_set_fer.errors import SuiteError, summary

LONG_SIDE = 1000
"""Pixels of the long side for detection, for faces from about 80 pixels on; smaller pictures are enlarged, to twice."""
SMALL_SIDE = 500
"""Pictures smaller than half of this are enlarged to it, so that the face of a small portrait is large enough."""
MOST_PIXELS = 50_000_000  # larger pictures are refused before they are decoded
SAMPLE = 300  # training faces on which the rule is measured
LOOKS = tuple((width, mirrored) for width in (92, 100, 109) for mirrored in (False, True))
"""Widths of a face, a third of the detector's step apart, above its minimum of 80, and mirroring of the repeats."""
REACH = 1.1  # widths of a face to either side of its centre, in which it is detected again
FEWEST_FOUND = 30  # detected training faces below which the default rule is used


def read_photo(source: BinaryIO | bytes) -> Image.Image:
    """Decode a picture, upright and in RGB; raise SuiteError for a broken or too large one."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(file, formats=FORMATS)
            if picture.width * picture.height > MOST_PIXELS:
                size = f"{picture.width} x {picture.height} pixels"
                raise SuiteError(f"the picture has {size}, more than {MOST_PIXELS:,}", "scale it down")
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return opaque(picture).convert("RGB")
    except SuiteError:
        raise
    except UnidentifiedImageError as error:
        raise SuiteError("is no picture that can be read", "use JPEG, PNG, WebP, BMP, GIF or TIFF") from error
    except Exception as error:  # each format's decoder has its own
        raise SuiteError(f"cannot be decoded: {summary(error)}", "save it again as JPEG or PNG") from error


_thread = threading.local()


def finder() -> Any:
    """dlib's detector, one a thread because it has state; raise SuiteError if dlib is not installed."""
    if not hasattr(_thread, "finder"):
        try:
            import dlib
        except ImportError as error:
            raise SuiteError(f"faces are found with dlib ({error})", "pip install 'open-set-fer[detect]'") from error
        _thread.finder = dlib.get_frontal_face_detector()
    return _thread.finder


@cache
def _lookers() -> ThreadPoolExecutor:
    """Threads of the repeated detections: dlib releases the GIL, and eight faces take 48 detections."""
    return ThreadPoolExecutor(os.cpu_count(), "finder")


def find_faces(picture: Image.Image) -> list[Box]:
    """Find the faces of a picture, from left to right."""
    full = grey = picture.convert("L")
    longest = max(grey.size)
    factor = min(LONG_SIDE / longest, max(2.0, SMALL_SIDE / longest))
    if factor != 1.0:
        size = [max(1, round(factor * side)) for side in grey.size]
        grey = grey.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    rectangles, sureness, _ = finder().run(np.ascontiguousarray(grey), 0, 0.0)
    boxes = [
        Box(r.left() / factor, r.top() / factor, r.width() / factor, r.height() / factor, float(s))
        for r, s in zip(rectangles, sureness, strict=True)
    ]
    looks = [[_lookers().submit(_look, full, box, *look) for look in LOOKS] for box in boxes]
    refined = [_refined(box, [look.result() for look in own]) for box, own in zip(boxes, looks, strict=True)]
    return sorted(refined, key=lambda box: (box.left, box.top))


def _around(box: Box) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square for the repeated detections."""
    x, y, reach = box.left + box.width / 2, box.top + box.height / 2, REACH * box.width
    return x - reach, y - reach, x + reach, y + reach


def _look(grey: Image.Image, box: Box, width: int, mirrored: bool) -> tuple[float, float, float, float] | None:
    """Left, top, width, height from the square's corner of the one face around the box, scaled to `width`, or None."""
    side = round(2 * REACH * width)
    patch = grey.transform((side, side), Image.Transform.EXTENT, _around(box), Image.Resampling.BILINEAR, fillcolor=128)
    rectangles = finder()(np.ascontiguousarray(ImageOps.mirror(patch) if mirrored else patch), 0)
    near = [r for r in rectangles if abs(r.center().x - side / 2) + abs(r.center().y - side / 2) < width / 2]
    if len(near) != 1:
        return None
    left, pixel = side - 1 - near[0].right() if mirrored else near[0].left(), 2 * REACH * box.width / side
    return left * pixel, near[0].top() * pixel, near[0].width() * pixel, near[0].height() * pixel


def _refined(box: Box, looks: list[tuple[float, float, float, float] | None]) -> Box:
    """Mean of the repeated detections: a single box may be off by a tenth, which changes a network's prediction."""
    faces = [look for look in looks if look]
    if not faces:
        return box
    left, top, width, height = (float(value) for value in np.mean(faces, axis=0))
    corner = _around(box)
    return Box(corner[0] + left, corner[1] + top, width, height, box.sureness)


def crop_face(picture: Image.Image, box: Box, rule: CropRule, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Crop a face as the training faces are, uint8 (C, H, W); the picture's edge is repeated beyond it."""
    channels, height, width = shape
    left, top, side = rule.square(box)
    x0, y0, x1, y1 = (int(np.floor(v)) for v in (left, top, left + side, top + side))
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    rows, columns = (
        np.clip(np.arange(a, b), 0, n - 1) for a, b, n in ((y0, y1, picture.height), (x0, x1, picture.width))
    )
    inside = picture.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    pixels = np.asarray(inside.convert("L" if channels == 1 else "RGB"))
    square = Image.fromarray(pixels[np.ix_(rows - rows[0], columns - columns[0])])
    scaled = np.asarray(square.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=None))
    return np.ascontiguousarray(scaled[None] if channels == 1 else scaled.transpose(2, 0, 1))


def measure_rule(images: NDArray[np.uint8]) -> CropRule:
    """Measure the rule that turns a detected box into the crop of these training faces (N, C, H, W), by the median."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int))
    offsets = []
    for image in images[rows]:
        face = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        side, margin = 160, 80
        canvas = Image.new("L", (side + 2 * margin,) * 2, int(np.median(image)))
        canvas.paste(face.convert("L").resize((side, side), Image.Resampling.BICUBIC), (margin, margin))
        boxes = find_faces(canvas)
        if len(boxes) == 1:
            box = boxes[0]
            x, y = box.left + box.width / 2 - margin - side / 2, box.top + box.height / 2 - margin - side / 2
            offsets.append((side / box.width, -x / box.width, -y / box.width))
    if len(offsets) < FEWEST_FOUND:
        return CropRule()
    scale, right, down = (float(value) for value in np.median(offsets, axis=0))
    right, down = (float(np.clip(value, -1, 1)) for value in (right, down))
    return CropRule(scale=float(np.clip(scale, 0.5, 3)), right=right, down=down, measured_on=len(offsets))
