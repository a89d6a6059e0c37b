"""The synthetic faces: the same bytes everywhere, each action unit where it belongs, a hard but legible data set."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from open_set_fer.datasets.synthetic.expressions import (
    ACTION_UNITS,
    AU_NAMES,
    EXPRESSIONS,
    RenderSettings,
    sample_action_units,
)
from open_set_fer.datasets.synthetic.renderer import render_action_units, render_faces

STUDIO = RenderSettings(identity=0, capture=0, occluder=0, stray_au=0, au_jitter=0)

Box = tuple[float, float, float, float]

# Boxes of the average frontal face as shares of the image's side: top, bottom, left, right.
BROWS = (0.22, 0.37, 0.10, 0.90)
EYES = (0.38, 0.50, 0.18, 0.82)
NOSE = (0.52, 0.64, 0.40, 0.60)
MOUTH = (0.65, 0.90, 0.25, 0.75)


def crop(image: NDArray[np.float64], box: Box) -> NDArray[np.float64]:
    top, bottom, left, right = (round(share * image.shape[0]) for share in box)
    return image[top:bottom, left:right]


def studio(**activations: float) -> NDArray[np.float64]:
    """The average face with the given action units, grey levels (96, 96)."""
    row = np.zeros((1, len(AU_NAMES)), dtype=np.float32)
    for name, value in activations.items():
        row[0, AU_NAMES.index(name.replace("_", " "))] = value
    face: NDArray[np.float64] = render_action_units(row, 0, 96, settings=STUDIO)[0, 0].astype(np.float64)
    return face


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (48, "4236e86864ea7ae46bdb8c6b6ebb013f02ad03f29d2b045fc7e698d19027b619"),
        (64, "3d1befcc8d4cb88f9cf2d7475a1f2c97cefd2002cd025af69715c2ee568d5947"),
    ],
)
def test_bytes_are_the_same_on_every_machine(size: int, expected: str) -> None:
    images = render_faces(np.arange(76) % len(EXPRESSIONS), seed=20240, size=size)
    assert hashlib.sha256(images.tobytes()).hexdigest() == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            RenderSettings(identity=2.0, capture=1.6, occluder=1.0, noise=40.0),
            "f941adeb16fd0ce3b3f576ba63c35e3d227e3f2585b5d5dd999235c7e8e746d4",
        ),
        (STUDIO, "b4f69fc527be7b0f382902eff8a15bdbf85510d79a76418bd8fc5f3014c83da1"),
    ],
    ids=["extreme", "studio"],
)
def test_so_are_those_of_other_settings(settings: RenderSettings, expected: str) -> None:
    images = render_faces(np.arange(57) % len(EXPRESSIONS), seed=-3, size=61, settings=settings, start=5)
    assert hashlib.sha256(images.tobytes()).hexdigest() == expected


def test_shape_type_and_range() -> None:
    images = render_faces([0, 3, 18], seed=1)
    assert images.shape == (3, 1, 48, 48)
    assert images.dtype == np.uint8
    assert images.std() > 20
    assert render_faces([], seed=1).shape == (0, 1, 48, 48)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_block_size_changes_nothing(block: int) -> None:
    expressions = np.arange(200) % len(EXPRESSIONS)
    assert np.array_equal(render_faces(expressions, 5), render_faces(expressions, 5, block=block))


def test_block_size_changes_nothing_with_extreme_activations() -> None:
    bits = np.arange(300)[:, None] * 7919 >> np.arange(len(AU_NAMES)) & 1
    activations = bits.astype(np.float32)
    whole = render_action_units(activations, 2, block=300)
    assert np.array_equal(whole, render_action_units(activations, 2, block=1))


def test_an_image_depends_on_its_index_alone() -> None:
    expressions = np.arange(60) % len(EXPRESSIONS)
    whole = render_faces(expressions, 9)
    assert np.array_equal(whole[23:41], render_faces(expressions[23:41], 9, start=23))
    changed = expressions.copy()
    changed[7] = (changed[7] + 1) % len(EXPRESSIONS)
    differs = (whole != render_faces(changed, 9)).any(axis=(1, 2, 3))
    assert np.flatnonzero(differs).tolist() == [7]


def test_seed_and_index_give_other_faces() -> None:
    images = render_faces([6] * 50, seed=0)
    assert len({image.tobytes() for image in images}) == 50
    assert not (images == render_faces([6] * 50, seed=1)).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize("index", [-1, len(EXPRESSIONS)])
def test_unknown_expression_is_named(index: int) -> None:
    with pytest.raises(ValueError, match=f"unknown expression index {index}"):
        render_faces([0, index], seed=0)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="list of integers"):
        render_faces([0.5], seed=0)
    with pytest.raises(ValueError, match="at least 16"):
        render_faces([0], seed=0, size=8)
    with pytest.raises(ValueError, match="activations must have shape"):
        render_action_units(np.zeros((2, 3), dtype=np.float32), 0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(), expressions=st.lists(st.integers(0, len(EXPRESSIONS) - 1), max_size=6), size=st.integers(16, 70)
)
def test_any_seed_renders_without_warnings(seed: int, expressions: list[int], size: int) -> None:
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        images = render_faces(expressions, seed, size)
    assert images.shape == (len(expressions), 1, size, size)
    assert all(image.std() > 3 for image in images)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=len(AU_NAMES), max_size=len(AU_NAMES)), st.integers(0, 99))
def test_any_activations_render_without_warnings(activations: list[float], seed: int) -> None:
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        render_action_units(np.array([activations], dtype=np.float32), seed)


def test_tables_agree() -> None:
    assert len(EXPRESSIONS) == len(set(EXPRESSIONS)) == 19
    assert EXPRESSIONS[6] == "neutral"
    assert EXPRESSIONS[-1] == "contempt"
    assert tuple(ACTION_UNITS) == EXPRESSIONS
    for units in ACTION_UNITS.values():
        assert set(units) <= set(AU_NAMES)
        assert all(0 < share <= 1 for share in units.values())


def test_sampled_action_units_follow_the_table() -> None:
    expressions = np.repeat(np.arange(len(EXPRESSIONS)), 200)
    activations = sample_action_units(expressions, 4, settings=RenderSettings(stray_au=0))
    assert activations.dtype == np.float32
    assert activations.min() >= 0
    assert activations.max() <= 1
    for label, name in enumerate(EXPRESSIONS):
        share = (activations[expressions == label] > 0).mean(axis=0)
        expected = [ACTION_UNITS[name].get(au, 0.0) for au in AU_NAMES]
        assert share == pytest.approx(expected, abs=0.15)


def test_neutral_studio_face_is_symmetric_and_contempt_is_not() -> None:
    neutral = studio()
    assert np.abs(crop(neutral - neutral[:, ::-1], MOUTH)).max() <= 2
    contempt = studio(**{"AU12 unilateral": 1.0, "AU14 unilateral": 1.0})
    assert np.abs(crop(contempt - contempt[:, ::-1], MOUTH)).mean() > 8
    change = np.abs(contempt - neutral)[64:90]
    left, right = change[:, :44].sum(), change[:, 52:].sum()
    assert max(left, right) > 20 * min(left, right)


def test_the_contemptuous_side_varies() -> None:
    row = np.zeros((40, len(AU_NAMES)), dtype=np.float32)
    neutral = render_action_units(row, 0, settings=STUDIO).astype(np.float64)
    row[:, AU_NAMES.index("AU12 unilateral")] = 1
    change = np.abs(render_action_units(row, 0, settings=STUDIO) - neutral)
    left = change[..., :24].sum(axis=(1, 2, 3)) > change[..., 24:].sum(axis=(1, 2, 3))
    assert 8 < left.sum() < 32


@pytest.mark.parametrize(
    ("au", "moved", "still"),
    [
        ("AU1", BROWS, MOUTH),
        ("AU2", BROWS, MOUTH),
        ("AU4", BROWS, MOUTH),
        ("AU5", EYES, MOUTH),
        ("AU6", EYES, BROWS),
        ("AU7", EYES, MOUTH),
        ("AU9", NOSE, None),
        ("AU10", MOUTH, BROWS),
        ("AU12", MOUTH, BROWS),
        ("AU14", MOUTH, BROWS),
        ("AU15", MOUTH, BROWS),
        ("AU17", MOUTH, BROWS),
        ("AU20", MOUTH, BROWS),
        ("AU23", MOUTH, BROWS),
        ("AU24", MOUTH, BROWS),
        ("AU25", MOUTH, EYES),
        ("AU26", MOUTH, EYES),
        ("AU27", MOUTH, EYES),
    ],
)
def test_action_unit_moves_its_part_of_the_face(au: str, moved: Box, still: Box | None) -> None:
    change = np.abs(studio(**{au: 1.0}) - studio())
    assert crop(change, moved).mean() > 1.5
    if still is not None:
        assert crop(change, still).max() == 0


def darkest_row(image: NDArray[np.float64], left: float, right: float, top: float, bottom: float) -> float:
    """Mean row (share of the side) of the darkest pixel of each column in a box."""
    size = image.shape[0]
    rows = slice(round(top * size), round(bottom * size))
    columns = slice(round(left * size), round(right * size))
    return float(image[rows, columns].argmin(axis=0).mean() / size + top)


def test_lip_corners_and_brows_move_the_right_way() -> None:
    def corner(**units: float) -> float:
        face = studio(**units)
        return darkest_row(face, 0.39, 0.42, 0.65, 0.85) - darkest_row(face, 0.48, 0.52, 0.65, 0.85)

    assert corner(AU12=1.0) < corner() - 0.01
    assert corner(AU15=1.0) > corner() + 0.01

    def inner_brow(**units: float) -> float:
        return darkest_row(studio(**units), 0.58, 0.62, 0.18, 0.41)

    def outer_brow(**units: float) -> float:
        return darkest_row(studio(**units), 0.72, 0.76, 0.18, 0.38)

    assert inner_brow(AU1=1.0) < inner_brow() < inner_brow(AU4=1.0)
    assert outer_brow(AU2=1.0) < outer_brow()


def test_open_mouth_is_dark_and_wide_eyes_are_bright() -> None:
    box = (0.72, 0.80, 0.45, 0.55)
    assert crop(studio(AU25=1.0, AU26=1.0), box).mean() < crop(studio(), box).mean() - 40
    assert crop(studio(AU5=1.0), EYES).mean() > crop(studio(AU7=1.0), EYES).mean() + 3
