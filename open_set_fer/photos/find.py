"""Faces in photographs: found by dlib's frontal face detector, whose model is a part of the library, and cropped.

A network knows faces as its data set crops them. The finder's box is therefore widened and moved by a rule that is measured
on training faces of the data set (`measure_rule`): where the finder sees the face in a training image.
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
from open_set_fer.datasets.listing import FORMATS
from open_set_fer.errors import SuiteError, summary

LONG_SIDE = 1000
"""Pixels of the long side at which faces are looked for: time is bounded, and faces from about 80 pixels on are found.
Pictures below it are enlarged towards it, no more than twice."""
SMALL_SIDE = 500
"""Pictures smaller than half of this are enlarged to it, so that a small portrait's face is large enough to be found."""
MOST_PIXELS = 50_000_000
"""Of a picture; more are refused before they are decoded."""
SAMPLE = 300
"""Training faces that the rule is measured on."""
LOOKS = tuple((width, mirrored) for width in (92, 100, 109) for mirrored in (False, True))
"""Pixels of a face at which the finder looks again, and whether in the mirror: a third of its step in size apart, above its least of 80."""
REACH = 1.1
"""Widths of a face to either side of its centre in which it is looked for again."""
FEWEST_FOUND = 30
"""Below this the rule is the default."""


def read_photo(source: BinaryIO | bytes) -> Image.Image:
    """A picture, turned as its camera held it, RGB; SuiteError for what is none, is broken or too large."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(file, formats=FORMATS)
            if picture.width * picture.height > MOST_PIXELS:
                raise SuiteError(
                    f"the picture has {picture.width} x {picture.height} pixels, more than {MOST_PIXELS:,}",
                    "scale it down",
                )
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return picture if picture.mode == "RGB" else picture.convert("RGB")
    except SuiteError:
        raise
    except UnidentifiedImageError as error:
        raise SuiteError("is no picture that can be read", "JPEG, PNG, WebP, BMP, GIF or TIFF") from error
    except Exception as error:  # a decoder's own, and there is one a format
        raise SuiteError(f"cannot be decoded: {summary(error)}", "save it again as JPEG or PNG") from error


_thread = threading.local()


def finder() -> Any:
    """dlib's detector, one a thread, as it keeps what it scans; SuiteError where dlib is not installed."""
    if not hasattr(_thread, "finder"):
        try:
            import dlib
        except ImportError as error:
            raise SuiteError(f"faces are found with dlib ({error})", "pip install 'open-set-fer[detect]'") from error
        _thread.finder = dlib.get_frontal_face_detector()
    return _thread.finder


@cache
def _lookers() -> ThreadPoolExecutor:
    """Threads that look again at once: dlib lets go of Python's lock, and eight faces take 48 looks."""
    return ThreadPoolExecutor(os.cpu_count(), "finder")


def find_faces(picture: Image.Image) -> list[Box]:
    """The faces of a picture, from left to right."""
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
    refined = [_refined(box, [look.result() for look in of]) for box, of in zip(boxes, looks, strict=True)]
    return sorted(refined, key=lambda box: (box.left, box.top))


def _around(box: Box) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square that is looked at again."""
    x, y, reach = box.left + box.width / 2, box.top + box.height / 2, REACH * box.width
    return x - reach, y - reach, x + reach, y + reach


def _look(grey: Image.Image, box: Box, width: int, mirrored: bool) -> tuple[float, float, float, float] | None:
    """(left, top, width, height) of the one face that the finder sees around the box, scaled to `width`, from that area's corner; else None."""
    side = round(2 * REACH * width)
    patch = grey.transform((side, side), Image.Transform.EXTENT, _around(box), Image.Resampling.BILINEAR, fillcolor=128)
    rectangles = finder()(np.ascontiguousarray(ImageOps.mirror(patch) if mirrored else patch), 0)
    near = [r for r in rectangles if abs(r.center().x - side / 2) + abs(r.center().y - side / 2) < width / 2]
    if len(near) != 1:
        return None
    left, pixel = side - 1 - near[0].right() if mirrored else near[0].left(), 2 * REACH * box.width / side
    return left * pixel, near[0].top() * pixel, near[0].width() * pixel, near[0].height() * pixel


def _refined(box: Box, seen: list[tuple[float, float, float, float] | None]) -> Box:
    """The mean of what the finder sees around the box at other sizes, and in the mirror.

    It looks in steps of a fifth of the size: one look alone may be off by a tenth, which a network notices.
    """
    found = [look for look in seen if look]
    if not found:
        return box
    left, top, width, height = (float(value) for value in np.mean(found, axis=0))
    corner = _around(box)
    return Box(corner[0] + left, corner[1] + top, width, height, box.sureness)


def crop_face(picture: Image.Image, box: Box, rule: CropRule, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """uint8 (C, H, W): the face as the training faces are cropped; what is beyond the picture's edge repeats the edge."""
    channels, height, width = shape
    left, top, side = rule.square(box)
    x0, y0, x1, y1 = (int(np.floor(v)) for v in (left, top, left + side, top + side))
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    rows, columns = (
        np.clip(np.arange(a, b), 0, n - 1) for a, b, n in ((y0, y1, picture.height), (x0, x1, picture.width))
    )
    seen = picture.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    pixels = np.asarray(seen.convert("L" if channels == 1 else "RGB"))
    square = Image.fromarray(pixels[np.ix_(rows - rows[0], columns - columns[0])])
    scaled = np.asarray(square.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=None))
    return np.ascontiguousarray(scaled[None] if channels == 1 else scaled.transpose(2, 0, 1))


def measure_rule(images: NDArray[np.uint8]) -> CropRule:
    """The rule by which the finder's box becomes the crop that these training faces (N, C, H, W) are.

    Each of a sample is put, enlarged, on a canvas; the medians of where the finder sees its face are the rule.
    """
    rows = np.unique(np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int))
    seen = []
    for image in images[rows]:
        face = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        side, margin = 160, 80
        canvas = Image.new("L", (side + 2 * margin,) * 2, int(np.median(image)))
        canvas.paste(face.convert("L").resize((side, side), Image.Resampling.BICUBIC), (margin, margin))
        boxes = find_faces(canvas)
        if len(boxes) == 1:
            box = boxes[0]
            x, y = box.left + box.width / 2 - margin - side / 2, box.top + box.height / 2 - margin - side / 2
            seen.append((side / box.width, -x / box.width, -y / box.width))
    if len(seen) < FEWEST_FOUND:
        return CropRule()
    scale, right, down = (float(value) for value in np.median(seen, axis=0))
    return CropRule(
        scale=float(np.clip(scale, 0.5, 3)),
        right=float(np.clip(right, -1, 1)),
        down=float(np.clip(down, -1, 1)),
        measured_on=len(seen),
    )
