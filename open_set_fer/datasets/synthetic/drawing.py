"""Random numbers and soft shapes that give the same bytes on every machine.

Random numbers come from an integer hash (splitmix64; Steele, Lea & Flood 2014) of seed, image index and parameter
index, and pixels are computed with exactly rounded operations only (+ - * / sqrt min max floor), never with exp, sin, a
reduction or a matrix product, whose last bit differs between processors and library versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[Any]  # float32 throughout; NumPy's stubs widen float32 with a Python number to float64
Keys = NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
# First counter of each random stream of an image; pixel noise takes the rest.
AU_STREAM, _FACE_STREAM, _NOISE_STREAM = 0, 256, 1024


def _mix(state: Keys) -> Keys:
    """Finaliser of splitmix64, elementwise."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def image_keys(seed: int, start: int, count: int) -> Keys:
    """One key per image, shape (count,)."""
    base = _mix(np.array([(int(seed) + _GOLDEN) & _MASK], dtype=np.uint64))
    return _mix(base + np.arange(start, start + count, dtype=np.uint64) * np.uint64(_GOLDEN))


def _hashes(keys: Keys, first: int, count: int) -> Keys:
    """Random 64-bit integers, shape (N, count): counters ``first`` ... of each image."""
    counters = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(keys[:, None] + counters)


def uniforms(keys: Keys, first: int, count: int) -> Float:
    """Uniform numbers in [0, 1), shape (N, count); 24 bits, so exact in float32."""
    values: Float = (_hashes(keys, first, count) >> np.uint64(40)).astype(np.float32)
    return values * 2.0**-24


def bells(keys: Keys, first: int, count: int) -> Float:
    """Bell-shaped numbers in [-1, 1], shape (N, count). Sums of three uniforms, standard deviation 1/3."""
    bits = _hashes(keys, first, count)
    low = np.uint64(0x1FFFFF)
    total = (bits & low) + ((bits >> np.uint64(21)) & low) + ((bits >> np.uint64(42)) & low)
    values: Float = total.astype(np.float32)
    return values * (2.0 / (3 * 2.0**21)) - 1


def noise(keys: Keys, size: int) -> Float:
    """Bell-shaped noise in [-1, 1], shape (N, size, size). Each value sums four bytes; one hash gives two values."""
    pairs = (size * size + 1) // 2
    bits = _hashes(keys, _NOISE_STREAM, pairs)
    low = np.uint64(0x00FF00FF00FF00FF)
    lanes = (bits & low) + ((bits >> np.uint64(8)) & low)
    lanes += lanes >> np.uint64(32)
    sums = np.empty((len(keys), 2 * pairs), dtype=np.float32)
    sums[:, 0::2] = lanes & np.uint64(0xFFFF)
    sums[:, 1::2] = (lanes >> np.uint64(16)) & np.uint64(0xFFFF)
    values: Float = sums[:, : size * size].reshape(len(keys), size, size)
    return values * (1 / 510) - 1


def unit(x: Float) -> Float:
    """Clip to [0, 1] in place."""
    np.maximum(x, 0, out=x)
    return np.minimum(x, 1, out=x)


def bump(square: Float) -> Float:
    """Smooth spot (1 - r²)² of a squared radius, zero outside 1, so that windows cut nothing."""
    x = 1 - square
    np.maximum(x, 0, out=x)
    x *= x
    return x


def paint(image: Float, alpha: Float, level: Float | float) -> None:
    """Blend ``level`` over ``image`` in place with opacity ``alpha``."""
    change = level - image
    change *= alpha
    image += change


class Draws:
    """Random parameters (N, 1, 1) of the faces of one block, in the order of the calls."""

    def __init__(self, keys: Keys, count: int) -> None:
        self._uniform = uniforms(keys, _FACE_STREAM, count)
        self._bell = bells(keys, _FACE_STREAM + count, count)
        self._next: Iterator[int] = iter(range(count))

    def uniform(self, low: float, high: float) -> Float:
        return (low + (high - low) * self._uniform[:, next(self._next)])[:, None, None]

    def bell(self, middle: float, spread: float) -> Float:
        """Bell-shaped within ``middle`` ± ``spread``."""
        return (middle + spread * self._bell[:, next(self._next)])[:, None, None]

    def chance(self, share: float) -> Float:
        """1 with probability ``share``, else 0."""
        return (self._uniform[:, next(self._next)] < share).astype(np.float32)[:, None, None]


class Canvas:
    """Coordinates of one block of images, or of a window of it.

    ``u`` and ``v``: float32 (N, h, w), position on the frontal face, u rightwards and v downwards, the unit being half
    an image side at scale 1. ``pixels``: pixels per unit.
    """

    def __init__(self, u: Float, v: Float, pixels: float) -> None:
        self.u, self.v, self.pixels = u, v, pixels
        self.side = np.where(u < 0, np.float32(-1), np.float32(1))
        self.across = np.abs(u)

    def part(self, where: tuple[slice, slice, slice]) -> Canvas:
        """A window of this canvas."""
        return Canvas(np.ascontiguousarray(self.u[where]), np.ascontiguousarray(self.v[where]), self.pixels)

    def band(self, top: Float, bottom: Float) -> Float:
        """Opacity of the pixels between the curves v = top and v = bottom; 0 where they cross."""
        inside = self.edge(self.v - top)
        inside -= self.edge(self.v - bottom)
        return np.maximum(inside, 0, out=inside)

    def line(self, distance: Float, half_width: float = 0.02) -> Float:
        """Opacity of a soft line at distance 0, at least as thick as a pixel can show."""
        x = np.abs(distance)
        x *= -1 / max(half_width, 0.9 / self.pixels)
        x += 1
        return np.maximum(x, 0, out=x)

    def edge(self, depth: Float) -> Float:
        """Opacity of the region ``depth`` > 0, softened over a pixel."""
        x = depth * self.pixels
        x += 0.5
        return unit(x)


def spot(along: Float, down: Float, width: Float | float, height: Float | float) -> Float:
    """A soft elliptic spot of the given half axes, 1 in its middle and 0 outside."""
    along, down = along * (1 / width), down * (1 / height)
    along *= along
    down *= down
    along += down
    return bump(along)


def window(u: Float, v: Float, half_width: float, top: float, bottom: float) -> tuple[slice, slice, slice]:
    """Smallest window holding |u| < half_width and top < v < bottom in all images of a block."""
    inside = (np.abs(u) < half_width) & (v > top) & (v < bottom)
    rows = np.flatnonzero(inside.any(axis=(0, 2)))
    columns = np.flatnonzero(inside.any(axis=(0, 1)))
    if not rows.size:
        return slice(None), slice(0), slice(0)
    return slice(None), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
