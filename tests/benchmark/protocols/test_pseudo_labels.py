"""Pseudo-label settings: rows with other outputs, nothing else changed, invisible to a method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.planning.profile_tables import regime_of
from open_set_fer.benchmark.protocols.protocol import enumerate_protocols
from open_set_fer.benchmark.protocols.pseudo_labels import (
    LABELS,
    OWN,
    Concentration,
    Flips,
    Pairing,
    Regime,
    draw_concentration,
    draw_pairing,
    lent_logits,
)
from open_set_fer.benchmark.protocols.task import make_task, split_faces
from open_set_fer.benchmark.storage.results_dir import read_result
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError
from tests.benchmark.protocols.test_truth import reachable
from tests.computing import compute
from tests.conftest import face_set, without_controls

K = 6
RELEASED, FLIPPED, TRUE = Regime("released", 1.0), Regime("flipped", 0.2), Regime("flipped-true", 0.2)
CONCENTRATED = Regime("concentrated", 1.0)
SURPRISE = enumerate_protocols(BASIC, ("single",))[0]


@pytest.fixture(scope="module")
def faces():
    """Seven classes with 40 train and 20 test faces each, in mixed order."""
    rng = np.random.default_rng(0)
    order = rng.permutation(7 * 60)
    labels = np.repeat(np.arange(7), 60)[order]
    return face_set(labels, np.tile(np.array(["train"] * 40 + ["test"] * 20), 7)[order], BASIC)


def outputs_by_index(rows):
    """Logits that say which image they are of: its index stands in the first class's."""
    logits = np.full((len(rows), K), -1.0, dtype=np.float32)
    logits[:, 0] = rows
    return logits


def test_as_released_the_open_train_faces_get_outputs_of_random_training_images(faces):
    own, released = (split_faces(faces, SURPRISE.under(regime), 0) for regime in (OWN, RELEASED))
    for one, other in ((own.train, released.train), (own.test, released.test), (own.truth, released.truth)):
        assert np.array_equal(one, other), "the pool, its order and its truth are those of own labels"
    lent = lent_logits(outputs_by_index(own.test), released.change, outputs_by_index)[:, 0].astype(int)
    moving = (faces.split[own.test] == "train") & (own.truth < 0)
    assert moving.sum() == 40
    assert np.array_equal(lent[~moving], own.test[~moving]), "every other row has its own"
    sources = lent[moving]
    assert len(set(sources)) == 40, "without replacement"
    assert (faces.split[sources] == "train").all()
    assert len(set(faces.labels[sources])) == 7, "of all classes, the open one included"
    assert (sources == own.test[moving]).mean() < 0.2


def test_drawn_anew_with_each_seed_and_the_same_with_one(faces):
    first, again, other = (split_faces(faces, SURPRISE.under(RELEASED), seed).change for seed in (0, 0, 1))
    assert np.array_equal(first.sources, again.sources)
    assert np.array_equal(first.rows, again.rows)
    assert not np.array_equal(first.sources, other.sources)


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.integers(0, 99))
def test_a_smaller_share_moves_a_part_of_what_a_larger_one_does(share, other, seed):
    small, large = (
        draw_pairing(np.arange(50), np.arange(100, 400), s, np.random.default_rng(seed)) for s in sorted((share, other))
    )
    assert len(small.rows) == round(min(share, other) * 50)
    pairs = dict(zip(large.rows.tolist(), large.sources.tolist(), strict=True))
    assert all(pairs[row] == source for row, source in zip(small.rows.tolist(), small.sources.tolist(), strict=True))


