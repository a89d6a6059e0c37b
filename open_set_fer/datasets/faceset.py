"""FaceSet, the form of every data set; the contract of data sets; expression names."""

from __future__ import annotations

import hashlib
import inspect
import mmap
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import pydantic
from numpy.typing import NDArray

from open_set_fer.errors import SuiteError

BASIC = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
"""The seven basic expressions in RAF-DB's order, which is the order of the paper's tables."""

COMPOUND = (
    "happily surprised", "happily disgusted", "sadly fearful", "sadly angry", "sadly surprised", "sadly disgusted",
    "fearfully angry", "fearfully surprised", "angrily surprised", "angrily disgusted", "disgustedly surprised",
)  # fmt: skip
"""RAF-DB's eleven compound expressions in their published order."""

CONTEMPT = "contempt"

UNUSED = "unused"
"""The split of faces of which a task has nothing: neither to train on, nor to score, nor to hold out."""

Side = Annotated[int, pydantic.Field(ge=8, le=1024)]
"""Pixels a side of a data set's images."""

Channels = Literal[1, 3]
"""1 grey or 3 RGB."""


@dataclass(frozen=True)
class Outline:
    """Facts of a data set available without decoding an image.

    classes, fingerprint: of its FaceSet; fingerprint '' if it is not prepared. images, bytes: number and size on disk
    of the images to decode; 0 if unknown. missing: the fault of its files if it cannot be read.
    """

    classes: tuple[str, ...]
    fingerprint: str = ""
    images: int = 0
    bytes: int = 0
    missing: str = ""


class _Mapped(NamedTuple):
    """Location of an array within a file."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def open(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


@dataclass(frozen=True)
class FaceSet:
    """A data set of faces as arrays.

    images: uint8 (N, C, H, W), memory-mapped where the data set is read from disk.
    labels: int64 (N,), indices into `classes`.
    split: (N,) of 'train', 'valid' or 'test'; UNUSED for faces that a view of the data set leaves out.
    ids: (N,) published file names.
    fingerprint: hex SHA-256 of the content.
    notes: counts by split that `osfer data check` prints.
    demonstration: True for synthetic data: results on it say nothing about real faces.
    votes: uint8 (N, len(classes)), annotators' votes for each class, never 0 for the label; None if not published.
    twins: int64 (N,), for each image the index of the first one with the same or mirrored pixels, itself if there is
    no other; found in `images` if not given.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    split: NDArray[np.str_]
    ids: NDArray[np.str_]
    fingerprint: str
    demonstration: bool = False
    notes: dict[str, dict[str, int]] = field(default_factory=dict)
    votes: NDArray[np.uint8] | None = None
    twins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def is_rendered(self) -> bool:
        """Whether its faces are drawn, so that no person or licence is concerned."""
        return self.demonstration and self.name == "synthetic"

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            fault = f"{self.name}: images must be uint8 (N, C, H, W), not {self.images.dtype} {self.images.shape}"
            raise SuiteError(fault, "return them in that layout from load()")
        if n and not len(self.twins):
            object.__setattr__(self, "twins", twin_indices(self.images))
        columns = {"labels": self.labels, "split": self.split, "ids": self.ids, "twins": self.twins}
        for column, array in columns.items():
            if len(array) != n:
                raise SuiteError(f"{self.name}: {len(array)} {column} for {n} images", "one entry an image")
        if n and not (self.labels.min() >= 0 and self.labels.max() < len(self.classes)):
            raise SuiteError(f"{self.name}: label outside 0..{len(self.classes) - 1}", "list its class in `classes`")
        check_class_names(self.name, self.classes)
        if self.votes is not None and not np.all(self.votes[np.arange(n), self.labels]):
            raise SuiteError(f"{self.name}: an image has no vote for its own label", "give votes in the classes' order")
        unknown = set(np.unique(self.split)) - {"train", "valid", "test", UNUSED}
        if unknown:
            raise SuiteError(f"{self.name}: unknown split {sorted(unknown)}", "use train, valid or test")

    def __getstate__(self) -> dict[str, Any]:
        """Pickle memory-mapped images as their location in the file, not their content."""
        state, images = dict(self.__dict__), self.images
        if isinstance(images, np.memmap) and isinstance(images.base, mmap.mmap) and images.filename is not None:
            state["images"] = _Mapped(str(images.filename), images.dtype.str, images.shape, images.offset)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        images = state["images"]
        self.__dict__.update(state | {"images": images.open() if isinstance(images, _Mapped) else images})

    def counts(self) -> dict[str, dict[str, int]]:
        """Images by split and class name."""
        splits = [split for split in ("train", "valid", "test") if np.any(self.split == split)]
        numbers = {
            split: np.bincount(self.labels[self.split == split], minlength=len(self.classes)) for split in splits
        }
        return {split: dict(zip(self.classes, counts.tolist(), strict=True)) for split, counts in numbers.items()}

    def ids_with_class(self) -> int:
        """Number of ids that have the name of their face's class as a word, as `train/fear/1.png`."""
        words = [re.compile(rf"(?<![a-z]){re.escape(name.lower())}(?![a-z])") for name in self.classes]
        faces = zip(self.ids.tolist(), self.labels.tolist(), strict=True)
        return sum(words[label].search(name.lower()) is not None for name, label in faces)


