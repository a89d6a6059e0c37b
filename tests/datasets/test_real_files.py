"""What users' files are like: each is read, or refused with all faults of a kind; nothing is left out silently."""

from __future__ import annotations

import logging
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from open_set_fer.datasets import vocabulary as words
from open_set_fer.datasets.checks import check
from open_set_fer.datasets.decoding import decode
from open_set_fer.datasets.faceset import BASIC, facts
from open_set_fer.datasets.manifest import Manifest
from open_set_fer.errors import SuiteError
from tests.datasets.trees import face

FEW = ("anger", "fear", "neutral")


def tree(root: Path, classes=FEW, splits=("train", "test"), number: int = 2) -> Path:
    for split in splits:
        for name in classes:
            for index in range(number):
                face(root / split / name / f"{index}.png")
    return root


def table(root: Path) -> pd.DataFrame:
    paths = sorted(str(path.relative_to(root)) for path in root.glob("*/*/*.png"))
    return pd.DataFrame([{"path": p, "label": Path(p).parts[1], "split": Path(p).parts[0]} for p in paths])


def load(path: Path, **settings):
    cache = settings.pop("cache", path.parent / "cache")
    return Manifest(str(path), image_size=16, **settings).load(cache)


def vocabulary(folder: Path, text: str) -> str:
    (folder / "vocabulary.toml").write_text(text)
    return str(folder / "vocabulary.toml")


def counts(faces) -> dict[str, int]:
    return {split: sum(by_class.values()) for split, by_class in faces.counts().items()}


# -- folder trees --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hidden",
    ["train/.ipynb_checkpoints/im1.png", "train/fear/._0.png", "train/fear/.DS_Store", "__MACOSX/train/fear/a.png"],
)
def test_hidden_files_and_folders_are_no_part_of_a_tree(tmp_path, caplog, hidden):
    root = tree(tmp_path / "own")
    (root / hidden).parent.mkdir(parents=True, exist_ok=True)
    (root / hidden).write_bytes(b"no image")
    (root / "train" / "fear" / "notes.txt").touch()
    with caplog.at_level(logging.INFO):
        faces = load(root)
    assert (faces.classes, counts(faces)) == (("fear", "anger", "neutral"), {"train": 6, "test": 6})
    assert re.search(r"passed over in .*: 1 files: \.txt 1 \(train/fear/notes\.txt\), 1 hidden files", caplog.text)


@pytest.mark.parametrize("ending", ["gif", "pgm", "ppm", "jfif", "jpe", "PNG", "bmp", "webp", "tiff"])
def test_images_of_every_decoded_format_are_counted(tmp_path, ending):
    root = tree(tmp_path / "own")
    Image.new("L", (20, 20), 9).save(tmp_path / "a.png")
    kind = {"jfif": "JPEG", "jpe": "JPEG", "pgm": "PPM", "ppm": "PPM"}.get(ending, ending.upper())
    Image.open(tmp_path / "a.png").save(root / "train" / "fear" / f"a.{ending}", format=kind)
    assert counts(load(root))["train"] == 7


def test_images_below_a_class_folder_are_of_the_class(tmp_path, caplog):
    root = tree(tmp_path / "own")
    for number in range(5):
        face(root / "train" / "fear" / "session1" / "a" / f"{number}.png")
    with caplog.at_level(logging.INFO):
        faces = load(root)
    assert faces.counts()["train"]["fear"] == 7
    assert "train/fear/session1/a/3.png" in faces.ids
    assert "5 images of" in caplog.text


@pytest.mark.parametrize(
    ("file", "content"),
    [("a.heic", b"x"), ("a.avif", b"x"), ("0.png~", b"\x89PNG\r\n\x1a\n"), ("im", b"\xff\xd8\xff\xe0")],
)
def test_pictures_that_are_not_read_are_refused(tmp_path, file, content):
    root = tree(tmp_path / "own")
    for split in ("train", "test"):
        (root / split / "fear" / file).write_bytes(content)
    with pytest.raises(SuiteError, match=r"pictures of a format or name that is not read: 2 files: .* 2 \(test/fear/"):
        load(root)


