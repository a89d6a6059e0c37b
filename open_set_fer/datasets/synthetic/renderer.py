"""Procedurally rendered grey faces that show FACS action units: the pictures of the data set ``synthetic``.

The images are drawings made for demonstrations and tests. They are no photographs, they show nobody, and accuracy on
them says nothing about accuracy on real faces.

Every face is a function of an identity (head, skin, hair, brows, eyes, nose, mouth, glasses, beard), of the capture
(pose, light, blur, noise, occluder) and of the activations of the action units (AU) of its expression.

Sources: Ekman, Friesen & Hager, Facial Action Coding System (2002) for what each AU moves and for the unilateral AUs of
contempt; Du, Tao & Martinez, Compound facial expressions of emotion, PNAS 111 (2014), Table 1, for the AUs of the basic
and compound expressions (shares rounded from memory of that table, which is good enough for drawings); Li, Deng & Du, RAF-DB (CVPR 2017) for the class order.

Determinism: the same arguments give the same bytes on every machine. Random numbers come from an integer hash
(splitmix64; Steele, Lea & Flood 2014) of seed, image index and parameter index, and pixels are computed with exactly
rounded operations only (+ - * / sqrt min max floor), never with exp, sin, a reduction or a matrix product, whose last
bit differs between processors and library versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT

VERSION = 1
"""Raised whenever rendering changes a pixel, so that no cache keeps the old faces."""

Float = NDArray[Any]  # float32 throughout; NumPy's stubs widen float32 with a Python number to float64
Keys = NDArray[np.uint64]

EXPRESSIONS = (*BASIC, *COMPOUND, CONTEMPT)
"""RAF-DB's seven basic expressions, its eleven compound ones, and contempt."""

AU_NAMES: tuple[str, ...] = (
    *("AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU11", "AU12", "AU14", "AU15"),
    *("AU17", "AU20", "AU23", "AU24", "AU25", "AU26", "AU27"),
    # One side of the face only; the side is drawn per image.
    *("AU12 unilateral", "AU14 unilateral"),
)

ACTION_UNITS: dict[str, dict[str, float]] = {
    "surprise": {"AU1": 1.0, "AU2": 1.0, "AU5": 0.66, "AU25": 1.0, "AU26": 1.0},
    "fear": {"AU1": 1.0, "AU2": 0.57, "AU4": 1.0, "AU5": 0.63, "AU20": 1.0, "AU25": 1.0, "AU26": 0.33},
    "disgust": {"AU4": 0.31, "AU9": 1.0, "AU10": 1.0, "AU17": 1.0, "AU24": 0.26},
    "happiness": {"AU6": 0.51, "AU12": 1.0, "AU25": 1.0},
    "sadness": {"AU1": 0.60, "AU4": 1.0, "AU6": 0.50, "AU11": 0.26, "AU15": 1.0, "AU17": 0.67},
    "anger": {"AU4": 1.0, "AU7": 1.0, "AU10": 0.26, "AU17": 0.52, "AU23": 0.29, "AU24": 1.0},
    "neutral": {},
    "happily surprised": {"AU1": 1.0, "AU2": 1.0, "AU5": 0.64, "AU12": 1.0, "AU25": 1.0, "AU26": 0.67},
    "happily disgusted": {"AU4": 0.32, "AU6": 0.61, "AU9": 0.59, "AU10": 1.0, "AU12": 1.0, "AU25": 1.0},
    "sadly fearful": {"AU1": 1.0, "AU2": 0.46, "AU4": 1.0, "AU5": 0.24, "AU6": 0.34}
    | {"AU15": 0.30, "AU20": 1.0, "AU25": 1.0},
    "sadly angry": {"AU4": 1.0, "AU6": 0.26, "AU7": 0.48, "AU11": 0.20, "AU15": 1.0, "AU17": 0.50},
    "sadly surprised": {"AU1": 1.0, "AU2": 0.27, "AU4": 1.0, "AU6": 0.31, "AU25": 1.0, "AU26": 1.0},
    "sadly disgusted": {"AU1": 0.49, "AU4": 1.0, "AU6": 0.61, "AU9": 0.20, "AU10": 1.0}
    | {"AU11": 0.35, "AU15": 0.54, "AU17": 0.47, "AU25": 0.43},
    "fearfully angry": {"AU4": 1.0, "AU5": 0.40, "AU7": 0.39, "AU10": 0.30, "AU11": 0.33, "AU20": 1.0, "AU25": 1.0},
    "fearfully surprised": {"AU1": 1.0, "AU2": 1.0, "AU4": 0.47, "AU5": 1.0, "AU10": 0.35, "AU11": 0.22}
    | {"AU20": 1.0, "AU25": 1.0, "AU26": 0.51},
    "angrily surprised": {"AU4": 1.0, "AU5": 0.35, "AU7": 0.50, "AU10": 0.34, "AU25": 1.0, "AU26": 1.0},
    "angrily disgusted": {"AU4": 1.0, "AU7": 0.60, "AU9": 0.57, "AU10": 1.0, "AU17": 1.0, "AU24": 0.36},
    "disgustedly surprised": {"AU1": 1.0, "AU2": 1.0, "AU4": 0.45, "AU5": 1.0}
    | {"AU9": 0.37, "AU10": 1.0, "AU17": 0.66, "AU24": 0.33},
    "contempt": {"AU12 unilateral": 1.0, "AU14 unilateral": 1.0},
}
"""Share of the people posing an expression who show the AU: 1 for the AUs that Du, Tao & Martinez (2014) call
consistent (more than 70 %), the published share for those that vary between people."""


