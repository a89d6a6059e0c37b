"""`osfer data split`: groups stay together, classes are in every split, the seed decides, tables keep their form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from open_set_fer.cli.main import app
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.datasets.manifest import Manifest
from open_set_fer.datasets.splitting import Shares, assign
from open_set_fer.errors import SuiteError
from tests.datasets.trees import face, hub_table


def people(count: int = 60, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and persons of some faces of each person, in unequal numbers."""
    rng = np.random.default_rng(seed)
    persons = np.repeat(np.arange(count), rng.integers(1, 9, count))
    return rng.integers(0, classes, len(persons)).astype(str), persons.astype(str)


@pytest.mark.parametrize("shares", [Shares(0.2), Shares(0.3, 0.1), Shares(0.5), Shares(0.8)])
@pytest.mark.parametrize("seed", [0, 1])
def test_groups_are_in_one_split_and_shares_are_about_met(shares, seed):
    labels, persons = people()
    split = assign(labels, persons, shares, seed)
    assert pd.DataFrame({"split": split, "person": persons}).groupby("person")["split"].nunique().max() == 1
    for name, share in (("test", shares.test), ("valid", shares.valid)):
        assert (split == name).mean() == pytest.approx(share, abs=0.07)
        for label in np.unique(labels):  # stratified
            assert (split[labels == label] == name).mean() == pytest.approx(share, abs=0.16)
    assert (assign(labels, persons, shares, seed) == split).all()
    assert (assign(labels, persons, shares, seed + 5) != split).any()


def test_without_groups_the_shares_are_met_class_by_class():
    labels = np.repeat(["a", "b"], [100, 20])
    split = assign(labels, np.arange(120).astype(str), Shares(0.2, 0.1), 0)
    pairs = [(label, name) for label in "ab" for name in ("test", "valid")]
    assert {(label, name): int(((labels == label) & (split == name)).sum()) for label, name in pairs} == {
        ("a", "test"): 20, ("a", "valid"): 10, ("b", "test"): 4, ("b", "valid"): 2,
    }  # fmt: skip


def osfer(*arguments):
    return CliRunner().invoke(app, ["data", "split", *map(str, arguments)], env={"COLUMNS": "200"})


def write_faces(root, rows: int = 56) -> pd.DataFrame:
    for number in range(rows):
        face(root / "img" / f"{number}.png")
    paths = [f"img/{number}.png" for number in range(rows)]
    return pd.DataFrame(
        {"path": paths, "label": [BASIC[n % 7] for n in range(rows)], "person": [f"p{n // 2}" for n in range(rows)]}
    )


def test_a_table_with_persons_becomes_a_data_set(tmp_path):
    write_faces(tmp_path).to_csv(tmp_path / "faces.csv", index=False)
    done = osfer(tmp_path / "faces.csv", "--group", "person", "--test", "0.25", "--valid", "0.25", "--seed", 3)
    assert done.exit_code == 0, done.exception
    assert "56 rows of 28 groups, seed 3" in done.output
    made = pd.read_csv(tmp_path / "faces-split.csv")
    assert made.groupby("person")["split"].nunique().max() == 1
    assert list(made.columns) == ["path", "label", "person", "split"]
    faces = Manifest(str(tmp_path / "faces-split.csv"), image_size=8).load(tmp_path / "cache")
    assert list(faces.counts()) == ["train", "valid", "test"]
    assert "exists" in str(osfer(tmp_path / "faces.csv", "--group", "person").exception)


def test_a_tree_of_classes_and_a_table_elsewhere(tmp_path, caplog):
    for name in ("fear", "anger"):
        for number in range(8):
            face(tmp_path / "faces" / name / f"{number}.png")
    assert osfer(tmp_path / "faces").exit_code == 0
    assert "no --group: faces of one person may be in train and test" in caplog.text
    faces = Manifest(str(tmp_path / "faces" / "split.csv"), image_size=8).load(tmp_path / "cache")
    assert {split: sum(by.values()) for split, by in faces.counts().items()} == {"train": 12, "test": 4}
    assert osfer(tmp_path / "faces", "--out", tmp_path / "other.csv").exit_code == 0
    assert f'set root = "{tmp_path}/faces"' in caplog.text
    own = Manifest(str(tmp_path / "other.csv"), image_size=8, root=str(tmp_path / "faces"))
    assert own.load(tmp_path / "cache").counts() == faces.counts()


