"""CIFAR-10: large inter-class distance, the contrast to faces in the paper's Figures 1, 2."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from open_set_fer.datasets.cache import PreparedDataSet, cached_array
from open_set_fer.datasets.faceset import Outline, Side, data_root
from open_set_fer.datasets.listing import Listing, Parts, Rows, file_key
from open_set_fer.errors import SuiteError
from open_set_fer.safe_pickle import read_numpy_pickle

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCH = 10_000
"""Images in a published file."""


@dataclass(frozen=True)
class Cifar10(PreparedDataSet):
    """CIFAR-10 (Krizhevsky 2009): 50,000 train and 10,000 test images."""

    name = "cifar10"
    title = "CIFAR-10"
    guide = """CIFAR-10: www.cs.toronto.edu/~kriz/cifar.html, the python version.
Expected in data/cifar10: data_batch_1 ... data_batch_5 and test_batch of cifar-10-batches-py.
Checked: the pickles hold arrays only, labels 0..9, 3,072 pixels an image."""
    published = {"train": 50000, "test": 10000}
    published_classes = {"train": dict.fromkeys(CLASSES, 5000), "test": dict.fromkeys(CLASSES, 1000)}
    classes = CLASSES

    root: str = ""
    """Folder with data_batch_1 ... data_batch_5 and test_batch; '': $OSFER_DATA/cifar10 or data/cifar10."""
    image_size: Side = 32
    """Pixels a side; published: 32."""

    def listing(self, cache: Path) -> Listing:
        """Read the labels of the published pickles once; nothing in them is executed."""
        files, key, labels_file = self._files(cache)
        size, images = self.image_size, functools.cache(lambda: np.concatenate([read_batch(file)[1] for file in files]))

        def read_labels() -> NDArray[np.int64]:
            """Labels and test-batch flags (0 or 1), int64 (2, N)."""
            parts = [read_batch(file)[0] for file in files]
            in_test = [np.full_like(part, file.name == "test_batch") for part, file in zip(parts, files, strict=True)]
            return np.stack([np.concatenate(parts), np.concatenate(in_test)])

        def resized(part: slice) -> NDArray[np.uint8]:
            pictures = images()[part].transpose(0, 2, 3, 1)
            scaled = pictures if size == 32 else [Image.fromarray(picture).resize((size, size)) for picture in pictures]
            return np.stack([np.asarray(picture) for picture in scaled]).transpose(0, 3, 1, 2)

        labels, in_test = cached_array(labels_file, read_labels)
        rows = Rows.of(labels, np.where(in_test, "test", "train"), [f"cifar-{i:05d}" for i in range(len(labels))])
        return Listing(self.name, CLASSES, rows, Parts((3, size, size), len(labels), resized), key)

    def quick_listing(self, cache: Path) -> Listing | Outline:
        """Listing, or an outline until an earlier run has read the labels."""
        files, _, labels_file = self._files(cache)
        if labels_file.is_file():
            return self.listing(cache)
        count = BATCH * len(files)
        return Outline(CLASSES, images=count, bytes=count * 3 * self.image_size**2)

    def _files(self, cache: Path) -> tuple[list[Path], str, Path]:
        """Published files, their key, and the cache file of their labels."""
        root = data_root(self.name, self.root)
        files = [*(root / f"data_batch_{number}" for number in range(1, 6)), root / "test_batch"]
        key = file_key(self.name, map(str, files))
        return files, f"{self!r}/{key}", cache / f"cifar10-labels-{key[:20]}.npy"


def read_batch(file: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Read labels (n,) and images (n, 3, 32, 32) of a published pickle, or raise SuiteError."""
    try:
        content = read_numpy_pickle(file)
        labels = np.asarray(content["labels"], dtype=np.int64)
        images = np.asarray(content["data"], dtype=np.uint8).reshape(len(labels), 3, 32, 32)
    except (pickle.UnpicklingError, KeyError, ValueError, EOFError, TypeError) as error:
        raise SuiteError(f"cifar10: cannot read {file}: {error}", "unpack cifar-10-python.tar.gz again") from error
    if labels.min() < 0 or labels.max() > 9:
        raise SuiteError(f"cifar10: {file} has a label outside 0..9", "unpack cifar-10-python.tar.gz again")
    return labels, images
