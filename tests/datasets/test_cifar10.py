"""CIFAR-10 from its pickles."""

from __future__ import annotations

import os
import pickle

import pytest

from open_set_fer.datasets import cifar10
from open_set_fer.datasets.cifar10 import Cifar10
from open_set_fer.errors import SuiteError
from tests.datasets.trees import cifar_files


class Executes:
    """A pickle that would make a folder if anything executed it."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def test_cifar10_from_its_pickles_without_executing_them(tmp_path, monkeypatch):
    root = cifar_files(tmp_path / "cifar10", 20)
    faces = Cifar10(str(root)).load(tmp_path / "cache")
    assert faces.images.shape == (120, 3, 32, 32)
    pixels = pickle.loads((root / "test_batch").read_bytes())["data"]
    assert (faces.images[100].ravel() == pixels[0]).all()
    assert faces.counts()["test"] == dict.fromkeys(faces.classes, 2)
    with monkeypatch.context() as patch:
        patch.setattr(cifar10, "read_batch", None)  # would raise if called
        again = Cifar10(str(root)).load(tmp_path / "cache")
    assert again.fingerprint == faces.fingerprint
    assert (again.labels == faces.labels).all()
    assert Cifar10(str(root), 48).load(tmp_path / "cache").images.shape[1:] == (3, 48, 48)
    victim = tmp_path / "executed"
    (root / "test_batch").write_bytes(pickle.dumps({"data": Executes(victim), "labels": [0]}))
    with pytest.raises(SuiteError, match=r"cannot read .*test_batch: it asks for"):
        Cifar10(str(root)).load(tmp_path / "cache")
    assert not victim.exists()