def test_images_in_no_class_are_refused_and_those_in_no_split_are_said(tmp_path, caplog):
    root = tree(tmp_path / "own")
    face(root / "example.png")
    face(root / "docs" / "figure.png")
    assert counts(load(root)) == {"train": 6, "test": 6}
    assert "2 images of" in caplog.text
    face(root / "train" / "loose.png")
    with pytest.raises(SuiteError, match=r"1 images of .* lie in no class: train/loose\.png"):
        load(root)


def test_a_missing_split_is_named(tmp_path):
    root = tree(tmp_path / "own", splits=("train", "valid"))
    with pytest.raises(
        SuiteError, match=r"has no split test, only train \(6\), valid \(6\)\n  fix: rename a split to test"
    ):
        load(root)
    faces = load(root, vocabulary=vocabulary(tmp_path, "anger=[]\nfear=[]\nneutral=[]\n[splits]\ntest = ['valid']\n"))
    assert counts(faces) == {"train": 6, "test": 6}


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "TEST"), ("train_set", "test-set")])
def test_split_words_of_other_trees(tmp_path, caplog, names):
    with caplog.at_level(logging.INFO):
        faces = load(tree(tmp_path / "own", splits=names))
    assert counts(faces) == {"train": 6, "test": 6}
    assert f"split {names[0]!r} is taken for train (6 rows)" in caplog.text


def test_classes_above_splits(tmp_path):
    for name in FEW:
        for split in ("train", "val", "test"):
            face(tmp_path / "own" / name / split / "0.png")
    assert counts(load(tmp_path / "own")) == {"train": 3, "valid": 3, "test": 3}


def test_a_tree_in_another_folder_or_without_splits_says_so(tmp_path):
    tree(tmp_path / "own" / "images")
    with pytest.raises(SuiteError, match=r'has no split, but .*own/images has\n  fix: set path = ".*own/images"'):
        load(tmp_path / "own")
    with pytest.raises(SuiteError, match=r"no folder of a split .*: 6 images .*anger.*\n  fix: .*osfer data split"):
        load(tmp_path / "own" / "images" / "train")


# -- class words ---------------------------------------------------------------------------------------------------


def test_class_words_in_any_case_are_the_expressions(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        faces = load(tree(tmp_path / "own", ("Anger", "FEAR", "Happily_Surprised", "bored")))
    assert faces.classes == ("fear", "anger", "happily surprised", "bored")
    assert "'Anger' is taken for anger (4 images)" in caplog.text


def test_words_that_mean_expressions_get_a_vocabulary_that_works(tmp_path):
    root = tree(tmp_path / "own", ("angry", "Happy", "sad", "neutral", "bored"))
    with pytest.raises(SuiteError, match=r"classes mean expressions but are not named so: .*angry") as raised:
        load(root)
    text = raised.value.fix.partition(":\n")[2]
    assert tomllib.loads(text)["happiness"] == ["Happy"]
    faces = load(root, vocabulary=vocabulary(tmp_path, text))
    assert faces.classes == ("happiness", "sadness", "anger", "neutral", "bored")


def test_a_vocabulary_may_keep_such_a_word(tmp_path):
    root = tree(tmp_path / "own", ("angry", "calm"))
    assert load(root, vocabulary=vocabulary(tmp_path, "angry = []\ncalm = []\n")).classes == ("angry", "calm")


@pytest.mark.parametrize("classes", [("anger", "Anger", "fear"), ("pain", "PAIN"), ("in_love", "in-love", "fear")])
def test_classes_equal_but_for_case_are_refused(tmp_path, classes):
    root = tree(tmp_path / "own", classes)
    with pytest.raises(SuiteError, match=rf"equal apart from case: .*'{classes[1]}' \(4 images\)"):
        load(root)
    text = f'{classes[0]} = ["{classes[1]}"]\n' + "fear = []\n" * ("fear" in classes)
    assert load(root, vocabulary=vocabulary(tmp_path, text)).counts()["train"][classes[0]] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Anger = []", "'Anger' is an expression in another case"),
        ("pain = []\nPain = []", "class names that are equal apart from case"),
        ("[splits]\ntesting = ['x']", r"unknown splits \['testing'\]"),
        ("[splits]\ntest = 'x'", "test is not a list"),
    ],
)
def test_faults_of_a_vocabulary(tmp_path, text, message):
    with pytest.raises(SuiteError, match=message):
        words.read_vocabulary(Path(vocabulary(tmp_path, text)))


