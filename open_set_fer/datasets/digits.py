"""Handwritten digits: large inter-class distance, a contrast to faces in Figures 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
from numpy.typing import NDArray
from PIL import Image

from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.faceset import Side
from open_set_fer.datasets.listing import Listing, Parts, Rows

CLASSES = tuple(map(str, range(10)))


@dataclass(frozen=True)
class Digits(PreparedDataSet):
    """scikit-learn's handwritten digits: 1,797 images of ten classes, enlarged from 8x8."""

    name, channels = "digits", 1
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

        def enlarged(part: slice) -> NDArray[np.uint8]:
            levels = (data.images[part] * 15.9375).astype(np.uint8)  # of 0 to 16
            return np.stack([np.asarray(Image.fromarray(face).resize((size, size))) for face in levels])[:, None]

        size = self.image_size
        return Listing(self.name, CLASSES, rows, Parts((1, size, size), len(numbers), enlarged), repr(self))
