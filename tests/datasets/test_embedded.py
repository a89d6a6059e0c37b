"""Parquet files with the images in them, as the Hub exports them."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open_set_fer.datasets import embedded as module
from open_set_fer.datasets.decoding import Encoded, decode
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.datasets.manifest import Manifest
from open_set_fer.errors import SuiteError
from tests.datasets.trees import encoded, hub_files, hub_table


def load(path, tmp_path, **settings):
    return Manifest(str(path), image_size=16, **settings).load(tmp_path / "cache")


def with_split(table: pa.Table) -> pa.Table:
    return table.append_column("split", pa.array(["train", "test"] * (len(table) // 2)))


def pixels(seed: int, tmp_path) -> np.ndarray:
    (tmp_path / "one.png").write_bytes(encoded(seed))
    return decode(str(tmp_path / "one.png"), 16, 3)


def test_files_of_the_hub_have_labels_by_name_and_splits_by_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "chunk_length", lambda each: 5)
    faces = load(hub_files(tmp_path / "hub"), tmp_path)
    assert faces.classes == BASIC
    assert faces.counts() == {"train": dict.fromkeys(BASIC, 4), "test": dict.fromkeys(BASIC, 2)}
    for seed in (0, 13, 20, 41):
        row = faces.ids.tolist().index(f"{seed}.png")
        assert faces.classes[faces.labels[row]] == BASIC[seed % 7]
        assert (faces.images[row] == pixels(seed, tmp_path)).all()


@pytest.mark.parametrize("start", [0, 5, 14, 17, 28, 41])
def test_preparing_goes_on_from_any_image(tmp_path, monkeypatch, start):
    monkeypatch.setattr(module, "chunk_length", lambda each: 5)
    listing = Manifest(str(hub_files(tmp_path / "hub")), image_size=8, channels=1).listing(tmp_path)
    whole = np.concatenate(list(listing.pixels.chunks(0)))
    assert len(whole) == 42
    assert (np.concatenate(list(listing.pixels.chunks(start))) == whole[start:]).all()


def test_one_file_with_a_column_of_splits_and_plain_bytes(tmp_path):
    table = with_split(hub_table(list(range(28))))
    rows = table.to_pandas()
    rows["image"] = [image["bytes"] for image in rows["image"]]
    rows["label"] = [BASIC[label] for label in rows["label"]]
    rows.rename(columns={"label": "emotion"}).to_parquet(tmp_path / "faces.parquet")
    faces = load(tmp_path / "faces.parquet", tmp_path)
    assert faces.counts() == {"train": dict.fromkeys(BASIC, 2), "test": dict.fromkeys(BASIC, 2)}
    assert faces.ids[3] == "faces.parquet#3"


def test_folders_of_splits_as_the_hubs_converter_writes_them(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / "hub" / "default" / split).mkdir(parents=True)
        pq.write_table(hub_table(list(range(7))), tmp_path / "hub" / "default" / split / "0000.parquet")
    faces = load(tmp_path / "hub", tmp_path)
    assert list(faces.counts()) == ["train", "valid", "test"]
    assert faces.ids[8] == "default/train/0000.parquet#1"  # the names of the images are there thrice


def test_numbers_without_names_need_a_vocabulary(tmp_path):
    table = with_split(hub_table(list(range(28)))).replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "faces.parquet")
    with pytest.raises(SuiteError, match=r"labels are numbers without names: .*0 \(4\)"):
        load(tmp_path / "faces.parquet", tmp_path)
    words = "".join(f"{name} = [{number}]\n" for number, name in enumerate(BASIC))
    (tmp_path / "vocabulary.toml").write_text(words)
    assert load(tmp_path / "faces.parquet", tmp_path, vocabulary=str(tmp_path / "vocabulary.toml")).classes == BASIC


def test_labels_beyond_their_names_are_refused(tmp_path):
    table = with_split(hub_table(list(range(28))))
    labels = pa.array([-1, *range(1, 7)] * 4)
    pq.write_table(table.set_column(1, "label", labels), tmp_path / "faces.parquet")
    with pytest.raises(SuiteError, match=r"has labels \[-1\] beside its 7 named classes"):
        load(tmp_path / "faces.parquet", tmp_path)


def test_bytes_that_are_no_image_and_missing_ones_are_all_named(tmp_path):
    rows = with_split(hub_table(list(range(28)))).to_pandas()
    rows["image"] = [
        {"bytes": b"no image" if row in (3, 4) else None if row == 5 else image["bytes"], "path": image["path"]}
        for row, image in enumerate(rows["image"])
    ]
    rows["label"] = [BASIC[label] for label in rows["label"]]
    rows.to_parquet(tmp_path / "faces.parquet")
    with pytest.raises(SuiteError) as raised:
        load(tmp_path / "faces.parquet", tmp_path)
    for part in ("3 images cannot be used", "faces.parquet: 3.png", "faces.parquet: 5.png has no bytes of an image"):
        assert part in raised.value.message


def test_bytes_that_are_no_image_are_called_bytes_of_a_row(tmp_path):
    with pytest.raises(SuiteError) as raised:
        decode(Encoded("faces.parquet: 3.png", b"no image"), 8, 1)
    assert raised.value.message == "cannot decode image faces.parquet: 3.png: cannot identify image file its bytes"
    assert "of that row" in raised.value.fix
    assert "file" not in raised.value.fix


def test_a_file_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(with_split(hub_table(list(range(28)))), "faces.parquet")
    assert load("faces.parquet", tmp_path).counts()["test"] == dict.fromkeys(BASIC, 2)


def test_a_file_that_does_not_say_its_split(tmp_path):
    pq.write_table(hub_table(list(range(14))), tmp_path / "faces.parquet")
    with pytest.raises(SuiteError, match=r"says its split\n  fix: .*osfer data split"):
        load(tmp_path / "faces.parquet", tmp_path)


def test_two_columns_of_images(tmp_path):
    table = with_split(hub_table(list(range(14))))
    pq.write_table(table.append_column("mask", table.column("image")), tmp_path / "faces.parquet")
    with pytest.raises(SuiteError, match=r"several columns of bytes: image, mask"):
        load(tmp_path / "faces.parquet", tmp_path)


def test_a_parquet_manifest_of_paths_is_still_one(tmp_path):
    for split in ("train", "test"):
        Image.open(io.BytesIO(encoded(0))).save(tmp_path / f"{split}.png")
    rows = [(f"{split}.png", "fear", split) for split in ("train", "test")]
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_parquet(tmp_path / "faces.parquet")
    assert load(tmp_path / "faces.parquet", tmp_path).classes == ("fear",)
