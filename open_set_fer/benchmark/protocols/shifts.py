"""Shifts of closed faces that a detector of unknown expressions should ignore, on uint8 images."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SHIFT: Literal["shift"] = "shift"
"""The family of protocols on a pool with a shift; not a choice of profiles: `Pool.shift` sets it."""
Shift = Literal["blur", "jpeg", "brightness"]
JPEG_QUALITY = 15
"""Severity 3 of Hendrycks and Dietterich (2019)."""
DARKER = 0.6
"""Factor of each pixel's value under 'brightness'."""


def shifted(images: NDArray[np.uint8], shift: Shift) -> NDArray[np.uint8]:
    """Shifted copies of uint8 (N, C, H, W), C 1 or 3: blur (Gaussian, 1/48 of the side), jpeg, or darker."""
    return np.stack([_one(image, shift) for image in images]) if len(images) else images.copy()


def _one(image: NDArray[np.uint8], shift: Shift) -> NDArray[np.uint8]:
    from PIL import Image, ImageEnhance, ImageFilter

    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    if shift == "blur":
        picture = picture.filter(ImageFilter.GaussianBlur(picture.width / 48))
    elif shift == "jpeg":
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        picture = Image.open(buffer)
    else:
        picture = ImageEnhance.Brightness(picture).enhance(DARKER)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