@dataclass(frozen=True)
class RenderSettings:
    """How hard the images are.

    ``intensity_low``, ``intensity_high``: range of the overall AU intensity of an image (1 is the FACS maximum).
    ``au_jitter``: relative spread of each AU about that intensity. ``stray_au``: largest activation of an AU that the
    expression does not have. ``identity``: scale of the person's resting face (brow tilt, lid opening, mouth curve,
    proportions); 0 gives one average face. ``capture``: scale of pose, light and asymmetry; 0 gives a frontal,
    evenly lit view without occluder, blur or noise. ``noise``: largest sensor noise, in grey levels of 255.
    ``occluder``: share of the images with one.
    """

    intensity_low: float = 0.40
    intensity_high: float = 1.0
    au_jitter: float = 0.35
    stray_au: float = 0.23
    identity: float = 1.0
    capture: float = 1.0
    noise: float = 14.0
    occluder: float = 0.15


DEFAULT_SETTINGS = RenderSettings()

# Pixels rendered together, so that the working arrays stay in the processor's cache.
_BLOCK_PIXELS = 36_864
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
# First counter of each random stream of an image; pixel noise takes the rest.
_AU_STREAM, _FACE_STREAM, _NOISE_STREAM = 0, 256, 1024


def _mix(state: Keys) -> Keys:
    """Finaliser of splitmix64, elementwise."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _image_keys(seed: int, start: int, count: int) -> Keys:
    """One key per image, shape (count,)."""
    base = _mix(np.array([(int(seed) + _GOLDEN) & _MASK], dtype=np.uint64))
    return _mix(base + np.arange(start, start + count, dtype=np.uint64) * np.uint64(_GOLDEN))


def _hashes(keys: Keys, first: int, count: int) -> Keys:
    """Random 64-bit integers, shape (N, count): counters ``first`` ... of each image."""
    counters = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(keys[:, None] + counters)


def _uniforms(keys: Keys, first: int, count: int) -> Float:
    """Uniform numbers in [0, 1), shape (N, count); 24 bits, so exact in float32."""
    values: Float = (_hashes(keys, first, count) >> np.uint64(40)).astype(np.float32)
    return values * 2.0**-24


def _bells(keys: Keys, first: int, count: int) -> Float:
    """Bell-shaped numbers in [-1, 1], shape (N, count): the sum of three uniforms, standard deviation 1/3."""
    bits = _hashes(keys, first, count)
    low = np.uint64(0x1FFFFF)
    total = (bits & low) + ((bits >> np.uint64(21)) & low) + ((bits >> np.uint64(42)) & low)
    values: Float = total.astype(np.float32)
    return values * (2.0 / (3 * 2.0**21)) - 1


def _unit(x: Float) -> Float:
    """Clip to [0, 1] in place."""
    np.maximum(x, 0, out=x)
    return np.minimum(x, 1, out=x)


def _bump(square: Float) -> Float:
    """Smooth spot (1 - r²)² of a squared radius, zero outside 1, so that windows cut nothing."""
    x = 1 - square
    np.maximum(x, 0, out=x)
    x *= x
    return x


def _paint(image: Float, alpha: Float, level: Float | float) -> None:
    """Blend ``level`` over ``image`` in place with opacity ``alpha``."""
    change = level - image
    change *= alpha
    image += change


class _Draws:
    """The random parameters of the faces of one block, in the order in which they are asked for; (N, 1, 1) each."""

    def __init__(self, keys: Keys, count: int) -> None:
        self._uniform = _uniforms(keys, _FACE_STREAM, count)
        self._bell = _bells(keys, _FACE_STREAM + count, count)
        self._next: Iterator[int] = iter(range(count))

    def uniform(self, low: float, high: float) -> Float:
        return (low + (high - low) * self._uniform[:, next(self._next)])[:, None, None]

    def bell(self, middle: float, spread: float) -> Float:
        """Bell-shaped within ``middle`` ± ``spread``."""
        return (middle + spread * self._bell[:, next(self._next)])[:, None, None]

    def chance(self, share: float) -> Float:
        """1 for a ``share`` of the images, else 0."""
        return (self._uniform[:, next(self._next)] < share).astype(np.float32)[:, None, None]


class _Canvas:
    """The coordinates of one block of images, or of a window of them.

    ``u`` and ``v``: float32 (N, h, w), position on the frontal face, u rightwards and v downwards, the unit being half
    an image side at scale 1. ``pixels``: pixels per unit.
    """

    def __init__(self, u: Float, v: Float, pixels: float) -> None:
        self.u, self.v, self.pixels = u, v, pixels
        self.side = np.where(u < 0, np.float32(-1), np.float32(1))
        self.across = np.abs(u)

    def band(self, top: Float, bottom: Float) -> Float:
        """Opacity of the pixels between two curves v = top and v = bottom; nothing where they cross."""
        inside = self.edge(self.v - top)
        inside -= self.edge(self.v - bottom)
        return np.maximum(inside, 0, out=inside)

    def line(self, distance: Float, half_width: float = 0.02) -> Float:
        """Opacity of a soft line at a distance of 0; never thinner than a pixel can show."""
        x = np.abs(distance)
        x *= -1 / max(half_width, 0.9 / self.pixels)
        x += 1
        return np.maximum(x, 0, out=x)

    def edge(self, depth: Float) -> Float:
        """Opacity of the region ``depth`` > 0, softened over a pixel."""
        x = depth * self.pixels
        x += 0.5
        return _unit(x)


def _spot(along: Float, down: Float, width: Float | float, height: Float | float) -> Float:
    """A soft elliptic spot of the given half axes, 1 in its middle and 0 outside."""
    along, down = along * (1 / width), down * (1 / height)
    along *= along
    down *= down
    along += down
    return _bump(along)


def _window(u: Float, v: Float, half_width: float, top: float, bottom: float) -> tuple[slice, slice, slice]:
    """The fewest rows and columns that hold |u| < half_width and top < v < bottom in every image of the block."""
    inside = (np.abs(u) < half_width) & (v > top) & (v < bottom)
    rows = np.flatnonzero(inside.any(axis=(0, 2)))
    columns = np.flatnonzero(inside.any(axis=(0, 1)))
    if not rows.size:
        return slice(None), slice(0), slice(0)
    return slice(None), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


Activations = dict[str, Float]


def _eyes_and_brows(
    face: _Canvas, image: Float, au: Activations, draws: _Draws, person: float, capture: float, hair_level: Float
) -> tuple[Float, Float]:
    """Paint the upper face in place; returns the eyes' position (u, v)."""
    u, v, across, side = face.u, face.v, face.across, face.side
    eye_u, eye_v = draws.bell(0.315, 0.05 * person), draws.bell(-0.11, 0.04 * person)
    width = draws.bell(0.165, 0.03 * person)
    upper, lower = draws.bell(0.075, 0.035 * person), draws.bell(0.045, 0.015 * person)
    slant, gaze = draws.bell(-0.012, 0.035 * person), draws.bell(0, 0.06 * capture)
    uneven = draws.bell(0, 0.03 * capture)
    brow_u, brow_v = draws.bell(0.325, 0.04 * person), draws.bell(-0.345, 0.07 * person)
    brow_width, thickness = draws.bell(0.205, 0.03 * person), draws.bell(0.036, 0.017 * person)
    arch, tilt = draws.bell(0.045, 0.04 * person), draws.bell(0.0, 0.045 * person)
    brow_strength = draws.bell(0.82, 0.15 * person)
    iris_level, iris_size = draws.uniform(0.10, 0.10 + 0.3 * person), draws.bell(0.078, 0.012 * person)
    folds = draws.bell(0.16, 0.14 * person)

    # Where the lids are: AU5 widens; AU6, AU7 and AU9 narrow from below, AU4, AU7 and AU9 from above.
    upper = upper + 0.062 * au["AU5"] + 0.012 * au["AU1"] * au["AU2"] - 0.020 * au["AU7"] - 0.014 * au["AU4"]
    upper = np.maximum(upper - 0.020 * au["AU9"] - 0.012 * au["AU6"], 0.014)
    lower = lower + 0.012 * au["AU5"] - 0.032 * au["AU7"] - 0.052 * au["AU6"] - 0.034 * au["AU9"]
    lower = np.maximum(lower, -0.35 * upper)
    along = (across - eye_u) / width
    bulge = 1 - along * along
    middle = eye_v + slant * along
    top, bottom = middle - upper * bulge, middle + lower * bulge
    ends = face.edge((1.06 - np.abs(along)) * width)

    # Skin: sockets, forehead lines (AU1, AU2), glabella (AU4), root of the nose (AU9), crow's feet and pouch (AU6).
    dark = _spot(across - (eye_u - 0.04), v - (eye_v - 0.07), 0.25, 0.19)
    dark *= 0.16 + 0.16 * au["AU4"]
    shift = 0.10 * across * across
    lift = np.maximum(au["AU1"] * 0.7, au["AU2"])
    forehead = face.line(v + 0.56 - shift, 0.022) + face.line(v + 0.67 - shift, 0.022)
    forehead *= _bump(u * u * (1 / 0.42**2))
    dark += forehead * (0.42 * lift)
    frown = face.line(across - 0.055 - 0.02 * (v + 0.3), 0.024) * _bump((v + 0.29) * (v + 0.29) * (1 / 0.17**2))
    dark += frown * (0.75 * au["AU4"] + 0.15 * folds)
    root = face.line(v + 0.17 - 2 * shift, 0.022) + face.line(v + 0.08 - 2 * shift, 0.022)
    root *= _bump(u * u * (1 / 0.16**2))
    dark += root * (0.65 * au["AU9"])
    beyond = across - (eye_u + width) - 0.02
    rays = face.line(v - eye_v + 0.02 + 0.55 * beyond, 0.018)
    rays += face.line(v - eye_v - 0.02 - 0.10 * beyond, 0.018)
    rays += face.line(v - eye_v - 0.05 - 0.70 * beyond, 0.018)
    rays *= _bump((beyond - 0.075) * (beyond - 0.075) * (1 / 0.10**2))
    dark += rays * (0.55 * au["AU6"])
    pouch = face.line(v - bottom - 0.055 + 0.02 * au["AU6"], 0.026) * ends
    dark += pouch * (0.6 * folds + 0.40 * au["AU6"] + 0.25 * au["AU7"])
    crease = face.line(v - top + 0.055 - 0.012 * au["AU5"], 0.020) * ends
    dark += crease * 0.30
    image *= 1 - np.minimum(dark, 0.75)

    # Eyeballs: white, iris, pupil, a highlight, and the shadow of the upper lid.
    opening = face.band(top, bottom)
    _paint(image, opening, 0.90)
    x, y = across - eye_u - side * gaze, v - (middle - 0.012)
    radius = np.sqrt(x * x + y * y)
    iris = face.edge(iris_size - radius)
    iris *= opening
    _paint(image, iris, iris_level)
    pupil = face.edge(0.45 * iris_size - radius)
    pupil *= opening
    _paint(image, pupil, 0.04)
    highlight = _spot(u - side * eye_u - gaze + 0.03, y + 0.03, 0.042, 0.042)
    highlight *= opening
    _paint(image, 0.8 * highlight, 1.0)
    lid = face.line(v - top + 0.006, 0.024) * ends
    _paint(image, 0.88 * lid, 0.06)
    _paint(image, 0.40 * face.line(v - bottom - 0.004, 0.018) * ends, 0.12)

    # Brows: AU1 lifts the inner end, AU2 the outer one, AU4 lowers and draws together; AU1 holds AU4's inner end up.
    along = (across - brow_u + 0.05 * au["AU4"]) / brow_width
    inner = _unit(0.5 - 0.5 * along)
    outer = 1 - inner
    lowering = au["AU4"] * (1 - 0.65 * au["AU1"])
    raised = (0.165 * au["AU1"]) * inner * inner
    raised += (0.135 * au["AU2"]) * outer
    raised -= (0.080 * lowering + 0.03 * au["AU9"]) * (0.35 + 1.15 * inner)
    centre = brow_v - raised - (arch * (1 - 0.6 * au["AU4"])) * (1 - along * along) + tilt * along + side * uneven
    half = thickness * (1 - 0.6 * np.maximum(along, 0) * np.maximum(along, 0))
    brow = face.band(centre - half, centre + half)
    brow *= face.edge((1 - np.abs(along)) * brow_width)
    _paint(image, brow * brow_strength, hair_level)
    return eye_u, eye_v


