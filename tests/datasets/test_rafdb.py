"""RAF-DB: both trees as published, every protocol on them, files that are damaged or lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from open_set_fer.benchmark.protocols.protocol import enumerate_protocols
from open_set_fer.benchmark.protocols.task import split_faces
from open_set_fer.datasets.faceset import BASIC, COMPOUND
from open_set_fer.datasets.rafdb import RafDb, RafDbCompound
from open_set_fer.errors import SuiteError
from tests.datasets.trees import every_protocol, rafdb_copies, rafdb_tree


def test_rafdb_basic(tmp_path):
    root = rafdb_tree(tmp_path / "basic", 7)
    faces = RafDb(str(root), image_size=16).load(tmp_path / "cache")
    assert faces.classes == BASIC
    assert faces.counts() == {"train": dict.fromkeys(BASIC, 2), "test": dict.fromkeys(BASIC, 2)}
    assert (faces.labels[0], faces.split[0], faces.ids[0]) == (0, "train", "train_00001_aligned.jpg")
    assert faces.images.shape == (28, 3, 16, 16)
    assert len(every_protocol(faces)) == 7 + 21 + 35


def test_rafdb_compound(tmp_path):
    basic, compound = rafdb_tree(tmp_path / "basic", 7), rafdb_tree(tmp_path / "compound", 11)
    faces = RafDbCompound(str(basic), str(compound), image_size=16, channels=1).load(tmp_path / "cache")
    assert faces.classes == (*BASIC, *COMPOUND)
    assert all(count == 2 for split in faces.counts().values() for count in split.values())
    assert every_protocol(faces).count("compound") == 1
    assert len(set(faces.ids)) == len(faces.ids)


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
        RafDb(str(root), image_size=16).load(tmp_path / "cache")


def test_windows_line_ends_and_an_empty_class(tmp_path):
    root = rafdb_tree(tmp_path / "basic", 7)
    path = root / "EmoLabel" / "list_patition_label.txt"
    kept = [line for line in path.read_text().splitlines() if not line.endswith(" 2")]
    path.write_bytes("\r\n".join(kept).encode())
    faces = RafDb(str(root), image_size=16).load(tmp_path / "cache")
    assert faces.counts()["train"]["fear"] == 0
    with pytest.raises(SuiteError, match="class 'fear' has no train image"):
        split_faces(faces, enumerate_protocols(BASIC, ("single",))[0], 0)


@pytest.fixture
def image(tmp_path):
    return rafdb_tree(tmp_path / "basic", 7) / "Image" / "aligned" / "train_00003_aligned.jpg"


def load(tmp_path):
    return RafDb(str(tmp_path / "basic"), image_size=16).load(tmp_path / "cache")


@pytest.mark.parametrize("kept", [0, 300])
def test_zero_bytes_and_a_truncated_image(tmp_path, image, kept):
    image.write_bytes(image.read_bytes()[:kept])
    with pytest.raises(SuiteError, match=r"cannot decode image .*train_00003_aligned\.jpg"):
        load(tmp_path)


def test_a_link_out_of_the_tree_is_refused_and_one_within_followed(tmp_path, image):
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(SuiteError, match=r"'Image/aligned/train_00003_aligned\.jpg' leads out of"):
        load(tmp_path)
    image.unlink()
    image.symlink_to(image.with_name("train_00004_aligned.jpg"))
    faces = load(tmp_path)
    assert (faces.images[2] == faces.images[3]).all()


def test_images_elsewhere_altogether(tmp_path, image):
    image.parent.rename(tmp_path / "aligned")
    with pytest.raises(SuiteError, match=r"no file .*Image/aligned/train_00001_aligned\.jpg"):
        load(tmp_path)


# -- the tree of copies that circulates ----------------------------------------------------------------------------


def test_the_tree_of_copies_gives_the_published_faces(tmp_path):
    root = rafdb_copies(tmp_path / "copies")
    copies = RafDb(str(root), image_size=16).load(tmp_path / "cache")
    aligned = root / "published" / "Image" / "aligned"
    for path in sorted((root / "DATASET").glob("*/*/*.jpg")):
        path.rename(aligned / path.name)
    published = RafDb(str(root / "published"), image_size=16).load(tmp_path / "cache")
    assert copies.fingerprint == published.fingerprint
    assert (copies.ids == published.ids).all()


def test_hidden_files_in_the_tree_of_copies_and_no_tables(tmp_path):
    root = rafdb_copies(tmp_path / "copies")
    for name in ("train_labels.csv", "test_labels.csv"):
        (root / name).unlink()
    (root / "DATASET" / "train" / "1" / ".DS_Store").write_bytes(b"x")
    (root / "DATASET" / "train" / "1" / "._train_00001_aligned.jpg").write_bytes(b"x")
    faces = RafDb(str(root / "DATASET"), image_size=16).load(tmp_path / "cache")
    assert faces.counts() == {"train": dict.fromkeys(BASIC, 2), "test": dict.fromkeys(BASIC, 2)}


def test_a_tree_of_copies_that_is_not_as_published_is_refused(tmp_path):
    root = rafdb_copies(tmp_path / "copies")
    place = root / "DATASET" / "train" / "1"
    odd = ["aug_0_train_00001_aligned.jpg", "test_00001_aligned.jpg", "train_00001.jpg", "train_00001_aligned_flip.jpg"]
    for name in odd:
        (place / name).write_bytes((place / "train_00001_aligned.jpg").read_bytes())
    with pytest.raises(SuiteError, match=r"4 files of .* are no published faces, or are there twice: .* and 1 more"):
        load_copies(root, tmp_path)
    for name in odd:
        (place / name).unlink()
    (place / "train_00001_aligned.jpg").rename(place.parent / "2" / "train_00001_aligned.jpg")
    with pytest.raises(SuiteError, match=r"1 labels of .* differ between its folders and tables: train_00001"):
        load_copies(root, tmp_path)
    (root / "DATASET" / "test").rename(root / "DATASET" / "valid")
    with pytest.raises(SuiteError, match=r"has no folder test, only train, valid\n  fix: rename the folder"):
        load_copies(root, tmp_path)


def load_copies(root, tmp_path):
    return RafDb(str(root), image_size=16).load(tmp_path / "cache")


def test_all_faulty_lines_and_all_missing_images_are_counted(tmp_path):
    root = rafdb_tree(tmp_path / "basic", 7)
    for number in range(1, 6):
        (root / "Image" / "aligned" / f"train_{number:05d}_aligned.jpg").unlink()
    with pytest.raises(SuiteError, match=r"and 2 more \(5 of 28 files are missing\)"):
        load(tmp_path)
    path = root / "EmoLabel" / "list_patition_label.txt"
    path.write_text(path.read_text().replace(" 3\n", " 9\n").replace("train_00001.jpg 1", "train_00001.jpg 1 0"))
    with pytest.raises(SuiteError, match=r"5 lines cannot be used:\n(.*\n){3}  and 2 more of this kind"):
        load(tmp_path)
