"""Stored closed-set models are what was written; a damaged one is set aside and trained again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from open_set_fer.benchmark.execution.task_run import TaskRun
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.checkpoints import read_state, shared_output, write_state
from open_set_fer.console import log

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
        place = TaskRun.of(cells[0], face_sets["synthetic"], tmp_path, torch.device("cpu"))
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


def test_an_output_is_computed_once_and_again_where_its_file_is_damaged(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.arange(6, dtype=np.float32).reshape(2, 3)

    first = shared_output(tmp_path / "key.safetensors", "logits of these faces", compute)
    assert np.array_equal(shared_output(tmp_path / "key.safetensors", "logits of these faces", compute), first)
    assert len(calls) == 1
    shared_output(tmp_path / "key.safetensors", "logits of other faces", compute)
    shared_output(tmp_path / "other.safetensors", "logits of these faces", compute)
    assert len(calls) == 3
    for path in (tmp_path / "outputs").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-4] + bytes(4))
    assert np.array_equal(shared_output(tmp_path / "key.safetensors", "logits of these faces", compute), first)
    assert len(calls) == 4
