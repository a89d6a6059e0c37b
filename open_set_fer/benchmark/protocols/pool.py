"""Parts of the test pool, for studies of transductive methods, and shifts that a detector of unknowns should ignore."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from open_set_fer.errors import SuiteError

OpenFrom = Literal["both", "test"]
SHIFT: Literal["shift"] = "shift"
"""The family of protocols on a pool with a shift; not a choice of profiles: `Pool.shift` sets it."""
Shift = Literal["blur", "jpeg", "brightness", "equalisation"]
JPEG_QUALITY = 15
"""Severity 3 of Hendrycks and Dietterich (2019)."""
DARKER = 0.6
"""Factor of each pixel's value under 'brightness'."""


class Pool(pydantic.BaseModel):
    """A part of the test pool, for studies of transductive methods: number of images and open fraction.

    open_from: splits whose open faces may be in it.
    scored: with 'others' a method may learn from the pool, and the test faces outside it are scored; such a pool may
        have no open faces.
    against: closed faces that a method compares the pool with in place of the training images: those of split 'valid',
        on which nothing was trained, or as many of each class of 'train', on which the closed-set model was trained.
    shift: closed faces only, half of them shifted; the AUROC separates shifted from unshifted faces, so that a good
        detector has one near 0.5.
    """

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)
    size: int = pydantic.Field(gt=1)
    open_share: float = pydantic.Field(ge=0, lt=1)
    open_from: OpenFrom = "both"
    scored: Literal["pool", "others"] = "pool"
    against: Literal["", "train", "valid"] = ""
    shift: Shift | None = None

    @pydantic.model_validator(mode="after")
    def _checked(self) -> Pool:
        if self.shift and (self.open_share > 0 or self.scored == "others" or self.open_from == "test"):
            fix = "open_share = 0.0, and no scored or open_from"
            raise SuiteError("protocols.pools: a pool with a shift has closed faces alone, all of them scored", fix)
        if self.open_share == 0 and not self.shift and self.scored == "pool":
            fix = 'score the others (scored = "others"), or give it an open_share above 0'
            raise SuiteError("protocols.pools: a pool without open faces has nothing to find in it", fix)
        return self

    @property
    def drawn(self) -> str:
        """Seed text of the images: pools with the same text have the same images."""
        if self.shift:
            return f"{self.size} closed faces, half shifted"
        return f"{self.size} images, {100 * self.open_share:g}% open"

    @property
    def text(self) -> str:
        """Display text."""
        size = f"{self.size} closed faces, half with {self.shift}" if self.shift else self.drawn
        scored = ", the others scored" if self.scored == "others" else ""
        return size + scored + (f", against split {self.against}" if self.against else "")

    def content(self) -> list[Any]:
        """Part of a cell's key; excludes `open_from`, which is the protocol's."""
        extra = {"scored": self.scored if self.scored == "others" else "", "against": self.against, "shift": self.shift}
        return [self.size, self.open_share, *(text for pair in extra.items() if pair[1] for text in pair)]

    @classmethod
    def of_content(cls, content: list[Any]) -> Pool:
        """The pool that has this `content()`."""
        size, share, *extra = content
        return cls.model_validate({"size": size, "open_share": share} | dict(zip(extra[::2], extra[1::2], strict=True)))


def shifted(images: NDArray[np.uint8], shift: Shift) -> NDArray[np.uint8]:
    """Shifted copies of uint8 (N, C, H, W), C 1 or 3.

    blur: Gaussian, of 1/48 of the side. jpeg: quality JPEG_QUALITY. brightness: DARKER. equalisation: of each channel's
    histogram.
    """
    return np.stack([_one(image, shift) for image in images]) if len(images) else images.copy()


def _one(image: NDArray[np.uint8], shift: Shift) -> NDArray[np.uint8]:
    from PIL import Image, ImageEnhance, ImageFilter, ImageOps

    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    if shift == "blur":
        picture = picture.filter(ImageFilter.GaussianBlur(picture.width / 48))
    elif shift == "jpeg":
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        picture = Image.open(buffer)
    elif shift == "equalisation":
        picture = ImageOps.equalize(picture)
    else:
        picture = ImageEnhance.Brightness(picture).enhance(DARKER)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
