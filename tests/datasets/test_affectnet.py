"""AffectNet in both published layouts: every protocol, boxes, annotations of text read once, each kind of damage."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from open_set_fer.datasets import affectnet
from open_set_fer.datasets.affectnet import AffectNet
from open_set_fer.errors import SuiteError
from tests.datasets.trees import affectnet_folders, affectnet_manifests, every_protocol, face


def load(root, tmp_path):
    return AffectNet(str(root), image_size=16).load(tmp_path / "cache")


def test_annotations_are_read_once_until_one_changes(tmp_path, monkeypatch):
    root = affectnet_folders(tmp_path / "affectnet")
    first = load(root, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(affectnet, "_expression", None)  # would raise if called
        assert load(root, tmp_path).fingerprint == first.fingerprint
    np.save(root / "train_set" / "annotations" / "0_exp.npy", np.array("7"))  # text, as published
    changed = load(root, tmp_path)
    assert changed.classes[changed.labels[0]] == "contempt"
    assert changed.fingerprint != first.fingerprint


@pytest.mark.parametrize("value", [np.array("x"), np.array([1, 2]), np.array({}, dtype=object)])
def test_an_annotation_that_is_no_number(tmp_path, value):
    root = affectnet_folders(tmp_path / "affectnet")
    np.save(root / "train_set" / "annotations" / "3_exp.npy", value, allow_pickle=True)
    with pytest.raises(SuiteError, match=r"cannot read .*3_exp\.npy"):
        load(root, tmp_path)


def test_expression_outside_the_eight(tmp_path):
    root = affectnet_folders(tmp_path / "affectnet")
    np.save(root / "train_set" / "annotations" / "3_exp.npy", np.array("9"))
    with pytest.raises(SuiteError, match=r"3_exp\.npy has expression 9, outside 0\.\.7"):
        load(root, tmp_path)


def test_a_link_out_of_the_folders_is_refused(tmp_path):
    root = affectnet_folders(tmp_path / "affectnet")
    image = root / "train_set" / "images" / "3.jpg"
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(SuiteError, match=r"'train_set/images/3\.jpg' leads out of"):
        load(root, tmp_path)


def test_words_in_the_box_of_a_row_without_a_face(tmp_path):
    root = affectnet_manifests(tmp_path / "affectnet")
    whole = load(root, tmp_path)
    path = root / "training.csv"
    text = path.read_text()
    path.write_text(text.replace("1/10.jpg,5,6,20,21", "1/10.jpg,NULL,NULL,NULL,NULL"))  # expression 10: no face
    assert (load(root, tmp_path).images == whole.images).all()
    path.write_text(text.replace("1/3.jpg,5,6,20,21", "1/3.jpg,5,6,NULL,21"))
    with pytest.raises(SuiteError, match=r"1/3\.jpg has no face box"):
        load(root, tmp_path)


@pytest.mark.parametrize("tree", [affectnet_folders, affectnet_manifests])
def test_affectnet(tmp_path, tree):
    root = tree(tmp_path / "affectnet")
    faces = AffectNet(str(root), image_size=16).load(tmp_path / "cache")
    assert set(faces.counts()) == {"train", "test"}
    assert all(count == 2 for split in faces.counts().values() for count in split.values())
    first = faces.classes[faces.labels[0]]
    assert first == "neutral"  # published number 0
    assert every_protocol(faces).count("contempt") == 1


def test_affectnet_crops_the_box(tmp_path):
    root = affectnet_manifests(tmp_path / "affectnet")
    faces = AffectNet(str(root), image_size=16, channels=1).load(tmp_path / "cache")
    with Image.open(root / "Manually_Annotated_Images" / "1" / "0.jpg") as image:
        crop = image.crop((5, 6, 25, 27)).convert("L").resize((16, 16), Image.Resampling.BILINEAR)
    assert (faces.images[0, 0] == np.asarray(crop)).all()


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
    root = affectnet_manifests(tmp_path / "affectnet")
    path = root / "training.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(SuiteError, match=message):
        AffectNet(str(root), image_size=16).load(tmp_path / "cache")


def test_a_link_out_of_the_tree_is_refused(tmp_path):
    root = affectnet_manifests(tmp_path / "affectnet")
    face(tmp_path / "elsewhere.jpg")
    link = root / "Manually_Annotated_Images" / "1" / "3.jpg"
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(SuiteError, match=r"'1/3\.jpg' leads out of"):
        AffectNet(str(root), image_size=16).load(tmp_path / "cache")


def test_affectnet_folders_without_their_annotation(tmp_path):
    root = affectnet_folders(tmp_path / "affectnet")
    (root / "val_set" / "annotations" / "3_exp.npy").unlink()
    with pytest.raises(SuiteError, match=r"images/3\.jpg has no .*3_exp\.npy"):
        AffectNet(str(root)).load(tmp_path / "cache")
    (root / "val_set" / "annotations" / "3_exp.npy").write_bytes(b"\x80\x04junk")
    with pytest.raises(SuiteError, match=r"cannot read .*3_exp\.npy"):
        AffectNet(str(root)).load(tmp_path / "cache")


def test_hidden_files_are_no_images_and_orphans_are_said(tmp_path, caplog):
    root = affectnet_folders(tmp_path / "affectnet")
    whole = load(root, tmp_path)
    for name in (".DS_Store", "._3.jpg", "Thumbs.db"):
        (root / "train_set" / "images" / name).write_bytes(b"x")
    np.save(root / "val_set" / "annotations" / "99_exp.npy", np.array("3"))
    assert load(root, tmp_path).fingerprint == whole.fingerprint
    assert "3 hidden files" in caplog.text
    assert "1 annotations have no image" in caplog.text


def test_all_annotations_with_a_fault_are_named(tmp_path):
    root = affectnet_folders(tmp_path / "affectnet")
    for number in range(5):
        np.save(root / "train_set" / "annotations" / f"{number}_exp.npy", np.array("9"))
    with pytest.raises(SuiteError, match=r"5 annotations cannot be used:\n(.*outside 0\.\.7\n){3}  and 2 more"):
        load(root, tmp_path)
    for number in range(5):
        (root / "train_set" / "annotations" / f"{number}_exp.npy").unlink()
    with pytest.raises(SuiteError, match=r"images/0\.jpg has no .* and 2 more"):
        load(root, tmp_path)


def test_boxes_beyond_the_picture_are_clipped_on_request(tmp_path):
    root = affectnet_manifests(tmp_path / "affectnet")
    path = root / "training.csv"
    path.write_text(path.read_text().replace("1/3.jpg,5,6,20", "1/3.jpg,25,6,20"))
    with pytest.raises(
        SuiteError, match=r"does not lie in its 40x40 pixels\n  fix: fix the manifest, or set clip_boxes"
    ):
        load(root, tmp_path)
    faces = AffectNet(str(root), image_size=16, channels=1, clip_boxes=True).load(tmp_path / "cache")
    row = faces.ids.tolist().index("1/3.jpg")
    with Image.open(root / "Manually_Annotated_Images" / "1" / "3.jpg") as image:
        crop = image.crop((25, 6, 40, 27)).convert("L").resize((16, 16), Image.Resampling.BILINEAR)
    assert (faces.images[row, 0] == np.asarray(crop)).all()