def test_concentrated_open_faces_all_get_the_class_that_most_of_them_had():
    # Six images of three classes; 1, 3, 4 and 5 are open. Most images are class 0, most open ones class 2.
    answers = np.array([0, 2, 0, 2, 1, 0])
    own = np.where(np.arange(3) == answers[:, None], 2.0, [[-1.0, 0.0, 1.0]]).astype(np.float32)
    opened = np.array([1, 3, 4, 5])
    lent = lent_logits(own, draw_concentration(opened, 1.0, np.random.default_rng(0)), None)
    assert lent.argmax(axis=1).tolist() == [0, 2, 0, 2, 2, 2]
    unchanged = [0, 1, 2, 3]
    assert np.array_equal(lent[unchanged], own[unchanged]), "closed faces, and who has the class already"
    assert np.array_equal(np.sort(lent, axis=1), np.sort(own, axis=1)), "the confidence stays what it was"
    half = draw_concentration(opened, 0.5, np.random.default_rng(0))
    assert len(half.rows) == 2
    assert set(half.rows) < set(opened)
    assert (lent_logits(own, half, None).argmax(axis=1)[half.rows] == 2).all(), "the class is that of all open faces"


def test_concentrated_are_the_open_faces_of_both_splits_in_the_pool_of_own_labels(faces):
    own, split = (split_faces(faces, SURPRISE.under(regime), 0) for regime in (OWN, CONCENTRATED))
    assert np.array_equal(own.test, split.test)
    assert np.array_equal(own.truth, split.truth)
    assert set(split.change.rows) == set(np.flatnonzero(own.truth < 0))
    assert set(faces.split[split.test[split.change.rows]]) == {"train", "test"}


@pytest.mark.parametrize("regime", [FLIPPED, TRUE, Regime("flipped", 0.5)])
def test_in_the_control_some_labels_of_closed_test_faces_are_flipped_and_are_its_truth(faces, regime):
    split = split_faces(faces, SURPRISE.under(regime), 0)
    names = np.array(BASIC)[faces.labels[split.test]]
    assert len(split.test) == 6 * 20
    assert (faces.split[split.test] == "test").all()
    assert "surprise" not in names
    flipped = split.truth < 0
    assert flipped.sum() == round(regime.share * 120)
    true = np.array([SURPRISE.closed.index(name) for name in names])
    assert np.array_equal(split.truth[~flipped], true[~flipped])
    own = np.random.default_rng(0).normal(size=(120, K)).astype(np.float32)
    lent = lent_logits(own, split.change, None)
    clean = true if regime.labels == "flipped-true" else own.argmax(axis=1)
    assert np.array_equal(lent.argmax(axis=1) != clean, flipped), "these and no others have a wrong label"
    assert np.array_equal(np.sort(lent, axis=1), np.sort(own, axis=1)), "the confidence tells nothing"
    unchanged = (lent == own).all(axis=1)
    assert np.array_equal(
        unchanged, ~flipped if regime.labels == "flipped" else lent.argmax(axis=1) == own.argmax(axis=1)
    )
    steps = (lent.argmax(axis=1) - clean)[flipped] % K
    assert set(steps) == set(range(1, K)), "to every other class"


def test_own_labels_change_nothing(faces):
    own = np.zeros((3, K), dtype=np.float32)
    assert split_faces(faces, SURPRISE, 0).change is None
    assert np.array_equal(lent_logits(own, None, None), own)


def test_logits_are_lent_as_a_copy():
    own = np.eye(2, dtype=np.float32)
    lent_logits(own, Flips(np.array([0]), np.array([1])), None)
    lent_logits(own, Concentration(np.array([0]), np.array([1])), None)
    lent_logits(own, Pairing(np.array([0]), np.array([1])), lambda rows: np.ones((1, 2), np.float32))
    assert np.array_equal(own, np.eye(2))


def test_too_few_faces_to_flip_one_are_an_error(faces):
    with pytest.raises(SuiteError, match=r"0 of 120 labels would be flipped\n  fix: change label_share"):
        split_faces(faces, SURPRISE.under(Regime("flipped", 0.001)), 0)


def test_open_faces_of_the_test_split_alone(faces):
    split = split_faces(faces, SURPRISE.on_test_split(), 0)
    assert (faces.split[split.test] == "test").all()
    assert (split.truth < 0).sum() == 20


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("share", [None, 0.35])
def test_the_fields_of_a_protocol_name_its_pseudo_label_setting(labels, share):
    if labels == "own" and share is not None:
        return
    protocol = SURPRISE.under(regime_of(labels, share))
    assert protocol.fields().get("label_share", 0.0) == protocol.regime.share
    assert protocol.fields()["labels"] == protocol.tags()["labels"] == labels
    assert protocol.choice == "surprise"


