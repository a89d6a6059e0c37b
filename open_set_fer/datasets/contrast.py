"""Data sets with large inter-class distance, the contrast to faces in the paper's Figures 1 and 2."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
from numpy.typing import NDArray
from PIL import Image

from open_set_fer.datasets.faceset import FaceSet, Outline, Side, data_root
from open_set_fer.datasets.preparation import (
    Listing,
    Table,
    cached_face_set,
    kept_numbers,
    listing_key,
    outline_of,
)
from open_set_fer.errors import SuiteError
from open_set_fer.safe_pickle import read_numpy_pickle

DIGITS = tuple(map(str, range(10)))


class Digits:
    """scikit-learn's bundled handwritten digits: 1,797 real images of ten classes, enlarged from 8x8 pixels."""

    name = "digits"

    @dataclass(frozen=True)
    class Settings:
        """image_size: pixels a side. test_share: of each class, drawn with `seed`."""

        image_size: Side = 48
        test_share: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.3
        seed: int = 0

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def load(self, cache: Path) -> FaceSet:
        """The digits as a FaceSet with classes '0' to '9'."""
        return cached_face_set(cache, self._listing())

    def outline(self, cache: Path) -> Outline:
        """Classes, and the cache's fingerprint where it is prepared; decodes and writes nothing."""
        return outline_of(cache, DIGITS, self._listing)

    def _listing(self) -> Listing:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        s = self.settings
        data = load_digits()
        labels = np.asarray(data.target, dtype=np.int64)
        split = np.full(len(labels), "train", dtype="<U5")
        _, test = train_test_split(
            np.arange(len(labels)), test_size=s.test_share, random_state=s.seed, stratify=labels
        )  # fmt: skip
        split[test] = "test"
        table = Table(labels, split, np.array([f"digit-{i:04d}" for i in range(len(labels))], dtype=np.str_))
        key = hashlib.sha256(f"digits/{s!r}".encode()).hexdigest()

        def enlarge(start: int) -> Iterator[NDArray[np.uint8]]:
            faces = [
                np.asarray(Image.fromarray((face * 15.9375).astype(np.uint8)).resize((s.image_size,) * 2))
                for face in data.images[start:]
            ]
            yield np.stack(faces)[:, None]

        return Listing(self.name, key, DIGITS, table, (1, s.image_size, s.image_size), enlarge)


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_BATCH = 10_000
"""Images in each published file."""


class Cifar10:
    """CIFAR-10 (Krizhevsky 2009) from a local copy of `cifar-10-batches-py`: 50,000 train and 10,000 test images."""

    name = "cifar10"

    @dataclass(frozen=True)
    class Settings:
        """root: the folder with data_batch_1 ... data_batch_5 and test_batch. image_size: pixels a side (published: 32)."""

        root: str = ""
        image_size: Side = 32

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def load(self, cache: Path) -> FaceSet:
        """The images in colour; the published pickles are read, once, without executing anything in them."""
        return cached_face_set(cache, self._listing(cache))

    def outline(self, cache: Path) -> Outline:
        """Classes, and the cache's fingerprint where it is prepared; decodes and writes nothing."""
        return outline_of(cache, CIFAR10, lambda: self._listed(cache))

    def _listed(self, cache: Path) -> Listing | Outline:
        """The listing where an earlier run kept the labels."""
        files, key = self._files()
        if not _kept_labels(cache, key).is_file():
            images = CIFAR10_BATCH * len(files)
            return Outline(CIFAR10, images=images, bytes=images * 3 * self.settings.image_size**2)
        return self._listing(cache)

    def _files(self) -> tuple[list[Path], str]:
        root = data_root(self.name, self.settings.root)
        files = [*(root / f"data_batch_{number}" for number in range(1, 6)), root / "test_batch"]
        return files, listing_key(self.name, self.settings, map(str, files))

    def _listing(self, cache: Path) -> Listing:
        s = self.settings
        files, key = self._files()
        labels, in_test = _cifar_labels(cache, key, files)
        split = np.where(in_test, "test", "train")
        table = Table(labels, split, np.array([f"cifar-{i:05d}" for i in range(len(labels))], dtype=np.str_))

        def resized(start: int) -> Iterator[NDArray[np.uint8]]:
            images = np.concatenate([_cifar_batch(file)[1] for file in files])[start:]
            for at in range(0, len(images), 1024):
                piece = images[at : at + 1024]
                if s.image_size != 32:
                    pictures = [Image.fromarray(p.transpose(1, 2, 0)).resize((s.image_size,) * 2) for p in piece]
                    piece = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures])
                yield piece

        return Listing(self.name, key, CIFAR10, table, (3, s.image_size, s.image_size), resized)


def _cifar_labels(cache: Path, key: str, files: list[Path]) -> NDArray[np.int64]:
    """(2, N) label, and 1 for an image of the test batch; kept in `cache` until one of the pickles changes."""

    def read() -> NDArray[np.int64]:
        labels = [_cifar_batch(file)[0] for file in files]
        in_test = [np.full_like(own, file.name == "test_batch") for own, file in zip(labels, files, strict=True)]
        return np.stack([np.concatenate(labels), np.concatenate(in_test)])

    return kept_numbers(_kept_labels(cache, key), read)


def _kept_labels(cache: Path, key: str) -> Path:
    return cache / f"cifar10-labels-{key[:20]}.npy"


def _cifar_batch(file: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    try:
        content = read_numpy_pickle(file, "latin1")
        labels = np.asarray(content["labels"], dtype=np.int64)
        images = np.asarray(content["data"], dtype=np.uint8).reshape(len(labels), 3, 32, 32)
    except (pickle.UnpicklingError, KeyError, ValueError, EOFError, TypeError) as error:
        raise SuiteError(f"cifar10: cannot read {file}: {error}", "unpack cifar-10-python.tar.gz again") from error
    if labels.min() < 0 or labels.max() > 9:
        raise SuiteError(f"cifar10: {file} has a label outside 0..9", "unpack cifar-10-python.tar.gz again")
    return labels, images
