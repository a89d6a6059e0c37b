"""Pseudo-label settings: the outputs of the closed-set model that the methods of a cell get for its test images.

'own', the default and the paper's text: each image's own. 'released': as the authors' notebook pairs them.
'concentrated': the comparison group of the paper's Figure 6. 'spiked' and 'flipped-true': the positive control, which
tests whether a method finds labels that are known to be wrong. The runner draws them; a method gets images and outputs
as usual and is not told which setting it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from open_set_fer.errors import SuiteError

Control = Literal["spiked", "flipped-true"]
Labels = Literal["own", "released", "concentrated", Control]
CONTROLS: tuple[Control, ...] = get_args(Control)
"""The positive controls; a verdict goes by the first that was run."""
LABELS: tuple[Labels, ...] = get_args(Labels)
SHARES: dict[Labels, float] = {"own": 0.0, "released": 1.0, "concentrated": 1.0, "spiked": 0.05, "flipped-true": 0.2}
"""Default shares."""
KEPT = "histogram kept"
"""In the keys of controls, whose first flips, to classes at random, were others."""
REFERENCE = "label-loss"
"""The method label printed beside a control as its ceiling: it trains nothing."""
PLAIN = "small-loss"
"""The method label with which a control compares: plain cross-entropy of the same network on the same pool."""
_TEXTS: dict[Labels, str] = {
    "released": "labels as released",
    "concentrated": "labels concentrated",
    "spiked": "labels flipped in the pool",
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

    flipped-true: a control. The pool is the closed test faces only, with their true labels; share: of these, whose
    labels are permuted among them until each differs, so that the histogram of the labels stays and tells nothing. The
    flipped labels must be found. Only this setting uses truth: the true classes of closed faces, in a control without
    open faces. Class accuracy is meaningless in it.

    spiked: a control in the cell's own pool, so that the training judged is the cell's own. share: of the closed faces,
    whose assigned labels (the model's predictions) are permuted in the same way. The open faces stay in the pool with
    their own labels, to be trained on, and are not scored.
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

        >>> Regime("released", 1.0).text, Regime("spiked", 0.05).text
        ('labels as released', '5% of labels flipped in the pool')
        """
        if self.labels == "own":
            return ""
        is_whole = not self.is_control and self.share == 1.0
        return f"{'' if is_whole else f'{100 * self.share:g}% of '}{_TEXTS[self.labels]}"

    def content(self) -> list[Any]:
        """Part of a cell's key."""
        return [] if self.labels == "own" else ["labels", self.labels, self.share, *[KEPT] * self.is_control]

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
    """Test images whose labels are permuted among them so that each differs; the histogram of labels stays.

    order: (M,) places of the images of which the first ones are drawn. count: how many. seed: of the permutation.
    clean: (N,) the labels to permute; None for the closed-set model's predictions.

    A class is at most half of the drawn images, as no permutation could change all of its labels otherwise: images of a
    class that has its half are passed over. Where the other classes have too few images for that, fewer are drawn.
    """

    order: NDArray[np.int64]
    count: int
    seed: int
    clean: NDArray[np.int64] | None = None

    def assigned(self, predictions: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N,) labels with the flipped ones; SuiteError if no label can be flipped."""
        labels = predictions if self.clean is None else self.clean
        rows = self._rows(labels)
        if not len(rows):
            fault = f"no label can be flipped: {self.count} of {len(self.order)} faces drawn, of one label"
            raise SuiteError(fault, "raise label_share, or see why the closed-set model predicts one class")
        flipped = labels.copy()
        flipped[rows] = deranged(labels[rows], np.random.default_rng(self.seed))
        return flipped

    def _rows(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The drawn images: the first ones in order, of each class at most half of them."""
        candidates = labels[self.order]
        others = len(candidates) - int(np.bincount(candidates).max(initial=0))
        # The how-many-th of its class an image is, in order.
        rank = np.empty(len(candidates), dtype=np.int64)
        for label in np.unique(candidates):
            rank[candidates == label] = np.arange(np.sum(candidates == label))
        return self.order[rank < min(self.count // 2, others)][: self.count]


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


def draw_flips(candidates: NDArray[np.int64], share: float, rng: np.random.Generator) -> Flips:
    """A share of `candidates` (places in the pool), whose labels are to be flipped."""
    return Flips(rng.permutation(candidates), round(share * len(candidates)), int(rng.integers(2**63)))


def deranged(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random permutation of labels (n,) that leaves none at its place; no label may be more than half of them.

    A label that stayed is swapped with that of a place that neither had nor has it. There is such a place: as many
    places had the label as have it, at most half of all each, and the place at hand both had and has it.
    """
    found = rng.permutation(labels)
    for place in np.flatnonzero(found == labels):
        label = labels[place]
        if found[place] == label:  # not swapped meanwhile
            other = rng.choice(np.flatnonzero((labels != label) & (found != label)))
            found[place], found[other] = found[other], label
    return found


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
        if isinstance(change, Concentration):
            assigned = predictions.copy()
            assigned[change.rows] = np.bincount(predictions[change.among]).argmax()
        else:
            assigned = change.assigned(predictions)
        logits[rows, predictions], logits[rows, assigned] = own[rows, assigned], own[rows, predictions]
    return logits
