"""Checks of data sets: counts beside the published ones, duplicates, class names, odd files, and the contact sheet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from open_set_fer.cli import data as cli
from open_set_fer.datasets.affectnet import AffectNet
from open_set_fer.datasets.checks import check, contact_sheet, odd_files
from open_set_fer.datasets.cifar10 import Cifar10
from open_set_fer.datasets.decoding import ImageFiles
from open_set_fer.datasets.faceset import BASIC, facts
from open_set_fer.datasets.rafdb import RafDb, RafDbCompound
from open_set_fer.datasets.synthetic.dataset import Synthetic
from open_set_fer.datasets.synthetic.expressions import EXPRESSIONS
from open_set_fer.datasets.synthetic.renderer import render_faces
from open_set_fer.errors import SuiteError
from tests.conftest import face_set
from tests.datasets.trees import face, rafdb_tree

KNOWN = facts(Synthetic)  # nothing was published of it


@pytest.fixture
def faces():
    labels, split = np.tile(np.arange(7), 4), np.repeat(["train", "test"], 14)
    made = face_set(labels, split, BASIC)
    return replace(made, images=np.minimum(render_faces(labels, 0), 240))


def test_a_face_made_brighter_is_a_near_duplicate_and_no_exact_one(faces):
    assert (check(faces, KNOWN).duplicates, check(faces, KNOWN).near) == ([], [])
    faces.images[20] = faces.images[3] + 9
    faces.images[8] = faces.images[5]
    report = check(replace(faces, twins=np.zeros(0, dtype=np.int64)), KNOWN)
    assert report.near == [["train/happiness/face-3", "test/neutral/face-20"]]
    assert report.near_across == 1
    assert report.duplicates == [["train/anger/face-5", "train/fear/face-8"]]
    assert (report.across, report.conflicting) == (0, 1)


def test_class_names_that_are_no_expressions(faces):
    assert check(faces, KNOWN).vocabulary == []
    renamed = replace(faces, classes=("surprize", *BASIC[1:]))
    assert check(renamed, KNOWN).vocabulary == [
        "'surprize' is no expression, did you mean 'surprise'?",
        "no class surprise",
    ]
    emptied = replace(faces, labels=np.where(faces.labels == 1, 2, faces.labels))
    assert check(emptied, KNOWN).vocabulary == ["no train image of fear", "no test image of fear"]
    assert check(replace(faces, classes=tuple("0123456")), KNOWN).vocabulary == []


def test_every_odd_file_is_listed(tmp_path):
    for name, side in (("good.png", 48), ("large.png", 64), ("cut.png", 48), ("deep/empty.jpg", 48)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (side, side), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:300])
    (tmp_path / "deep" / "empty.jpg").write_bytes(b"")
    files = ImageFiles(sorted(map(str, tmp_path.rglob("*.*"))), 8, 1)
    cut, empty, large = odd_files(files, 48)
    assert cut.startswith(f"{tmp_path}/cut.png: ")
    assert empty.startswith(f"{tmp_path}/deep/empty.jpg: cannot identify")
    assert large == f"{tmp_path}/large.png: 64x64 pixels instead of 48x48"
    assert len(odd_files(files, None)) == 2
    boxed = ImageFiles([f"{tmp_path}/good.png"] * 2, 8, 1, [(0, 0, 48, 48), (0, 0, 49, 48)])
    (outside,) = odd_files(boxed, 48)
    assert "face box (0, 0, 49, 48) does not lie in its 48x48 pixels" in outside


def test_check_counts_and_finds_the_same_pixels_twice(tmp_path):
    root = rafdb_tree(tmp_path / "basic", 7)
    aligned = root / "Image" / "aligned"
    (aligned / "test_00002_aligned.jpg").write_bytes((aligned / "train_00001_aligned.jpg").read_bytes())
    report = check(RafDb(str(root), image_size=16).load(tmp_path / "cache"), facts(RafDb))
    assert report.duplicates == [["train/surprise/train_00001_aligned.jpg", "test/fear/test_00002_aligned.jpg"]]
    assert (report.across, report.conflicting) == (1, 1)
    assert report.published == {"train": 12271, "test": 3068}
    assert sum(report.counts["train"].values()) == 14


@pytest.mark.parametrize("kind", [RafDb, RafDbCompound, Cifar10, AffectNet])
def test_published_counts_by_class_add_up_to_those_by_split(kind):
    for split, by_class in kind.published_classes.items():
        compound = {"train": 3162, "test": 792}[split] if kind is RafDbCompound else 0  # not known by class
        assert sum(by_class.values()) + compound == kind.published[split]
        assert set(by_class) == set(BASIC if kind is RafDbCompound else kind.classes)


def test_check_prints_found_beside_published(tmp_path, monkeypatch, capsys):
    rafdb_tree(tmp_path / "rafdb", 7)
    rafdb_tree(tmp_path / "rafdb_compound", 11)
    monkeypatch.setenv("OSFER_DATA", str(tmp_path))
    for name, beside in (("rafdb", ""), ("rafdb_compound", "sadly fearful 2 / - 2 / - ")):
        cli.check(name, home=tmp_path / "home")
        shown = " ".join(capsys.readouterr().out.replace("│", "").split())
        assert "found / published" in shown
        assert "surprise 2 / 1,290 2 / 329 " in shown
        assert beside in shown
    cli.check("rafdb", as_json=True, home=tmp_path / "home")
    assert json.loads(capsys.readouterr().out)["published_classes"]["test"]["disgust"] == 160


def test_check_finds_near_duplicates(tmp_path):
    root = rafdb_tree(tmp_path / "basic", 7)
    aligned = root / "Image" / "aligned"
    # A face of its own seed: some random ones have hashes so balanced that compression flips many bits.
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    smooth = Image.fromarray(pixels).resize((100, 100))
    smooth.save(aligned / "train_00004_aligned.jpg", quality=95)
    smooth.save(aligned / "test_00005_aligned.jpg", quality=88)
    report = check(RafDb(str(root), image_size=48).load(tmp_path / "cache"), facts(RafDb))
    assert report.near == [["train/happiness/train_00004_aligned.jpg", "test/sadness/test_00005_aligned.jpg"]]
    assert report.near_across == 1
    assert report.duplicates == []


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


def own_profile(folder: Path, table: str, backbone: str = "") -> Path:
    profile = folder / "my.toml"
    text = (
        f'base = "smoke"\ndescription = "d"\nselection = "s"\n[datasets.manifest]\nimage_size = 16\n{table}\n{backbone}'
    )
    profile.write_text(text)
    return profile


@pytest.mark.parametrize("is_tree", [True, False])
def test_all_odd_files_of_own_data_are_listed(tmp_path, capsys, is_tree):
    root = tmp_path / "own"
    lines = ["path,label,split"]
    for split in ("train", "test"):
        for name in ("fear", "anger"):
            place = f"{split}/{name}/0.png"
            face(root / place)
            lines.append(f"{place},{name},{split}")
    for place in ("train/fear/0.png", "test/anger/0.png"):
        (root / place).write_bytes(b"")
    (root / "faces.csv").write_text("\n".join(lines))
    profile = own_profile(tmp_path, f'path = "{root if is_tree else root / "faces.csv"}"')
    with pytest.raises(SystemExit):
        cli.check("manifest", files=True, profile=str(profile), home=tmp_path / "home")
    shown = capsys.readouterr().out
    assert "2 odd files" in shown
    assert "train/fear/0.png: cannot identify" in shown


def test_check_says_that_a_checkpoint_does_not_fit(tmp_path):
    (tmp_path / "w.pth").write_text("<html>quota</html>")
    profile = own_profile(tmp_path, 'path = "x"', f'[backbone]\nname = "resnet18"\nweights = "{tmp_path}/w.pth"\n')
    with pytest.raises(SuiteError, match="is a text or a web page"):
        cli.check("manifest", profile=str(profile), home=tmp_path / "home")
    with pytest.raises(SuiteError, match="--weights without --profile"):
        cli.check("manifest", weights="w.pth", home=tmp_path / "home")
