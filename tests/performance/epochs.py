"""An epoch of `ours` against the bare step on tensors in memory, and against the usual way of writing it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from open_set_fer.methods.shared.backbones import Network, build_network
from open_set_fer.methods.shared.learners import Learner, Recipe
from open_set_fer.methods.shared.recipe import BackboneSettings
from tests.performance.rows import Row, pairs

SIDE, BATCH, BATCHES, CLASSES = 48, 128, 6, 6
FILE_SIDE = 100
"""Of RAF-DB's aligned faces, which the authors' code reads."""
WEIGHT = 5.0


class Bare:
    """Forward of an image and of its flip, backward, Adam: the same network and loss, on floats that are ready."""

    def __init__(self, layout: torch.memory_format = torch.channels_last) -> None:
        self.network: Network = build_network(BackboneSettings(), CLASSES, 1, 0).to(memory_format=layout)
        self.optimizer = torch.optim.Adam(self.network.parameters(), 2e-4, weight_decay=1e-4)
        self.network.train()

    def step(self, x: Tensor, y: Tensor) -> float:
        first, second = self.network.feature_map(x), self.network.feature_map(x.flip(-1))
        weight = self.network.fc.weight.detach()
        one, two = (torch.einsum("kd,ndhw->nkhw", weight, feature_map) for feature_map in (first, second))
        loss = F.cross_entropy(self.network.classify(first), y) + WEIGHT * F.mse_loss(one, two.flip(-1))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()


class Files(Dataset[tuple[Tensor, Tensor, int]]):
    """Read, augment and flip one image at a time in Python: the usual way, as the authors' code has it."""

    def __init__(self, paths: list[str], labels: list[int]) -> None:
        self.paths, self.labels = paths, labels
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        from torchvision import transforms as T

        with Image.open(self.paths[index]) as image:
            face = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        change = T.Compose([T.ToTensor(), T.Normalize([0.5] * 3, [0.25] * 3), T.RandomErasing(0.5, (0.02, 0.25))])
        x = change(face)[:1]
        return x, x.flip(-1), self.labels[index]


def epochs(root: Path, repeats: int = 7) -> list[Row]:
    """Both rows; the files are JPEGs of the same images."""
    torch.set_num_threads(1)  # threads that wait for each other measure who else is on the machine
    rng = np.random.default_rng(0)
    count = BATCH * BATCHES
    images = rng.integers(0, 256, (count, 1, SIDE, SIDE), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count)
    context: Any = SimpleNamespace(
        generator=torch.Generator().manual_seed(0), backbone=BackboneSettings(), device=torch.device("cpu")
    )
    learner = Learner(context, CLASSES, 1, BATCH, 1e-4)
    bare, theirs = (
        Bare(),
        Bare(torch.contiguous_format),
    )  # PyTorch's own layout, which the authors' code leaves as it is
    x = bare.network.prepare(torch.from_numpy(images))
    y = torch.from_numpy(labels)

    def suite() -> None:
        learner.train_epoch(images, labels, np.ones(count, dtype=bool), 2e-4, Recipe(0.5, WEIGHT))

    def plain() -> None:
        for piece in range(0, count, BATCH):
            bare.step(x[piece : piece + BATCH], y[piece : piece + BATCH])

    paths = []
    for index, image in enumerate(images):
        paths.append(str(root / f"{index}.jpg"))
        Image.fromarray(image[0]).resize((FILE_SIDE, FILE_SIDE)).convert("RGB").save(paths[-1])
    loader = DataLoader(Files(paths, labels.tolist()), BATCH, shuffle=True, num_workers=2)

    def usual() -> None:
        for first, second, targets in loader:
            maps = []
            for part in (first, second):
                feature_map = theirs.network.feature_map(part)
                maps.append(torch.einsum("kd,ndhw->nkhw", theirs.network.fc.weight.detach(), feature_map))
                if part is first:
                    loss = F.cross_entropy(theirs.network.classify(feature_map), targets)
            loss = loss + WEIGHT * F.mse_loss(maps[0], maps[1].flip(-1))
            theirs.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            theirs.optimizer.step()

    step_ratios, step_note = pairs(plain, suite, repeats)
    usual_ratios, usual_note = pairs(suite, usual, max(3, repeats // 2))
    return [
        Row("epoch of `ours` against bare steps on tensors in memory", step_ratios, 1.05, "<", step_note),
        Row("the usual way (file by file, Python, DataLoader) against it", usual_ratios, 1.5, ">=", usual_note),
    ]
