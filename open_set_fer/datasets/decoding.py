"""Parallel decoding of image files to uint8 arrays."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from open_set_fer.console import log
from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.listing import FORMATS, Listing, Rows, chunk_length, file_key
from open_set_fer.errors import SuiteError, joined

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture as viewers show it (turned as its EXIF says)."""

VERSION = 3
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

    boxes: crop of each image, None for the whole image. The data set's setting `clip_boxes`, if it has one, clips boxes
    that reach beyond their picture.
    """
    pixels = ImageFiles(paths, dataset.image_size, dataset.channels, boxes, getattr(dataset, "clip_boxes", False))
    key = f"{VERSION}/{dataset!r}/{boxes}/{file_key(dataset.name, paths)}"
    return Listing(dataset.name, classes, rows, pixels, key, notes or {})


@dataclass(frozen=True)
class Encoded:
    """An encoded image in memory, with the name that errors give it."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


Source = str | Encoded
"""Path of an image file, or the image itself."""
Piece = tuple[list[Source], list[Box | None]]


@dataclass(frozen=True)
class ImageFiles:
    """Image files to decode to `size` pixels a side and 1 (grey) or 3 (RGB) channels.

    boxes, clip: crops, as for `image_listing`.
    """

    paths: list[str]
    size: int
    channels: int
    boxes: list[Box | None] | None = None
    clip: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def chunks(self, start: int) -> Iterator[NDArray[np.uint8]]:
        """Decode chunks uint8 (n, C, H, W) from image `start` on, in order; SuiteError as `decode_pieces`."""
        boxes = self.boxes or [None] * len(self.paths)
        step = chunk_length(self.channels * self.size * self.size)
        parts = (slice(at, at + step) for at in range(start, len(self.paths), step))
        pieces: Iterator[Piece] = ((list(self.paths[part]), boxes[part]) for part in parts)
        yield from decode_pieces(pieces, self.size, self.channels, self.clip)


def image_paths(dataset: object, cache: Path) -> dict[str, str]:
    """Path of each image's file by the image's id; {} for a data set whose images are no single files."""
    listing = dataset.listing(cache) if isinstance(dataset, PreparedDataSet) else None
    if listing is None or not isinstance(listing.pixels, ImageFiles):
        return {}
    return dict(zip(listing.rows.ids.tolist(), listing.pixels.paths, strict=True))


def decode_pieces(pieces: Iterable[Piece], size: int, channels: int, clip: bool = False) -> Iterator[NDArray[np.uint8]]:
    """Decode each piece to uint8 (n, C, size, size), in order, on all cores.

    After the first image with a fault the others are still looked through; then one SuiteError names all faults.
    """
    import joblib
    from joblib.externals.loky import get_reusable_executor

    workers = joblib.cpu_count()
    executor = get_reusable_executor(max_workers=workers)
    # joblib's generator decodes ahead without limit: on a slow disk all images would pile up in memory.
    ahead: deque[Future[Decoded]] = deque()
    faults: list[SuiteError] = []
    clipped = 0

    def results() -> Iterator[Decoded]:
        for sources, boxes in pieces:
            ahead.append(executor.submit(decode_chunk, sources, size, channels, boxes, clip))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    try:
        for done in results():
            if done.faults and not faults:
                log.warning("%s; the other images are looked through for more", done.faults[0][0])
            faults += [SuiteError(message, fix) for message, fix in done.faults]
            clipped += done.clipped
            if not faults:
                yield done.pixels
    finally:
        for future in ahead:
            future.cancel()
        executor.shutdown()  # or joblib would reuse this executor for --jobs of as many workers
    if faults:
        raise joined(faults, "images")
    if clipped:
        log.warning("%d face boxes reached beyond their pictures and were clipped", clipped)


class Decoded(NamedTuple):
    """Pixels uint8 (n, C, H, W) of images without a fault, message and fix of each fault, number of clipped boxes."""

    pixels: NDArray[np.uint8]
    faults: list[tuple[str, str]]
    clipped: int


def decode_chunk(
    sources: Sequence[Source], size: int, channels: int, boxes: Sequence[Box | None], clip: bool = False
) -> Decoded:
    """Decode images to `size` pixels a side."""
    pixels, faults, clipped = [], [], 0
    for source, box in zip(sources, boxes, strict=True):
        try:
            picture = opened(source)
            inside = None if box is None else box_inside(source, picture, box, clip)
            clipped += inside != box
            pixels.append(_to_array(picture if inside is None else picture.crop(inside), size, channels))
        except SuiteError as error:
            faults.append((error.message, error.fix))
    stacked = np.stack(pixels) if pixels else np.zeros((0, channels, size, size), dtype=np.uint8)
    return Decoded(stacked, faults, clipped)


def decode(source: Source, size: int, channels: int, box: Box | None = None) -> NDArray[np.uint8]:
    """Decode an image to uint8 (C, size, size), grey or RGB; raises SuiteError as `opened` and `box_inside` do."""
    picture = opened(source)
    return _to_array(picture if box is None else picture.crop(box_inside(source, picture, box)), size, channels)


def opened(source: Source) -> Image.Image:
    """Read a picture, turned as its EXIF says, scaled to 8 bits and on black where it is transparent.

    Raises SuiteError naming a file that is missing, cut short, no image, of more than MAX_PIXELS, or of pixel values
    with an unclear white.
    """
    if isinstance(source, Encoded) and not source.data:
        raise SuiteError(f"{source} has no bytes of an image", "export the data set with its images, not their paths")
    try:
        with Image.open(source if isinstance(source, str) else BytesIO(source.data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SuiteError(
                    f"{source} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}", "crop it to the face"
                )
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return opaque(eight_bit(str(source), image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        fix, reason = "replace the file by an undamaged copy", str(error)
        if isinstance(source, Encoded):
            fix = "replace the bytes of that row by an undamaged image, or remove the row"
            reason = re.sub(r"<_io\.BytesIO object at 0x\w+>", "its bytes", reason)
        raise SuiteError(f"cannot decode image {source}: {reason}", fix) from error


def box_inside(source: Source, image: Image.Image, box: Box, clip: bool = False) -> Box:
    """Face box in a picture; SuiteError if it reaches beyond it, or with `clip` has less than half in it."""
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = min(box[2], image.width), min(box[3], image.height)
    inside = left, top, right, bottom
    whole = (box[2] - box[0]) * (box[3] - box[1])
    is_part = left < right and top < bottom and 2 * (right - left) * (bottom - top) >= whole
    if is_part and (clip or inside == box):
        return inside
    fix = "fix the manifest" + ("" if clip or not is_part else ", or set clip_boxes = true for this data set")
    raise SuiteError(f"{source}: face box {box} does not lie in its {image.width}x{image.height} pixels", fix)


def opaque(image: Image.Image) -> Image.Image:
    """The picture on black where it is transparent: the colours below are hidden to viewers."""
    if not image.has_transparency_data:
        return image
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), colours).convert("RGB")


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
