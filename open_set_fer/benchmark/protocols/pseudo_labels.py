"""Label regimes: which outputs of the closed-set model the methods of a cell get for its test images.

'own', the default and the paper's text: each image's own. 'released': as the authors' notebook pairs them. 'concentrated':
the comparison group of the paper's Figure 6. 'flipped' and 'flipped-true': the positive control, which asks whether a
method finds labels that are known to be wrong. The runner draws all of it; a method gets images and outputs as ever, and
no word of which they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Control = Literal["flipped", "flipped-true"]
Labels = Literal["own", "released", "concentrated", Control]
CONTROLS: tuple[Control, ...] = get_args(Control)
"""The positive controls."""
LABELS: tuple[Labels, ...] = get_args(Labels)
SHARES: dict[Labels, float] = {"own": 0.0, "released": 1.0, "concentrated": 1.0, "flipped": 0.2, "flipped-true": 0.2}
"""The share where none is given."""
REFERENCE = "label-loss"
"""The method label whose control AUROC a label-based method must reach: it trains nothing."""
_TEXTS: dict[Labels, str] = {
    "released": "labels as released",
    "concentrated": "labels concentrated",
    "flipped": "labels flipped",
    "flipped-true": "true labels flipped",
}


@dataclass(frozen=True)
class Regime:
    """A label regime and its share.

    released: the open faces of the TRAIN split get the outputs for training images drawn at random without replacement
    from all of the train split's faces of the protocol, open class included. The authors' notebook does so: it collects
    the outputs of a shuffled loader and picks those of the open faces by data-set order. Two things differ: its loader
    augments (flip or noise on half of the images), here the images are as they are; and its loader holds no compound
    expression and no contempt, which here are drawn like other open classes. share: of the open train-split faces.

    concentrated: the open faces all get the closed class that most of them have from the model, so that their labels are
    no longer spread over the classes. share: of the open faces, drawn at random; the class is that of all of them.

    flipped: the pool is the closed test faces alone; a share of the labels is flipped to another class, at random, and
    the flipped ones are what must be found: the task is that of 'own' but for planted errors. By construction the
    closed-set model itself finds nearly all of them (a flipped label is never its answer: `label-loss` is near 1), so a
    method that learns from the labels shows here whether it finds wrong ones at all, not whether it beats the model.

    flipped-true: the same, but what is flipped is the true class, so that the closed-set model's own errors stand between
    it and the flipped labels and `label-loss` leaves room above. Of the regimes only this one lends truth: the true
    classes of closed faces, in a control without open ones. Class accuracy says nothing in it.
    """

    labels: Labels = "own"
    share: float = 0.0

    @property
    def is_control(self) -> bool:
        """Whether flipped labels are to be found, not open faces."""
        return self.labels in CONTROLS

    @property
    def text(self) -> str:
        """Display text; empty for own labels.

        >>> Regime("released", 1.0).text, Regime("flipped", 0.2).text
        ('labels as released', '20% of labels flipped')
        """
        if self.labels == "own":
            return ""
        is_whole = not self.is_control and self.share == 1.0
        return f"{'' if is_whole else f'{100 * self.share:g}% of '}{_TEXTS[self.labels]}"

    @property
    def suffix(self) -> str:
        """Display text in brackets, behind the open classes."""
        return f" ({self.text})" if self.text else ""


OWN = Regime()


@dataclass(frozen=True)
class Pairing:
    """Test images that get the outputs for other images.

    rows: (n,) places in the pool. sources: (n,) indices into the face set of the images whose outputs they get.
    """

    rows: NDArray[np.int64]
    sources: NDArray[np.int64]


@dataclass(frozen=True)
class Concentration:
    """Test images that all get the commonest answer of a group.

    rows: (n,) places in the pool. among: (m,) places of the group, whose answers are counted.
    """

    rows: NDArray[np.int64]
    among: NDArray[np.int64]


@dataclass(frozen=True)
class Flips:
    """Test images whose label is another one.

    rows: (n,) places in the pool. steps: (n,) 1..K-1, added to the label modulo K. clean: (N,) the labels of which some are
    flipped; None for the closed-set model's answers.
    """

    rows: NDArray[np.int64]
    steps: NDArray[np.int64]
    clean: NDArray[np.int64] | None = None


def draw_pairing(
    candidates: NDArray[np.int64], train: NDArray[np.int64], share: float, rng: np.random.Generator
) -> Pairing:
    """A share of `candidates` (places in the pool), each with another one of the `train` images.

    With the same generator a smaller share draws a part of what a larger one does.
    """
    count = round(share * len(candidates))
    return Pairing(rng.permutation(candidates)[:count], rng.permutation(train)[:count])


def draw_concentration(candidates: NDArray[np.int64], share: float, rng: np.random.Generator) -> Concentration:
    """A share of `candidates` (places in the pool) is to get the commonest answer of all of them."""
    return Concentration(rng.permutation(candidates)[: round(share * len(candidates))], candidates)


def draw_flips(count: int, classes: int, share: float, rng: np.random.Generator) -> Flips:
    """A share of `count` labels of `classes` classes, and to which other class each goes."""
    rows = rng.permutation(count)[: round(share * count)]
    return Flips(rows, rng.integers(1, classes, count)[rows])


def lent_logits(
    own: NDArray[np.float32],
    change: Pairing | Concentration | Flips | None,
    outputs: Callable[[NDArray[np.int64]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """The logits (N, K) that methods get: `own`, the model's for the test images, but for what `change` changes.

    Where a label is given the two logits, of the answer and of the label, change places: the label is the largest.
    outputs: logits (n, K) for images by their indices into the face set.
    """
    logits = own.copy()
    if isinstance(change, Pairing):
        logits[change.rows] = outputs(change.sources)
    elif change is not None:
        everyone, answers = np.arange(len(own)), own.argmax(axis=1)
        given = answers.copy()
        if isinstance(change, Concentration):
            given[change.rows] = np.bincount(answers[change.among]).argmax()
        else:
            given = given if change.clean is None else change.clean.copy()
            given[change.rows] = (given[change.rows] + change.steps) % own.shape[1]
        logits[everyone, answers], logits[everyone, given] = own[everyone, given], own[everyone, answers]
    return logits
