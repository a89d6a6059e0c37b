"""Groups of images with the same content: identical pixels, as they are or mirrored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def content_groups(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Index (N,) of the first image with the same pixels, of N images uint8 (C, H, W); a mirrored copy counts.

    >>> face = np.arange(8, dtype=np.uint8).reshape(1, 2, 4)
    >>> content_groups([face, face + 1, face[..., ::-1], face + 1])
    array([0, 1, 0, 1])
    """
    first: dict[bytes, int] = {}
    groups = [first.setdefault(_digest(image), row) for row, image in enumerate(images)]
    return np.array(groups, dtype=np.int64)


def _digest(image: NDArray[np.uint8]) -> bytes:
    """The smaller one of the digests of an image and its mirror image, with the shape."""
    shape = repr(image.shape).encode()
    return min(hashlib.blake2b(shape + side.tobytes(), digest_size=16).digest() for side in (image, image[..., ::-1]))