def test_numbers_without_names_are_refused_with_their_counts(tmp_path):
    root = tree(tmp_path / "own", ("1", "2", "3"))
    with pytest.raises(
        SuiteError, match=r"labels are numbers without names: .*1 \(4\).*\n  fix: .*\n    surprise = \[ \]"
    ):
        load(root)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_that_a_gap_made_floats(tmp_path, kind):
    root = tree(tmp_path / "own")
    rows = table(root)
    rows["label"] = rows["label"].map({"anger": 1.0, "fear": 2.0, "neutral": 3.0})
    (rows.to_csv if kind == "csv" else rows.to_parquet)(root / f"faces.{kind}", index=False)
    own = vocabulary(tmp_path, "anger = [1]\nfear = ['2']\nneutral = [3]\n")
    assert load(root / f"faces.{kind}", vocabulary=own).classes == ("fear", "anger", "neutral")


def test_every_unknown_label_is_named_with_its_count(tmp_path):
    root = tree(tmp_path / "own", ("anger", "glad", "sadnes"))
    own = vocabulary(tmp_path, "anger = []\nsadness = []\n")
    with pytest.raises(
        SuiteError, match=r"'glad' \(4 images\), 'sadnes' \(4 images\); 'sadnes', did you mean 'sadness'"
    ):
        load(root, vocabulary=own)


# -- tables --------------------------------------------------------------------------------------------------------


def test_na_is_a_word_if_the_vocabulary_has_it(tmp_path):
    root = tree(tmp_path / "own", ("anger", "fear", "NA"))
    table(root).to_csv(root / "faces.csv", index=False)
    with pytest.raises(
        SuiteError, match=r"rows 2, 3, 8 and 1 more of .* have no label\n  fix: .*if the vocabulary has"
    ):
        load(root / "faces.csv")
    own = vocabulary(tmp_path, 'anger = []\nfear = []\nneutral = ["NA"]\n')
    assert load(root / "faces.csv", vocabulary=own).counts()["test"]["neutral"] == 2


def test_paths_that_windows_wrote(tmp_path, caplog):
    root = tree(tmp_path / "own")
    table(root).to_csv(root / "plain.csv", index=False)
    table(root).assign(path=lambda t: t["path"].str.replace("/", "\\")).to_csv(root / "windows.csv", index=False)
    with caplog.at_level(logging.INFO):
        windows = load(root / "windows.csv")
    assert windows.fingerprint == load(root / "plain.csv").fingerprint
    assert "12 paths with \\ are read with /" in caplog.text
    table(root).assign(path="D:\\faces\\" + table(root)["path"]).to_csv(root / "drive.csv", index=False)
    with pytest.raises(SuiteError, match=r"12 paths are of another computer: D:\\faces"):
        load(root / "drive.csv")