def check_class_names(name: str, classes: Iterable[str]) -> None:
    """SuiteError for a class name that terminals, tables and pages cannot show: blank, or not one printable line."""
    for word in classes:
        if not word.isprintable() or word != word.strip() or not word:
            fix = "write it as one line of printable characters without spaces at its ends"
            raise SuiteError(f"{name}: {word!r} cannot be the name of a class", fix)


class DataSet(Protocol):
    """A frozen dataclass as an entry point of group `open_set_fer.datasets` must name it.

    It may also have `outline(cache) -> Outline`, which `osfer plan` calls instead of `load` and which writes nothing,
    and state `Facts`. `PreparedDataSet` (cache.py) has both methods for a class with a `listing`.
    """

    @property
    def name(self) -> str:
        """Name of its entry point; a class attribute without annotation, so that it is no setting."""
        ...

    def load(self, cache: Path) -> FaceSet:
        """Read the data set, caching slow results under `cache`."""
        ...


@dataclass(frozen=True)
class Facts:
    """Facts of a data set, from optional class attributes of these names.

    title: displayed name; default: `name`. guide: where to get it, where it is expected, what is checked; default:
    the class's docstring. published, published_classes: published number of images by split, and by split and class.
    face_side: pixels a side of the published faces, if the same for all. origin_differs: whether train and test split
    were collected differently, so that open faces of the train split differ from closed test faces by origin too.
    """

    title: str
    guide: str
    published: Mapping[str, int]
    published_classes: Mapping[str, Mapping[str, int]]
    face_side: int | None
    origin_differs: bool = False


def facts(dataset: DataSet | type[DataSet]) -> Facts:
    """Facts stated by a data set or its class."""
    kind = dataset if isinstance(dataset, type) else type(dataset)
    name = str(kind.name)
    doc = inspect.cleandoc(kind.__doc__ or "")
    if not doc or doc.startswith(f"{kind.__name__}("):  # `dataclass` writes the signature as default docstring
        doc = "its package gives no description."
    return Facts(
        getattr(kind, "title", name),
        getattr(kind, "guide", f"{name} ({kind.__module__}): {doc}"),
        getattr(kind, "published", {}),
        getattr(kind, "published_classes", {}),
        getattr(kind, "face_side", None),
        bool(getattr(kind, "origin_differs", False)),
    )


def data_root(name: str, configured: str) -> Path:
    """Folder of a data set: its `root` setting, else `$OSFER_DATA/<name>`, else `data/<name>`."""
    root = Path(configured) if configured else Path(os.environ.get("OSFER_DATA", "data")) / name
    if not root.is_dir():
        raise SuiteError(
            f"{name}: no folder {root}",
            f"unpack the data set there, point OSFER_DATA at the folder that holds '{name}', "
            f"or set `root` under [datasets.{name}] in the profile",
        )
    return root


def twin_indices(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """`FaceSet.twins` of images uint8 (C, H, W), by the hashes of their pixels."""
    first: dict[bytes, int] = {}

    def key(image: NDArray[np.uint8]) -> bytes:
        pixels = min(image.tobytes(), image[..., ::-1].tobytes())
        return hashlib.blake2b(pixels, digest_size=16).digest()

    return np.array([first.setdefault(key(image), row) for row, image in enumerate(images)], dtype=np.int64)


def content_fingerprint(images: NDArray[np.uint8], *columns: NDArray[Any]) -> str:
    """Hex SHA-256 of the pixels and of each column (labels, splits, ids), in order."""
    blocks = (np.ascontiguousarray(images[start : start + 4096]).data for start in range(0, len(images), 4096))
    return block_fingerprint(images.shape, blocks, *columns)


def block_fingerprint(shape: tuple[int, ...], blocks: Iterable[bytes | memoryview], *columns: NDArray[Any]) -> str:
    """`content_fingerprint` of images in blocks, which need not be in memory together."""
    digest = hashlib.sha256(repr(shape).encode())
    for block in blocks:
        digest.update(block)
    for column in columns:
        digest.update("\n".join(map(str, column.tolist())).encode())
    return digest.hexdigest()
