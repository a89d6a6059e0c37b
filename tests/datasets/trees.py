"""Small trees of data sets in their published layouts, written by the tests."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from open_set_fer.benchmark.protocols.protocol import FAMILIES, enumerate_protocols
from open_set_fer.benchmark.protocols.task import make_task, split_faces
from open_set_fer.datasets.affectnet import AffectNet
from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.cifar10 import Cifar10
from open_set_fer.datasets.digits import Digits
from open_set_fer.datasets.faceset import BASIC, FaceSet
from open_set_fer.datasets.fer2013 import Fer2013
from open_set_fer.datasets.ferplus import FerPlus
from open_set_fer.datasets.manifest import Manifest
from open_set_fer.datasets.rafdb import RafDb, RafDbCompound
from open_set_fer.datasets.synthetic.dataset import Synthetic

RNG = np.random.default_rng(0)


def face(path: Path, size: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


def rafdb_tree(root: Path, classes: int) -> Path:
    lines = []
    for split in ("train", "test"):
        for number in range(classes * 2):
            stem = f"{split}_{number + 1:05d}"
            lines.append(f"{stem}.jpg {number % classes + 1}")
            face(root / "Image" / "aligned" / f"{stem}_aligned.jpg")
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return root


def rafdb_copies(root: Path) -> Path:
    """The faces of `rafdb_tree` of seven classes as the tree that circulates."""
    published = rafdb_tree(root / "published", 7)
    for split in ("train", "test"):
        lines = ["image,label"]
        for number in range(14):
            name = f"{split}_{number + 1:05d}_aligned.jpg"
            place = root / "DATASET" / split / str(number % 7 + 1) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            (published / "Image" / "aligned" / name).rename(place)
            lines.append(f"{name},{number % 7 + 1}")
        (root / f"{split}_labels.csv").write_text("\n".join(lines) + "\n")
    return root


def fer2013_file(root: Path, name: str = "fer2013.csv", header: str = "emotion,pixels,Usage") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    lines = [header]
    columns = header.replace(" ", "").split(",")
    for usage in ("Training", "PublicTest", "PrivateTest"):
        for number in range(14):
            pixels = " ".join(map(str, RNG.integers(0, 256, 48 * 48)))
            row = {"emotion": str(number % 7), "pixels": pixels, "Usage": usage}
            lines.append(",".join(row[column] for column in columns))
    (root / name).write_text("\n".join(lines) + "\n")
    return root


def encoded(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def hub_table(seeds: list[int], names: tuple[str, ...] = BASIC) -> pa.Table:
    """A table as the Hub exports it: {bytes, path}, and numbers whose names are in the schema's metadata."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    table = pa.table(
        {
            "image": [{"bytes": encoded(seed), "path": f"{seed}.png"} for seed in seeds],
            "label": [seed % len(names) for seed in seeds],
        }
    )
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def hub_files(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    for part, file in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        pq.write_table(hub_table(list(range(14 * part, 14 * part + 14))), root / "data" / f"{file}.parquet")
    return root


def affectnet_folders(root: Path) -> Path:
    for folder in ("train_set", "val_set"):
        (root / folder / "annotations").mkdir(parents=True)
        for number in range(16):
            face(root / folder / "images" / f"{number}.jpg")
            np.save(
                root / folder / "annotations" / f"{number}_exp.npy", np.array(str(number % 8)).astype("<U1").astype(int)
            )
    return root


def affectnet_manifests(root: Path) -> Path:
    root.mkdir()
    for file, part in (("training.csv", "1"), ("validation.csv", "2")):
        rows = []
        for number in range(22):
            name = f"{part}/{number}.jpg"
            face(root / "Manually_Annotated_Images" / name, 40)
            rows.append([name, 5, 6, 20, 21, "", number % 11, 0.0, 0.0])
        columns = [
            "subDirectory_filePath",
            "face_x",
            "face_y",
            "face_width",
            "face_height",
            "facial_landmarks",
            "expression",
            "valence",
            "arousal",
        ]
        pd.DataFrame(rows, columns=columns).to_csv(root / file, index=False)
    return root


def cifar_files(root: Path, each: int) -> Path:
    root.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = RNG.integers(0, 256, (each, 3072), dtype=np.uint8)
        labels = [k % 10 for k in range(each)]
        (root / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}, protocol=2))
    return root


WORDS = {"angry": "anger", "7": "neutral", "glad": "happiness", "contempt": "contempt"}
VOCABULARY = 'anger = ["angry"]\nneutral = [7]\nhappiness = ["glad"]\ncontempt = []\n'


def own_tree(root: Path) -> Path:
    for split in ("train", "test"):
        for word in WORDS:
            for number in range(2):
                face(root / split / word / f"{number}.jpg")
    (root / "vocabulary.toml").write_text(VOCABULARY)
    return root


LAYOUTS = (
    *("ferplus", "ferplus-pixels", "rafdb", "rafdb_compound", "affectnet", "affectnet-2021", "manifest", "cifar10"),
    *("digits", "synthetic", "fer2013", "rafdb-copies", "manifest-embedded"),
)
"""Every data set of the suite, those of two layouts twice."""


def small_data_set(layout: str, root: Path, ferplus_tree: Callable[..., Path]) -> PreparedDataSet:
    """A data set whose files were just written, below `root` or by the fixture; CIFAR-10 has 20 images a file."""
    sets: dict[str, Callable[[], PreparedDataSet]] = {
        "ferplus": lambda: FerPlus(str(ferplus_tree(per_class=1)), 16),
        "ferplus-pixels": lambda: FerPlus(str(ferplus_tree(per_class=1, pixels=True)), 16),
        "rafdb": lambda: RafDb(str(rafdb_tree(root, 7)), 16),
        "rafdb_compound": lambda: RafDbCompound(str(rafdb_tree(root / "a", 7)), str(rafdb_tree(root / "b", 11)), 16),
        "affectnet": lambda: AffectNet(str(affectnet_manifests(root)), 16),
        "affectnet-2021": lambda: AffectNet(str(affectnet_folders(root)), 16),
        "fer2013": lambda: Fer2013(str(fer2013_file(root)), 16),
        "rafdb-copies": lambda: RafDb(str(rafdb_copies(root)), 16),
        "manifest-embedded": lambda: Manifest(str(hub_files(root)), image_size=16),
        "manifest": lambda: Manifest(str(own_tree(root)), str(root / "vocabulary.toml"), 16),
        "cifar10": lambda: Cifar10(str(cifar_files(root, 20))),
        "digits": lambda: Digits(16),
        "synthetic": lambda: Synthetic(2, 2, 2, 2, image_size=16),
    }
    return sets[layout]()


def every_protocol(faces: FaceSet) -> list[str]:
    protocols = enumerate_protocols(faces.classes, FAMILIES, True, True)
    for protocol in protocols:
        task = make_task(faces, protocol, split_faces(faces, protocol, 0), 0)
        assert len(task.train_images)
        assert set(task.train_labels.tolist()) == set(range(len(protocol.closed)))
    return [f"{p.family}" for p in protocols]