def test_a_table_apart_from_its_images(tmp_path):
    root = tree(tmp_path / "own")
    (tmp_path / "tables").mkdir()
    table(root).to_csv(tmp_path / "tables" / "faces.csv", index=False)
    with pytest.raises(
        SuiteError, match=r"no file .*, .* and 9 more \(12 of 12 files are missing\)\n  fix: none of its"
    ):
        load(tmp_path / "tables" / "faces.csv")
    assert counts(load(tmp_path / "tables" / "faces.csv", root=str(root))) == {"train": 6, "test": 6}
    table(root).assign(path=lambda t: str(root) + "/" + t["path"]).to_csv(tmp_path / "tables" / "b.csv", index=False)
    assert counts(load(tmp_path / "tables" / "b.csv", root=str(root))) == {"train": 6, "test": 6}


def test_columns_of_other_names_and_fer2013s_splits(tmp_path, caplog):
    root = tree(tmp_path / "own")
    usage = {"train": "Training", "test": "PrivateTest"}
    rows = table(root).rename(columns={"path": "Image", "label": "emotion", "split": "Usage"})
    rows["Usage"] = rows["Usage"].map(usage)
    rows.to_csv(root / "faces.csv", index=False)
    with caplog.at_level(logging.INFO):
        assert counts(load(root / "faces.csv")) == {"train": 6, "test": 6}
    assert "column 'Usage' is taken for split" in caplog.text
    rows.assign(expression="x").to_csv(root / "faces.csv", index=False)
    with pytest.raises(SuiteError, match=r"columns \['emotion', 'expression'\]: which is the label\?"):
        load(root / "faces.csv")


def test_empty_rows_are_passed_over_and_all_missing_values_named(tmp_path, caplog):
    root = tree(tmp_path / "own")
    table(root).to_csv(root / "faces.csv", index=False)
    with (root / "faces.csv").open("a") as file:
        file.write(",,\n,,\n")
    assert counts(load(root / "faces.csv")) == {"train": 6, "test": 6}
    assert "2 rows are empty and passed over" in caplog.text
    rows = table(root)
    rows.loc[[0, 5], "split"] = None
    rows.to_csv(root / "faces.csv", index=False)
    with pytest.raises(SuiteError, match=r"rows 2, 7 of .* have no split"):
        load(root / "faces.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("fear,", "fear,x,"), "cannot read .*faces.csv"),  # not only in the first row
        (lambda text: text.replace(".png,", ",1.png,"), "cannot read .*Length of header"),
        (lambda text: text.replace("path,label,split", "path,label,label"), r"has the columns \['label'\] twice"),
    ],
)
def test_rows_of_another_length_and_columns_twice(tmp_path, change, message):
    root = tree(tmp_path / "own")
    table(root).to_csv(root / "faces.csv", index=False)
    text = (root / "faces.csv").read_text()
    (root / "faces.csv").write_text(change(text))
    with pytest.raises(SuiteError, match=message):
        load(root / "faces.csv")
    (root / "faces.csv").write_text(text.replace("\n", ",\n").replace("split,", "split"))
    assert counts(load(root / "faces.csv")) == {"train": 6, "test": 6}


def test_every_missing_file_is_counted(tmp_path):
    root = tree(tmp_path / "own")
    table(root).to_csv(root / "faces.csv", index=False)
    for path in table(root)["path"].tolist()[:5]:
        (root / path).unlink()
    with pytest.raises(SuiteError, match=r"no file .*, .*, .* and 2 more \(5 of 12 files are missing\)"):
        load(root / "faces.csv")


# -- face boxes ----------------------------------------------------------------------------------------------------


def boxed(root: Path, **box) -> pd.DataFrame:
    return table(root).assign(**{"left": 2, "top": 3, "right": 12, "bottom": 13, **box})


def test_two_faces_of_one_photograph(tmp_path):
    root = tree(tmp_path / "own")
    rows = pd.concat([boxed(root), boxed(root, left=8, right=18, label="happiness")])
    rows.to_csv(root / "faces.csv", index=False)
    faces = load(root / "faces.csv")
    assert counts(faces) == {"train": 12, "test": 12}
    assert len(set(faces.ids)) == 24
    first = table(root)["path"][0]
    at = faces.ids.tolist().index(f"{first}#2")
    assert faces.classes[faces.labels[at]] == "happiness"
    assert (faces.images[at] == decode(str(root / first), 16, 3, (8, 3, 18, 13))).all()