def test_keys_of_own_labels_stay_and_every_regime_and_share_has_its_own():
    regimes = [OWN, RELEASED, Regime("released", 0.5), CONCENTRATED, FLIPPED, TRUE]
    contents = [SURPRISE.under(regime).content() for regime in regimes]
    assert contents[0] == ["single", "surprise"]
    contents.append(SURPRISE.on_test_split().content())
    assert len({str(content) for content in contents}) == len(contents)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ('labels = "relased"', r"protocols\.labels.*'own', 'released'"),
        ("label_share = 0.5", "label_share has no meaning for the images' own labels"),
        ('labels = "flipped"\nlabel_share = 1.0', "label_share 1 leaves no label as it is"),
        ('labels = "released"\nlabel_share = 0.0', r"label_share.*greater than 0"),
        ('labels = "released"\nopen_from = "test"', "nothing to do with open faces of the test split"),
        ('labels = "flipped"\n[[protocols.pools]]\nsize = 9\nopen_share = 0.5', "have no open faces, pools need some"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, lines, match):
    path = tmp_path / "own.toml"
    last = 'open_classes = ["surprise"]'
    path.write_text(without_controls(load_profile("smoke").text).replace(last, f"{last}\n{lines}"), "utf-8")
    with pytest.raises(SuiteError, match=match):
        load_profile(str(path))


