"""Twins of a data set, faces with the same or mirrored pixels: where the protocols meet them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from open_set_fer.benchmark.protocols.protocol import Protocol, enumerate_protocols
from open_set_fer.benchmark.protocols.task import split_faces
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError


@dataclass(frozen=True)
class TwinCounts:
    """Faces of one protocol's whole pool, and how many have a twin.

    open, closed: faces in the pool. open_in_pool, closed_in_pool: with a twin in the pool. closed_in_train: closed
    faces with a twin among the training images. pool_once: faces of the pool under twins = 'once'.
    """

    open_classes: str
    open: int
    open_in_pool: int
    closed: int
    closed_in_pool: int
    closed_in_train: int
    pool_once: int


def twin_table(faces: FaceSet) -> list[TwinCounts]:
    """Twins by choice of open classes, one class, compound or contempt; empty for a data set without twins."""
    if np.array_equal(faces.twins, np.arange(len(faces.twins))):
        return []
    table = []
    for protocol in enumerate_protocols(faces.classes, ("single", "compound", "contempt")):
        try:
            table.append(_counts(faces, protocol))
        except SuiteError:  # a class without images, which the table of counts shows
            continue
    return table


def _counts(faces: FaceSet, protocol: Protocol) -> TwinCounts:
    split = split_faces(faces, protocol, 0)
    pool, is_open = faces.twins[split.test], split.truth < 0
    in_pool = np.bincount(pool)[pool] > 1
    in_train = np.isin(pool, faces.twins[split.train])
    once = split_faces(faces, protocol.counting("once"), 0)
    return TwinCounts(
        open_classes=protocol.choice,
        open=int(is_open.sum()),
        open_in_pool=int((in_pool & is_open).sum()),
        closed=int((~is_open).sum()),
        closed_in_pool=int((in_pool & ~is_open).sum()),
        closed_in_train=int((in_train & ~is_open).sum()),
        pool_once=len(once.test),
    )
