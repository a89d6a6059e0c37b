"""No cell changes another: its process has state of its own, and global random numbers are the seed's."""

from __future__ import annotations

import os
import random
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

from open_set_fer.benchmark.execution.isolation import seeded
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.pseudo_labels import OWN
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Detection


@dataclass(frozen=True)
class Vandal:
    """Leaves everything that it can reach other than it found it; only the images may be spared."""

    name, version = "vandal", 1
    images: bool = False

    def detect(self, task, context):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        torch.set_autocast_enabled("cpu", True)
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        np.seterr(all="raise")
        random.seed(5)
        warnings.simplefilter("error")
        os.chdir("/")
        os.environ["OSFER_VANDAL"] = "1"
        model = context.closed_set_model(task)
        for parameter in model.network.parameters():
            parameter.zero_()
        features = context.features(task)
        for array in (task.train_images, task.train_labels, task.test_images, model.test_logits, *features):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
        if self.images:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.from_numpy(task.test_images).zero_()
                torch.from_numpy(task.train_images).zero_()
        n = len(task.test_images)
        return Detection(np.arange(n, dtype=float), np.zeros(n, dtype=np.int64))


def run(home, vandals, monkeypatch):
    """Outcome of smoke with `vandals` in front, and the scores of the others by label."""
    monkeypatch.chdir(home.parent)
    profile = load_profile("smoke")
    chosen = Selection(methods=("ours", "proser", "energy"), regime=OWN)
    cells, face_sets = make_plan(profile, chosen, home.parent / "cache")
    bad = [replace(cells[0], label=f"vandal {i}", method=Vandal(i), key=f"vandal{int(i)}") for i in vandals]
    runner = Runner(home, profile)
    outcome = runner.run([*bad, *cells], face_sets, "test")
    return outcome, {c.label: pd.read_parquet(home / "results" / c.key / "scores.parquet") for c in cells}


@pytest.mark.slow
def test_a_method_that_writes_into_everything_changes_no_other(tmp_path, monkeypatch):
    clean_outcome, clean = run(tmp_path / "clean", [], monkeypatch)
    assert clean_outcome.computed == 3
    outcome, after = run(tmp_path / "vandals", [False, True], monkeypatch)
    assert outcome.computed == 4
    assert [(cell.label, "wrote to the task's arrays" in error) for cell, error in outcome.failed] == [
        ("vandal True", True)
    ]
    for label, scores in clean.items():
        pd.testing.assert_frame_equal(scores, after[label], check_exact=True)
    assert "OSFER_VANDAL" not in os.environ


def test_global_random_numbers_are_the_seeds_and_leave_the_callers_alone():
    def seed_all():
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    seed_all()
    expected = draw()
    seed_all()
    found = []
    for seed in (7, 7, 8):
        with seeded(seed):
            found.append(draw())
    assert found[0] == found[1] != found[2]
    assert draw() == expected


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_torch_takes_for_others_are_refused(tmp_path, seed):
    profile = load_profile("smoke")
    with pytest.raises(SuiteError, match=f"seed {seed} is not between 0 and 4294967295"):
        make_plan(profile, Selection(seeds=(seed,)), tmp_path)
