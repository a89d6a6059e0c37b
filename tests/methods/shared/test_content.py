"""Groups by content against a comparison of every pair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from open_set_fer.methods.shared.content import content_groups


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([1, 3]))
def test_a_group_is_every_pair_of_equal_or_mirrored_images(seed, n, channels):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 2, (n, channels, 1, 3), dtype=np.uint8)  # so small that copies are common
    expected = [
        next(
            first
            for first in range(row + 1)
            if (images[first] == image).all() or (images[first] == image[..., ::-1]).all()
        )
        for row, image in enumerate(images)
    ]
    groups = content_groups(images)
    assert groups.dtype == np.int64
    assert groups.tolist() == expected


def test_shape_is_part_of_the_content():
    """The same bytes as a wide and as a high image are two faces."""
    wide = np.zeros((1, 2, 4), dtype=np.uint8)
    assert content_groups([wide, wide.reshape(1, 4, 2)]).tolist() == [0, 1]
