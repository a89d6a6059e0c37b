"""The contract between a method and the suite: an OpenSetTask in, a Detection out.

A method is a frozen dataclass: its fields are its settings, `name` and `version` are plain class attributes, and
`detect(task, context)` scores the test images. It is registered as an entry point of group `open_set_fer.methods`.
Nothing here holds a test label or tells which test faces are open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from open_set_fer.methods.shared.backbones import Network
    from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings

T = TypeVar("T")


@dataclass(frozen=True)
class OpenSetTask:
    """Input of a method. The arrays are read-only, as all methods share them.

    train_images: uint8 (M, C, H, W), closed classes only.
    train_labels: int64 (M,), 0..K-1 in the order of `closed_classes`.
    test_images: uint8 (N, C, H, W), closed and open faces in an order shuffled by the runner.
    closed_classes: K names.
    seed: the cell's seed.
    train_votes: uint8 (M, K), annotators' votes for the closed classes; None for a data set without votes.
    pool_images: uint8 (P, C, H, W), faces to learn from instead of the test images, disjoint from them; a transductive
        method must then score each test image independently of the others. None: learn from the test images.
    known_images: uint8 (Q, C, H, W), closed faces to compare the pool with instead of the training images, or None.
    held_out_images, held_out_labels: uint8 (R, C, H, W) and int64 (R,), closed faces of the split `valid`, to fit or
        calibrate a score on: none is a training image, though some may have a twin there. None for a data set without
        that split, and in a study.

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
    held_out_images: NDArray[np.uint8] | None = None
    held_out_labels: NDArray[np.int64] | None = None

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All arrays that are not None."""
        optional = self.train_votes, self.pool_images, self.known_images, self.held_out_images, self.held_out_labels
        required = self.train_images, self.train_labels, self.test_images
        return (*required, *(array for array in optional if array is not None))


class Scores(NamedTuple):
    """Result of a scorer.

    unknown_score: float64 (N,), HIGHER = more likely unknown. probabilities: float64 (N, K) of the closed classes.
    """

    unknown_score: NDArray[np.float64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scorer:
    """A fitted scorer: scores each face independently; subclasses define `score`.

    A method's class names its type as `scorer`.

    networks: by name, made by `shared.backbones.build_network`. arrays: by name. settings: what JSON can hold.
    repeats: whether the task's test images get the scores of `Detection` again; False if those came from parts of the
    scorer, each for the images it was not trained on.
    """

    networks: Mapping[str, Network]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    repeats: ClassVar[bool] = True

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score uint8 images (N, C, H, W) of the task's size."""
        raise NotImplementedError


@dataclass(frozen=True)
class Detection:
    """Output of a method.

    unknown_score: float (N,), finite, HIGHER = more likely unknown, for every method.
    predicted_class: int (N,), 0..K-1.
    curves: per-epoch values by name, for MLflow and the figures.
    extras: per-image arrays (N,) by name (pseudo labels, losses), stored with the scores.
    notes: what a reader of the result must know, such as a guard that fell back.
    network: the network whose features of the test images figures show (`osfer run --keep-features`), if any.
    scorer: the fitted scorer; None if the method's score has no meaning outside the task.
    held_out_score: float (R,), the same score of the task's held-out faces, if the method has it; the runner sets the
        threshold on it. None: the runner lets the scorer score them.

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
    network: Network | None = field(default=None, repr=False)
    scorer: Scorer | None = field(default=None, compare=False, repr=False)
    held_out_score: NDArray[np.floating[Any]] | None = None


@dataclass(frozen=True)
class ClosedSetModel:
    """The shared closed-set model in evaluation mode, with its outputs on the test images.

    Every cell gets a copy of the network; the logits are read-only. `test_logits` and `pseudo_labels` follow the
    cell's pseudo-label setting; by default they are the model's outputs. A method that reads either appears in the
    tables of every setting, other methods only in those of the default. `predictions` are the model's under every
    setting: the classes of a method whose score depends on the images alone.

    >>> ClosedSetModel(network=..., test_logits=np.array([[4.0, 0.0], [0.1, 0.2]])).pseudo_labels
    array([0, 1])
    """

    network: Network
    test_logits: NDArray[np.float32]  # (N, K)
    own_predictions: NDArray[np.int64] | None = None  # (N,); None: the pseudo labels

    @property
    def pseudo_labels(self) -> NDArray[np.int64]:
        """Label (N,) assigned to each test image: the largest of its logits."""
        return np.asarray(self.test_logits.argmax(axis=1))

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The closed-set model's predicted class (N,) of each test image."""
        return self.pseudo_labels if self.own_predictions is None else self.own_predictions


class Context(Protocol):
    """Services of the runner to a method.

    closed_set: the recipe of the closed-set model. A classifier that a method trains on the training images takes its
    targets and augmentation (`training.targets_of`, `training.augmented`), so that methods differ in the method alone.
    """

    device: torch.device
    backbone: BackboneSettings
    closed_set: ClosedSetSettings
    generator: torch.Generator

    def closed_set_model(self, task: OpenSetTask) -> ClosedSetModel:
        """The task's closed-set model: trained once, shared by every method."""
        ...

    def progress(self, steps: Iterable[T], description: str) -> Iterable[T]:
        """Iterate with a progress bar."""
        ...

    def report(self, epoch: int, scores: Callable[[], NDArray[np.floating[Any]]]) -> None:
        """Offer the intermediate scores after `epoch` epochs (from 1); at most once an epoch.

        `scores` computes them, (N,), and is called only if they are read: it must not change the rest of the training,
        nor draw from its random numbers. The call may not return: a study can stop an unpromising trial.
        """
        ...

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Log time and peak memory of the phase to MLflow."""
        ...

    def features(self, task: OpenSetTask) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pooled features (M, D) of the training and (N, D) of the test images, read-only.

        The input of the closed-set model's linear layer; computed once, shared by every method.
        """
        ...

    def held_out_features(self, task: OpenSetTask) -> NDArray[np.float32] | None:
        """The same (R, D) of the held-out faces; None for a task without."""
        ...


class Method(Protocol):
    """A frozen dataclass as an entry point of group `open_set_fer.methods` must name it.

    name: as registered. version: raised whenever the numbers change; cells are keyed by it. A `Fact` may be stated as a
    class attribute.
    """

    name: str
    version: int
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score every test image."""
        ...


def scores_others(method: object) -> bool:
    """Whether a method can score faces outside the pool (`OpenSetTask.pool_images`).

    Inductive methods can; a transductive method states it by the class attribute `scores_others`.
    """
    return not states(method, "sees_pool") or bool(getattr(method, "scores_others", False))


Fact = Literal["sees_pool", "label_based"]
"""Fact that a method may state as a class attribute, for the reports; False by default.

sees_pool: the method is transductive: a face's score depends on the other faces of the test pool.
label_based: the score measures how badly a face fits its assigned label, so that the positive control applies: labels
flipped at random must score high.
"""
FACTS: tuple[Fact, ...] = get_args(Fact)


def states(method: object, fact: Fact) -> bool:
    """Whether a method, or its class, states a fact.

    >>> states(object(), "sees_pool")
    False
    """
    return bool(getattr(method, fact, False))