def test_a_profile_chooses_the_splits_of_open_faces_and_pools_go_with_labels_as_released(tmp_path):
    path, last = tmp_path / "own.toml", 'open_classes = ["surprise"]'
    pool = "[[protocols.pools]]\nsize = 20\nopen_share = 0.5"
    for lines, label in (
        ('open_from = "test"', "surprise (open faces of the test split)"),
        (f'labels = "released"\n{pool}', "surprise (20 images, 50% open) (labels as released)"),
    ):
        path.write_text(without_controls(load_profile("smoke").text).replace(last, f"{last}\n{lines}"), "utf-8")
        plan, face_sets = make_plan(load_profile(str(path)), Selection(), tmp_path / "cache")
        assert {cell.protocol.label for cell in plan} == {label}
        split = split_faces(face_sets["synthetic"], plan[0].protocol, 0)
        from_train = face_sets["synthetic"].split[split.test] == "train"
        if split.change is None:
            assert not from_train.any()
        else:
            assert set(split.change.rows) == set(np.flatnonzero(from_train & (split.truth < 0)))


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Cells of `smoke` by regime and method, their results and scores; and the home."""
    home = tmp_path_factory.mktemp("home")
    methods = ("baseline", "max-logit", "label-loss", "knn", "proser")
    found = {}
    for regime in (OWN, RELEASED, CONCENTRATED, FLIPPED, TRUE):
        profile = load_profile("smoke")
        plan, face_sets = make_plan(profile, Selection(methods=methods, regime=regime), home / "cache")
        (home / "results").mkdir(exist_ok=True)
        for cell in plan:
            place = compute(cell, profile, face_sets["synthetic"], home)
            found[regime.labels, cell.label] = (cell, *read_result(home / "results" / cell.key))
        found[regime.labels] = place
    return found


def test_all_regimes_share_one_closed_set_model(cells):
    assert len({value[0].closed_set_key for key, value in cells.items() if isinstance(key, tuple)}) == 1


def test_whether_a_method_read_the_labels_is_noted(cells):
    reads = {
        label: cells["released", label][1].tags["reads_labels"]
        for label in ("baseline", "max-logit", "label-loss", "knn", "proser")
    }
    assert reads == {"baseline": "true", "max-logit": "true", "label-loss": "true", "knn": "false", "proser": "false"}


def test_a_method_that_does_not_read_them_gives_the_same_scores_under_both(cells):
    for label in ("knn", "proser"):
        own, released = (cells[labels, label][2] for labels in ("own", "released"))
        assert np.array_equal(own["unknown_score"], released["unknown_score"])
        assert np.array_equal(own["predicted_class"], released["predicted_class"])


def test_only_open_train_faces_have_other_labels_than_their_own(cells):
    own, released = (cells[labels, "baseline"][2] for labels in ("own", "released"))
    assert np.array_equal(own["id"], released["id"])
    assert np.array_equal(own["closed_set_class"], own["given_class"])
    assert np.array_equal(own["closed_set_class"], released["closed_set_class"])
    moved = own["unknown_score"] != released["unknown_score"]
    open_train = own["is_open"] & (own["origin"] == "train")
    assert moved[open_train].mean() > 0.9
    assert not moved[~open_train].any()


def test_label_loss_ranks_as_msp_under_own_labels_and_finds_those_that_are_not(cells):
    auroc = {key: value[1].metrics["auroc"] for key, value in cells.items() if isinstance(key, tuple)}
    own, msp = cells["own", "label-loss"][2]["unknown_score"], cells["own", "baseline"][2]["unknown_score"]
    np.testing.assert_allclose(np.exp(-own), -msp, rtol=1e-5)
    assert np.array_equal(np.argsort(own, kind="stable"), np.argsort(-np.log(-msp), kind="stable"))
    assert auroc["own", "label-loss"] == pytest.approx(auroc["own", "baseline"], abs=1e-6)
    assert auroc["released", "label-loss"] > auroc["released", "baseline"]
    assert auroc["flipped", "label-loss"] > 0.9, "near 1 by construction"
    assert auroc["flipped", "label-loss"] > auroc["flipped-true", "label-loss"]
    assert abs(auroc["flipped", "baseline"] - 0.5) < 0.2, "the confidence does not know"


def test_regime_and_share_are_in_label_and_tags_and_the_control_is_named(cells):
    cell = cells["flipped", "label-loss"][0]
    assert cell.coordinates()["open_classes"] == "surprise (20% of labels flipped)"
    assert cell.protocol.tags() == {"choice": "surprise", "twins": "once", "labels": "flipped", "label_share": "0.2"}
    own = cells["own", "baseline"][0].protocol.tags()
    assert own == {"choice": "surprise", "twins": "once", "labels": "own"}
    result = replace(cells["flipped", "label-loss"][1], tags={**cell.coordinates(), **cell.protocol.tags()})
    assert "control AUROC" in result.title()


def test_the_scores_of_concentrated_labels_tell_what_was_given(cells):
    own, concentrated = (cells[labels, "label-loss"][2] for labels in ("own", "concentrated"))
    assert np.array_equal(own["closed_set_class"], concentrated["closed_set_class"])
    is_open = own["is_open"]
    (common,) = concentrated.loc[is_open, "given_class"].unique()
    assert common == own.loc[is_open, "given_class"].value_counts().index[0]
    assert np.array_equal(own.loc[~is_open, "given_class"], concentrated.loc[~is_open, "given_class"])
    assert cells["concentrated", "knn"][1].tags["reads_labels"] == "false"


@pytest.mark.parametrize("labels", ["released", "concentrated", "flipped"])
def test_a_hunter_finds_neither_the_moved_rows_nor_the_truth(cells, labels):
    place = cells[labels]
    is_open = place.split.truth < 0
    n = len(is_open)
    for item in [*reachable(place.task), *reachable(place.context)]:
        vector = item.detach().numpy() if isinstance(item, torch.Tensor) else item
        assert vector is not place.split
        assert vector is not place.faces
        if isinstance(vector, np.ndarray) and vector.ndim == 1:
            assert not np.array_equal(vector, place.split.change.rows)
            if len(vector) == n and len(set(vector.tolist())) > 1 and vector.dtype.kind == "b":
                assert 0.3 < roc_auc_score(is_open, vector) < 0.7


def test_the_images_that_a_method_gets_are_those_of_own_labels(cells, faces):
    own, released = cells["own"].task, cells["released"].task
    assert np.array_equal(own.test_images, released.test_images)
    assert np.array_equal(own.train_images, released.train_images)
    split = split_faces(faces, SURPRISE.under(RELEASED), 0)
    assert set(vars(make_task(faces, SURPRISE.under(RELEASED), split, 0))) == set(vars(own))
