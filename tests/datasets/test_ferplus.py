"""FERPlus in its published layouts, and each kind of damage."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from open_set_fer.datasets.ferplus import CLASSES, VOTES, FerPlus, majority, plurality
from open_set_fer.errors import SuiteError


def load(root, tmp_path, **settings):
    return FerPlus(root=str(root), **settings).load(tmp_path / "cache")


def publishers_majority(counts):
    """Name of the option that the publishers' loop over one row's votes finds; None for none."""
    kept = [count if count > 1 else 0 for count in counts]
    largest = max(kept)
    if not largest > 0.5 * sum(kept):
        return None
    name = VOTES[kept.index(largest)]
    return name if name in CLASSES else None


def test_majority_is_the_publishers_for_any_votes():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(10, 0.3), size=3000)
    rows = np.array([rng.multinomial(rng.integers(0, 11), share) for share in shares])
    expected = [publishers_majority(row) for row in rows.tolist()]
    found = [CLASSES[i] if i >= 0 else None for i in majority(pd.DataFrame(rows, columns=VOTES))]
    assert found == expected
    assert 500 < sum(name is None for name in found) < 2500


@pytest.mark.parametrize(
    ("row", "by_majority", "by_plurality"),
    [
        ({"happiness": 6, "neutral": 4}, "happiness", "happiness"),
        ({"fear": 4, "surprise": 3, "neutral": 3}, None, "fear"),
        ({"fear": 4, "surprise": 3, "neutral": 1, "anger": 1, "sadness": 1}, "fear", "fear"),
        ({"fear": 5, "surprise": 5}, None, None),
        ({"unknown": 4, "fear": 5}, "fear", "fear"),
        ({"unknown": 3, "NF": 2, "fear": 5}, None, "fear"),
        ({"unknown": 6, "fear": 4}, None, None),
        ({"anger": 1}, None, "anger"),
        ({}, None, None),
    ],
)
def test_majority_and_plurality(row, by_majority, by_plurality):
    votes = pd.DataFrame([{name: row.get(name, 0) for name in VOTES}])
    found = [CLASSES[i] if i >= 0 else None for i in (*majority(votes), *plurality(votes))]
    assert found == [by_majority, by_plurality]


def test_labels_are_a_setting_that_changes_faces_and_votes(ferplus_tree, tmp_path):
    root = ferplus_tree(per_class=2)
    table = pd.read_csv(root / "fer2013new.csv", keep_default_na=False)
    names = list(table["Image name"][:2])  # a happy face without a majority, a neutral one with a single other vote
    for row, votes in enumerate(({"happiness": 4, "fear": 3, "anger": 3}, {"neutral": 9, "sadness": 1})):
        table.loc[row, list(VOTES)] = [votes.get(name, 0) for name in VOTES]
    table.to_csv(root / "fer2013new.csv", index=False)
    strict, loose = load(root, tmp_path), load(root, tmp_path, labels="plurality")
    assert set(loose.ids) - set(strict.ids) == {names[0]}
    assert strict.fingerprint != loose.fingerprint
    sadness = CLASSES.index("sadness")
    votes = [faces.votes[list(faces.ids).index(names[1]), sadness] for faces in (strict, loose)]
    assert votes == [0, 1]
    for faces in (strict, loose):
        assert faces.notes["a majority of the votes"] == {"train": 15, "valid": 16, "test": 16}
        assert faces.notes["a plurality of the votes"] == {"train": 16, "valid": 16, "test": 16}


def test_plurality_with_ties_unknown_and_not_a_face_dropped():
    rows = {
        "happy": {"happiness": 6, "neutral": 4},
        "tie": {"fear": 5, "surprise": 5},
        "unknown": {"unknown": 6, "fear": 4},
        "face": {"NF": 10},
        "contempt": {"contempt": 4, "anger": 3, "neutral": 3},
        "empty": {},
    }
    votes = pd.DataFrame([{v: row.get(v, 0) for v in VOTES} for row in rows.values()])
    assert [CLASSES[i] if i >= 0 else None for i in plurality(votes)] == [
        "happiness",
        None,
        None,
        None,
        "contempt",
        None,
    ]


def test_folders_and_pixel_file_give_the_same_faces(ferplus_tree, tmp_path):
    root = ferplus_tree(per_class=3)
    faces = load(root, tmp_path)
    assert faces.counts() == {split: dict.fromkeys(CLASSES, 3) for split in ("train", "valid", "test")}
    row = int(np.flatnonzero(faces.ids == "fer0000030.png")[0])
    with Image.open(root / "FER2013Valid" / "fer0000030.png") as image:
        assert (faces.images[row, 0] == np.asarray(image)).all()
    assert isinstance(faces.images, np.memmap)
    for folder in root.iterdir():
        if folder.is_dir():
            folder.rename(tmp_path / folder.name)
    root.rename(tmp_path / "png_only")
    pixels = load(ferplus_tree(per_class=3, pixels=True), tmp_path)
    assert pixels.fingerprint == faces.fingerprint


def test_votes_in_the_classes_order_are_part_of_the_fingerprint(ferplus_tree, tmp_path):
    root = ferplus_tree(per_class=2)
    faces = load(root, tmp_path)
    others = faces.labels != CLASSES.index("neutral")
    assert (faces.votes[np.arange(len(faces.labels)), faces.labels] == np.where(others, 8, 10)).all()
    assert (faces.votes[others, CLASSES.index("neutral")] == 2).all()
    assert (faces.votes.sum(axis=1) == 10).all()
    table = pd.read_csv(root / "fer2013new.csv", keep_default_na=False)
    table.loc[table["Image name"] == faces.ids[0], "sadness"] += 2  # a single vote would be dropped
    table.to_csv(root / "fer2013new.csv", index=False)
    changed = load(root, tmp_path)
    assert (changed.labels == faces.labels).all()
    assert changed.fingerprint != faces.fingerprint


def test_resize_and_colour(ferplus_tree, tmp_path):
    faces = load(ferplus_tree(per_class=1), tmp_path, image_size=32, channels=3)
    assert faces.images.shape[1:] == (3, 32, 32)


def test_a_second_start_reads_the_cache(ferplus_tree, tmp_path, monkeypatch):
    root = ferplus_tree(per_class=2)
    first = load(root, tmp_path)
    monkeypatch.setattr("open_set_fer.datasets.decoding.ImageFiles.chunks", None)  # would raise if called
    start = time.perf_counter()
    second = load(root, tmp_path)
    assert time.perf_counter() - start < 1
    assert second.fingerprint == first.fingerprint
    assert (second.images == first.images).all()


def test_a_changed_file_is_noticed(ferplus_tree, tmp_path):
    root = ferplus_tree(per_class=1)
    first = load(root, tmp_path)
    Image.new("L", (48, 48), 7).save(root / "FER2013Train" / "fer0000000.png")
    assert load(root, tmp_path).fingerprint != first.fingerprint


def test_an_image_named_twice_counts_once(ferplus_tree, tmp_path):
    root = ferplus_tree(per_class=1)
    path = root / "fer2013new.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    assert load(root, tmp_path).counts()["train"] == dict.fromkeys(CLASSES, 1)


def damage_missing_root(root):
    return root.parent / "nowhere", r"no folder .*nowhere\n  fix: unpack"


def damage_missing_folder(root):
    (root / "FER2013Test").rename(root / "elsewhere")
    return root, r"no folder .*FER2013Test"


def damage_missing_votes(root):
    (root / "fer2013new.csv").unlink()
    return root, r"no votes file .*fer2013new\.csv"


def damage_truncated_png(root):
    path = root / "FER2013Train" / "fer0000001.png"
    path.write_bytes(path.read_bytes()[:200])
    return root, r"cannot decode image .*FER2013Train/fer0000001\.png"


def damage_empty_png(root):
    (root / "FER2013Train" / "fer0000001.png").write_bytes(b"")
    return root, r"cannot decode image .*fer0000001\.png"


def damage_row_without_image(root):
    (root / "FER2013Test" / "fer0000024.png").unlink()
    return root, r"has a row for 'fer0000024\.png', but there is no file .*FER2013Test/fer0000024\.png"


def damage_unknown_usage(root):
    path = root / "fer2013new.csv"
    path.write_text(path.read_text().replace("PublicTest", "Public", 1))
    return root, r"unknown usage \['Public'\]"


def damage_column(root):
    path = root / "fer2013new.csv"
    path.write_text(path.read_text().replace("contempt", "scorn", 1))
    return root, r"lacks the columns \['contempt'\]"


def damage_vote(root):
    path = root / "fer2013new.csv"
    path.write_text(path.read_text().replace(",10,", ",many,", 1))
    return root, r"votes that are not counts"


def damage_encoding(root):
    path = root / "fer2013new.csv"
    path.write_bytes(path.read_bytes() + b"Training,\xff\xfe,0,0,0,0,0,0,0,0,0,0\n")
    return root, r"cannot read .*fer2013new\.csv"


@pytest.mark.parametrize("damage", [f for name, f in list(globals().items()) if name.startswith("damage_")])
def test_damage_is_one_clear_error(ferplus_tree, tmp_path, damage):
    root, message = damage(ferplus_tree(per_class=1))
    with pytest.raises(SuiteError, match=message):
        load(root, tmp_path)
