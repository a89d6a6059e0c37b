"""Embedded data set ``synthetic``: rendered faces for demonstrations and tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
from numpy.typing import NDArray

from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.listing import Listing, Parts, Rows
from open_set_fer.datasets.synthetic.expressions import EXPRESSIONS
from open_set_fer.datasets.synthetic.renderer import VERSION, render_faces
from open_set_fer.ranges import CountOrZero


@dataclass(frozen=True)
class Synthetic(PreparedDataSet):
    """Rendered faces; results on them say nothing about real faces."""

    name = "synthetic"
    title = "Rendered faces"
    guide = """Rendered faces of the seven basic expressions, the eleven compound ones and contempt, drawn by the suite:
needs no files. For demonstrations and tests; results on them say nothing about real faces."""
    classes, channels = EXPRESSIONS, 1

    train_per_class: CountOrZero = 300
    """Train images of each basic expression."""
    test_per_class: CountOrZero = 80
    """Test images of each basic expression."""
    compound_per_class: CountOrZero = 40
    """Images of each compound expression; the first half, rounded down, is for training."""
    contempt_per_class: CountOrZero = 200
    """Images of contempt, split likewise."""
    valid_per_class: CountOrZero = 50
    """Images of split valid of each basic expression; the other faces are the same for every number."""
    seed: int = 0
    """Seed of the rendering."""
    image_size: Annotated[int, pydantic.Field(ge=16, le=1024)] = 48

    def listing(self, cache: Path) -> Listing:
        """Labels into EXPRESSIONS, split and ids ('synthetic-000123') of the faces to render."""
        basic = (self.train_per_class, self.test_per_class)
        compound, contempt = _halves(self.compound_per_class), _halves(self.contempt_per_class)
        counts = [basic] * 7 + [compound] * 11 + [contempt]
        labels = np.repeat(np.arange(len(EXPRESSIONS)), [train + test for train, test in counts])
        split = np.repeat(["train", "test"] * len(EXPRESSIONS), [count for pair in counts for count in pair])
        # Last, as a face depends on its place.
        labels = np.concatenate([labels, np.repeat(np.arange(7), self.valid_per_class)])
        split = np.concatenate([split, np.repeat("valid", 7 * self.valid_per_class)])
        rows = Rows.of(labels, split, [f"synthetic-{i:06d}" for i in range(len(labels))])

        def rendered(part: slice) -> NDArray[np.uint8]:
            return render_faces(rows.labels[part], self.seed, self.image_size, start=part.start)

        pixels = Parts((1, self.image_size, self.image_size), len(labels), rendered)
        return Listing(self.name, EXPRESSIONS, rows, pixels, f"{VERSION}/{self!r}", demonstration=True)


def _halves(count: int) -> tuple[int, int]:
    return count // 2, count - count // 2
