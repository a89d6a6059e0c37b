"""No cell inherits anything from the one before it; stored closed-set models are what was written."""

from __future__ import annotations

import os
import random
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

from open_set_fer.benchmark.execution.isolation import ProcessState, isolated
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.execution.task_run import Workplace
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.pseudo_labels import OWN
from open_set_fer.benchmark.storage.checkpoints import read_state, write_state
from open_set_fer.console import log
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
    before = ProcessState()
    outcome, after = run(tmp_path / "vandals", [False, True], monkeypatch)
    assert outcome.computed == 4
    assert [(cell.label, "wrote to the task's arrays" in error) for cell, error in outcome.failed] == [
        ("vandal True", True)
    ]
    for label, scores in clean.items():
        pd.testing.assert_frame_equal(scores, after[label], check_exact=True)
    assert "OSFER_VANDAL" not in os.environ
    assert repr(ProcessState()._values) == repr(before._values)


def test_global_random_numbers_are_the_seeds_and_leave_the_callers_alone():
    state = ProcessState()

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
        with isolated(state, seed):
            found.append(draw())
    assert found[0] == found[1] != found[2]
    assert draw() == expected


STATE = {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}


def damages():
    yield "flipped", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]
    yield "flipped curves", lambda b: b.replace(b"0.25", b"0.35")
    yield "truncated", lambda b: b[:40]
    yield "truncated data", lambda b: b[:-4]
    yield "empty", lambda b: b""


@pytest.mark.parametrize(("what", "damage"), list(damages()))
def test_a_damaged_model_is_set_aside_and_named(tmp_path, caplog, what, damage):
    path = tmp_path / "key.safetensors"
    path.with_suffix(".new").write_bytes(b"left by a killed process")
    write_state(path, STATE, {"loss": [0.25]})
    whole = path.read_bytes()
    found = read_state(path)
    assert found is not None
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())
    assert not path.with_suffix(".new").exists()
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with caplog.at_level("WARNING"):
        log.addHandler(caplog.handler)
        try:
            assert read_state(path) is None
        finally:
            log.removeHandler(caplog.handler)
    assert str(path) in caplog.text
    assert not path.exists()
    assert path.with_suffix(".damaged").read_bytes() == damage(whole)
    assert read_state(path) is None


def test_a_damaged_model_is_trained_again_to_the_same_numbers(tmp_path):
    cells, face_sets = make_plan(load_profile("smoke"), Selection(), tmp_path / "cache")

    def logits():
        place = Workplace.of(cells[0], face_sets["synthetic"], tmp_path, torch.device("cpu"))
        return place.context.closed_set_model(place.task).test_logits

    first = logits()
    (path,) = (tmp_path / "closed_set").glob("*.safetensors")
    whole = {name: tensor.clone() for name, tensor in read_state(path).items()}  # not the file's memory
    content = path.read_bytes()
    path.write_bytes(content[:-100] + bytes(100))
    assert np.array_equal(logits(), first)
    again = read_state(path)  # not the bytes: safetensors writes the two texts of its header in any order
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_torch_takes_for_others_are_refused(tmp_path, seed):
    profile = load_profile("smoke")
    with pytest.raises(SuiteError, match=f"seed {seed} is not between 0 and 4294967295"):
        make_plan(profile, Selection(seeds=(seed,)), tmp_path)
