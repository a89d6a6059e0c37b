"""RAF-DB, AffectNet and digits: small trees in each published layout, every protocol on them, each kind of damage."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from open_set_fer.benchmark.protocols import FAMILIES, enumerate_protocols, make_task, split_faces
from open_set_fer.cli import data as cli
from open_set_fer.datasets import contrast
from open_set_fer.datasets.affectnet import AffectNet
from open_set_fer.datasets.contrast import Cifar10, Digits
from open_set_fer.datasets.faceset import BASIC, COMPOUND, FaceSet
from open_set_fer.datasets.guide import PUBLISHED, PUBLISHED_CLASSES
from open_set_fer.datasets.integrity import check
from open_set_fer.datasets.preparation import decode
from open_set_fer.datasets.rafdb import RafDb, RafDbCompound
from open_set_fer.errors import SuiteError

RNG = np.random.default_rng(0)


def face(path: Path, size: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


def rafdb_tree(root: Path, classes: int) -> Path:
    lines = []
    for split in ("train", "test"):
        for number in range(classes * 2):
            stem = f"{split}_{number + 1:05d}"
            lines.append(f"{stem}.jpg {number % classes + 1}")
            face(root / "Image" / "aligned" / f"{stem}_aligned.jpg")
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return root


def affectnet_folders(root: Path) -> Path:
    for folder in ("train_set", "val_set"):
        (root / folder / "annotations").mkdir(parents=True)
        for number in range(16):
            face(root / folder / "images" / f"{number}.jpg")
            np.save(
                root / folder / "annotations" / f"{number}_exp.npy", np.array(str(number % 8)).astype("<U1").astype(int)
            )
    return root


def affectnet_manifests(root: Path) -> Path:
    for file, part in (("training.csv", "1"), ("validation.csv", "2")):
        rows = []
        for number in range(22):
            name = f"{part}/{number}.jpg"
            face(root / "Manually_Annotated_Images" / name, 40)
            rows.append([name, 5, 6, 20, 21, "", number % 11, 0.0, 0.0])
        columns = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression",
                   "valence", "arousal"]  # fmt: skip
        pd.DataFrame(rows, columns=columns).to_csv(root / file, index=False)
    return root


def every_protocol(faces: FaceSet) -> list[str]:
    protocols = enumerate_protocols(faces.classes, FAMILIES, True, True)
    for protocol in protocols:
        task = make_task(faces, protocol, split_faces(faces, protocol, 0), 0)
        assert len(task.train_images)
        assert set(task.train_labels.tolist()) == set(range(len(protocol.closed)))
    return [f"{p.family}" for p in protocols]


def test_rafdb_basic(tmp_path):
    root = rafdb_tree(tmp_path / "basic", 7)
    faces = RafDb(RafDb.Settings(str(root), image_size=16)).load(tmp_path / "cache")
    assert faces.classes == BASIC
    assert faces.counts() == {"train": dict.fromkeys(BASIC, 2), "test": dict.fromkeys(BASIC, 2)}
    assert (faces.labels[0], faces.split[0], faces.ids[0]) == (0, "train", "train_00001_aligned.jpg")
    assert faces.images.shape == (28, 3, 16, 16)
    assert len(every_protocol(faces)) == 7 + 21 + 35


def test_rafdb_compound(tmp_path):
    basic, compound = rafdb_tree(tmp_path / "basic", 7), rafdb_tree(tmp_path / "compound", 11)
    settings = RafDbCompound.Settings(str(basic), str(compound), image_size=16, channels=1)
    faces = RafDbCompound(settings).load(tmp_path / "cache")
    assert faces.classes == (*BASIC, *COMPOUND)
    assert all(count == 2 for split in faces.counts().values() for count in split.values())
    assert every_protocol(faces).count("compound") == 1
    assert len(set(faces.ids)) == len(faces.ids)


@pytest.mark.parametrize("tree", [affectnet_folders, affectnet_manifests])
def test_affectnet(tmp_path, tree):
    root = tree(tmp_path / "affectnet") if tree is affectnet_folders else tree(_made(tmp_path / "affectnet"))
    faces = AffectNet(AffectNet.Settings(str(root), image_size=16)).load(tmp_path / "cache")
    assert set(faces.counts()) == {"train", "test"}
    assert all(count == 2 for split in faces.counts().values() for count in split.values())
    first = faces.classes[faces.labels[0]]
    assert first == "neutral"  # published number 0
    assert every_protocol(faces).count("contempt") == 1


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_affectnet_crops_the_box(tmp_path):
    root = affectnet_manifests(_made(tmp_path / "affectnet"))
    faces = AffectNet(AffectNet.Settings(str(root), image_size=16, channels=1)).load(tmp_path / "cache")
    with Image.open(root / "Manually_Annotated_Images" / "1" / "0.jpg") as image:
        crop = image.crop((5, 6, 25, 27)).convert("L").resize((16, 16), Image.Resampling.BILINEAR)
    assert (faces.images[0, 0] == np.asarray(crop)).all()


def test_digits_allow_every_combination(tmp_path):
    faces = Digits(Digits.Settings(image_size=24)).load(tmp_path)
    assert len(faces.images) == 1797
    assert 0.29 < np.mean(faces.split == "test") < 0.31
    assert faces.images.max() == 255
    protocols = enumerate_protocols(faces.classes, ("single", "pairs"))
    assert len(protocols) == 10 + 45
    split_faces(faces, protocols[0], 0)


def raf_label(line: str, with_: str):
    def damage(root: Path) -> None:
        path = root / "EmoLabel" / "list_patition_label.txt"
        path.write_text(path.read_text().replace(line, with_, 1))

    return damage


def raf_image(content: bytes | None):
    def damage(root: Path) -> None:
        path = root / "Image" / "aligned" / "train_00003_aligned.jpg"
        whole = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_bytes(content or whole[:300])

    return damage


def raf_encoding(root: Path) -> None:
    path = root / "EmoLabel" / "list_patition_label.txt"
    path.write_bytes(b"\xff\xfe" + path.read_bytes())


def raf_large(root: Path) -> None:
    Image.new("L", (8000, 6300)).save(root / "Image" / "aligned" / "train_00003_aligned.jpg")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (raf_label("train_00002.jpg 2", "train_00002.jpg 8"), r"line 2 of .* has class 8, outside 1\.\.7"),
        (raf_label("train_00002.jpg 2", "train_00001.jpg 2"), r"line 2 of .* repeats train_00001\.jpg"),
        (raf_label("train_00002.jpg 2", "../train_00002.jpg 2"), r"line 2 of .* is not of the form"),
        (raf_label("train_00002.jpg 2", "train_00002.jpg two"), r"line 2 of .* is not of the form"),
        (raf_image(None), r"no file .*train_00003_aligned\.jpg"),
        (raf_image(b""), r"cannot decode image .*train_00003_aligned\.jpg"),
        (raf_image(b"no image at all"), r"cannot decode image .*train_00003_aligned\.jpg"),
        (raf_encoding, r"is not UTF-8 text"),
        (raf_large, r"8000x6300 pixels, more than 40,000,000"),
    ],
)
def test_rafdb_damage_is_one_clear_error(tmp_path, damage, message):
    root = rafdb_tree(tmp_path / "basic", 7)
    damage(root)
    with pytest.raises(SuiteError, match=message):
        RafDb(RafDb.Settings(str(root), image_size=16)).load(tmp_path / "cache")


def test_windows_line_ends_and_an_empty_class(tmp_path):
    root = rafdb_tree(tmp_path / "basic", 7)
    path = root / "EmoLabel" / "list_patition_label.txt"
    kept = [line for line in path.read_text().splitlines() if not line.endswith(" 2")]
    path.write_bytes("\r\n".join(kept).encode())
    faces = RafDb(RafDb.Settings(str(root), image_size=16)).load(tmp_path / "cache")
    assert faces.counts()["train"]["fear"] == 0
    with pytest.raises(SuiteError, match="class 'fear' has no train image"):
        split_faces(faces, enumerate_protocols(BASIC, ("single",))[0], 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1/3.jpg", "../../outside.jpg", r"'\.\./\.\./outside\.jpg' leads out of"),
        ("1/3.jpg", "1/2.jpg", r"lists '1/2\.jpg' twice"),
        ("1/3.jpg,5,6,20,21,,3", "1/3.jpg,5,6,20,21,,12", r"has expression 12, outside 0\.\.10"),
        ("1/3.jpg,5,6,20", "1/3.jpg,5,6,200", r"face box \(5, 6, 205, 27\) does not lie in its 40x40 pixels"),
        ("face_x", "x", r"lacks the columns \['face_x'\]"),
    ],
)
def test_affectnet_damage_is_one_clear_error(tmp_path, old, new, message):
    root = affectnet_manifests(_made(tmp_path / "affectnet"))
    path = root / "training.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(SuiteError, match=message):
        AffectNet(AffectNet.Settings(str(root), image_size=16)).load(tmp_path / "cache")


def test_a_link_out_of_the_tree_is_refused(tmp_path):
    root = affectnet_manifests(_made(tmp_path / "affectnet"))
    face(tmp_path / "elsewhere.jpg")
    link = root / "Manually_Annotated_Images" / "1" / "3.jpg"
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(SuiteError, match=r"'1/3\.jpg' leads out of"):
        AffectNet(AffectNet.Settings(str(root), image_size=16)).load(tmp_path / "cache")


def test_affectnet_folders_without_their_annotation(tmp_path):
    root = affectnet_folders(tmp_path / "affectnet")
    (root / "val_set" / "annotations" / "3_exp.npy").unlink()
    with pytest.raises(SuiteError, match=r"images/3\.jpg has no .*3_exp\.npy"):
        AffectNet(AffectNet.Settings(str(root))).load(tmp_path / "cache")
    (root / "val_set" / "annotations" / "3_exp.npy").write_bytes(b"\x80\x04junk")
    with pytest.raises(SuiteError, match=r"cannot read .*3_exp\.npy"):
        AffectNet(AffectNet.Settings(str(root))).load(tmp_path / "cache")


def test_colour_depth_and_orientation(tmp_path):
    levels = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray((levels.astype(np.uint16) << 8) + 7).save(tmp_path / "deep.png")
    assert (decode(str(tmp_path / "deep.png"), 8, 1)[0] == levels).all()
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "print.jpg")
    assert decode(str(tmp_path / "print.jpg"), 8, 3).max() < 5
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(levels).save(tmp_path / "turned.png", exif=exif)
    assert (decode(str(tmp_path / "turned.png"), 8, 1)[0] == levels[::-1, ::-1]).all()


def test_check_counts_and_finds_the_same_pixels_twice(tmp_path):
    root = rafdb_tree(tmp_path / "basic", 7)
    aligned = root / "Image" / "aligned"
    (aligned / "test_00002_aligned.jpg").write_bytes((aligned / "train_00001_aligned.jpg").read_bytes())
    report = check(RafDb(RafDb.Settings(str(root), image_size=16)).load(tmp_path / "cache"))
    assert report.duplicates == [["train/surprise/train_00001_aligned.jpg", "test/fear/test_00002_aligned.jpg"]]
    assert (report.across, report.conflicting) == (1, 1)
    assert report.published == {"train": 12271, "test": 3068}
    assert sum(report.counts["train"].values()) == 14


def test_published_counts_by_class_add_up_to_those_by_split():
    for name, by_split in PUBLISHED_CLASSES.items():
        for split, by_class in by_split.items():
            compound = {"train": 3162, "test": 792}[split] if name == "rafdb_compound" else 0  # not known by class
            assert sum(by_class.values()) + compound == PUBLISHED[name][split]
    assert set(PUBLISHED_CLASSES["affectnet"]["train"]) == {*BASIC, "contempt"}


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
    report = check(RafDb(RafDb.Settings(str(root), image_size=48)).load(tmp_path / "cache"))
    assert report.near == [["train/happiness/train_00004_aligned.jpg", "test/sadness/test_00005_aligned.jpg"]]
    assert report.near_across == 1
    assert report.duplicates == []


def cifar_files(root: Path, each: int) -> Path:
    root.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = RNG.integers(0, 256, (each, 3072), dtype=np.uint8)
        labels = [k % 10 for k in range(each)]
        (root / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}, protocol=2))
    return root


class Executes:
    """A pickle that would make a folder if anything executed it."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def test_cifar10_from_its_pickles_without_executing_them(tmp_path, monkeypatch):
    root = cifar_files(tmp_path / "cifar10", 20)
    faces = Cifar10(Cifar10.Settings(str(root))).load(tmp_path / "cache")
    assert faces.images.shape == (120, 3, 32, 32)
    pixels = pickle.loads((root / "test_batch").read_bytes())["data"]
    assert (faces.images[100].ravel() == pixels[0]).all()
    assert faces.counts()["test"] == dict.fromkeys(faces.classes, 2)
    with monkeypatch.context() as patch:
        patch.setattr(contrast, "_cifar_batch", None)  # would raise if called
        again = Cifar10(Cifar10.Settings(str(root))).load(tmp_path / "cache")
    assert again.fingerprint == faces.fingerprint
    assert (again.labels == faces.labels).all()
    assert Cifar10(Cifar10.Settings(str(root), 48)).load(tmp_path / "cache").images.shape[1:] == (3, 48, 48)
    victim = tmp_path / "executed"
    (root / "test_batch").write_bytes(pickle.dumps({"data": Executes(victim), "labels": [0]}))
    with pytest.raises(SuiteError, match=r"cannot read .*test_batch: it asks for"):
        Cifar10(Cifar10.Settings(str(root))).load(tmp_path / "cache")
    assert not victim.exists()
