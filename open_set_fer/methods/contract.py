"""The contract between a method and the suite: OpenSetTask in, Detection out.

A method is one frozen dataclass: its fields are its settings, `name` and `version` are plain class attributes, and
`detect(task, context)` scores the test images. It is registered as an entry point of group `open_set_fer.methods`.
Nothing here holds a test label or says which test faces are open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from open_set_fer.methods.shared.backbones import Network
    from open_set_fer.methods.shared.recipe import BackboneSettings
    from open_set_fer.methods.shared.scorer import Scorer

T = TypeVar("T")


@dataclass(frozen=True)
class OpenSetTask:
    """What a method is given. The arrays are read-only: other methods get the same ones.

    train_images: uint8 (M, C, H, W), closed classes only.
    train_labels: int64 (M,), re-indexed 0..K-1 in the order of `closed_classes`.
    test_images: uint8 (N, C, H, W), closed and open faces in an order shuffled by the runner.
    closed_classes: K names.
    seed: the cell's seed.
    train_votes: uint8 (M, K), taggers' votes for the closed classes; None of a data set without votes.
    pool_images: uint8 (P, C, H, W), faces to learn from in place of the test images, none of which is among them; a method
        that sees the pool must then score every test image alike, whatever the others are. None: learn from the test images.
    known_images: uint8 (Q, C, H, W), closed faces to hold the pool against in place of the training images, where given.

    >>> faces = np.zeros((4, 1, 48, 48), dtype=np.uint8)
    >>> task = OpenSetTask(faces, np.array([0, 1, 1, 0]), faces[:2], ("happy", "sad"), seed=0)
    >>> [task.closed_classes[label] for label in task.train_labels]
    ['happy', 'sad', 'sad', 'happy']
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    closed_classes: tuple[str, ...]
    seed: int
    train_votes: NDArray[np.uint8] | None = None
    pool_images: NDArray[np.uint8] | None = None
    known_images: NDArray[np.uint8] | None = None

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Those that there are."""
        given = self.train_images, self.train_labels, self.test_images
        others = self.train_votes, self.pool_images, self.known_images
        return (*given, *(array for array in others if array is not None))


@dataclass(frozen=True)
class Detection:
    """What a method returns.

    unknown_score: float (N,), finite, HIGHER = more likely unknown, for every method.
    predicted_class: int (N,), 0..K-1.
    curves: per-epoch values by name, for MLflow and the figures.
    extras: per-image arrays (N,) by name (pseudo labels, losses), kept beside the scores.
    notes: what a reader of the result must know, such as a guard that fell back.
    network: the one whose features of the test images figures show (`osfer run --keep-features`); None where there is none.
    scorer: scores faces that the task does not have; None of a method whose score means nothing for such a face. The
        method's class names its type as `scorer`, by which a kept one is found again.

    >>> logits = np.array([[4.0, 0.0], [0.1, 0.2]])
    >>> detection = Detection(-logits.max(axis=1), logits.argmax(axis=1), extras={"second": logits.min(axis=1)})
    >>> detection.unknown_score  # the second face is more likely unknown
    array([-4. , -0.2])
    """

    unknown_score: NDArray[np.floating[Any]]
    predicted_class: NDArray[np.integer[Any]]
    curves: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    network: Network | None = None
    scorer: Scorer | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ClosedSetModel:
    """The shared closed-set model, in evaluation mode, and its outputs on the task's test images.

    Every cell gets a copy of the network; the logits are read-only. test_logits and pseudo_labels are what the cell's label
    regime gives each image, by default the model's own outputs for it; a method that reads either is shown in tables of
    every regime, one that does not only in those of the default. own_answers, and so `answers`, are the model's own under
    every regime: classes for a method whose score looks at images alone.

    >>> ClosedSetModel(network=..., test_logits=np.array([[4.0, 0.0], [0.1, 0.2]])).pseudo_labels
    array([0, 1])
    """

    network: Network
    test_logits: NDArray[np.float32]  # (N, K)
    own_answers: NDArray[np.int64] | None = None  # (N,); None: those of test_logits

    @property
    def pseudo_labels(self) -> NDArray[np.int64]:
        """(N,): the label that each test image is given: the largest of its logits."""
        labels: NDArray[np.int64] = self.test_logits.argmax(axis=1)
        return labels

    @property
    def answers(self) -> NDArray[np.int64]:
        """(N,): the closed-set model's own class for each test image."""
        return self.pseudo_labels if self.own_answers is None else self.own_answers


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

    def report(self, epoch: int, scores: Callable[[], NDArray[np.floating[Any]]]) -> None:
        """What the method would return after `epoch` epochs (counted from 1), for a method that trains; once or never an epoch.

        `scores` gives them, (N,), and is called only where somebody reads them: it must not change the training that
        follows, nor draw from its random numbers. May not return: a study stops a trial that is not worth going on.
        """
        ...

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time and peak memory of the phase go to MLflow."""
        ...

    def features(self, task: OpenSetTask) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The closed-set model's pooled features (M, D) of the training and (N, D) of the test images, read-only.

        What its linear layer sees; computed once, shared by every method.
        """
        ...


class Method(Protocol):
    """What an entry point of group `open_set_fer.methods` must be: a frozen dataclass with these attributes.

    name: as registered. version: raised whenever the numbers change; cells are keyed by it. Besides these it may state
    a `Fact` as a class attribute.
    """

    name: str
    version: int
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score every test image."""
        ...


def scores_others(method: object) -> bool:
    """Whether a method can score faces that are not in the pool (`OpenSetTask.pool_images`).

    One that sees one face at a time can; one that sees the pool says so with the class attribute `scores_others`.
    """
    return not states(method, "sees_pool") or bool(getattr(method, "scores_others", False))


Fact = Literal["sees_pool", "label_based"]
"""What a method may state of itself as a class attribute, for the reports; False where it says nothing.

sees_pool: a face's score depends on the other faces of the test pool, so that none can be given to a single face.
label_based: the score says how ill a face fits the label that it was given, so that the positive control asks something
of it: labels flipped at random must score high.
"""
FACTS: tuple[Fact, ...] = get_args(Fact)


def states(method: object, fact: Fact) -> bool:
    """Whether a method, or its class, states a fact of itself.

    >>> states(object(), "sees_pool")
    False
    """
    return bool(getattr(method, fact, False))
