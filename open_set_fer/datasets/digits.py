"""Handwritten digits: large inter-class distance, a contrast to faces in Figures 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
from numpy.typing import NDArray
from PIL import Image

from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.faceset import Side
from open_set_fer.datasets.listing import CHUNK, Listing, Rows

CLASSES = tuple(map(str, range(10)))


@dataclass(frozen=True)
class Digits(PreparedDataSet):
    """scikit-learn's handwritten digits: 1,797 images of ten classes, enlarged from 8x8."""

    name = "digits"
    title = "Digits"
    guide = """scikit-learn's bundled handwritten digits, ten classes with a large distance between them, in contrast
to faces: needs no files."""
    classes = CLASSES

    image_size: Side = 48
    test_share: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.3
    """Fraction of each class in the test split, drawn with `seed`."""
    seed: int = 0
    """Seed of the test split."""

    def listing(self, cache: Path) -> Listing:
        """List the digits with classes '0' to '9'."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        data = load_digits()
        numbers = np.arange(len(data.target))
        _, test = train_test_split(numbers, test_size=self.test_share, random_state=self.seed, stratify=data.target)
        split = np.where(np.isin(numbers, test), "test", "train")
        rows = Rows.of(data.target, split, [f"digit-{i:04d}" for i in numbers])
        return Listing(self.name, CLASSES, rows, Enlarged(data.images, self.image_size), repr(self))


@dataclass(frozen=True)
class Enlarged:
    """Grey pictures (N, 8, 8) of levels 0 to 16, enlarged to `size` pixels a side."""

    pictures: NDArray[np.float64]
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, self.size, self.size

    def chunks(self, start: int) -> Iterator[NDArray[np.uint8]]:
        """Chunks uint8 (n, 1, H, W) from picture `start` on."""
        for at in range(start, len(self.pictures), CHUNK):
            levels = (self.pictures[at : at + CHUNK] * 15.9375).astype(np.uint8)
            faces = [np.asarray(Image.fromarray(face).resize((self.size, self.size))) for face in levels]
            yield np.stack(faces)[:, None]