def test_one_face_twice_is_refused_with_the_number_of_contradictions(tmp_path):
    root = tree(tmp_path / "own")
    pd.concat([boxed(root), boxed(root, label="happiness")[:4]]).to_csv(root / "faces.csv", index=False)
    with pytest.raises(SuiteError, match=r"lists .* and 1 more twice; 4 of them with different labels"):
        load(root / "faces.csv")


def test_photographs_with_faces_in_two_splits_are_said(tmp_path, caplog):
    root = tree(tmp_path / "own")
    other = boxed(root, left=8, right=18)[:3].assign(split=["train", "test", "train"])
    pd.concat([boxed(root), other]).to_csv(root / "faces.csv", index=False)
    load(root / "faces.csv")
    assert "2 pictures have faces in more than one split" in caplog.text


def test_boxes_beyond_their_pictures_are_all_named_and_clipped_on_request(tmp_path, caplog):
    root = tree(tmp_path / "own")
    rows = boxed(root)
    rows.loc[:4, "bottom"] = 24
    rows.to_csv(root / "faces.csv", index=False)
    with pytest.raises(
        SuiteError, match=r"5 images cannot be used:\n(.*does not lie in its 20x20 pixels\n){3}.*2 more"
    ):
        load(root / "faces.csv")
    clipped = load(root / "faces.csv", clip_boxes=True)
    assert "5 face boxes reached beyond their pictures and were clipped" in caplog.text
    path = root / table(root)["path"][0]
    assert (clipped.images[0] == decode(str(path), 16, 3, (2, 3, 12, 20))).all()
    rows.loc[7, ["left", "right"]] = [18, 28]
    rows.to_csv(root / "faces.csv", index=False)
    with pytest.raises(SuiteError, match=r"face box \(18, 3, 28, 13\) does not lie.*\n  fix: fix the manifest$"):
        load(root / "faces.csv", clip_boxes=True)


# -- images --------------------------------------------------------------------------------------------------------


def test_every_damaged_image_is_counted_by_kind(tmp_path):
    root = tree(tmp_path / "own")
    for path in table(root)["path"].tolist()[:5]:
        (root / path).write_bytes((root / path).read_bytes()[:200])
    Image.fromarray(np.array([[0, 0.5], [1, 255]], np.float32)).save(root / "train" / "fear" / "deep.tif")
    with pytest.raises(SuiteError) as raised:
        load(root)
    assert raised.value.message.startswith("6 images cannot be used:")
    assert raised.value.message.count("cannot decode image") == 3
    assert "and 2 more of this kind" in raised.value.message
    assert "deep.tif has floating-point values" in raised.value.message
    assert raised.value.fix == "save it with 8 bits a channel; replace the file by an undamaged copy" or (
        raised.value.fix == "replace the file by an undamaged copy; save it with 8 bits a channel"
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_black(tmp_path, mode):
    pixels = np.full((8, 8, 4), 200, dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[:4, :, 3] = 0
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = Image.fromarray(np.repeat([[0], [1]], 4, axis=0).repeat(8, axis=1).astype(np.uint8)).convert("P")
        picture.putpalette([200] * 6)
        picture.info["transparency"] = 0
    elif mode == "LA":
        picture = picture.convert("LA")
    picture.save(tmp_path / "a.png")
    assert decode(str(tmp_path / "a.png"), 8, 1)[0].tolist() == [[0] * 8] * 4 + [[200] * 8] * 4


def test_check_names_a_missing_split(tmp_path):
    faces = load(tree(tmp_path / "own", BASIC))
    faces.split[faces.split == "test"] = "valid"
    assert "no split test" in check(faces, facts(Manifest)).vocabulary
