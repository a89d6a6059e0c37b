"""Protocols: pure rules from a FaceSet to what is closed, what is open, and the test pool (paper, Section 4.1).

Train: closed-class images of the train split, labels re-indexed 0..K-1 in the data set's class order. Test: the closed
images of the test split and every open image of both splits, in an order shuffled with the seed. Images of classes that a
protocol leaves out are used nowhere, those of a split 'valid' in one control alone (`Pool.against`). A label regime changes
what the closed-set model lends for the test images, the positive control also which ones they are: see `labels.py`.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pydantic
from numpy.typing import NDArray

from open_set_fer.benchmark.protocols.pseudo_labels import (
    OWN,
    Concentration,
    Flips,
    Pairing,
    Regime,
    draw_concentration,
    draw_flips,
    draw_pairing,
)
from open_set_fer.benchmark.protocols.shifts import SHIFT, Shift, shifted
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, FaceSet
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import OpenSetTask
from open_set_fer.plugins import nearest

Family = Literal["single", "pairs", "triples", "compound", "contempt"]
FAMILIES: tuple[Family, ...] = get_args(Family)
OpenFrom = Literal["both", "test"]

PAPER_PAIRS = (
    ("surprise", "fear"),
    ("fear", "disgust"),
    ("disgust", "happiness"),
    ("happiness", "sadness"),
    ("sadness", "anger"),
    ("anger", "neutral"),
)
PAPER_TRIPLES = (
    ("surprise", "fear", "disgust"),
    ("fear", "disgust", "happiness"),
    ("disgust", "happiness", "sadness"),
    ("happiness", "sadness", "anger"),
    ("sadness", "anger", "neutral"),
)

IN_MEMORY = 4 << 30
"""Bytes of gathered images above which they go to an unnamed temporary file instead of memory."""


class Pool(pydantic.BaseModel):
    """A part of the test pool: how many images, and the share of open faces among them; for studies of what sees the pool.

    open_from: the splits whose open faces may be in it. scored: 'others': the pool is what a method may learn from, scored
    and measured are the test faces that are not in it; so it may be without open faces. against: closed faces that a method
    gets to hold the pool against in place of the training images: of split 'valid', which nothing was trained on, or
    as many of each class of 'train', which the closed-set model was trained on. shift: closed faces alone, half of
    them shifted; what is told apart are shifted and unshifted ones, so a good detector has an AUROC near 0.5.
    """

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)
    size: int = pydantic.Field(gt=1)
    open_share: float = pydantic.Field(ge=0, lt=1)
    open_from: OpenFrom = "both"
    scored: Literal["pool", "others"] = "pool"
    against: Literal["", "train", "valid"] = ""
    shift: Shift | None = None

    @pydantic.model_validator(mode="after")
    def _checked(self) -> Pool:
        if self.shift and (self.open_share > 0 or self.scored == "others" or self.open_from == "test"):
            raise SuiteError(
                "protocols.pools: a pool with a shift has closed faces alone, all of them scored",
                "open_share = 0.0, and no scored or open_from",
            )
        if self.open_share == 0 and not self.shift and self.scored == "pool":
            raise SuiteError(
                "protocols.pools: a pool without open faces has nothing to find in it",
                'score the others (scored = "others"), or give it an open_share above 0',
            )
        return self

    @property
    def drawn(self) -> str:
        """Names the images: pools that differ in nothing else have the same ones."""
        if self.shift:
            return f"{self.size} closed faces, half shifted"
        return f"{self.size} images, {100 * self.open_share:g}% open"

    @property
    def text(self) -> str:
        """What names it behind a protocol's open classes."""
        what = f"{self.size} closed faces, half with {self.shift}" if self.shift else self.drawn
        return (
            what
            + ", the others scored" * (self.scored == "others")
            + f", against split {self.against}" * bool(self.against)
        )

    def content(self) -> list[Any]:
        """What a cell's key has of it, but for `open_from`, which is the protocol's."""
        extra = {"scored": self.scored if self.scored == "others" else "", "against": self.against, "shift": self.shift}
        return [self.size, self.open_share, *(text for pair in extra.items() if pair[1] for text in pair)]

    @classmethod
    def of_content(cls, content: list[Any]) -> Pool:
        """The pool that has this `content()`."""
        size, share, *extra = content
        return cls.model_validate({"size": size, "open_share": share} | dict(zip(extra[::2], extra[1::2], strict=True)))


