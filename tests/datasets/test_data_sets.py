"""Every registered data set keeps the contract and its settings hold their bounds; so does the guide's."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open_set_fer import plugins
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.faceset import BASIC, FaceSet, Outline, facts
from open_set_fer.datasets.listing import Listing, Parts, Rows
from open_set_fer.datasets.synthetic.renderer import render_faces
from open_set_fer.errors import SuiteError
from open_set_fer.testing import check_data_set
from tests.datasets.trees import LAYOUTS, face, small_data_set

SMOKE = load_profile("smoke").text


def test_every_data_set_of_the_suite_is_checked():
    suite = {name for name, point in plugins.available(plugins.DATASETS).items() if "open_set_fer." in point.value}
    assert {layout.partition("-")[0] for layout in LAYOUTS} == suite


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_data_set_keeps_the_contract(tmp_path, ferplus_tree, monkeypatch, layout):
    monkeypatch.setattr("open_set_fer.datasets.cifar10.BATCH", 20)
    dataset = small_data_set(layout, tmp_path / "faces", ferplus_tree)
    assert plugins.load(plugins.DATASETS, dataset.name) is type(dataset)
    check_data_set(dataset, tmp_path / "cache")


@dataclass(frozen=True)
class Few(PreparedDataSet):
    """Four rendered faces."""

    name = "few"
    classes = ("a", "b")

    seed: int = 0

    def rows(self) -> Rows:
        return Rows.of([0, 1, 0, 1], ["train", "train", "test", "test"], ["a1", "b1", "a2", "b2"])

    def listing(self, cache: Path) -> Listing:
        pixels = Parts((1, 16, 16), 4, lambda part: render_faces(np.arange(4)[part], self.seed, 16))
        return Listing(self.name, ("a", "b"), self.rows(), pixels, repr(self))


def test_few_faces_keep_the_contract(tmp_path):
    assert len(check_data_set(Few(), tmp_path).images) == 4


@dataclass(frozen=True)
class Listed(Few):
    words: list = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Renamed(Few):
    def load(self, cache: Path) -> FaceSet:
        return dataclasses.replace(super().load(cache), name="other")


@dataclass(frozen=True)
class SameIds(Few):
    def rows(self) -> Rows:
        return Rows.of([0, 1, 0, 1], ["train", "train", "test", "test"], ["a1", "b1", "a2", "b1"])


@dataclass(frozen=True)
class NoTest(Few):
    def rows(self) -> Rows:
        return Rows.of([0, 1, 0, 1], ["train"] * 4, ["a1", "b1", "a2", "b2"])


@dataclass(frozen=True)
class EmptyClass(Few):
    def rows(self) -> Rows:
        return Rows.of([0, 0, 0, 0], ["train", "train", "test", "test"], ["a1", "b1", "a2", "b2"])


@dataclass(frozen=True)
class Drawn(Few):
    def rows(self) -> Rows:
        return Rows.of([0, 1, 0, 1], ["train", "train", "test", "test"], np.random.default_rng().random(4))


@dataclass(frozen=True)
class DecodesAlways(Few):
    def load(self, cache: Path) -> FaceSet:
        face(cache / "face.png")
        Image.open(cache / "face.png").load()
        return super().load(cache)


@dataclass(frozen=True)
class WrongOutline(Few):
    def outline(self, cache: Path) -> Outline:
        return Outline(("b", "a"))


@dataclass(frozen=True)
class WritingOutline(Few):
    def outline(self, cache: Path) -> Outline:
        self.load(cache)
        return super().outline(cache)


@dataclass
class Thawed(PreparedDataSet):
    name = "thawed"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Thawed, "Thawed is no frozen dataclass whose fields are its settings"),
        (Listed, "its settings have a value that can be changed: unhashable type"),
        (Renamed, "its FaceSet is named 'other', the class 'few'"),
        (SameIds, r"two images have the id \['b1'\]"),
        (NoTest, "no image of split test"),
        (EmptyClass, "no image of class b"),
        (Drawn, "a second load decodes again"),
        (DecodesAlways, "a second load decodes again"),
        (WrongOutline, r"its outline before the first load has classes \('b', 'a'\)"),
        (WritingOutline, "its outline writes to the cache"),
    ],
)
def test_what_breaks_the_contract_is_named(tmp_path, kind, message):
    with pytest.raises(AssertionError, match=message):
        check_data_set(kind(), tmp_path)


def test_a_cache_that_was_used_would_hide_the_first_load(tmp_path):
    Few().load(tmp_path)
    with pytest.raises(AssertionError, match="is not empty"):
        check_data_set(Few(), tmp_path)


def test_the_data_set_of_the_guide_as_printed(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs/guide/own.md").read_text("utf-8")
    code = re.search(r"## A data set in one file\n\n```python\n(.*?)```", text, re.DOTALL)[1]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 22
    (tmp_path / "my_faces.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = import_module("my_faces")
    for split in ("train", "test"):
        for name in BASIC:
            face(tmp_path / "data" / "my-faces" / split / name / "1.png")
    monkeypatch.setenv("OSFER_DATA", str(tmp_path / "data"))
    faces = check_data_set(module.MyFaces(), tmp_path / "cache")
    assert faces.counts() == {split: dict.fromkeys(BASIC, 1) for split in ("train", "test")}
    assert faces.images.shape == (14, 3, 96, 96)
    assert (
        facts(module.MyFaces).guide == "my-faces (my_faces): Faces in folders train/<expression> and test/<expression>."
    )


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("ferplus", "image_size", "0", "greater than or equal to 8"),
        ("rafdb", "image_size", "-1", "greater than or equal to 8"),
        ("rafdb_compound", "image_size", "20000", "less than or equal to 1024"),
        ("affectnet", "image_size", "20000", "less than or equal to 1024"),
        ("manifest", "image_size", "0", "greater than or equal to 8"),
        ("cifar10", "image_size", "0", "greater than or equal to 8"),
        ("digits", "image_size", "0", "greater than or equal to 8"),
        ("digits", "test_share", "1.0", "less than 1"),
        ("synthetic", "image_size", "15", "greater than or equal to 16"),
        ("synthetic", "train_per_class", "-1", "greater than or equal to 0"),
    ],
)
def test_a_setting_out_of_bounds_names_itself(tmp_path, table, key, value, message):
    start = SMOKE.index("[datasets.synthetic]")
    rest = SMOKE.index("\n[", start)
    path = tmp_path / "own.toml"
    path.write_text(f"{SMOKE[:start]}[datasets.{table}]\n{key} = {value}\n{SMOKE[rest:]}", "utf-8")
    with pytest.raises(SuiteError, match=rf"datasets\.{table}\.{key}: .*{message} \(got {value}\)"):
        load_profile(str(path))
