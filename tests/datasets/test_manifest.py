"""A user's own faces: manifest and folder tree give the same data set; every fault names itself."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from open_set_fer.benchmark.protocols.protocol import FAMILIES, enumerate_protocols
from open_set_fer.benchmark.protocols.task import split_faces
from open_set_fer.datasets.manifest import Manifest
from open_set_fer.errors import SuiteError
from tests.datasets.trees import VOCABULARY, face, own_tree


def rows(root: Path) -> pd.DataFrame:
    paths = sorted(str(p.relative_to(root)) for p in root.glob("*/*/*.jpg"))
    return pd.DataFrame([{"path": p, "label": Path(p).parts[1], "split": Path(p).parts[0]} for p in paths])


def load(path: Path, tmp_path: Path, root: Path):
    return Manifest(str(path), str(root / "vocabulary.toml"), image_size=16).load(tmp_path / "cache")


def test_tree_csv_and_parquet_agree_and_every_protocol_runs(tmp_path):
    root = own_tree(tmp_path / "own")
    rows(root).to_csv(root / "faces.csv", index=False)
    rows(root).to_parquet(root / "faces.parquet")
    sets = [load(path, tmp_path, root) for path in (root, root / "faces.csv", root / "faces.parquet")]
    assert sets[0].classes == ("happiness", "anger", "neutral", "contempt")
    assert all(count == 2 for split in sets[0].counts().values() for count in split.values())
    by_id = [dict(zip(s.ids.tolist(), (i.tobytes() for i in s.images), strict=True)) for s in sets]
    assert by_id[0] == by_id[1] == by_id[2]
    protocols = enumerate_protocols(sets[0].classes, FAMILIES)
    assert {p.family for p in protocols} == {"single", "contempt"}
    for protocol in protocols:
        split_faces(sets[0], protocol, 0)


def test_boxes_crop(tmp_path):
    root = own_tree(tmp_path / "own")
    in_box(rows(root)).to_csv(root / "boxed.csv", index=False)
    rows(root).to_csv(root / "plain.csv", index=False)
    boxed, plain = (load(root / name, tmp_path, root) for name in ("boxed.csv", "plain.csv"))
    assert (boxed.images != plain.images).any()


def repeat(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[:1]])


def in_box(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(left=2, top=3, right=12, bottom=13)


def separated(by: str):
    """The file of a table with another separator."""
    return lambda table: table.to_csv(index=False, sep=by)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(label="joy"), r"labels \['joy'\] are not in .*vocabulary\.toml"),
        (lambda t: t.assign(split="holdout"), r"unknown splits \['holdout'\]"),
        (lambda t: t.drop(columns="label"), r"lacks the columns \['label'\]"),
        (lambda t: t.assign(path="../" + t["path"]), r"'\.\./test/7/0\.jpg', .* and 13 more lead out of"),
        (lambda t: t.assign(path="x" + t["path"]), r"no file .*x.*jpg"),
        (lambda t: t.assign(label=[None, *t["label"][1:]]), r"row 2 of .* has no label"),
        (repeat, r"lists '.*' twice"),
        (lambda t: t.iloc[:0], r"has no row"),
        (lambda t: in_box(t).drop(columns="bottom"), r"has \['left', 'top', 'right'\] of the box columns"),
        (
            lambda t: in_box(t).assign(top="high"),
            r"rows 2, 3, 4 and 13 more of .* has a face box that is not four numbers",
        ),
        (lambda t: in_box(t).assign(top=[None, *[3] * 15]), r"row 2 of .* has a face box that is not four numbers"),
        (lambda t: in_box(t).assign(right=900), r"face box \(2, 3, 900, 13\) does not lie in its 20x20 pixels"),
        (separated(";"), r"lacks the columns .*\n  fix: its columns are separated by semicolons \(';'\)"),
        (separated("\t"), r"lacks the columns .*\n  fix: its columns are separated by tabs \('\\t'\)"),
        (separated("|"), r"lacks the columns .*\n  fix: its columns are separated by bars \('\|'\)"),
    ],
)
def test_a_fault_names_itself(tmp_path, change, message):
    root = own_tree(tmp_path / "own")
    wrong = change(rows(root))
    (root / "faces.csv").write_text(wrong if isinstance(wrong, str) else wrong.to_csv(index=False))
    with pytest.raises(SuiteError, match=message):
        load(root / "faces.csv", tmp_path, root)


def test_vocabulary_faults(tmp_path):
    root = own_tree(tmp_path / "own")
    for text, message in (
        (VOCABULARY + 'fear = ["angry"]', "maps 'angry' to anger and fear"),
        ("anger = 6", "anger is not a list"),
        ("anger =", "is not TOML"),
    ):
        (root / "vocabulary.toml").write_text(text)
        with pytest.raises(SuiteError, match=message):
            load(root, tmp_path, root)
    with pytest.raises(SuiteError, match="no file or folder"):
        Manifest().load(tmp_path)


def test_an_empty_box_takes_the_whole_image(tmp_path):
    root = own_tree(tmp_path / "own")
    table = rows(root).assign(left=2.0, top=3.0, right=12.0, bottom=13.0)
    table.loc[0, ["left", "top", "right", "bottom"]] = None
    table.to_csv(root / "boxed.csv", index=False)
    rows(root).to_csv(root / "plain.csv", index=False)
    boxed, plain = (load(root / name, tmp_path, root).images for name in ("boxed.csv", "plain.csv"))
    assert (boxed[0] == plain[0]).all()
    assert (boxed[1] != plain[1]).any()


def test_a_folder_of_an_unknown_split_is_not_passed_over(tmp_path):
    root = own_tree(tmp_path / "own")
    face(root / "extra" / "angry" / "0.jpg")
    with pytest.raises(SuiteError, match=r"own/extra \(1 images\) is no split\n  fix: name it train, valid, test"):
        load(root, tmp_path, root)


def test_blanks_around_a_label_make_no_other_class(tmp_path):
    root = own_tree(tmp_path / "own")
    rows(root).to_csv(root / "plain.csv", index=False)
    text = (root / "plain.csv").read_text().replace(",", ", ").replace("\n", " \n")
    (root / "blanks.csv").write_text(text)
    rows(root).assign(label=lambda t: " " + t["label"] + " ").to_parquet(root / "blanks.parquet")
    plain, *blanks = (load(root / name, tmp_path, root) for name in ("plain.csv", "blanks.csv", "blanks.parquet"))
    for faces in blanks:
        assert faces.classes == plain.classes
        assert faces.counts() == plain.counts()


def test_a_label_of_blanks_is_none(tmp_path):
    root = own_tree(tmp_path / "own")
    rows(root).assign(label="  ").to_parquet(root / "faces.parquet")
    with pytest.raises(SuiteError, match=r"rows 2, 3, 4 and 13 more of .* have no label"):
        load(root / "faces.parquet", tmp_path, root)


def test_one_file_by_two_names_would_be_trained_on_and_tested_with(tmp_path):
    root = own_tree(tmp_path / "own")
    table = rows(root)
    again = table[table["split"] == "train"].iloc[:1].assign(split="test", path=lambda t: "./" + t["path"])
    pd.concat([table, again]).to_csv(root / "faces.csv", index=False)
    with pytest.raises(SuiteError, match=r"'\./train/7/0\.jpg' and 'train/7/0\.jpg' are one file"):
        load(root / "faces.csv", tmp_path, root)


@pytest.mark.parametrize("value", ["inf", "-inf", "1e400"])
def test_a_box_without_end_names_itself(tmp_path, value):
    root = own_tree(tmp_path / "own")
    rows(root).assign(left=2, top=3, right=value, bottom=13).to_csv(root / "faces.csv", index=False)
    with pytest.raises(SuiteError, match=r"rows 2, 3, 4 and 13 more of .* has a face box that is not four numbers"):
        load(root / "faces.csv", tmp_path, root)


def test_links_that_lead_to_themselves(tmp_path):
    """A listed one is an error that names it; another one in the folder is nobody's business."""
    root = own_tree(tmp_path / "own")
    rows(root).to_csv(root / "faces.csv", index=False)
    for loop in (root / "train" / "angry" / "loop", root / "train" / "loop", root / "loop"):
        loop.symlink_to(loop)
    for source in (root / "faces.csv", root):
        assert len(load(source, tmp_path, root).images) == 16
    listed = root / "train" / "angry" / "loop.jpg"
    listed.symlink_to(listed)
    rows(root).to_csv(root / "faces.csv", index=False)
    for source in (root / "faces.csv", root):
        with pytest.raises(SuiteError, match=r"loop\.jpg"):
            load(source, tmp_path, root)


def test_a_folder_is_no_vocabulary(tmp_path):
    root = own_tree(tmp_path / "own")
    with pytest.raises(SuiteError, match=r"cannot read .*own/train: Is a directory"):
        Manifest(str(root), str(root / "train")).load(tmp_path / "cache")