def qualifiers(open_from: str, pool: str, regime: Regime) -> list[str]:
    """Display texts of what sets a protocol's test pool and pseudo labels apart from the paper's; empty for the paper's."""
    return [*["open faces of the test split"] * (open_from == "test"), *filter(None, (pool, regime.text))]


def display_text(name: str, open_from: str, pool: str, regime: Regime) -> str:
    """Display text of a choice of open classes, or of a family, with its qualifiers in brackets."""
    return name + "".join(f" ({text})" for text in qualifiers(open_from, pool, regime))


@dataclass(frozen=True)
class Protocol:
    """Which classes are closed and which are open, on which test pool and under which pseudo-label setting.

    family: 'shift' for a pool of closed faces with a shift, which no table of open faces shows. pool: None for the whole
    test pool, as in every table of the paper. open_from: the splits whose open faces are in the pool, 'both' as in the
    paper. regime: the pseudo-label setting.
    """

    family: Family | Literal["shift"]
    closed: tuple[str, ...]
    open: tuple[str, ...]
    pool: Pool | None = None
    open_from: OpenFrom = "both"
    regime: Regime = OWN

    def on(self, pool: Pool) -> Protocol:
        """This protocol on a part of its test pool."""
        if pool.open_from == "test":
            return self.on_test_split().on(pool.model_copy(update={"open_from": "both"}))
        return replace(self, family=SHIFT if pool.shift else self.family, pool=pool)

    def on_test_split(self) -> Protocol:
        """This protocol with the open faces of the test split alone."""
        return replace(self, open_from="test")

    def under(self, regime: Regime) -> Protocol:
        """This protocol under a pseudo-label setting."""
        return replace(self, regime=regime)

    @property
    def choice(self) -> str:
        """Name of the open classes: 'surprise+fear', 'compound'."""
        is_compound = self.family == "compound" or (
            self.family == SHIFT and set(self.open) <= set(COMPOUND) and any(name in BASIC for name in self.closed)
        )
        return "compound" if is_compound and self.open else "+".join(self.open) or "no open class"

    @property
    def label(self) -> str:
        """Display text, stored as `open_classes`: the choice of open classes, then pool and pseudo-label setting."""
        return self._named(self.pool.text if self.pool else "", self.regime)

    @property
    def place(self) -> str:
        """Seed text of the draw of images: the same under every pseudo-label setting and whatever part is scored."""
        return self._named(self.pool.drawn if self.pool else "", OWN)

    def _named(self, pool: str, regime: Regime) -> str:
        return display_text(self.choice, self.open_from, pool, regime)

    @property
    def has_open(self) -> bool:
        """Whether open faces are to be detected: not in controls, nor in pools with a shift."""
        return bool(self.open) and not self.regime.is_control and not (self.pool and self.pool.shift)

    def fields(self) -> dict[str, Any]:
        """Coordinates beside family and label, as plan.json and tags keep them; defaults of pool and share left out."""
        fields: dict[str, Any] = {"choice": self.choice, "labels": self.regime.labels}
        fields |= {"open_from": self.open_from} if self.open_from != "both" else {}
        fields |= {"pool": self.pool.text} if self.pool else {}
        return fields | ({"label_share": self.regime.share} if self.regime != OWN else {})

    def tags(self) -> dict[str, str]:
        """`fields` as MLflow keeps them."""
        return {name: f"{value:g}" if isinstance(value, float) else value for name, value in self.fields().items()}

    def content(self) -> list[Any]:
        """Part of a cell's key."""
        content: list[Any] = [self.family, *self.open, *(self.pool.content() if self.pool else [])]
        content += ["open_from", self.open_from] * (self.open_from != "both")
        return content + ["labels", self.regime.labels, self.regime.share] * (self.regime != OWN)

    @classmethod
    def of_content(cls, content: list[Any], closed: tuple[str, ...]) -> Protocol:
        """The protocol that has this `content()`; ValueError where none has.

        >>> pool = Protocol("pairs", ("neutral", "disgust"), ("fear", "anger")).on(Pool(size=9, open_share=0.5))
        >>> Protocol.of_content(pool.content(), pool.closed) == pool
        True
        """
        family, *rest = content
        regime, pool = OWN, None
        open_from: OpenFrom = "both"
        if rest[-3:-2] == ["labels"] and isinstance(rest[-1], float):
            regime, rest = Regime(rest[-2], rest[-1]), rest[:-3]
        if rest[-2:] == ["open_from", "test"]:
            open_from, rest = "test", rest[:-2]
        if numbers := [place for place, part in enumerate(rest) if not isinstance(part, str)]:
            pool, rest = Pool.of_content(rest[numbers[0] :]), rest[: numbers[0]]
        protocol = cls(family, closed, tuple(rest)) if rest else without_open_class(closed)
        protocol = replace(protocol.on(pool) if pool else protocol, open_from=open_from, regime=regime)
        if protocol.content() != content:
            raise ValueError(f"no protocol has {content}")
        return protocol