def test_a_file_of_the_hub_keeps_its_images_and_names(tmp_path):
    pq.write_table(hub_table(list(range(56))), tmp_path / "faces.parquet")
    done = osfer(tmp_path / "faces.parquet", "--test", "0.25")
    assert done.exit_code == 0, done.exception
    faces = Manifest(str(tmp_path / "faces-split.parquet"), image_size=8).load(tmp_path / "cache")
    assert faces.counts() == {"train": dict.fromkeys(BASIC, 6), "test": dict.fromkeys(BASIC, 2)}


def test_the_classes_of_a_hub_file_are_shown_by_name(tmp_path):
    pq.write_table(hub_table(list(range(56))), tmp_path / "faces.parquet")
    shown = osfer(tmp_path / "faces.parquet", "--test", "0.25").output
    assert all(name in shown for name in BASIC)


def test_a_folder_of_hub_files_is_split_into_one_file(tmp_path):
    (tmp_path / "hub").mkdir()
    for part in range(2):
        pq.write_table(hub_table(list(range(28 * part, 28 * part + 28))), tmp_path / "hub" / f"part-{part}.parquet")
    with pytest.raises(SuiteError, match=r"says its split\n  fix: .*osfer data split"):
        Manifest(str(tmp_path / "hub"), image_size=8).load(tmp_path / "cache")
    done = osfer(tmp_path / "hub", "--test", "0.25")
    assert done.exit_code == 0, done.exception
    faces = Manifest(str(tmp_path / "hub-split.parquet"), image_size=8).load(tmp_path / "cache")
    assert faces.counts() == {"train": dict.fromkeys(BASIC, 6), "test": dict.fromkeys(BASIC, 2)}
    other = hub_table(list(range(28))).rename_columns(["image", "emotion"])
    pq.write_table(other, tmp_path / "hub" / "part-2.parquet")
    odd = osfer(tmp_path / "hub", "--out", tmp_path / "odd.parquet").exception
    assert isinstance(odd, SuiteError)
    assert "part-2.parquet" in str(odd)


def test_a_broken_file_and_another_ending_are_said_and_nothing_is_written(tmp_path):
    pq.write_table(hub_table(list(range(56))), tmp_path / "faces.parquet")
    named_csv = osfer(tmp_path / "faces.parquet", "--out", tmp_path / "persons.csv").exception
    assert "let the name of --out end in .parquet" in str(named_csv)
    assert not (tmp_path / "persons.csv").exists()
    (tmp_path / "faces.parquet").write_bytes(b"PAR1 cut short")
    broken = osfer(tmp_path / "faces.parquet").exception
    assert isinstance(broken, SuiteError)
    assert "cannot read" in str(broken)
    assert not (tmp_path / "faces-split.parquet").exists()


def test_faces_of_one_photograph_stay_together(tmp_path):
    rows = write_faces(tmp_path, 28)
    rows = pd.concat([rows.assign(left=left, top=0, right=left + 9, bottom=9) for left in (0, 10)])
    rows.to_csv(tmp_path / "faces.csv", index=False)
    assert osfer(tmp_path / "faces.csv", "--test", "0.5").exit_code == 0
    made = pd.read_csv(tmp_path / "faces-split.csv")
    assert len(made) == 56
    assert made.groupby("path")["split"].nunique().max() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group", "subject"], r"has no column 'subject'\n  fix: its columns: path, label, person"),
        (["--group", "gap"], r"rows 2, 4 of .* have no gap\n  fix: .*must not be in two splits"),
        (["--group", "one"], r"all rows are of one group"),
        (["--group", "by_class"], r"no image of anger in (train|test) \(8 images, 1 groups\), .* and \d more"),
        (["--test", "1.5"], r"shares of test 1\.5 and valid 0"),
        (["--test", "0.7", "--valid", "0.3"], r"leave no part for a split"),
        (["--test", "0.01"], r"rows are too few: .*\n  fix: take a larger share"),
    ],
)
def test_faults_are_found_before_a_file_is_written(tmp_path, arguments, message):
    rows = write_faces(tmp_path)
    rows = rows.assign(gap=[None, "a", None, *["b"] * 53], one="x", by_class=rows["label"])
    rows.to_csv(tmp_path / "faces.csv", index=False)
    error = osfer(tmp_path / "faces.csv", *arguments).exception
    assert isinstance(error, SuiteError)
    with pytest.raises(SuiteError, match=message):
        raise error
    assert not (tmp_path / "faces-split.csv").exists()


def test_a_table_that_has_a_split_is_left_alone(tmp_path):
    write_faces(tmp_path).assign(split="train").to_csv(tmp_path / "faces.csv", index=False)
    assert "has a column split" in str(osfer(tmp_path / "faces.csv").exception)
