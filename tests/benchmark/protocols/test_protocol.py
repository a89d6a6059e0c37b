"""Protocols: every image at most once, no open class in training, labels 0..K-1, all open images in the test."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_set_fer.benchmark.protocols import task as protocols
from open_set_fer.benchmark.protocols.pool import Pool, Shift
from open_set_fer.benchmark.protocols.protocol import FAMILIES, Protocol, enumerate_protocols, opening
from open_set_fer.benchmark.protocols.task import make_task, split_faces
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, FaceSet
from open_set_fer.errors import SuiteError
from tests.conftest import face_set

ALL = (*BASIC, *COMPOUND, CONTEMPT)


def index_of(images: np.ndarray) -> np.ndarray:
    """The image's number in its face set, which `face_set` writes into its first four pixels."""
    bytes_ = images[:, 0, 0, :4].astype(np.int64)
    return bytes_ @ np.array([1, 256, 65536, 16777216])


@pytest.mark.parametrize(
    ("family", "all_pairs", "all_triples", "count"),
    [
        ("single", False, False, 7),
        ("pairs", False, False, 6),
        ("pairs", True, False, 21),
        ("triples", False, False, 5),
        ("triples", False, True, 35),
        ("compound", False, False, 1),
        ("contempt", False, False, 1),
    ],
)
def test_counts_of_the_paper_and_of_every_combination(family, all_pairs, all_triples, count):
    found = enumerate_protocols(ALL, (family,), all_pairs, all_triples)
    assert len(found) == len({p.label for p in found}) == count


def test_single_is_in_the_order_of_the_tables():
    shuffled = ("neutral", "anger", "surprise", "fear", "happiness", "disgust", "sadness")
    assert [p.label for p in enumerate_protocols(shuffled, ("single",))] == list(BASIC)


def test_a_data_set_without_contempt_or_compound_has_no_such_protocol():
    assert enumerate_protocols(BASIC, ("compound", "contempt")) == []


def test_classes_that_are_no_expressions_open_one_by_one():
    found = enumerate_protocols(("0", "1", "2"), ("single", "pairs"))
    assert [p.label for p in found] == ["0", "1", "2"]  # a pair would leave one closed class


