"""`osfer data preview`: every class, and one clear error for a path of no use."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from open_set_fer.cli import data as cli
from open_set_fer.datasets.preview import contact_sheet
from open_set_fer.datasets.synthetic.dataset import Synthetic
from open_set_fer.datasets.synthetic.renderer import EXPRESSIONS
from open_set_fer.errors import SuiteError


def test_contact_sheet_shows_every_class_and_says_demonstration(tmp_path: Path, monkeypatch) -> None:
    texts = []
    original = ImageDraw.ImageDraw.text

    def text(self, place, words, *args, **kwargs):
        texts.append(words)
        return original(self, place, words, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    path = tmp_path / "new" / "sheet.png"
    contact_sheet(Synthetic(3, 2, 4, 4).load(tmp_path), path, per_class=4)
    assert set(EXPRESSIONS) < set(texts)
    assert "demonstration" in texts[0]
    with Image.open(path) as sheet:
        assert sheet.height > 19 * 96


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("faces.xyz", r"cannot write a picture as .*faces\.xyz.*\n  fix: end its name with \.png"),
        ("faces", r"cannot write a picture as .*faces: its ending"),
        ("folder", r"folder is a folder\n  fix: name a file in it"),
        ("file/faces.png", r"cannot write .*faces\.png: .*file is a file"),
        ("file/deeper/faces.png", r"cannot write .*faces\.png: .*file is a file"),
    ],
)
def test_a_preview_that_cannot_be_written_is_told_before_anything_is_decoded(tmp_path, monkeypatch, target, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(cli, "_load_dataset", None)  # would raise if called
    with pytest.raises(SuiteError, match=message):
        cli.preview("digits", to=tmp_path / target)


def test_a_preview_on_a_place_that_admits_no_file(tmp_path):
    with pytest.raises(SuiteError, match=r"cannot write /proc/none/faces\.png: No such file"):
        cli.preview("digits", to=Path("/proc/none/faces.png"), home=tmp_path)
    cli.preview("digits", to=tmp_path / "new" / "faces.JPG", home=tmp_path)
    with Image.open(tmp_path / "new" / "faces.JPG") as sheet:
        assert sheet.format == "JPEG"
