"""Shifts of closed faces, against SciPy and plain arithmetic."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from open_set_fer.benchmark.protocols.pool import DARKER, shifted


def smooth_faces(channels: int) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (3, channels, 48, 48))
    return gaussian_filter(noise, (0, 0, 2, 2)).clip(0, 255).astype(np.uint8)


def test_blur_is_gaussian_and_darker_is_darker():
    for channels in (1, 3):
        faces = smooth_faces(channels)
        expected = gaussian_filter(faces.astype(np.float64), (0, 0, 1, 1))
        # Pillow's blur is three box filters, which comes close.
        assert np.abs(shifted(faces, "blur") - expected)[..., 4:-4, 4:-4].max() < 3
        assert np.abs(shifted(faces, "brightness") - DARKER * faces).max() <= 1


def test_equalisation_spreads_the_values_of_each_channel_evenly_in_their_order():
    for channels in (1, 3):
        faces = smooth_faces(channels)
        equal = shifted(faces, "equalisation")
        assert equal.shape == faces.shape
        for before, after in zip(faces.reshape(-1, 48 * 48), equal.reshape(-1, 48 * 48), strict=True):
            assert (np.diff(after[np.argsort(before, kind="stable")].astype(int)) >= 0).all()
            share = (before[:, None] > before[None]).mean(axis=1)  # of darker pixels
            assert np.abs(after / 255 - share).max() < 0.02


def test_jpeg_loses_detail_and_keeps_the_face():
    faces = smooth_faces(1)
    lossy = shifted(faces, "jpeg").astype(np.int64)
    assert lossy.shape == faces.shape
    assert 0.5 < np.abs(lossy - faces).mean() < 8
    blocks = np.abs(np.diff(lossy - faces, axis=3)).mean(axis=(0, 1, 2))
    assert blocks[7::8].mean() > 1.2 * blocks[np.arange(47) % 8 != 7].mean()  # edges of 8 x 8 blocks
