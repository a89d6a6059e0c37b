"""Augmentation of whole batches on tensors: no per-image Python in a training step.

Random numbers are drawn on the CPU from the caller's generator, so that a seed means the same on every device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_erase(
    x: Tensor,
    generator: torch.Generator,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.25),
    aspect: tuple[float, float] = (0.3, 3.3),
) -> Tensor:
    """Zero a rectangle in each image (N, C, H, W) with a probability (Zhong et al. 2020).

    area: fraction of the image; aspect: height / width, log-uniform. Zero is the mean of a normalised image. In a
    square image a rectangle of these ranges always fits: its longest side is at most sqrt(0.25 * 3.3) = 0.91 of a side.
    A larger one is clipped to the image, where the original draws again.
    """
    n, _, height, width = x.shape
    draw = torch.rand((5, n), generator=generator)
    size = (area[0] + draw[0] * (area[1] - area[0])) * height * width
    ratio = torch.exp(math.log(aspect[0]) + draw[1] * (math.log(aspect[1]) - math.log(aspect[0])))
    h = (size * ratio).sqrt().round().clamp(1, height)
    w = (size / ratio).sqrt().round().clamp(1, width)
    top = (draw[2] * (height - h + 1)).floor()
    left = (draw[3] * (width - w + 1)).floor()
    rows = torch.arange(height)
    columns = torch.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + h)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + w)[:, None])
    erased = in_rows[:, None, :, None] & in_columns[:, None, None, :] & (draw[4] < probability)[:, None, None, None]
    return x.masked_fill(erased.to(x.device), 0.0)


NOISE = math.sqrt(30) / 255
"""Standard deviation of the authors' noise (variance 30 on the 0-255 scale), on the scale of images in [0, 1]."""


def add_noise(x: Tensor, std: Tensor, generator: torch.Generator, probability: float) -> Tensor:
    """Add the authors' Gaussian noise to each image of (N, C, H, W) with the given probability.

    Here to the prepared image; the authors add it to the file's pixels, before resizing, and clip to 0-255.
    """
    noisy = (torch.rand(len(x), generator=generator) < probability)[:, None, None, None].to(x.device)
    return torch.where(noisy, x + _noise(x, std, generator), x)


def _noise(x: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    if x.device.type == "cpu":
        noise = torch.randn(x.shape, generator=generator)
    else:  # drawn on the device: a batch of floats takes four times its images' transfer
        on_device = torch.Generator(x.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        noise = torch.randn(x.shape, generator=on_device, device=x.device)
    return noise.mul_(NOISE) / std


def flip_or_noise(x: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Flip horizontally or add noise, each with probability 1/4 (authors' code).

    Gaussian noise of variance 30 on the 0-255 scale. std: the normalisation's standard deviation, which puts the
    noise on the scale of `x`.
    """
    choice = torch.rand(len(x), generator=generator)
    flipped = torch.where((choice < 0.25)[:, None, None, None].to(x.device), x.flip(-1), x)
    noise = _noise(x, std, generator)
    return torch.where(((choice >= 0.25) & (choice < 0.5))[:, None, None, None].to(x.device), flipped + noise, flipped)


def move(
    x: Tensor, generator: torch.Generator, shift: float = 0.08, rotation: float = 10.0, scale: float = 0.1
) -> Tensor:
    """Flip, rotate, scale and shift each image of (N, C, H, W), in one bilinear sampling.

    shift: largest, as a fraction of a side; rotation: largest, in degrees; scale: by up to 1 + scale or its inverse,
    log-uniform. Outside pixels repeat the edge.
    """
    draw = torch.rand((5, len(x)), generator=generator) * 2 - 1
    angle, size = draw[0] * math.radians(rotation), torch.exp(draw[1] * math.log1p(scale))
    mirror = torch.where(draw[4] < 0, -1.0, 1.0)
    cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
    rows = [
        torch.stack([mirror * cosine, -sine, 2 * shift * draw[2]], dim=1),
        torch.stack([mirror * sine, cosine, 2 * shift * draw[3]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(x), list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def vary(x: Tensor, std: Tensor, generator: torch.Generator, kind: str) -> Tensor:
    """Change a batch (N, C, H, W) as the closed-set recipe's `augmentation` says, before erasing."""
    return move(x, generator) if kind == "geometry" else flip_or_noise(x, std, generator)