def _nose_and_mouth(
    face: _Canvas, image: Float, au: Activations, draws: _Draws, person: float, capture: float, light: Float
) -> None:
    """Paint nose, cheeks, mouth and chin in place."""
    u, v, across, side = face.u, face.v, face.across, face.side
    nose_width, nose_v = draws.bell(0.135, 0.03 * person), draws.bell(0.19, 0.04 * person)
    nose_light = draws.bell(0.10, 0.05 * person)
    mouth_v, half = draws.bell(0.47, 0.045 * person), draws.bell(0.245, 0.045 * person)
    upper_lip, lower_lip = draws.bell(0.050, 0.022 * person), draws.bell(0.068, 0.026 * person)
    lip_level, lip_strength = draws.bell(0.58, 0.12 * person), draws.bell(0.72, 0.2 * person)
    resting, uneven = draws.bell(0, 0.045 * person), draws.bell(0, 0.018 * capture)
    teeth_height, folds = draws.bell(0.075, 0.02 * person), draws.bell(0.12, 0.12 * person)
    chosen = 2 * draws.chance(0.5) - 1

    one_side = _unit(chosen * u * 6)  # rises from the middle, so that the mouth stays in one piece
    pull = np.minimum(au["AU12"] + one_side * au["AU12 unilateral"], 1)
    dimple = np.minimum(au["AU14"] + one_side * au["AU14 unilateral"], 1)
    press = np.maximum(au["AU23"], au["AU24"])
    jaw = au["AU26"] * 0.16 + au["AU27"] * 0.26
    parted = np.minimum(2.5 * au["AU25"], 1)

    # Nose: bridge, wings, nostrils, shadow below. AU9 draws it up and widens the wings.
    nose_v = nose_v - 0.045 * au["AU9"]
    nose_width = nose_width + 0.02 * au["AU9"] + 0.012 * pull
    image += _spot(u, v - 0.04, 0.075, 0.27) * nose_light
    image += _spot(u, v - nose_v + 0.05, 0.085, 0.08) * nose_light
    dark = _spot(across - 0.10, v - 0.05, 0.07, 0.26) * (0.12 + 0.16 * side * light)
    np.maximum(dark, 0, out=dark)
    x, y = across - (nose_width - 0.055), v - (nose_v - 0.035)
    wing = face.line(np.sqrt(x * x + y * y) - 0.06, 0.022)
    wing *= face.edge(x - 0.012)
    dark += wing * (0.42 + 0.35 * au["AU9"])
    dark += _spot(across - 0.072, v - nose_v, 0.062, 0.042) * 0.75
    dark += _spot(u, v - nose_v - 0.045, 0.15, 0.06) * 0.26

    # Mouth curves. The corners follow AU12 up and out, AU15 down, AU20 outwards; AU24, AU26 and AU27 narrow it.
    half = half + 0.075 * pull + 0.080 * au["AU20"] + 0.02 * dimple - 0.030 * au["AU24"]
    half = half - (0.055 * au["AU26"] + 0.070 * au["AU27"]) * (1 - au["AU20"])
    lift = resting * (1 - 0.6 * press) - (0.035 * au["AU10"] + 0.025 * au["AU17"]) * (1 - pull)
    lift = lift + 0.115 * pull - 0.120 * au["AU15"] - 0.030 * au["AU20"] + 0.020 * dimple + side * uneven
    along = u / half
    square = along * along
    arc = 1 - square
    within = np.maximum(arc, 0)
    centre = mouth_v + 0.035 * pull - 0.040 * au["AU17"] - 0.02 * au["AU10"]
    middle = centre - lift * square * (0.45 + 0.55 * square)
    jaw = jaw * parted
    gap = 0.055 * au["AU25"] + jaw
    mix = np.minimum(0.25 + 1.2 * (au["AU26"] + au["AU27"]), 1)
    shape = arc + mix * (np.sqrt(within) - within)
    raise_ = 0.070 * au["AU10"]
    inner_top = middle - (0.30 * gap + 0.15 * jaw + 0.6 * raise_ * parted) * shape
    inner_bottom = middle + (0.70 * gap - 0.15 * jaw) * shape
    thin = np.maximum(1 - 0.62 * press - 0.25 * pull - 0.25 * au["AU20"], 0.25)
    bow = 1 - 0.35 * _bump(u * u * (1 / 0.07**2))
    flat = 1 - square * square
    outer_top = inner_top - (upper_lip * thin) * bow * arc - (0.4 * raise_) * flat
    outer_bottom = inner_bottom + (lower_lip * (thin + 0.15 * au["AU17"])) * arc * (1 + 0.3 * within)

    # Folds from nose to mouth (AU9, AU10, AU11, AU12), dimples, lines of AU15 and AU17, shadow below the lip.
    corner_u, corner_v = half, centre - lift
    down = v - nose_v + 0.03
    reach = _unit(down / (corner_v - nose_v + 0.05))
    curl = 0.025 + 0.05 * au["AU9"] + 0.05 * au["AU10"] + 0.04 * pull
    fold_u = nose_width + 0.03 + reach * (corner_u + 0.055 - nose_width - 0.03) + curl * 4 * reach * (1 - reach)
    fold = face.line(across - fold_u, 0.030)
    fold *= face.edge(down) * face.edge(corner_v + 0.04 - v)
    strength = folds + 0.30 * pull + 0.40 * au["AU9"] + 0.40 * au["AU10"] + 0.40 * au["AU11"]
    dark += fold * np.minimum(strength, 0.62)
    dark += _spot(across - corner_u - 0.02, v - corner_v, 0.05, 0.05) * (0.30 + 0.2 * pull)
    dark += _spot(across - corner_u - 0.055, v - corner_v, 0.045, 0.12) * (0.70 * dimple)
    sad = face.line(across - corner_u - 0.02 - 0.35 * (v - corner_v), 0.024)
    sad *= _spot(across - corner_u, v - corner_v - 0.06, 0.14, 0.13)
    dark += sad * (0.55 * au["AU15"])
    low = centre + 0.70 * gap + lower_lip
    dark += _spot(u, v - low - 0.055, 0.19, 0.055) * (0.20 + 0.25 * au["AU17"])
    chin = face.line(v - low - 0.10 - 1.6 * u * u, 0.026) * _bump(u * u * (1 / 0.2**2))
    dark += chin * (0.50 * au["AU17"])
    image *= 1 - np.minimum(dark, 0.8)
    cheeks = 0.04 + 0.07 * pull + 0.06 * au["AU6"]
    image += _spot(across - 0.40, v - 0.16, 0.20, 0.15) * cheeks

    # Lips, the mouth's dark inside, tongue and teeth.
    _paint(image, face.band(outer_top, outer_bottom) * lip_strength, lip_level * image)
    image -= 0.10 * lip_strength * face.band(outer_top, inner_top)
    least = 0.016 + 0.008 * press
    inside = face.band(inner_top - least, inner_bottom + least)
    inside *= face.edge((1 - np.abs(along)) * half + 0.02)
    _paint(image, inside * 0.92, 0.07)
    tongue = _spot(u, v - centre - 0.70 * gap, 0.17, 0.09)
    _paint(image, tongue * inside * np.minimum(3 * jaw, 0.7), 0.42)
    show = np.minimum(parted * (0.12 + 0.9 * (pull + au["AU20"] + au["AU10"])), 1)
    teeth = face.band(inner_top, np.minimum(inner_bottom, inner_top + teeth_height))
    teeth *= face.edge((0.88 - np.abs(along)) * half)
    _paint(image, teeth * show, 0.93)


