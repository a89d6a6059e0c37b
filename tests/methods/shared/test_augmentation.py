"""Augmentation: areas, shares and variances as stated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from open_set_fer.methods.shared.augmentation import add_noise, flip_or_noise, move, random_erase


def test_random_erase_makes_one_rectangle_of_the_stated_area():
    x = torch.ones(4000, 1, 48, 48)
    y = random_erase(x, torch.Generator().manual_seed(0), probability=0.5)
    hit = (y == 0).any(dim=3).any(dim=2).any(dim=1)
    assert abs(hit.float().mean().item() - 0.5) < 0.03
    holes = (y[hit, 0] == 0).float()
    rows, columns = holes.amax(2).sum(1), holes.amax(1).sum(1)
    assert torch.equal(holes.sum((1, 2)), rows * columns)  # a full rectangle
    area = holes.mean((1, 2))
    assert area.min() > 0.01
    assert area.max() < 0.27
    assert abs(area.mean().item() - 0.135) < 0.01
    assert (
        max(rows.max(), columns.max()) <= round(48 * (0.25 * 3.3) ** 0.5) < 48
    )  # it fits, so that none is drawn again
    assert torch.equal(random_erase(x, torch.Generator(), probability=0.0), x)


def test_noise_share_and_variance():
    """Of the 0-255 scale, whatever a channel's normalisation; the other images stay as they are."""
    x, std = torch.rand(2000, 3, 8, 8), torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    noise = (add_noise(x, std, torch.Generator().manual_seed(0), 0.3) - x) * std * 255
    noisy = (noise != 0).flatten(1).any(1)
    assert noisy.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert noise[noisy].var(dim=(0, 2, 3)).tolist() == pytest.approx([30] * 3, rel=0.02)
    assert torch.equal(add_noise(x, std, torch.Generator(), 0.0), x)


def test_flip_or_noise_shares_and_variance():
    x = torch.linspace(-1, 1, 32).expand(4000, 1, 8, 32)
    y = flip_or_noise(x, torch.tensor(0.25), torch.Generator().manual_seed(0))
    flipped = torch.isclose(y, x.flip(-1)).all(dim=(1)).flatten(1).all(1)
    same = (y == x).flatten(1).all(1)
    assert abs(flipped.float().mean().item() - 0.25) < 0.03
    assert abs(same.float().mean().item() - 0.5) < 0.03
    noise = (y - x)[~flipped & ~same] * 0.25 * 255
    assert noise.var().item() == pytest.approx(30, rel=0.02)


def test_move_is_flip_rotation_scale_and_shift_about_the_centre():
    """Against SciPy's sampling of the points that the same draw leads to; half of the images are mirrored."""
    x = torch.rand(64, 1, 15, 17, generator=torch.Generator().manual_seed(1))
    moved = move(x, torch.Generator().manual_seed(0), shift=0.1, rotation=20, scale=0.2)
    draw = (torch.rand((5, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1).double().numpy()
    v, u = np.meshgrid((2 * np.arange(15) + 1) / 15 - 1, (2 * np.arange(17) + 1) / 17 - 1, indexing="ij")
    for face, result, (turn, size, right, down, mirror) in zip(x, moved, draw.T, strict=True):
        angle, scale = turn * math.radians(20), 1.2**size
        from_u = scale * (math.cos(angle) * (-u if mirror < 0 else u) - math.sin(angle) * v) + 0.2 * right
        from_v = scale * (math.sin(angle) * (-u if mirror < 0 else u) + math.cos(angle) * v) + 0.2 * down
        places = np.array([((from_v + 1) * 15 - 1) / 2, ((from_u + 1) * 17 - 1) / 2])
        expected = map_coordinates(face[0].double().numpy(), places, order=1, mode="nearest")
        np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-5)
    still = move(x, torch.Generator().manual_seed(0), shift=0, rotation=0, scale=0)
    mirrored = torch.isclose(still, x.flip(-1), atol=1e-5).flatten(1).all(1)
    assert torch.isclose(still[~mirrored], x[~mirrored], atol=1e-5).all()
    assert 16 < mirrored.sum().item() < 48