@dataclass(frozen=True)
class Split:
    """Indices into a FaceSet: train (M,), test (N,) in shuffled order, truth (N,) with -1 for open faces.

    change: what the label regime changes of the outputs that methods get. In a control truth is -1 for flipped labels, in a
    pool with a shift for shifted faces. pool: (P,) faces that a method may learn from, where the test faces are others.
    against: (Q,) faces to hold the pool against in place of the training images.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    truth: NDArray[np.int64]
    change: Pairing | Concentration | Flips | None = None
    pool: NDArray[np.int64] | None = None
    against: NDArray[np.int64] | None = None


def enumerate_protocols(
    classes: tuple[str, ...], families: tuple[Family, ...], all_pairs: bool = False, all_triples: bool = False
) -> list[Protocol]:
    """The protocols of `families` that a data set with these classes allows, in the paper's order.

    Families 'single', 'pairs' and 'triples' open basic classes and leave compound expressions and contempt out. A data
    set whose classes are not the basic expressions opens its own classes, every combination of them.
    """
    faces, base = any(name in BASIC for name in classes), base_classes(classes)
    protocols: list[Protocol] = []
    for family in families:
        if family in ("single", "pairs", "triples"):
            size = {"single": 1, "pairs": 2, "triples": 3}[family]
            listed = {"single": None, "pairs": PAPER_PAIRS, "triples": PAPER_TRIPLES}[family]
            everything = not faces or (all_pairs if size == 2 else all_triples)
            groups = tuple(itertools.combinations(base, size)) if listed is None or everything else listed
            if size == 1:  # the tables' order
                groups = tuple(sorted(groups, key=lambda g: BASIC.index(g[0]) if g[0] in BASIC else len(BASIC)))
            for group in groups:
                if set(group) <= set(base) and len(base) - len(group) >= 2:
                    closed = tuple(name for name in base if name not in group)
                    protocols.append(Protocol(family, closed, group))
        elif family == "compound":
            opened = tuple(name for name in classes if name in COMPOUND)
            if opened and len(base) >= 2:
                protocols.append(Protocol(family, base, opened))
        elif CONTEMPT in classes and len(base) >= 2:
            protocols.append(Protocol(family, base, (CONTEMPT,)))
    return protocols


def base_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that are closed where none of them is open: the basic expressions, or all where there is none."""
    faces = any(name in BASIC for name in classes)
    return tuple(name for name in classes if name not in COMPOUND and name != CONTEMPT) if faces else classes


def without_open_class(classes: tuple[str, ...]) -> Protocol:
    """The protocol of a control that needs no open class: every class that a table could open is closed."""
    return Protocol("single", base_classes(classes), ())