def _render_block(activations: Float, keys: Keys, size: int, settings: RenderSettings) -> NDArray[np.uint8]:
    """Images of one block, uint8 (N, size, size), from activations (N, A)."""
    person, capture = settings.identity, settings.capture
    au = {name: activations[:, j, None, None] for j, name in enumerate(AU_NAMES)}
    draws = _Draws(keys, 96)

    # Pose. Rotation by its half-angle's tangent t, so that no sine is needed; yaw and pitch slide the features over
    # the curved head.
    axis = ((2 * np.arange(size, dtype=np.float32) + 1) / size - 1).astype(np.float32)
    t = draws.bell(0, 0.13 * capture)
    inverse = 1 / ((1 + t * t) * draws.bell(1.0, 0.12 * capture))
    cosine, sine = (1 - t * t) * inverse, 2 * t * inverse
    x = axis[None, None, :] - draws.bell(0, 0.12 * capture)
    y = axis[None, :, None] - draws.bell(0, 0.10 * capture)
    p, q = cosine * x + sine * y, cosine * y - sine * x
    yaw, pitch = draws.bell(0, 0.28 * capture), draws.bell(0, 0.14 * capture)
    depth = np.maximum(1 - p * p - 0.6 * q * q, 0)
    u, v = p - yaw * depth, q - pitch * depth
    face = _Canvas(u, v, size / 2)

    # Head outline: an ellipse that the jaw makes taper (or square); AU26 and AU27 lower the chin.
    half_width, top = draws.bell(0.72, 0.07 * person), draws.bell(0.95, 0.04 * person)
    chin = draws.bell(0.90, 0.06 * person) + 0.05 * au["AU26"] + 0.10 * au["AU27"]
    taper, squareness = draws.bell(0.16, 0.14 * person), draws.bell(0.35, 0.35 * person)
    nx = p / half_width
    below = np.maximum(q, 0)
    nx *= 1 + taper * below
    ny = np.minimum(q, 0) / top + below / chin
    sx, sy = nx * nx, ny * ny
    radius = np.sqrt(sx + sy)
    corner = np.sqrt(np.sqrt(sx * sx + sy * sy))
    head = face.edge((1 - radius - squareness * (corner - radius)) * 0.8)

    # Background, hair behind the head, neck, ears.
    skin = draws.uniform(0.68 - 0.20 * person, 0.68 + 0.18 * person)
    hair = draws.uniform(0.22 - 0.14 * person, 0.22 + 0.18 * person)
    backdrop, slope = draws.uniform(0.45 - 0.35 * capture, 0.45 + 0.4 * capture), draws.bell(0, 0.25 * capture)
    shirt = draws.uniform(0.2, 0.2 + 0.6 * person)
    image = backdrop + slope * (p + q)
    hair_length, hair_volume = draws.uniform(-0.35, -0.35 + 1.3 * person), draws.bell(0.10, 0.07 * person)
    hair_volume = hair_volume * _unit((hair_length - q) * 1.6)
    wide = nx * (half_width / (half_width + hair_volume))
    behind = face.edge((1 - np.sqrt(wide * wide + np.minimum(ny, 0) * np.minimum(ny, 0) * 0.90)) * 0.8)
    behind *= face.edge(hair_length - q)
    _paint(image, behind, hair)
    neck = face.edge(0.42 - np.abs(p)) * face.edge(q - 0.6)
    _paint(image, neck, 0.72 * skin)
    _paint(image, face.edge(q - 0.98 - 0.25 * np.abs(p) + 0.15 * p * p), shirt)
    ear_x, ear_y = (np.abs(p) - half_width * 0.99) * (1 / 0.09), (q - 0.02) * (1 / 0.18)
    _paint(image, face.edge((1 - np.sqrt(ear_x * ear_x + ear_y * ear_y)) * 0.09), 0.86 * skin)
    _paint(image, head, skin)

    # Features, each in a window that holds it whatever the parameters are, so that the block size changes nothing.
    light_u, light_v = draws.bell(0, 0.9 * capture), draws.bell(-0.25 * capture, 0.5 * capture)
    beard = draws.chance(0.22 * person) * draws.uniform(0.15, 0.75)
    bald, fringe = draws.chance(0.06 * person), draws.bell(-0.72, 0.18 * person)
    stubble = _unit((v - 0.42 - 0.25 * _bump(u * u * 3)) * 5) * head
    stubble = np.maximum(stubble, _spot(u, v - 0.345, 0.34, 0.085))
    _paint(image, stubble * beard, hair)
    glasses, rim = draws.chance(0.16 * person), draws.uniform(0.05, 0.35)
    window = _window(u, v, 0.78, -0.95, 0.30)
    part = _Canvas(np.ascontiguousarray(u[window]), np.ascontiguousarray(v[window]), size / 2)
    pixels = image[window].copy()
    eye_u, eye_v = _eyes_and_brows(part, pixels, au, draws, person, capture, 0.75 * hair)
    ring_x, ring_y = (part.across - eye_u) * (1 / 0.235), (part.v - eye_v - 0.02) * (1 / 0.18)
    ring = part.line((np.sqrt(ring_x * ring_x + ring_y * ring_y) - 1) * 0.2, 0.03)
    bridge = part.line(part.v - eye_v + 0.02, 0.03) * part.edge(eye_u - 0.23 - part.across)
    temple = part.line(part.v - eye_v + 0.01, 0.03) * part.edge(part.across - eye_u - 0.23)
    temple *= part.edge(0.70 - part.across)
    _paint(pixels, np.maximum(np.maximum(ring, bridge), temple) * (0.85 * glasses), rim)
    image[window] = pixels
    window = _window(u, v, 0.64, -0.24, 1.12)
    part = _Canvas(np.ascontiguousarray(u[window]), np.ascontiguousarray(v[window]), size / 2)
    pixels = image[window].copy()
    _nose_and_mouth(part, pixels, au, draws, person, capture, light_u)
    image[window] = pixels

    # Hair in front: everything on the head above the hairline, with strands.
    parting, curve = draws.bell(0, 0.25 * person), draws.bell(1.9, 0.8 * person)
    square = u * u
    line = fringe + curve * square * square + parting * u - 0.5 * bald
    strands = (u + parting) * (5 + 4 * v)
    strands = np.abs(strands - np.floor(strands) - 0.5) * 0.25
    finer = strands * 11.3
    strands += np.abs(finer - np.floor(finer) - 0.5) * 0.25
    shine = _spot(u + 0.4 * light_u, v + 0.80 - 0.3 * square, 0.6, 0.16) * 0.16
    cap = face.edge(line - v) * np.maximum(head, behind)
    _paint(image, cap, hair * (0.82 + strands) + shine)

    # Light: Lambert shading of an ellipsoid, dimmer below the jaw.
    nz = np.sqrt(np.maximum(1 - 0.75 * (sx + sy), 0.05))
    level, contrast = draws.bell(1.04, 0.22 * capture), draws.bell(0.34, 0.22 * capture + 0.02)
    shade = light_u * np.minimum(np.maximum(nx, -1), 1) + light_v * np.minimum(np.maximum(ny, -1), 1)
    image *= level * (1 - contrast + contrast * (nz + shade))

    present, tone = draws.chance(settings.occluder), draws.uniform(0.1, 0.8)
    box_u, box_v = draws.bell(0, 1.1), draws.bell(0.1, 1.1)
    box_width, box_height = draws.uniform(0.12, 0.40), draws.uniform(0.12, 0.40)
    if settings.occluder > 0 and capture > 0:
        cover = face.edge(np.minimum(box_width - np.abs(p - box_u), box_height - np.abs(q - box_v)))
        _paint(image, cover * present, tone)
    if capture > 0:
        # Focus: a [1, 2, 1] filter of random weight along both axes.
        weight = draws.uniform(0, 0.25) * capture
        inner = image[:, 1:-1]
        image[:, 1:-1] = inner + weight * (image[:, :-2] + image[:, 2:] - 2 * inner)
        inner = image[:, :, 1:-1]
        image[:, :, 1:-1] = inner + weight * (image[:, :, :-2] + image[:, :, 2:] - 2 * inner)
        image += _noise(keys, size) * (draws.uniform(0.2, 1) * (capture * settings.noise / 255))
    grey: NDArray[np.uint8] = np.floor(_unit(image) * 255 + 0.5).astype(np.uint8)
    return grey


