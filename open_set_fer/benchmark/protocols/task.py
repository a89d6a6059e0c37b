"""Tasks of protocols: the images of training and test, and their truth, drawn from a FaceSet with a seed.

Train: closed-class images of the train split, labels re-indexed 0..K-1 in the data set's class order. Test: the closed
images of the test split and every open image of both splits, shuffled with the seed; with twins = "once" without faces
that repeat another one. Images of classes that a protocol leaves out are not used; the closed ones of split 'valid' are
lent as held-out faces. A pseudo-label setting changes the
outputs of the closed-set model for the test images, a positive control also the test images: see `pseudo_labels.py`.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_set_fer.benchmark.protocols.pool import Pool, shifted
from open_set_fer.benchmark.protocols.protocol import Protocol
from open_set_fer.benchmark.protocols.pseudo_labels import Change, Flips, draw_concentration, draw_flips, draw_pairing
from open_set_fer.datasets.faceset import UNUSED, FaceSet
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import OpenSetTask
from open_set_fer.plugins import nearest

IN_MEMORY = 4 << 30
"""Bytes of gathered images above which they go to an unnamed temporary file instead of memory."""


@dataclass(frozen=True)
class Split:
    """Indices into a FaceSet: train (M,), test (N,) in shuffled order, truth (N,) with -1 for open faces.

    In a pool with a shift truth is -1 for shifted faces, under 'flipped-true' for flipped labels. Under 'spiked' they
    are known with the closed-set model's outputs only: see `scored`.
    change: change of the closed-set model's outputs by the pseudo-label setting.
    pool: (P,) faces that a method may learn from, where the test faces are others.
    against: (Q,) faces to compare the pool with in place of the training images.
    held_out: (R,) closed faces of split 'valid', none of them a training image, though some may have a twin there; None
        for a data set without them.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    truth: NDArray[np.int64]
    change: Change | None = None
    pool: NDArray[np.int64] | None = None
    against: NDArray[np.int64] | None = None
    held_out: NDArray[np.int64] | None = None

    def scored(
        self, predictions: NDArray[np.int64], assigned: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places (n,) of the test images that are scored, and their truth (n,).

        predictions, assigned: (N,) labels of the test images, by the closed-set model and by the pseudo-label setting.
        Under 'spiked' the closed faces are scored, with -1 for flipped labels; else all of them.
        """
        rows = np.arange(len(self.truth))
        if not isinstance(self.change, Flips) or self.change.clean is not None:
            return rows, self.truth
        rows = np.flatnonzero(self.truth >= 0)
        return rows, np.where(assigned == predictions, self.truth, -1)[rows]


def split_faces(faces: FaceSet, protocol: Protocol, seed: int) -> Split:
    """Indices of the train and test images of a protocol; raises SuiteError for a class that is unknown or empty."""
    truth = _truth(faces, protocol)
    in_train, in_test = faces.split == "train", faces.split == "test"
    train = np.flatnonzero(in_train & (truth >= 0))
    is_open = (in_test if protocol.open_from == "test" else in_train | in_test) & (truth == -1)
    has_open = protocol.has_open or protocol.regime.labels == "spiked"
    test = np.flatnonzero((in_test & (truth >= 0)) | (is_open & has_open))
    if protocol.twins == "once":
        test = _without_twins(test, truth[test] < 0, faces.twins, train)
    _check_images(faces, protocol, truth[train], truth[test])
    # A method knows the seed but not the fingerprint, so it cannot undo the shuffle and find the appended open faces.
    # Without the pseudo-label setting, so that one pool is shown in one order under all of them.
    place = f"{faces.fingerprint}/{protocol.place}/{seed}"
    test = _generator(place).permutation(test)
    held_out = np.flatnonzero((faces.split == "valid") & (truth >= 0))
    split = Split(train, test, truth[test], held_out=held_out if len(held_out) else None)
    if protocol.pool is not None:
        split = _on_pool(split, faces, truth, protocol, _generator(f"{place}/pool"))
    regime = protocol.regime
    if regime.is_control:
        return _flipped(split, protocol, _generator(f"{place}/flips"))
    generator = _generator(f"{place}/pairing")
    if regime.labels == "concentrated":
        return replace(split, change=draw_concentration(np.flatnonzero(split.truth < 0), regime.share, generator))
    if regime.labels == "released":
        rows, sources = (split.truth < 0) & in_train[split.test], in_train & (truth > -2)
        rows, sources = np.flatnonzero(rows), np.flatnonzero(sources)
        return replace(split, change=draw_pairing(rows, sources, regime.share, generator))
    return split


def _without_twins(
    test: NDArray[np.int64], is_open: NDArray[np.bool_], twins: NDArray[np.int64], train: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Each open face once, and each closed face once that has no twin among the open and training faces.

    test: (N,) indices of the pool in the data set's order, of which the first of each group stays.
    twins: as FaceSet has them.
    """
    seen = np.isin(twins[test], twins[train]) & ~is_open
    test = np.concatenate([test[is_open], test[~is_open & ~seen]])
    _, first = np.unique(twins[test], return_index=True)
    return np.sort(test[first])


def face_columns(faces: FaceSet, split: Split) -> dict[str, NDArray[Any]]:
    """What is known of the test faces, (N,) each, for the table of scores."""
    test = split.test
    return {
        "id": faces.ids[test],
        "true_class": np.array(faces.classes)[faces.labels[test]],
        "origin": faces.split[test],
        "twin": faces.twins[test],
        "has_twin": has_twin(faces.twins, split),
    }


def has_twin(twins: NDArray[np.int64], split: Split) -> NDArray[np.bool_]:
    """(N,) whether a test face occurs elsewhere in the pool or among the training images; `twins` of the FaceSet."""
    groups = [twins[rows] for rows in (split.test, split.train, split.pool) if rows is not None]
    return np.asarray(np.bincount(np.concatenate(groups))[groups[0]] > 1)


def _truth(faces: FaceSet, protocol: Protocol) -> NDArray[np.int64]:
    """Closed-class label of every face; -1 for open faces, -2 for faces that the protocol leaves out."""
    truth = np.full(len(faces.classes), -2, dtype=np.int64)
    for label, name in [*enumerate(protocol.closed), *((-1, name) for name in protocol.open)]:
        if name not in faces.classes:
            raise SuiteError(
                f"{faces.name} has no class {name!r}{nearest(name, faces.classes)}", f"its classes: {faces.classes}"
            )
        truth[faces.classes.index(name)] = label
    return truth[faces.labels]


def _check_images(faces: FaceSet, protocol: Protocol, train: NDArray[np.int64], test: NDArray[np.int64]) -> None:
    """Raise SuiteError where a class has no image; train, test: the truth of each image."""
    for where in ("train", "test"):
        if not np.any(faces.split == where):
            fix = f"complete the data set, or name one of its splits {where}"
            raise SuiteError(f"{faces.name} has no split {where}, only {', '.join(faces.counts())}", fix)
    for index, name in enumerate(protocol.closed):
        for where, truth in (("train", train), ("test", test)):
            if not np.any(truth == index):
                fix = "complete the data set, or leave the protocols out that need the class"
                raise SuiteError(f"{faces.name}: class {name!r} has no {where} image", fix)
    if protocol.has_open and not np.any(test == -1):
        raise SuiteError(f"{faces.name}: open class {protocol.label!r} has no image", "complete the data set")


def _generator(words: str) -> np.random.Generator:
    return np.random.default_rng(np.frombuffer(hashlib.sha256(words.encode()).digest(), dtype=np.uint32))


def _flipped(split: Split, protocol: Protocol, rng: np.random.Generator) -> Split:
    """The control: some labels of closed faces are to be flipped; SuiteError for too few."""
    flips = draw_flips(np.flatnonzero(split.truth >= 0), protocol.regime.share, rng)
    if not 1 < flips.count < len(flips.order):
        raise SuiteError(
            f"{protocol.label}: {flips.count} of {len(flips.order)} labels would be flipped", "change label_share"
        )
    if protocol.regime.labels == "spiked":
        return replace(split, change=flips)
    flips = replace(flips, clean=split.truth)
    return replace(split, truth=np.where(flips.assigned(split.truth) == split.truth, split.truth, -1), change=flips)


def _on_pool(
    split: Split, faces: FaceSet, truth: NDArray[np.int64], protocol: Protocol, rng: np.random.Generator
) -> Split:
    """The split on a part of its pool; truth: of all faces. SuiteError for too few faces."""
    pool = protocol.pool
    assert pool is not None
    in_pool = _part(split.truth < 0, pool, protocol.label)
    is_scored = ~in_pool if pool.scored == "others" else in_pool
    scored = split.truth[is_scored]
    if pool.scored == "others" and not (np.any(scored < 0) and np.any(scored >= 0)):
        raise SuiteError(
            f"pool of {protocol.label}: no open or no closed face is left to score", "choose a smaller pool"
        )
    if pool.shift:
        scored[rng.permutation(pool.size)[: pool.size // 2]] = -1
    learned = split.test[in_pool] if pool.scored == "others" else None
    split = replace(split, pool=learned, test=split.test[is_scored], truth=scored)
    return replace(split, against=_against(split, faces, truth, pool, rng)) if pool.against else split


def _part(is_open: NDArray[np.bool_], pool: Pool, label: str) -> NDArray[np.bool_]:
    """Mask of the pool's first images that have the requested size and open fraction; SuiteError for too few."""
    n_open = round(pool.size * pool.open_share)
    mask = np.zeros(len(is_open), dtype=bool)
    for kind, places, count in (
        ("open", np.flatnonzero(is_open), n_open),
        ("closed", np.flatnonzero(~is_open), pool.size - n_open),
    ):
        if count > len(places) or (count < 1 and not (kind == "open" and pool.open_share == 0)):
            fix = "change size or open_share under [[protocols.pools]]"
            raise SuiteError(f"pool of {label}: {count} {kind} faces wanted, {len(places)} there", fix)
        mask[places[:count]] = True
    return mask


def _against(
    split: Split, faces: FaceSet, truth: NDArray[np.int64], pool: Pool, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The closed faces of split 'valid', or as many training images of each class, where there are so many."""
    valid = np.flatnonzero((faces.split == "valid") & (truth >= 0))
    if not len(valid):
        fault = f"{faces.name} has no split 'valid'" + " beside a study's pool" * bool(np.any(faces.split == UNUSED))
        raise SuiteError(fault, "take `against` out of [[protocols.pools]], or take another data set")
    if pool.against == "valid":
        return valid
    train, counts = rng.permutation(split.train), np.bincount(truth[valid])
    return np.concatenate([train[truth[train] == label][:count] for label, count in enumerate(counts)])


def make_task(faces: FaceSet, protocol: Protocol, split: Split, seed: int) -> OpenSetTask:
    """The task of a protocol: read-only copies without references to the data set's files or labels."""
    new_label = {faces.classes.index(name): index for index, name in enumerate(protocol.closed)}

    def labels_of(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([new_label[int(label)] for label in faces.labels[rows]], dtype=np.int64)

    train, test = _gather(faces.images, split.train), _gather(faces.images, split.test)
    votes = None if faces.votes is None else faces.votes[split.train][:, list(new_label)]
    if protocol.pool and protocol.pool.shift:
        rows = np.flatnonzero(split.truth < 0)
        test[rows] = shifted(test[rows], protocol.pool.shift)
    pool, against = (None if rows is None else _gather(faces.images, rows) for rows in (split.pool, split.against))
    held_out = () if split.held_out is None else (_gather(faces.images, split.held_out), labels_of(split.held_out))
    labels = labels_of(split.train)
    task = OpenSetTask(train, labels, test, protocol.closed, seed, votes, pool, against, *held_out)
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