def opening(protocols: list[Protocol], wanted: str) -> list[Protocol]:
    """The protocols whose open classes are `wanted` ('surprise' or 'surprise+fear'); raises for an unknown name."""
    choice = "+".join(part.strip() for part in wanted.split("+"))
    matching = [p for p in protocols if p.choice == choice or sorted(p.open) == sorted(choice.split("+"))]
    if not matching:
        choices = [p.choice for p in protocols]
        raise SuiteError(
            f"no protocol opens {wanted!r}{nearest(choice, choices)}", f"choose among: {', '.join(choices)}"
        )
    return matching


def split_faces(faces: FaceSet, protocol: Protocol, seed: int) -> Split:
    """Indices of the train and test images of a protocol; raises SuiteError for a class that is unknown or empty."""
    for name in (*protocol.closed, *protocol.open):
        if name not in faces.classes:
            raise SuiteError(
                f"{faces.name} has no class {name!r}{nearest(name, faces.classes)}", f"its classes: {faces.classes}"
            )
    new_label = np.full(len(faces.classes), -2, dtype=np.int64)
    for index, name in enumerate(protocol.closed):
        new_label[faces.classes.index(name)] = index
    for name in protocol.open:
        new_label[faces.classes.index(name)] = -1
    truth = new_label[faces.labels]
    in_train, in_test = faces.split == "train", faces.split == "test"
    train = np.flatnonzero(in_train & (truth >= 0))
    opened = (in_test if protocol.open_from == "test" else in_train | in_test) & (truth == -1)
    test = np.flatnonzero((in_test & (truth >= 0)) | (opened & protocol.has_open))
    for index, name in enumerate(protocol.closed):
        for where, chosen in (("train", train), ("test", test)):
            if not np.any(truth[chosen] == index):
                raise SuiteError(
                    f"{faces.name}: class {name!r} has no {where} image",
                    "complete the data set, or leave the protocols out that need the class",
                )
    if protocol.has_open and not np.any(truth[test] == -1):
        raise SuiteError(f"{faces.name}: open class {protocol.label!r} has no image", "complete the data set")
    # A method knows the seed but not the fingerprint, so it cannot undo the shuffle and find the appended open faces.
    # Without the regime, so that one pool is shown in one order under all of them.
    place = f"{faces.fingerprint}/{protocol.place}/{seed}"
    test = _generator(place).permutation(test)
    split = Split(train, test, truth[test])
    if protocol.pool is not None:
        split = _on_pool(split, faces, truth, protocol, _generator(f"{place}/pool"))
        test = split.test
    regime = protocol.regime
    drawn = _generator(f"{place}/{'flips' if regime.is_control else 'pairing'}")
    if regime.is_control:
        return _flipped(split, protocol, drawn)
    if regime.labels == "concentrated":
        return replace(split, change=draw_concentration(np.flatnonzero(split.truth < 0), regime.share, drawn))
    if regime.labels == "released":
        moving = np.flatnonzero((split.truth < 0) & in_train[test])
        return replace(
            split, change=draw_pairing(moving, np.flatnonzero(in_train & (truth >= -1)), regime.share, drawn)
        )
    return split


def _generator(words: str) -> np.random.Generator:
    return np.random.default_rng(np.frombuffer(hashlib.sha256(words.encode()).digest(), dtype=np.uint32))


def _flipped(split: Split, protocol: Protocol, rng: np.random.Generator) -> Split:
    """The control: some labels of a pool of closed faces are flipped, and its truth says which; SuiteError for none."""
    flips = draw_flips(len(split.test), len(protocol.closed), protocol.regime.share, rng)
    if not 0 < len(flips.rows) < len(split.test):
        raise SuiteError(
            f"{protocol.label}: {len(flips.rows)} of {len(split.test)} labels would be flipped", "change label_share"
        )
    if protocol.regime.labels == "flipped-true":
        flips = replace(flips, clean=split.truth)
    truth = split.truth.copy()
    truth[flips.rows] = -1
    return replace(split, truth=truth, change=flips)


