"""Parallel decoding of image files to uint8 arrays."""

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
"""Left, top, right, bottom in pixels of the picture as viewers show it (turned as its EXIF says)."""

VERSION = 2
"""Raised whenever a file decodes to other pixels, so that no older cache entry is read."""

MAX_PIXELS = 40_000_000
"""Larger faces are refused: a wrong file, or one made to exhaust memory."""


class ImageSettings(Protocol):
    """Settings of every data set of image files."""

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
    """List a data set of image files (N,); raises SuiteError for a missing one.

    boxes: crop of each image, None for the whole image.
    """
    pixels = ImageFiles(paths, dataset.image_size, dataset.channels, boxes)
    key = f"{VERSION}/{dataset!r}/{boxes}/{file_key(dataset.name, paths)}"
    return Listing(dataset.name, classes, rows, pixels, key, notes or {})


@dataclass(frozen=True)
class ImageFiles:
    """Image files to decode to `size` pixels a side and 1 (grey) or 3 (RGB) channels.

    boxes: crops, as for `image_listing`.
    """

    paths: list[str]
    size: int
    channels: int
    boxes: list[Box | None] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def chunks(self, start: int) -> Iterator[NDArray[np.uint8]]:
        """Decode chunks uint8 (n, C, H, W) from image `start` on, in order, on all cores."""
        import joblib
        from joblib.externals.loky import get_reusable_executor

        paths, boxes = self.paths, self.boxes or [None] * len(self.paths)
        step = chunk_length(self.channels * self.size * self.size)
        workers = joblib.cpu_count()
        executor = get_reusable_executor(max_workers=workers)
        # joblib's generator decodes ahead without limit: on a slow disk all images would pile up in memory.
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
            executor.shutdown()  # or joblib would reuse this executor for --jobs of as many workers


def decode_chunk(paths: list[str], size: int, channels: int, boxes: list[Box | None]) -> NDArray[np.uint8]:
    """Decode files to uint8 (n, C, size, size)."""
    return np.stack([decode(path, size, channels, box) for path, box in zip(paths, boxes, strict=True)])


def decode(path: str, size: int, channels: int, box: Box | None = None) -> NDArray[np.uint8]:
    """Decode an image file to uint8 (C, size, size), grey or RGB.

    It is turned as its EXIF says, cropped, scaled to 8 bits and resized with antialiasing. Raises SuiteError naming a
    file that is missing, cut short, no image, of more than MAX_PIXELS, or of pixel values with an unclear white.
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
                fix = "fix the manifest"
                raise SuiteError(f"{path}: face box {box} does not lie in its {image.width}x{image.height} pixels", fix)
            return _to_array(picture if box is None else picture.crop(box), size, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SuiteError(f"cannot decode image {path}: {error}", "replace the file by an undamaged copy") from error


def eight_bit(path: str, image: Image.Image) -> Image.Image:
    """Scale a picture of more than eight bits a pixel to eight.

    Pillow's conversion clips at 255. White is 65535 for integers and 1 for floats; raises SuiteError for values above
    it, or so far below it that the picture would be black: their meaning is unclear.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # False for NaN too
            raise _unclear(path, f"floating-point values from {low:g} to {high:g} instead of 0 to 1")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if low < 0 or high > 65535 or 0 < high < 256:
        raise _unclear(path, f"values from {low} to {high} where 16 bits go from 0 to 65535")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))


def _unclear(path: str, values: str) -> SuiteError:
    return SuiteError(f"{path} has {values}: what is white in it is not clear", "save it with 8 bits a channel")


def _to_array(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)  # antialiased when it shrinks
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))
