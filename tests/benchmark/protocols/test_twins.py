"""Twins in protocols: each face once in the pool, none of the closed ones in training, and counts of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_set_fer.benchmark.planning.cells import Selection, dry_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.planning.profile_files import profile_names
from open_set_fer.benchmark.protocols.pool import Pool
from open_set_fer.benchmark.protocols.protocol import FAMILIES, Protocol, enumerate_protocols
from open_set_fer.benchmark.protocols.pseudo_labels import Regime
from open_set_fer.benchmark.protocols.task import has_twin, make_task, split_faces
from open_set_fer.benchmark.protocols.twins import twin_table
from open_set_fer.cli import data as cli
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, FaceSet
from tests.conftest import face_set

ALL = (*BASIC, *COMPOUND, CONTEMPT)
PROTOCOLS = enumerate_protocols(ALL, FAMILIES, True, True)


def repeated(faces: FaceSet, copies: np.ndarray, mirrored: np.ndarray) -> FaceSet:
    """The faces with the pixels of face `copies[i]` in place i, mirrored where asked."""
    images = faces.images[copies]
    images[mirrored] = images[mirrored][..., ::-1]
    return replace(faces, images=images, twins=np.zeros(0, np.int64))


@st.composite
def faces_with_twins(draw) -> FaceSet:
    """Faces of all classes, two of each unrepeated in train and test, the others often copies of each other."""
    n = draw(st.integers(20, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = np.concatenate([np.tile(np.arange(19), 2), rng.integers(0, 19, n)])
    split = np.concatenate([np.repeat(["train", "test"], 19), rng.choice(["train", "valid", "test"], n)])
    copies = np.concatenate([np.arange(38), 38 + rng.integers(0, max(2, n // 3), n)])
    faces = face_set(labels, split, ALL)
    return repeated(faces, copies, rng.random(38 + n) < 0.5)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b) or np.array_equal(a, b[..., ::-1]))


def contents(faces: FaceSet) -> np.ndarray:
    """(N,) the first face with the same or mirrored pixels, by comparing each with all before it."""
    first = [next(j for j in range(i + 1) if same(faces.images[i], faces.images[j])) for i in range(len(faces.images))]
    return np.array(first)


@settings(max_examples=20, deadline=None)
@given(faces_with_twins(), st.sampled_from(PROTOCOLS), st.integers(0, 2**31))
def test_each_face_once(faces: FaceSet, protocol: Protocol, seed: int) -> None:
    content = contents(faces)
    assert np.array_equal(faces.twins, content)
    kept, split = split_faces(faces, protocol, seed), split_faces(faces, protocol.counting("once"), seed)
    assert np.array_equal(split.train, kept.train)
    pool, is_open = content[split.test], split.truth < 0
    assert len(set(pool)) == len(pool)
    assert not set(pool[~is_open]) & set(content[split.train])
    # Nothing more is lost: every content of the pool is there, but closed ones that training has.
    assert set(pool[is_open]) == set(content[kept.test[kept.truth < 0]])
    assert set(pool) == set(content[kept.test]) - (set(content[split.train]) - set(pool[is_open]))
    assert set(split.test) <= set(kept.test)
    for made in (kept, split):
        others = [[*made.test[:i], *made.test[i + 1 :], *made.train] for i in range(len(made.test))]
        by_hand = [content[face] in content[rest] for face, rest in zip(made.test, others, strict=True)]
        assert has_twin(faces.twins, made).tolist() == by_hand


@settings(max_examples=10, deadline=None)
@given(faces_with_twins(), st.integers(0, 2**31))
def test_pools_controls_and_released_pairing_have_each_face_once(faces: FaceSet, seed: int) -> None:
    compound = enumerate_protocols(ALL, ("compound",))[0].counting("once")
    whole = split_faces(faces, compound, seed)
    for protocol in (
        compound.on(Pool(size=4, open_share=0.25)),
        compound.on(Pool(size=4, open_share=0.25, scored="others")),
        compound.under(Regime("released", 1.0)),
        compound.under(Regime("concentrated", 1.0)),
        compound.under(Regime("flipped-true", 0.5)),
        compound.on_test_split(),
    ):
        split = split_faces(faces, protocol, seed)
        used = np.concatenate([split.test, [] if split.pool is None else split.pool]).astype(int)
        assert len(set(faces.twins[used])) == len(used)
        assert np.array_equal(split.train, whole.train)
        assert len(make_task(faces, protocol, split, seed).test_images) == len(split.test)
        if protocol.regime.labels == "released":
            assert set(split.test) == set(whole.test)
            rows = np.flatnonzero((split.truth < 0) & (faces.split[split.test] == "train"))
            assert set(split.change.rows) == set(rows)


@pytest.fixture
def few() -> FaceSet:
    """Two train and two test faces of each basic class; surprise has a face in both splits, mirrored."""
    labels, split = np.repeat(np.arange(7), 4), np.tile(["train", "train", "test", "test"], 7)
    copies = np.arange(28)
    copies[2] = 0  # surprise: test as train
    copies[7] = 4  # fear: test as train
    copies[11] = 10  # disgust: twice in test
    return repeated(face_set(labels, split, BASIC), copies, np.arange(28) == 2)


def test_the_table_of_twins_counts_by_open_class(few: FaceSet) -> None:
    rows = {row.open_classes: asdict(row) for row in twin_table(few)}
    assert list(rows) == list(BASIC)
    counts = ("open", "open_in_pool", "closed", "closed_in_pool", "closed_in_train", "pool_once")
    assert [rows["surprise"][name] for name in counts] == [4, 2, 12, 2, 1, 13]
    assert [rows["fear"][name] for name in counts] == [4, 2, 12, 2, 1, 13]
    assert [rows["disgust"][name] for name in counts] == [4, 2, 12, 0, 2, 13]
    assert [rows["anger"][name] for name in counts] == [4, 0, 12, 2, 2, 13]
    assert twin_table(face_set(few.labels, few.split, BASIC)) == []
    assert twin_table(replace(few, labels=np.where(few.labels == 1, 2, few.labels))) == []  # no face of fear


def test_data_check_prints_the_table_of_twins(few: FaceSet, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli, "_load_dataset", lambda name, profile, home: few)
    cli.check("rafdb")
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "same pixels, mirrored or not: 3 groups of 6 faces, 2 across splits, 0 across classes" in shown
    assert "surprise 50.0 % 16.7 % 8.3 % 16 / 13" in shown
    cli.check("rafdb", as_json=True)
    rows = json.loads(capsys.readouterr().out)["twins"]
    assert rows == [asdict(row) for row in twin_table(few)]


def test_the_papers_profiles_keep_repeated_faces() -> None:
    kept = {name for name in profile_names() if load_profile(name).protocols.twins == "keep"}
    assert kept == {"paper", "figure5"}


def test_profiles_count_each_face_once_unless_they_say_keep(tmp_path) -> None:
    text = load_profile("smoke").text
    path = tmp_path / "kept.toml"
    path.write_text(text.replace("[protocols]\n", '[protocols]\ntwins = "keep"\n'), "utf-8")
    for name, twins in (("smoke", "once"), (str(path), "keep")):
        cells, _ = dry_plan(load_profile(name), Selection(), tmp_path / "cache")
        assert {cell.protocol.twins for cell in cells} == {twins}
        assert {cell.coordinates().get("twins", "keep") for cell in cells} == {twins}
    assert {cell.protocol.regime.is_control for cell in cells} == {False, True}
