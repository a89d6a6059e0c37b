"""Parts of the test pool, for studies of transductive methods."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from open_set_fer.benchmark.protocols.shifts import Shift
from open_set_fer.errors import SuiteError

OpenFrom = Literal["both", "test"]


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
            raise SuiteError(
                "protocols.pools: a pool with a shift has closed faces alone, all of them scored",
                "open_share = 0.0, and no scored or open_from",
            )
        if self.open_share == 0 and not self.shift and self.scored == "pool":
            raise SuiteError(
                "protocols.pools: a pool without open faces has nothing to find in it",
                'score the others (scored = "others"), or give it an open_share above 0',
            )
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
