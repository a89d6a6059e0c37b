"""Photographs read, faces found and cropped: the rule by which a box becomes a crop, and what is refused."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image

from open_set_fer.benchmark.storage.detectors import Box, CropRule
from open_set_fer.datasets.decoding import decode
from open_set_fer.datasets.synthetic.renderer import render_faces
from open_set_fer.errors import SuiteError
from open_set_fer.photos import find as finding
from open_set_fer.photos.find import crop_face, find_faces, measure_rule, read_photo


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_a_crop_is_the_square_of_the_rule():
    rule = CropRule(scale=2.0, right=0.5, down=-0.25)
    box = Box(10, 20, 8, 8)
    # Centre (14, 24) moved by (4, -2), side 16.
    assert rule.square(box) == (10, 14, 16)
    pixels = np.arange(60 * 50, dtype=np.uint32).reshape(60, 50) % 251
    picture = Image.fromarray(pixels.astype(np.uint8))
    assert (crop_face(picture, box, rule, (1, 16, 16))[0] == pixels[14:30, 10:26]).all()
    assert crop_face(picture, box, rule, (3, 8, 8)).shape == (3, 8, 8)


def test_beyond_the_edge_a_crop_repeats_the_edge():
    picture = Image.fromarray(np.tile(np.arange(10, dtype=np.uint8) * 20, (10, 1)))
    crop = crop_face(picture, Box(-5, -5, 10, 10), CropRule(scale=1.0, right=0, down=0), (1, 10, 10))
    assert (crop[0, :, :5] == 0).all()
    assert (crop[0, 3, 5:] == [0, 20, 40, 60, 80]).all()
    away = crop_face(picture, Box(30, -40, 4, 4), CropRule(scale=1.0, right=0, down=0), (3, 4, 4))
    assert (away == 180).all()  # the nearest corner


def test_a_photo_stands_as_its_camera_held_it():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    photo = read_photo(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif))
    assert (photo.size, photo.mode) == ((20, 40), "RGB")
    assert read_photo(encoded(Image.new("RGBA", (4, 4)))).mode == "RGB"


def test_what_is_transparent_in_a_photo_is_black():
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (200, 100, 50, 0)).save(file, "PNG")
    assert np.asarray(read_photo(file.getvalue())).max() == 0


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"hello", "no picture that can be read"),
        (b"", "no picture that can be read"),
        (encoded(Image.new("RGB", (64, 64), "red"), "JPEG")[:300], "cannot be decoded"),
    ],
)
def test_what_is_no_picture_is_said(content, fault):
    with pytest.raises(SuiteError, match=fault):
        read_photo(content)


def test_postscript_is_handed_to_no_program(monkeypatch, tmp_path):
    """Pillow would have Ghostscript run it, whatever its name is."""
    content = encoded(Image.new("RGB", (8, 8)), "EPS")
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was called"))
    with pytest.raises(SuiteError, match="no picture that can be read"):
        read_photo(content)
    (tmp_path / "face.jpg").write_bytes(content)
    with pytest.raises(SuiteError, match="cannot decode"):
        decode(str(tmp_path / "face.jpg"), 8, 1)


def test_a_picture_with_too_many_pixels_is_not_decoded(monkeypatch):
    monkeypatch.setattr(finding, "MOST_PIXELS", 100)
    with pytest.raises(SuiteError, match=r"11 x 10 pixels, more than 100"):
        read_photo(encoded(Image.new("L", (11, 10))))


def test_the_rule_leads_back_from_the_finders_box_to_the_training_image(monkeypatch):
    """A finder that sees the inner half of each face, a tenth of a side too low."""
    margin, side = 80, 160

    def see(canvas):
        return [Box(margin + side / 4, margin + side / 4 + 0.1 * side, side / 2, side / 2)]

    monkeypatch.setattr(finding, "find_faces", see)
    rule = measure_rule(np.zeros((40, 1, 8, 8), dtype=np.uint8))
    assert rule.measured_on == 40
    assert rule.square(see(None)[0]) == pytest.approx((margin, margin, side))
    monkeypatch.setattr(finding, "find_faces", lambda canvas: [])
    assert measure_rule(np.zeros((40, 1, 8, 8), dtype=np.uint8)) == CropRule()


@pytest.mark.parametrize("side", [160, 70])
def test_drawn_faces_are_found_from_left_to_right(side):
    """Small ones as well: a small photograph is enlarged."""
    pytest.importorskip("dlib")
    faces = render_faces(np.array([3, 0]), 7, 64, start=0)
    photo = Image.new("RGB", (640, 400), (190, 200, 210))
    for left, face in zip((400, 60), faces, strict=True):
        photo.paste(Image.fromarray(face[0]).resize((side, side)), (left, 100))
    boxes = find_faces(photo)
    assert len(boxes) == 2
    for box, left in zip(boxes, (60, 400), strict=True):
        assert left < box.left + box.width / 2 < left + side
        assert 100 < box.top + box.height / 2 < 100 + side
    assert find_faces(Image.new("RGB", (300, 200))) == []


def test_without_dlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dlib", None)
    monkeypatch.setattr(finding, "_thread", threading.local())
    with pytest.raises(SuiteError, match=r"open-set-fer\[detect\]"):
        finding.finder()
