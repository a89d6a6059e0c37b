"""Pseudo-label settings: the outputs of the closed-set model that the methods of a cell get for its test images.

'own', the default and the paper's text: each image's own. 'released': as the authors' notebook pairs them.
'concentrated': the comparison group of the paper's Figure 6. 'flipped' and 'flipped-true': the positive control, which
tests whether a method finds labels that are known to be wrong. The runner draws them; a method gets images and outputs
as usual and is not told which setting it is.
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
"""Default shares."""
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
    """A pseudo-label setting and its share.

    released: the open faces of the TRAIN split get the outputs for training images drawn at random without replacement
    from all of the train split's faces of the protocol, open class included. The authors' notebook does so: it collects
    the outputs of a shuffled loader and picks those of the open faces by data-set order. Two things differ: its loader
    augments (flip or noise on half of the images), here the images are as they are; and RAF-DB's loader holds no
    compound expression, which here is drawn like other open classes. AffectNet's loader is not published: its train
    split has contempt, which is drawn here too. share: of the open train-split faces.

    concentrated: the open faces all get the closed class that the model predicts for most of them, so that their labels
    are no longer spread over the classes. share: of the open faces, drawn at random; the class is that of all of them.

    flipped: the pool is the closed test faces only; a share of the labels is flipped to another class, at random, and
    the flipped labels must be detected. By construction the closed-set model itself detects nearly all of them (a
    flipped label is never its prediction: `label-loss` is near 1), so the control shows whether a method that learns
    from the labels finds wrong ones at all, not whether it beats the model.

    flipped-true: the same, but the true class is flipped, so that errors of the closed-set model are mixed with flipped
    labels and `label-loss` can be surpassed. Only this setting uses truth: the true classes of closed faces, in a
    control without open faces. Class accuracy is meaningless in it.
    """

    labels: Labels = "own"
    share: float = 0.0

    @property
    def is_control(self) -> bool:
        """Whether flipped labels are to be detected, not open faces."""
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
    """Test images that all get the commonest prediction of a group.

    rows: (n,) places in the pool. among: (m,) places of the group, whose predictions are counted.
    """

    rows: NDArray[np.int64]
    among: NDArray[np.int64]


@dataclass(frozen=True)
class Flips:
    """Test images with another label.

    rows: (n,) places in the pool. steps: (n,) 1..K-1, added to the label modulo K. clean: (N,) labels of which some are
    flipped; None for the closed-set model's predictions.
    """

    rows: NDArray[np.int64]
    steps: NDArray[np.int64]
    clean: NDArray[np.int64] | None = None


Change = Pairing | Concentration | Flips
"""Change of the closed-set model's outputs by a pseudo-label setting."""


def draw_pairing(
    candidates: NDArray[np.int64], train: NDArray[np.int64], share: float, rng: np.random.Generator
) -> Pairing:
    """A share of `candidates` (places in the pool), each with another `train` image; smaller shares draw a part."""
    count = round(share * len(candidates))
    return Pairing(rng.permutation(candidates)[:count], rng.permutation(train)[:count])


def draw_concentration(candidates: NDArray[np.int64], share: float, rng: np.random.Generator) -> Concentration:
    """A share of `candidates` (places in the pool), to get the commonest prediction of all of them."""
    return Concentration(rng.permutation(candidates)[: round(share * len(candidates))], candidates)


def draw_flips(count: int, classes: int, share: float, rng: np.random.Generator) -> Flips:
    """A share of `count` labels of `classes` classes, each with its step to another class."""
    rows = rng.permutation(count)[: round(share * count)]
    return Flips(rows, rng.integers(1, classes, count)[rows])


def lent_logits(
    own: NDArray[np.float32], change: Change | None, outputs: Callable[[NDArray[np.int64]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Logits (N, K) that methods get: `own`, the model's for the test images, with `change` applied.

    Where a label is assigned, the logits of prediction and label are swapped, so that the label's is the largest.
    outputs: logits (n, K) for images by their indices into the face set.
    """
    logits = own.copy()
    if isinstance(change, Pairing):
        logits[change.rows] = outputs(change.sources)
    elif change is not None:
        rows, predictions = np.arange(len(own)), own.argmax(axis=1)
        assigned = predictions.copy()
        if isinstance(change, Concentration):
            assigned[change.rows] = np.bincount(predictions[change.among]).argmax()
        else:
            assigned = assigned if change.clean is None else change.clean.copy()
            assigned[change.rows] = (assigned[change.rows] + change.steps) % own.shape[1]
        logits[rows, predictions], logits[rows, assigned] = own[rows, assigned], own[rows, predictions]
    return logits
