"""The released pairing recomputed from two text files: RAF-DB's list of labels and the released label file.

The authors' notebook seeds torch with 0 before it builds its network, so the order of its shuffled training loader can
be drawn again. Unknown is only the offset: how many 32-bit numbers were drawn between the network and the loader's
seed. At the right offset the label of each open train face is the class of the image whose output it got. No image and
no model is needed, for the closed-set model knew its training images by heart. `pairing.csv` has the outcome: counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from open_set_fer.datasets.faceset import BASIC
from open_set_fer.datasets.listing import read_lines
from open_set_fer.datasets.rafdb import read_labels
from open_set_fer.errors import SuiteError

OPEN = "surprise"  # the open class of the released label file
CLOSED = tuple(name for name in BASIC if name != OPEN)  # pseudo labels 0 to 5
OFFSETS = 200
LINE = re.compile(r"(?:.*[/\\])?((?:train|test)_\d+)_aligned\.jpg\s+(\d+)")


@dataclass(frozen=True)
class Recomputed:
    """Counts by offset of the open train faces and the images that would have lent them their outputs.

    counts: index `offset` (0, 1, ...), columns own (faces with their own output), compared (faces whose source is of a
    closed class), agreeing (of these, faces whose pseudo label is the source's class), then the labels of the other
    faces, whose source is of the open class, a column a class.
    """

    counts: pd.DataFrame

    @classmethod
    def kept(cls) -> Recomputed:
        """The outcome of the published files."""
        return cls(pd.read_csv(Path(__file__).with_name("pairing.csv"), index_col="offset"))

    @property
    def shares(self) -> pd.Series[float]:
        """Agreeing faces as a fraction of the compared ones, by offset."""
        return self.counts["agreeing"] / self.counts["compared"]

    @property
    def best(self) -> int:
        """The offset with the largest fraction."""
        return int(self.shares.to_numpy().argmax())

    @property
    def is_proof(self) -> bool:
        """Whether every compared label agrees at one offset."""
        return bool(self.shares[self.best] == 1)

    @property
    def open_sources(self) -> pd.Series[int]:
        """Labels of the faces whose source is of the open class, at the best offset: rightly paired labels."""
        return self.counts[list(CLOSED)].iloc[self.best]

    def save(self, path: Path) -> None:
        self.counts.to_csv(path)


def recompute(rafdb_list: Path, released: Path, offsets: int = OFFSETS) -> Recomputed:
    """Counts for the offsets 0 to `offsets` - 1; SuiteError for files that are not the two published ones.

    rafdb_list: RAF-DB's list_patition_label.txt, in whose order the notebook's data set has the images.
    released: predicted_labels_open0.txt of the authors' repository.
    """
    faces = read_labels("rafdb", rafdb_list, len(BASIC))
    train = {name: label for name, (split, label) in faces.items() if split == "train"}
    labels = _open_train_labels(released)
    opened = {name for name, label in train.items() if label == BASIC.index(OPEN)}
    if labels.keys() != opened:
        fault = f"{len(labels.keys() - opened)} of its train faces are not of class {OPEN} in {rafdb_list}"
        if labels.keys() < opened:
            fault = f"{len(opened - labels.keys())} train faces of class {OPEN} in {rafdb_list} are missing"
        raise SuiteError(f"{released}: {fault}", "give predicted_labels_open0.txt and the list of `basic`, both whole")
    truth, position = np.array(list(train.values())), {name: place for place, name in enumerate(train)}
    places = np.array([position[name] for name in labels])
    assigned = np.array([BASIC.index(CLOSED[label]) for label in labels.values()])
    rows = []
    for order in loader_orders(len(train), len(CLOSED), offsets):
        lender = truth[order[places]]
        compared = lender != BASIC.index(OPEN)
        row = {"own": (order[places] == places).sum(), "compared": compared.sum()}
        row |= {"agreeing": (lender == assigned)[compared].sum()}
        rows.append(row | {name: (assigned[~compared] == BASIC.index(name)).sum() for name in CLOSED})
    return Recomputed(pd.DataFrame(rows).rename_axis("offset"))


def loader_orders(images: int, classes: int, offsets: int) -> Iterator[NDArray[np.int64]]:
    """The order (images,) of a shuffled loader after the notebook's seed and network, for each offset.

    torchvision's ResNet-18 (1,000 classes) draws the same numbers as the repository's; then comes a linear layer of 512
    features. The sampler draws a 64-bit seed and permutes the images with it.
    """
    import torch
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        resnet18()
        torch.nn.Linear(512, classes)
        state = torch.get_rng_state()
    generator = torch.Generator()
    for offset in range(offsets):
        generator.set_state(state)
        torch.empty(offset, dtype=torch.int32).random_(generator=generator)
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
        yield torch.randperm(images, generator=torch.Generator().manual_seed(seed)).numpy()


def _open_train_labels(released: Path) -> dict[str, int]:
    """Pseudo labels of the train faces of the released file, by name: it holds those of the open class alone."""
    labels: dict[str, int] = {}
    fix = "give predicted_labels_open0.txt of the authors' repository Open-Set-FER"
    for number, line in enumerate(map(str.strip, read_lines(released)), 1):
        if not line:
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise SuiteError(
                f"line {number} of {released} is not of the form 'train_00006_aligned.jpg 2': {line!r}", fix
            )
        if int(match[2]) >= len(CLOSED):
            raise SuiteError(f"line {number} of {released} has label {match[2]}, outside 0..{len(CLOSED) - 1}", fix)
        if match[1] in labels:
            raise SuiteError(f"line {number} of {released} repeats {match[1]}", fix)
        if match[1].startswith("train"):
            labels[match[1]] = int(match[2])
    if not labels:
        raise SuiteError(f"{released} has no train face", fix)
    return labels