def _noise(keys: Keys, size: int) -> Float:
    """Bell-shaped noise in [-1, 1], shape (N, size, size): each value sums four bytes; one hash gives two values."""
    pairs = (size * size + 1) // 2
    bits = _hashes(keys, _NOISE_STREAM, pairs)
    low = np.uint64(0x00FF00FF00FF00FF)
    lanes = (bits & low) + ((bits >> np.uint64(8)) & low)
    lanes += lanes >> np.uint64(32)
    sums = np.empty((len(keys), 2 * pairs), dtype=np.float32)
    sums[:, 0::2] = lanes & np.uint64(0xFFFF)
    sums[:, 1::2] = (lanes >> np.uint64(16)) & np.uint64(0xFFFF)
    noise: Float = sums[:, : size * size].reshape(len(keys), size, size)
    return noise * (1 / 510) - 1


def sample_action_units(
    expressions: ArrayLike, seed: int, *, settings: RenderSettings = DEFAULT_SETTINGS, start: int = 0
) -> Float:
    """Activations of the action units, float32 (N, len(AU_NAMES)) in [0, 1], of images ``start`` ... ``start + N - 1``.

    Each image gets an overall intensity; its expression's AUs (drawn by ACTION_UNITS' shares) spread about it, and any
    other AU may stray a little.
    """
    labels = _checked(expressions)
    keys = _image_keys(seed, start, len(labels))
    count = len(AU_NAMES)
    table = np.array([[ACTION_UNITS[name].get(au, 0.0) for au in AU_NAMES] for name in EXPRESSIONS], dtype=np.float32)
    draws = _uniforms(keys, _AU_STREAM, 2 * count + 1)
    jitter = _bells(keys, _AU_STREAM + 2 * count + 1, count)
    overall = settings.intensity_low + (settings.intensity_high - settings.intensity_low) * draws[:, :1]
    shown = np.minimum(np.maximum(overall * (1 + settings.au_jitter * jitter), 0), 1)
    stray = settings.stray_au * np.maximum(2 * draws[:, count + 1 :] - 1, 0)
    activations: Float = np.where(draws[:, 1 : count + 1] < table[labels], np.maximum(shown, stray), stray)
    return activations


