"""The contract between a method and the suite: OpenSetTask in, Detection out.

A method is one class with a `name`, a frozen dataclass `Settings` and `detect(task, context)`. It is registered as an
entry point of group `open_set_fer.methods`. Nothing here holds a test label or says which test faces are open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from open_set_fer.ranges import BatchSize, Count, Epochs, NotNegative, Positive, Share

if TYPE_CHECKING:
    import torch

    from open_set_fer.methods.backbones import Network

T = TypeVar("T")


@dataclass(frozen=True)
class BackboneSettings:
    """Which network, for all methods alike.

    name: 'small' (CPU: at 48 px its last map is 6x6), 'resnet18' or 'resnet50'.
    width: channels of the small network's first stage; they double at each of its three stages.
    stem: of the ResNets: 'torchvision', or 'face' (max-pool without padding, ceil mode: the published face checkpoints).
    weights: '' for fresh weights, or the path of a checkpoint for the ResNets (see `methods/weights.py`).
    """

    name: Literal["small", "resnet18", "resnet50"] = "small"
    width: Count = 16
    stem: Literal["torchvision", "face"] = "torchvision"
    weights: str = ""


@dataclass(frozen=True)
class ClosedSetSettings:
    """Closed-set training of the authors' code: Adam, learning rate x `lr_decay` an epoch, flip or noise, erasing.

    schedule: 'exponential' as published, or 'one_cycle' (Smith and Topin 2018) for trainings of few epochs; the learning
    rate is then the highest one and `lr_decay` is not used.
    """

    epochs: Epochs = 60
    batch_size: BatchSize = 512
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-4
    lr_decay: Positive = 0.9
    schedule: Literal["exponential", "one_cycle"] = "exponential"
    erase_probability: Share = 0.5


@dataclass(frozen=True)
class OpenSetTask:
    """What a method is given. The arrays are read-only: other methods get the same ones.

    train_images: uint8 (M, C, H, W), closed classes only.
    train_labels: int64 (M,), re-indexed 0..K-1 in the order of `closed_classes`.
    test_images: uint8 (N, C, H, W), closed and open faces in an order shuffled by the runner.
    closed_classes: K names.
    seed: the cell's seed.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    closed_classes: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Detection:
    """What a method returns.

    unknown_score: float (N,), finite, HIGHER = more likely unknown, for every method.
    predicted_class: int (N,), 0..K-1.
    curves: per-epoch values by name, for MLflow and the figures.
    extras: per-image arrays (N,) by name (pseudo labels, losses), kept beside the scores.
    notes: what a reader of the result must know, such as a guard that fell back.
    """

    unknown_score: NDArray[np.floating[Any]]
    predicted_class: NDArray[np.integer[Any]]
    curves: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ClosedSetModel:
    """The shared closed-set model, in evaluation mode, and its outputs on the task's test images.

    Every cell gets a copy of the network; the logits are read-only.
    """

    network: Network
    test_logits: NDArray[np.float32]  # (N, K)

    @property
    def pseudo_labels(self) -> NDArray[np.int64]:
        """(N,): the class that the closed-set model gives each test image."""
        labels: NDArray[np.int64] = self.test_logits.argmax(axis=1)
        return labels


class Context(Protocol):
    """What the runner lends a method besides its task."""

    device: torch.device
    backbone: BackboneSettings
    generator: torch.Generator

    def closed_set_model(self, task: OpenSetTask) -> ClosedSetModel:
        """The closed-set model of this task: trained once, shared by every method."""
        ...

    def progress(self, steps: Iterable[T], description: str) -> Iterable[T]:
        """Iterate with a progress bar."""
        ...

    def phase(self, name: str) -> Any:
        """Context manager: time and peak memory of the phase go to MLflow."""
        ...

    def shared(self, key: str, compute: Any) -> Any:
        """`compute()` once per closed-set model and method; later calls with the same key get the kept value.

        Other settings of the method get the same value: do not change it. Arrays in it are made read-only.
        """
        ...


class Method(Protocol):
    """What an entry point of group `open_set_fer.methods` must be."""

    name: ClassVar[str]
    version: ClassVar[int]
    Settings: ClassVar[type]

    def __init__(self, settings: Any) -> None: ...

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score every test image."""
        ...