@st.composite
def random_faces(draw) -> FaceSet:
    n = draw(st.integers(19 * 2, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = np.concatenate([np.tile(np.arange(19), 2), rng.integers(0, 19, n)])
    split = np.concatenate([np.repeat(["train", "test"], 19), rng.choice(["train", "valid", "test"], n)])
    order = rng.permutation(len(labels))
    return face_set(labels[order], split[order], ALL)


@settings(max_examples=60, deadline=None)
@given(random_faces(), st.sampled_from(enumerate_protocols(ALL, FAMILIES, True, True)), st.integers(0, 2**63))
def test_properties(faces, protocol, seed):
    split = split_faces(faces, protocol, seed)
    task = make_task(faces, protocol, split, seed)
    names = np.array(faces.classes)[faces.labels]
    is_open = np.isin(names, protocol.open)
    used = np.concatenate([split.train, split.test])
    assert len(used) == len(set(used.tolist()))
    assert not is_open[split.train].any()
    assert (faces.split[split.train] == "train").all()
    assert set(task.train_labels.tolist()) == set(range(len(protocol.closed)))
    assert (np.array(protocol.closed)[task.train_labels] == names[split.train]).all()
    assert set(np.flatnonzero(is_open & (faces.split != "valid"))) == set(split.test[split.truth < 0])
    closed_test = np.isin(names, protocol.closed) & (faces.split == "test")
    assert set(np.flatnonzero(closed_test)) == set(split.test[split.truth >= 0])
    assert (index_of(task.train_images) == split.train).all()
    assert (index_of(task.test_images) == split.test).all()
    again = split_faces(faces, protocol, seed)
    assert (again.test == split.test).all()


def test_order_of_the_test_pool_tells_nothing(every_class):
    protocol = enumerate_protocols(ALL, ("single",))[0]
    truth = np.concatenate([split_faces(every_class, protocol, seed).truth < 0 for seed in range(200)])
    place = np.tile(np.linspace(0, 1, len(truth) // 200), 200)
    # Unshuffled, open faces would all lie at the end: mean place 0.85 and more instead of 0.5.
    assert abs(place[truth].mean() - 0.5) < 0.02
    orders = {tuple(split_faces(every_class, protocol, seed).test) for seed in range(5)}
    assert len(orders) == 5


def test_a_task_leads_to_no_file(every_class, tmp_path, monkeypatch):
    path = tmp_path / "images.npy"
    np.save(path, every_class.images)
    mapped = FaceSet(**{**every_class.__dict__, "images": np.load(path, mmap_mode="r")})
    protocol = enumerate_protocols(ALL, ("single",))[0]
    split = split_faces(mapped, protocol, 0)
    for limit in (protocols.IN_MEMORY, 0):
        monkeypatch.setattr(protocols, "IN_MEMORY", limit)
        task = make_task(mapped, protocol, split, 0)
        assert (index_of(task.test_images) == split.test).all()
        for array in (task.train_images, task.test_images):
            assert getattr(array, "filename", None) in (None, "") or str(tmp_path) not in str(array.filename)
            assert not isinstance(array.base, np.ndarray)


def test_a_task_has_the_votes_for_its_closed_classes_alone(every_class):
    votes = np.random.default_rng(0).integers(1, 9, (len(every_class.labels), len(ALL))).astype(np.uint8)
    voted = FaceSet(**{**every_class.__dict__, "votes": votes})
    protocol = enumerate_protocols(ALL, ("single",))[1]
    split = split_faces(voted, protocol, 0)
    task = make_task(voted, protocol, split, 0)
    expected = [[votes[row, ALL.index(name)] for name in protocol.closed] for row in split.train]
    assert (task.train_votes == np.array(expected)).all()
    assert not task.train_votes.flags.writeable
    assert make_task(every_class, protocol, split, 0).train_votes is None


def test_empty_and_unknown_classes_name_themselves(every_class):
    protocol = enumerate_protocols(ALL, ("single",))[0]
    gone = np.where(every_class.labels == BASIC.index("fear"), "valid", every_class.split)
    with pytest.raises(SuiteError, match="class 'fear' has no train image"):
        split_faces(FaceSet(**{**every_class.__dict__, "split": gone}), protocol, 0)
    with pytest.raises(SuiteError, match=r"no protocol opens 'suprise', did you mean 'surprise'"):
        opening(enumerate_protocols(ALL, ("single",)), "suprise")
    renamed = tuple("joy" if c == "happiness" else c for c in ALL)
    with pytest.raises(SuiteError, match="has no class 'happiness'"):
        split_faces(FaceSet(**{**every_class.__dict__, "classes": renamed}), protocol, 0)


def test_open_classes_in_any_order():
    found = enumerate_protocols(ALL, ("pairs",))
    assert [p.label for p in opening(found, "fear+surprise")] == ["surprise+fear"]


@pytest.mark.parametrize(("size", "share"), [(6, 0.5), (20, 0.3)])
def test_a_part_of_the_pool_has_the_size_and_balance_asked_for(every_class, size, share):
    whole = next(p for p in enumerate_protocols(ALL, ("single",)) if p.label == "anger")
    part = whole.on(Pool(size=size, open_share=share))
    found, everyone = split_faces(every_class, part, 3), split_faces(every_class, whole, 3)
    assert len(found.test) == size
    assert np.sum(found.truth < 0) == round(size * share)
    truth = dict(zip(everyone.test.tolist(), everyone.truth.tolist(), strict=True))
    assert len(set(found.test.tolist())) == size
    assert [truth[index] for index in found.test.tolist()] == found.truth.tolist()
    assert np.array_equal(found.train, everyone.train)
    assert part.content() != whole.content()
    with pytest.raises(SuiteError, match="14 open faces wanted, 9 there"):
        split_faces(every_class, whole.on(Pool(size=28, open_share=0.5)), 3)


def test_pools_that_differ_a_little_have_labels_of_their_own():
    whole = enumerate_protocols(ALL, ("single",))[0]
    labels = {whole.on(Pool(size=1000, open_share=share)).label for share in (0.12, 0.125, 0.3)}
    assert labels == {f"surprise (1000 images, {share}% open)" for share in ("12", "12.5", "30")}


def many_faces() -> FaceSet:
    """Every basic expression: 20 train, 5 valid and 20 test images each."""
    split = np.tile(np.repeat(["train", "valid", "test"], [20, 5, 20]), len(BASIC))
    return face_set(np.repeat(np.arange(len(BASIC)), 45), split, BASIC)


def test_a_pool_that_others_are_scored_outside_of():
    """The pool is that of the same size and share; only the others are scored; the method gets no truth."""
    faces, whole = many_faces(), enumerate_protocols(BASIC, ("single",))[0]
    inside = whole.on(Pool(size=40, open_share=0.25))
    outside = whole.on(Pool(size=40, open_share=0.25, scored="others"))
    pool, split = split_faces(faces, inside, 3), split_faces(faces, outside, 3)
    assert (split.pool == pool.test).all()
    assert set(split.test) == set(split_faces(faces, whole, 3).test) - set(split.pool)
    assert (split.truth < 0).sum() == 40 - 10
    task = make_task(faces, outside, split, 3)
    assert (index_of(task.pool_images) == split.pool).all()
    assert (index_of(task.test_images) == split.test).all()
    assert make_task(faces, inside, pool, 3).pool_images is None
    assert outside.label == "surprise (40 images, 25% open, the others scored)"
    with pytest.raises(SuiteError, match="is left to score"):
        split_faces(faces, whole.on(Pool(size=160, open_share=0.25, scored="others")), 3)


def test_a_pool_without_open_faces_is_scored_outside():
    faces, whole = many_faces(), enumerate_protocols(BASIC, ("single",))[0]
    split = split_faces(faces, whole.on(Pool(size=40, open_share=0.0, scored="others")), 3)
    assert (faces.labels[split.pool] != 0).all()
    assert (split.truth < 0).sum() == 40
    with pytest.raises(SuiteError, match="nothing to find"):
        Pool(size=40, open_share=0.0)


def test_the_pool_is_held_against_faces_that_nothing_was_trained_on_or_as_many_of_training():
    faces, whole = many_faces(), enumerate_protocols(BASIC, ("single",))[0]
    plain = split_faces(faces, whole.on(Pool(size=40, open_share=0.25)), 3)
    counts = []
    for against in ("valid", "train"):
        protocol = whole.on(Pool(size=40, open_share=0.25, against=against))
        split = split_faces(faces, protocol, 3)
        assert (split.test == plain.test).all()
        assert (split.train == plain.train).all()
        assert (faces.split[split.against] == against).all()
        assert len(set(split.against.tolist())) == 30
        assert (index_of(make_task(faces, protocol, split, 3).known_images) == split.against).all()
        counts.append(np.bincount(faces.labels[split.against], minlength=7).tolist())
    assert counts == [[0, *[5] * 6]] * 2
    no_valid = FaceSet(**{**faces.__dict__, "split": np.where(faces.split == "valid", "train", faces.split)})
    with pytest.raises(SuiteError, match="no split 'valid'"):
        split_faces(no_valid, protocol, 3)


def test_a_shift_changes_half_of_a_pool_of_closed_faces():
    faces, whole = many_faces(), enumerate_protocols(BASIC, ("single",))[0]
    of = {shift: whole.on(Pool(size=60, open_share=0.0, shift=shift)) for shift in ("blur", "brightness")}
    splits = {shift: split_faces(faces, protocol, 3) for shift, protocol in of.items()}
    split = splits["blur"]
    assert (split.test == splits["brightness"].test).all()
    assert (split.truth == splits["brightness"].truth).all()
    assert len(split.test) == 60
    assert (split.truth < 0).sum() == 30
    assert (faces.labels[split.test] != 0).all()
    assert (faces.split[split.test] == "test").all()
    images = make_task(faces, of["brightness"], splits["brightness"], 3).test_images
    changed = (images != faces.images[split.test]).any(axis=(1, 2, 3))
    assert (changed == (split.truth < 0)).all()
    assert of["blur"].family == "shift"
    assert not of["blur"].has_open
    with pytest.raises(SuiteError, match="closed faces alone"):
        Pool(size=60, open_share=0.1, shift="blur")


def test_kinds_of_pools_have_names_and_keys_of_their_own_and_older_ones_keep_theirs():
    whole = enumerate_protocols((*BASIC, *COMPOUND), ("single", "compound"))
    kinds = [
        {},
        {"scored": "others"},
        {"against": "valid"},
        {"against": "train"},
        {"open_from": "test"},
        {"scored": "others", "open_from": "test"},
        {"scored": "others", "against": "valid"},
    ]
    pools = [Pool(size=40, open_share=0.25, **kind) for kind in kinds]
    pools += [Pool(size=40, open_share=0.0, scored="others")]
    pools += [Pool(size=40, open_share=0.0, shift=shift) for shift in get_args(Shift)]
    for protocol in (whole[0], whole[-1]):
        made = [protocol.on(pool) for pool in pools]
        assert len({p.label for p in made}) == len({str(p.content()) for p in made}) == len(pools)
        assert all(Protocol.of_content(json.loads(json.dumps(p.content())), p.closed) == p for p in made)
    assert made[0].content() == ["compound", *whole[-1].open, 40, 0.25]
    assert made[4].content() == [*made[0].content(), "open_from", "test"]
    assert made[4].label == "compound (open faces of the test split) (40 images, 25% open)"