def render_action_units(
    activations: Float,
    seed: int,
    size: int = 48,
    *,
    settings: RenderSettings = DEFAULT_SETTINGS,
    start: int = 0,
    block: int | None = None,
) -> NDArray[np.uint8]:
    """Faces with the given AU activations (N, len(AU_NAMES)) in [0, 1], as uint8 (N, 1, size, size), grey levels.

    Image i depends only on (seed, start + i, activations[i], size, settings); ``block`` (images rendered together)
    changes speed, not results.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, not {size}")
    activations = np.asarray(activations, dtype=np.float32)
    if activations.ndim != 2 or activations.shape[1] != len(AU_NAMES):
        raise ValueError(f"activations must have shape (N, {len(AU_NAMES)}), not {activations.shape}")
    count = len(activations)
    keys = _image_keys(seed, start, count)
    images = np.empty((count, 1, size, size), dtype=np.uint8)
    # glibc keeps the memory of freed arrays for the next ones only after it has seen a larger array freed.
    large = np.empty(1 << 24, dtype=np.uint8)
    del large
    block = block or max(1, _BLOCK_PIXELS // size**2)
    for first in range(0, count, block):
        rows = slice(first, first + block)
        images[rows, 0] = _render_block(activations[rows], keys[rows], size, settings)
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
    """Faces showing ``expressions`` (N indices into EXPRESSIONS), as uint8 (N, 1, size, size), grey levels.

    Image i depends only on (seed, start + i, expressions[i], size, settings). Seeds are taken modulo 2^64. An index
    outside EXPRESSIONS raises ValueError.
    """
    activations = sample_action_units(expressions, seed, settings=settings, start=start)
    return render_action_units(activations, seed, size, settings=settings, start=start, block=block)


def _checked(expressions: ArrayLike) -> NDArray[np.int64]:
    labels = np.asarray(expressions)
    if labels.size == 0:
        labels = labels.astype(np.int64)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expressions must be a list of integers, not {labels.dtype} of shape {labels.shape}")
    for label in labels[(labels < 0) | (labels >= len(EXPRESSIONS))][:1]:
        raise ValueError(f"unknown expression index {label}: EXPRESSIONS has {len(EXPRESSIONS)} entries")
    return labels.astype(np.int64)
