"""Shared fixtures: small face sets and FERPlus trees written by the tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from open_set_fer import plugins
from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, FaceSet, content_fingerprint
from open_set_fer.datasets.ferplus import USAGES, VOTES

torch.set_num_threads(1)


def face_set(labels: np.ndarray, split: np.ndarray, classes: tuple[str, ...], size: int = 4) -> FaceSet:
    """A face set whose images encode their own index, so that a test can follow each of them."""
    index = np.arange(len(labels), dtype=np.uint32)
    images = np.zeros((len(labels), 1, size, size), dtype=np.uint8)
    for byte in range(4):
        images[:, 0, 0, byte] = (index >> (8 * byte)) & 255
    ids = np.array([f"face-{i}" for i in index], dtype=np.str_)
    fingerprint = content_fingerprint(images, labels, split, ids)
    return FaceSet("made", images, labels.astype(np.int64), classes, split.astype(np.str_), ids, fingerprint)


@pytest.fixture
def every_class() -> FaceSet:
    """All 19 expressions, 6 train, 1 valid and 3 test images each."""
    classes = (*BASIC, *COMPOUND, CONTEMPT)
    labels = np.repeat(np.arange(len(classes)), 10)
    split = np.tile(np.array(["train"] * 6 + ["valid"] + ["test"] * 3), len(classes))
    return face_set(labels, split, classes)


@pytest.fixture
def ferplus_tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes a FERPlus tree: for each usage `per_class` images of every class, then dropped rows."""

    def write(per_class: int = 3, pixels: bool = False) -> Path:
        root = tmp_path / "ferplus"
        root.mkdir()
        rng = np.random.default_rng(0)
        rows, pixel_rows, number = [], [], 0
        for usage, (_, folder) in USAGES.items():
            if not pixels:
                (root / folder).mkdir()
            votes = [{name: 8} | {"neutral": 2} if name != "neutral" else {name: 10} for name in VOTES[:8]] * per_class
            votes += [{"fear": 5, "surprise": 5}, {"unknown": 10}, {"NF": 10}, {}]
            for vote in votes:
                name = f"fer{number:07d}.png" if vote else ""
                face = rng.integers(0, 256, (48, 48), dtype=np.uint8)
                if name and not pixels:
                    Image.fromarray(face).save(root / folder / name)
                pixel_rows.append({"emotion": 0, "pixels": " ".join(map(str, face.ravel())), "Usage": usage})
                rows.append({"Usage": usage, "Image name": name} | {v: vote.get(v, 0) for v in VOTES})
                number += 1
        pd.DataFrame(rows).to_csv(root / "fer2013new.csv", index=False)
        if pixels:
            pd.DataFrame(pixel_rows).to_csv(root / "fer2013.csv", index=False)
        return root

    return write


@pytest.fixture
def local_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow in the home, whatever the environment says."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take seconds to make."""
    home = tmp_path_factory.mktemp("empty")
    store.prepare(home)
    return home / store.DATABASE


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> Path:
    """A home with an empty store."""
    (tmp_path / "home").mkdir()
    shutil.copyfile(empty_store, tmp_path / "home" / store.DATABASE)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A home with the smoke profile's baseline computed with two seeds."""
    from tests.complete import run_smoke

    home = tmp_path_factory.mktemp("ran")
    shutil.copyfile(empty_store, home / store.DATABASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        run_smoke(home, home, methods=("baseline",), seeds=(0, 1))
    return home


@pytest.fixture
def ada(ran: Path, tmp_path: Path) -> Path:
    """Ada's home with the results of `ran`, to sync and to tamper with."""
    shutil.copytree(ran / "results", tmp_path / "ada" / "results")
    return tmp_path / "ada"


def without_controls(text: str) -> str:
    """The text of a profile whose plan has no control cells."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("control"))


FAILING = '''
import os
from dataclasses import dataclass
from open_set_fer.methods.contract import Detection

@dataclass(frozen=True)
class Failing:
    """Fails unless OSFER_HARMLESS is set."""
    name = "failing"
    version = 1

    def detect(self, task, context):
        model = context.closed_set_model(task)
        if "OSFER_HARMLESS" not in os.environ:
            raise ZeroDivisionError("division by zero, [/b] included")
        return Detection(-model.test_logits.max(axis=1), model.pseudo_labels)
'''


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[str]:
    """An installed method that fails in every cell until OSFER_HARMLESS is set; its name."""
    meta = tmp_path / "plugin" / "failing-1.dist-info"
    meta.mkdir(parents=True)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: failing\nVersion: 1\n", "utf-8")
    (meta / "entry_points.txt").write_text("[open_set_fer.methods]\nfailing = failing:Failing\n", "utf-8")
    (meta.parent / "failing.py").write_text(FAILING, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(meta.parent))
        patch.delitem(sys.modules, "failing", raising=False)
        plugins._registered.cache_clear()
        yield "failing"
    plugins._registered.cache_clear()