def _on_pool(
    split: Split, faces: FaceSet, truth: NDArray[np.int64], protocol: Protocol, rng: np.random.Generator
) -> Split:
    """The split on a part of its pool; truth: (all faces,) -1 open, -2 left out. SuiteError for too few faces."""
    pool = protocol.pool
    assert pool is not None
    chosen = _part(split.truth < 0, protocol)
    scored = ~chosen if pool.scored == "others" else chosen
    found = split.truth[scored]
    if pool.scored == "others" and not (np.any(found < 0) and np.any(found >= 0)):
        raise SuiteError(
            f"pool of {protocol.label}: no open or no closed face is left to score", "choose a smaller pool"
        )
    if pool.shift:
        found[rng.permutation(pool.size)[: pool.size // 2]] = -1
    split = replace(
        split, pool=split.test[chosen] if pool.scored == "others" else None, test=split.test[scored], truth=found
    )
    return replace(split, against=_against(split, faces, truth, pool, rng)) if pool.against else split


def _part(is_open: NDArray[np.bool_], protocol: Protocol) -> NDArray[np.bool_]:
    """Which of the shuffled pool's images, the first ones, give the wanted size and share; raises SuiteError for too few."""
    assert protocol.pool is not None
    n_open = round(protocol.pool.size * protocol.pool.open_share)
    chosen = np.zeros(len(is_open), dtype=bool)
    for what, places, wanted in (
        ("open", np.flatnonzero(is_open), n_open),
        ("closed", np.flatnonzero(~is_open), protocol.pool.size - n_open),
    ):
        if wanted > len(places) or (wanted < 1 and not (what == "open" and protocol.pool.open_share == 0)):
            raise SuiteError(
                f"pool of {protocol.label}: {wanted} {what} faces wanted, {len(places)} there",
                "change size or open_share under [[protocols.pools]]",
            )
        chosen[places[:wanted]] = True
    return chosen


def _against(
    split: Split, faces: FaceSet, truth: NDArray[np.int64], pool: Pool, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The closed faces of split 'valid', or of each class as many of the training images where there are so many."""
    valid = np.flatnonzero((faces.split == "valid") & (truth >= 0))
    if not len(valid):
        raise SuiteError(
            f"{faces.name} has no split 'valid'", "take `against` out of [[protocols.pools]], or take another data set"
        )
    if pool.against == "valid":
        return valid
    train = rng.permutation(split.train)
    return np.concatenate(
        [train[truth[train] == label][:count] for label, count in enumerate(np.bincount(truth[valid]))]
    )


def make_task(faces: FaceSet, protocol: Protocol, split: Split, seed: int) -> OpenSetTask:
    """The task of a protocol: read-only copies that lead back neither to the data set's files nor to its labels."""
    new_label = {faces.classes.index(name): index for index, name in enumerate(protocol.closed)}
    labels = np.array([new_label[int(label)] for label in faces.labels[split.train]], dtype=np.int64)
    train, test = _gather(faces.images, split.train), _gather(faces.images, split.test)
    votes = None if faces.votes is None else faces.votes[split.train][:, list(new_label)]
    if protocol.pool and protocol.pool.shift:
        rows = np.flatnonzero(split.truth < 0)
        test[rows] = shifted(test[rows], protocol.pool.shift)
    pool, against = (None if rows is None else _gather(faces.images, rows) for rows in (split.pool, split.against))
    task = OpenSetTask(train, labels, test, protocol.closed, seed, votes, pool, against)
    for array in task.arrays:
        array.flags.writeable = False  # every method of the task gets the same ones
    return task


def _gather(images: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    shape = (len(indices), *images.shape[1:])
    if np.prod(shape, dtype=np.int64) <= IN_MEMORY:
        return np.array(images[indices])
    with tempfile.TemporaryFile() as file:
        gathered = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
    for start in range(0, len(indices), 1024):
        gathered[start : start + 1024] = images[indices[start : start + 1024]]
    return gathered
