"""Image files as uint8 arrays, decoded in parallel."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from open_set_fer.datasets.listing import FORMATS, Listing, Rows, chunk_length, file_key
from open_set_fer.errors import SuiteError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture as viewers show it, turned as its EXIF says."""

VERSION = 2
"""Raised whenever a file decodes to other pixels, so that no cache entry of an earlier version is read."""

MAX_PIXELS = 40_000_000
"""A face of more pixels is refused: it is a wrong file, or one made to exhaust memory."""


class ImageSettings(Protocol):
    """The settings that every data set of image files has."""

    @property
    def name(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def channels(self) -> int: ...


def image_listing(
    dataset: ImageSettings,
    classes: tuple[str, ...],
    rows: Rows,
    paths: list[str],
    boxes: list[Box | None] | None = None,
    notes: dict[str, dict[str, int]] | None = None,
) -> Listing:
    """The listing of a data set whose images are files, (N,) as the rows; raises SuiteError for one that is missing.

    boxes: what to keep of each image, None for all of it.
    """
    pixels = ImageFiles(paths, dataset.image_size, dataset.channels, boxes)
    key = f"{VERSION}/{dataset!r}/{boxes}/{file_key(dataset.name, paths)}"
    return Listing(dataset.name, classes, rows, pixels, key, notes or {})


@dataclass(frozen=True)
class ImageFiles:
    """Image files to be decoded to `size` pixels a side and 1 (grey) or 3 (RGB) channels; boxes: where to crop."""

    paths: list[str]
    size: int
    channels: int
    boxes: list[Box | None] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.channels, self.size, self.size

    def chunks(self, start: int) -> Iterator[NDArray[np.uint8]]:
        """uint8 (n, C, H, W) chunks from image `start` on, in order, decoded on all cores."""
        import joblib
        from joblib.externals.loky import get_reusable_executor

        paths, boxes = self.paths, self.boxes or [None] * len(self.paths)
        step = chunk_length(self.channels * self.size * self.size)
        workers = joblib.cpu_count()
        executor = get_reusable_executor(max_workers=workers)
        # joblib's own generator goes on decoding however slowly its results are taken: on a slow disk all would pile up.
        ahead: deque[Future[NDArray[np.uint8]]] = deque()
        try:
            for at in range(start, len(paths), step):
                part = slice(at, at + step)
                ahead.append(executor.submit(decode_chunk, paths[part], self.size, self.channels, boxes[part]))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
            executor.shutdown()  # joblib's own pool of as many workers would take it for one of its own (--jobs)


def decode_chunk(paths: list[str], size: int, channels: int, boxes: list[Box | None]) -> NDArray[np.uint8]:
    """uint8 (n, C, size, size) of these files."""
    return np.stack([decode(path, size, channels, box) for path, box in zip(paths, boxes, strict=True)])


def decode(path: str, size: int, channels: int, box: Box | None = None) -> NDArray[np.uint8]:
    """One image file as uint8 (C, size, size): turned as its EXIF says, cropped, scaled to 8 bits, grey or RGB, antialiased.

    Raises SuiteError naming a file that is missing, cut short, no image, of more than MAX_PIXELS, or of pixel values that
    do not say what is white.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SuiteError(
                    f"{path} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}", "crop it to the face"
                )
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            picture = eight_bit(path, image)
            if box is not None and not (0 <= box[0] < box[2] <= image.width and 0 <= box[1] < box[3] <= image.height):
                raise SuiteError(
                    f"{path}: face box {box} does not lie in its {image.width}x{image.height} pixels",
                    "fix the manifest",
                )
            return _to_array(picture if box is None else picture.crop(box), size, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SuiteError(f"cannot decode image {path}: {error}", "replace the file by an undamaged copy") from error


def eight_bit(path: str, image: Image.Image) -> Image.Image:
    """A picture of more than eight bits a pixel scaled to eight; any other as it is.

    Pillow's own conversion clips at 255. White is 65535 in whole numbers and 1 in floating point; raises SuiteError for
    values that are beyond it, or so far below that the picture would be black: what they mean is anyone's guess.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also where one is not a number
            raise _unclear(path, f"floating-point values from {low:g} to {high:g} instead of 0 to 1")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if low < 0 or high > 65535 or 0 < high < 256:
        raise _unclear(path, f"values from {low} to {high} where 16 bits go from 0 to 65535")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))


def _unclear(path: str, what: str) -> SuiteError:
    return SuiteError(f"{path} has {what}: what is white in it is not clear", "save it with 8 bits a channel")


def _to_array(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)  # antialiased when it shrinks
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))
