"""Procedurally rendered grey faces that show FACS action units: drawings, which show no person.

Every face is a function of an identity (head, skin, hair, brows, eyes, nose, mouth, glasses, beard), of the capture
(pose, light, blur, noise, occluder) and of the activations of the action units of its expression. The same arguments
give the same bytes on every machine (see `drawing`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from open_set_fer.datasets.synthetic.drawing import (
    Canvas,
    Draws,
    Float,
    Keys,
    bump,
    image_keys,
    noise,
    paint,
    spot,
    unit,
    window,
)
from open_set_fer.datasets.synthetic.expressions import AU_NAMES, DEFAULT_SETTINGS, RenderSettings, sample_action_units
from open_set_fer.datasets.synthetic.features import LowerFace, UpperFace

VERSION = 1
"""Raised whenever rendering changes a pixel, so that no cache keeps the old faces."""

# Pixels rendered together, so that the working arrays stay in the processor's cache.
_BLOCK_PIXELS = 36_864


class _Block:
    """One block of images while it is painted, layer by layer."""

    def __init__(self, activations: Float, keys: Keys, size: int, settings: RenderSettings) -> None:
        """activations: (N, A)."""
        self.keys, self.size, self.settings = keys, size, settings
        self.person, self.capture = settings.identity, settings.capture
        self.au = {name: activations[:, j, None, None] for j, name in enumerate(AU_NAMES)}
        self.draws = Draws(keys, 96)

    def render(self) -> NDArray[np.uint8]:
        """Images uint8 (N, size, size). The layers draw random numbers in this order."""
        self._pose()
        self._shape_head()
        self._paint_head()
        self._paint_features()
        self._paint_hair()
        self._paint_light()
        self._paint_capture()
        grey: NDArray[np.uint8] = np.floor(unit(self.image) * 255 + 0.5).astype(np.uint8)
        return grey

    def _pose(self) -> None:
        """Place the head (p, q) and, slid over its curve by yaw and pitch, the features (u, v)."""
        draws, capture = self.draws, self.capture
        axis = ((2 * np.arange(self.size, dtype=np.float32) + 1) / self.size - 1).astype(np.float32)
        t = draws.bell(0, 0.13 * capture)  # the tangent of half the rotation, so that no sine is needed
        inverse = 1 / ((1 + t * t) * draws.bell(1.0, 0.12 * capture))
        cosine, sine = (1 - t * t) * inverse, 2 * t * inverse
        x = axis[None, None, :] - draws.bell(0, 0.12 * capture)
        y = axis[None, :, None] - draws.bell(0, 0.10 * capture)
        self.p, self.q = cosine * x + sine * y, cosine * y - sine * x
        yaw, pitch = draws.bell(0, 0.28 * capture), draws.bell(0, 0.14 * capture)
        depth = np.maximum(1 - self.p * self.p - 0.6 * self.q * self.q, 0)
        self.u, self.v = self.p - yaw * depth, self.q - pitch * depth
        self.face = Canvas(self.u, self.v, self.size / 2)

    def _shape_head(self) -> None:
        """Outline: an ellipse that the jaw makes taper (or square); AU26 and AU27 lower the chin."""
        draws, person = self.draws, self.person
        self.half_width, top = draws.bell(0.72, 0.07 * person), draws.bell(0.95, 0.04 * person)
        chin = draws.bell(0.90, 0.06 * person) + 0.05 * self.au["AU26"] + 0.10 * self.au["AU27"]
        taper, squareness = draws.bell(0.16, 0.14 * person), draws.bell(0.35, 0.35 * person)
        nx = self.p / self.half_width
        below = np.maximum(self.q, 0)
        nx *= 1 + taper * below
        ny = np.minimum(self.q, 0) / top + below / chin
        sx, sy = nx * nx, ny * ny
        self.nx, self.ny, self.square_radius = nx, ny, sx + sy
        radius = np.sqrt(self.square_radius)
        corner = np.sqrt(np.sqrt(sx * sx + sy * sy))
        self.head = self.face.edge((1 - radius - squareness * (corner - radius)) * 0.8)

    def _paint_head(self) -> None:
        """Background, hair behind the head, neck, ears."""
        draws, person, capture, face, p, q = self.draws, self.person, self.capture, self.face, self.p, self.q
        skin = draws.uniform(0.68 - 0.20 * person, 0.68 + 0.18 * person)
        self.hair = draws.uniform(0.22 - 0.14 * person, 0.22 + 0.18 * person)
        backdrop, slope = draws.uniform(0.45 - 0.35 * capture, 0.45 + 0.4 * capture), draws.bell(0, 0.25 * capture)
        shirt = draws.uniform(0.2, 0.2 + 0.6 * person)
        self.image = backdrop + slope * (p + q)
        hair_length, hair_volume = draws.uniform(-0.35, -0.35 + 1.3 * person), draws.bell(0.10, 0.07 * person)
        hair_volume = hair_volume * unit((hair_length - q) * 1.6)
        wide = self.nx * (self.half_width / (self.half_width + hair_volume))
        above = np.minimum(self.ny, 0)
        self.behind = face.edge((1 - np.sqrt(wide * wide + above * above * 0.90)) * 0.8)
        self.behind *= face.edge(hair_length - q)
        paint(self.image, self.behind, self.hair)
        neck = face.edge(0.42 - np.abs(p)) * face.edge(q - 0.6)
        paint(self.image, neck, 0.72 * skin)
        paint(self.image, face.edge(q - 0.98 - 0.25 * np.abs(p) + 0.15 * p * p), shirt)
        ear_x, ear_y = (np.abs(p) - self.half_width * 0.99) * (1 / 0.09), (q - 0.02) * (1 / 0.18)
        paint(self.image, face.edge((1 - np.sqrt(ear_x * ear_x + ear_y * ear_y)) * 0.09), 0.86 * skin)
        paint(self.image, self.head, skin)

    def _paint_features(self) -> None:
        """Beard, eyes, glasses, nose and mouth, in windows that hold them: the block size changes nothing."""
        draws, person, capture, u, v = self.draws, self.person, self.capture, self.u, self.v
        self.light_u, self.light_v = draws.bell(0, 0.9 * capture), draws.bell(-0.25 * capture, 0.5 * capture)
        beard = draws.chance(0.22 * person) * draws.uniform(0.15, 0.75)
        self.bald, self.fringe = draws.chance(0.06 * person), draws.bell(-0.72, 0.18 * person)
        stubble = unit((v - 0.42 - 0.25 * bump(u * u * 3)) * 5) * self.head
        stubble = np.maximum(stubble, spot(u, v - 0.345, 0.34, 0.085))
        paint(self.image, stubble * beard, self.hair)
        glasses, rim = draws.chance(0.16 * person), draws.uniform(0.05, 0.35)
        part = window(u, v, 0.78, -0.95, 0.30)
        pixels = self.image[part].copy()
        upper = UpperFace(self.face.part(part), self.au, draws, person, capture)
        upper.paint(pixels, 0.75 * self.hair)
        upper.paint_glasses(pixels, glasses, rim)
        self.image[part] = pixels
        part = window(u, v, 0.64, -0.24, 1.12)
        pixels = self.image[part].copy()
        LowerFace(self.face.part(part), self.au, draws, person, capture).paint(pixels, self.light_u)
        self.image[part] = pixels

    def _paint_hair(self) -> None:
        """Hair in front, with strands: everything on the head above the hairline."""
        draws, person, u, v = self.draws, self.person, self.u, self.v
        parting, curve = draws.bell(0, 0.25 * person), draws.bell(1.9, 0.8 * person)
        square = u * u
        line = self.fringe + curve * square * square + parting * u - 0.5 * self.bald
        strands = (u + parting) * (5 + 4 * v)
        strands = np.abs(strands - np.floor(strands) - 0.5) * 0.25
        finer = strands * 11.3
        strands += np.abs(finer - np.floor(finer) - 0.5) * 0.25
        shine = spot(u + 0.4 * self.light_u, v + 0.80 - 0.3 * square, 0.6, 0.16) * 0.16
        cap = self.face.edge(line - v) * np.maximum(self.head, self.behind)
        paint(self.image, cap, self.hair * (0.82 + strands) + shine)

    def _paint_light(self) -> None:
        """Lambert shading of an ellipsoid, dimmer below the jaw."""
        draws, capture, nx, ny = self.draws, self.capture, self.nx, self.ny
        nz = np.sqrt(np.maximum(1 - 0.75 * self.square_radius, 0.05))
        level, contrast = draws.bell(1.04, 0.22 * capture), draws.bell(0.34, 0.22 * capture + 0.02)
        shade = self.light_u * np.minimum(np.maximum(nx, -1), 1) + self.light_v * np.minimum(np.maximum(ny, -1), 1)
        self.image *= level * (1 - contrast + contrast * (nz + shade))

    def _paint_capture(self) -> None:
        """Occluder, focus (a [1, 2, 1] filter of random weight along both axes) and noise."""
        draws, image, capture, settings = self.draws, self.image, self.capture, self.settings
        present, tone = draws.chance(settings.occluder), draws.uniform(0.1, 0.8)
        box_u, box_v = draws.bell(0, 1.1), draws.bell(0.1, 1.1)
        box_width, box_height = draws.uniform(0.12, 0.40), draws.uniform(0.12, 0.40)
        if capture <= 0:
            return
        if settings.occluder > 0:
            inside = np.minimum(box_width - np.abs(self.p - box_u), box_height - np.abs(self.q - box_v))
            paint(image, self.face.edge(inside) * present, tone)
        weight = draws.uniform(0, 0.25) * capture
        inner = image[:, 1:-1]
        image[:, 1:-1] = inner + weight * (image[:, :-2] + image[:, 2:] - 2 * inner)
        inner = image[:, :, 1:-1]
        image[:, :, 1:-1] = inner + weight * (image[:, :, :-2] + image[:, :, 2:] - 2 * inner)
        image += noise(self.keys, self.size) * (draws.uniform(0.2, 1) * (capture * settings.noise / 255))


def render_action_units(
    activations: Float,
    seed: int,
    size: int = 48,
    *,
    settings: RenderSettings = DEFAULT_SETTINGS,
    start: int = 0,
    block: int | None = None,
) -> NDArray[np.uint8]:
    """Render faces with AU activations (N, len(AU_NAMES)) as grey uint8 (N, 1, size, size).

    Image i depends only on (seed, start + i, activations[i], size, settings); ``block`` (images rendered together)
    changes speed, not results.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, not {size}")
    activations = np.asarray(activations, dtype=np.float32)
    if activations.ndim != 2 or activations.shape[1] != len(AU_NAMES):
        raise ValueError(f"activations must have shape (N, {len(AU_NAMES)}), not {activations.shape}")
    count = len(activations)
    keys = image_keys(seed, start, count)
    images = np.empty((count, 1, size, size), dtype=np.uint8)
    # glibc keeps the memory of freed arrays for the next ones only after it has seen a larger array freed.
    large = np.empty(1 << 24, dtype=np.uint8)
    del large
    block = block or max(1, _BLOCK_PIXELS // size**2)
    for first in range(0, count, block):
        rows = slice(first, first + block)
        images[rows, 0] = _Block(activations[rows], keys[rows], size, settings).render()
    return images


def render_faces(
    expressions: ArrayLike,
    seed: int,
    size: int = 48,
    *,
    settings: RenderSettings = DEFAULT_SETTINGS,
    start: int = 0,
    block: int | None = None,
) -> NDArray[np.uint8]:
    """`render_action_units` of faces showing ``expressions`` (N,); seeds modulo 2^64, ValueError for a wrong index."""
    activations = sample_action_units(expressions, seed, settings=settings, start=start)
    return render_action_units(activations, seed, size, settings=settings, start=start, block=block)
