"""The recomputed pairing: on files made by torch's own loader, on the kept counts, on the published files if given."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch.utils.data import DataLoader

from open_set_fer.errors import SuiteError
from open_set_fer.studies.replication import pairing
from open_set_fer.studies.replication.recomputation import CLOSED, Recomputed, recompute
from open_set_fer.studies.replication.write_up import write

IMAGES, OFFSET = 300, 8
FILES = ("list_patition_label.txt", "predicted_labels_open0.txt")


def made(folder: Path) -> tuple[Path, Path]:
    """A list of 300 training images and labels paired as the notebook pairs them, by torch's own loaders."""
    labels = np.random.default_rng(0).integers(0, 7, IMAGES)
    torch.manual_seed(0)
    torchvision.models.resnet18()
    torch.nn.Linear(512, 6)
    shuffled, in_order = DataLoader(range(IMAGES), 64, shuffle=True), DataLoader(range(9), 4)
    list(shuffled)  # two 64-bit numbers: the base seed of the workers and the sampler's
    list(in_order)  # the base seed
    order = torch.cat(list(shuffled)).numpy()  # the base seed, then the sampler's: an offset of 4 * 2
    outputs = np.where(labels[order] == 0, 5, labels[order] - 1)  # the model takes every surprise face for neutral
    rows = [f"train_{i:05}.jpg {label + 1}" for i, label in enumerate(labels)]
    (folder / FILES[0]).write_text("\n".join(["test_0001.jpg 1", *rows]))
    released = [f"../Image/aligned/train_{i:05}_aligned.jpg {outputs[i]}" for i in np.flatnonzero(labels == 0)]
    (folder / FILES[1]).write_text("\n".join(["../Image/aligned/test_0001_aligned.jpg 4", *released]))
    return folder / FILES[0], folder / FILES[1]


def test_the_offset_of_a_pairing_by_torchs_loader_is_found(tmp_path):
    state = torch.get_rng_state()
    rafdb_list, released = made(tmp_path)
    torch.set_rng_state(state)
    found = recompute(rafdb_list, released, 40)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are its own"
    assert (found.best, found.is_proof, len(found.counts)) == (OFFSET, True, 40)
    assert found.shares.drop(OFFSET).max() < 0.5
    n_open = sum(line.endswith(" 1") and line.startswith("train") for line in rafdb_list.read_text().splitlines())
    assert found.counts.loc[OFFSET, ["compared", "neutral"]].sum() == n_open
    assert found.open_sources.drop("neutral").sum() == 0
    assert (found.counts[["compared", *CLOSED]].sum(axis=1) == n_open).all()


def test_a_label_that_does_not_fit_is_no_proof(tmp_path):
    rafdb_list, released = made(tmp_path)
    lines = released.read_text().splitlines()
    released.write_text("\n".join([*lines[:1], *(line[:-1] + "0" for line in lines[1:])]))
    found = recompute(rafdb_list, released, 10)
    assert not found.is_proof


def test_files_that_are_not_the_published_ones_are_named(tmp_path):
    rafdb_list, released = made(tmp_path)
    wrong = tmp_path / "wrong.txt"
    text = released.read_text()
    first = text.splitlines()[1]
    for content, fault in {
        "": "has no train face",
        rafdb_list.read_text(): "line 1 of .* is not of the form 'train_00006_aligned.jpg 2'",
        text[:-1] + "6": "has label 6, outside 0..5",
        text + "\n" + first: "repeats train_",
        text.replace(first + "\n", ""): "1 train faces of class surprise in .* are missing",
        text + "\ntrain_99999_aligned.jpg 0": "1 of its train faces are not of class surprise",
    }.items():
        wrong.write_text(content)
        with pytest.raises(SuiteError, match=fault):
            recompute(rafdb_list, wrong, 2)
    with pytest.raises(SuiteError, match=r"line 1 of .* is not of the form 'train_00001.jpg 5'"):
        recompute(released, released, 2)
    with pytest.raises(SuiteError, match="no file"):
        recompute(tmp_path / "absent.txt", released, 2)


def test_the_kept_counts_are_the_proof():
    kept = Recomputed.kept()
    assert (kept.best, kept.is_proof, len(kept.counts)) == (10, True, 200)
    assert kept.counts.loc[10, ["own", "compared", "agreeing"]].tolist() == [0, 1146, 1146]
    assert kept.open_sources.to_dict() == dict(zip(CLOSED, (29, 6, 22, 10, 5, 72), strict=True))
    assert (kept.counts[["compared", *CLOSED]].sum(axis=1) == 1290).all()
    assert kept.shares.drop(10).max() == pytest.approx(0.305, abs=0.0005)
    table = np.array([[61, 16, 54, 16, 27, 155], [29, 6, 22, 10, 5, 72]])
    wanted = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    test = pairing.fits_open_test_faces(kept.open_sources)
    assert test.statistic == pytest.approx(np.sum((table - wanted) ** 2 / wanted))
    assert (round(test.statistic, 1), test.freedom, round(test.p_value, 2)) == (4.6, 5, 0.47)


def test_the_page_has_the_recomputed_counts(tmp_path, capsys):
    write(tmp_path / "none", tmp_path / "docs", files=made(tmp_path))
    assert f"offset {OFFSET}: " in capsys.readouterr().out
    text = (tmp_path / "docs" / "replication.md").read_text("utf-8")
    counts = pd.read_csv(tmp_path / "docs" / "replication_pairing.csv", index_col="offset")
    agreeing = counts.loc[OFFSET, "agreeing"]
    assert f"| {OFFSET} | {agreeing} | {agreeing} | 100.0 % |" in text
    assert f"At offset {OFFSET} **every** compared label agrees" in text
    assert "train_" not in "".join(counts.to_csv()), "counts alone"


@pytest.mark.skipif("OSFER_PAIRING" not in os.environ, reason="OSFER_PAIRING names no folder with the two files")
def test_the_published_files_give_the_kept_counts():
    found = recompute(*(Path(os.environ["OSFER_PAIRING"]) / name for name in FILES))
    pd.testing.assert_frame_equal(found.counts, Recomputed.kept().counts)
