"""Ours plus: a transductive detector of our own, not the paper's.

`ours` asks how hard a pseudo label is to learn; that needs pseudo labels of open faces to be scattered. Ours plus asks what the
test pool has that the training set has not: closed faces of both look alike, open faces are in the pool alone (semi-supervised
novelty detection, Blanchard, Lee and Scott, JMLR 2010). A network that starts from the closed-set model learns to tell pool from
training images, both drawn so that every pseudo class weighs the same on either side, and scores only images that it was not
trained on. Its logit, on one scale for all folds, and the closed-set model's energy are added.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from open_set_fer.methods.contract import ClosedSetModel, Context, Detection, OpenSetTask
from open_set_fer.methods.lazy import F, nn, seeds, torch, training
from open_set_fer.methods.scaling import standardise
from open_set_fer.ranges import BatchSize, Epochs, Folds, NotNegative, Positive, Share


@dataclass(frozen=True)
class OursPlus:
    """Pool-against-training discriminator, cross-fitted, plus the closed-set model's energy; not in the paper."""

    name = "ours-plus"
    version = 2
    sees_pool = True

    epochs: Epochs = 8
    """Of each fold's network."""
    folds: Folds = 2
    """Each pool image is scored by the network that did not train on its fold."""
    batch_size: BatchSize = 128
    learning_rate: Positive = 1e-3
    """The highest one of the one-cycle schedule."""
    weight_decay: NotNegative = 1e-4
    erase_probability: Share = 0.5
    """Of random erasing, for each image."""
    energy_weight: NotNegative = 1.0
    """Of the standardised energy -logsumexp(logits) next to the standardised logit (0: logit alone)."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by how much an image looks like one that only the pool has, plus the energy."""
        model = context.closed_set_model(task)
        pool_labels = model.pseudo_labels
        curves: dict[str, list[float]] = {}
        logits = np.zeros(len(pool_labels))
        generator = torch.Generator().manual_seed(seeds.draw_seed(context.generator))
        with context.phase("train"):
            # Pseudo labels on both sides: a true label on one and a pseudo label on the other would give them away.
            train_labels = training.evaluate(model.network, task.train_images).argmax(axis=1)
            folds = np.arange(len(pool_labels)) % self.folds  # the runner has shuffled the order
            for fold in context.progress(range(self.folds), "ours-plus: folds"):
                held_out = folds == fold
                curves[f"loss_{fold + 1}"], logits[held_out] = self._fold(
                    task, context, model, pool_labels, train_labels, held_out, generator
                )
        energy = -logsumexp(model.test_logits.astype(np.float64), axis=1)
        # Each fold's network has its own scale: joined raw, the fold with the larger logits would rank first.
        score = standardise(logits, folds) + self.energy_weight * standardise(energy)
        return Detection(score, pool_labels, curves, {"pool_logit": logits, "energy": energy})

    def _fold(
        self,
        task: OpenSetTask,
        context: Context,
        model: ClosedSetModel,
        pool_labels: NDArray[np.int64],
        train_labels: NDArray[np.int64],
        held_out: NDArray[np.bool_],
        generator: torch.Generator,
    ) -> tuple[list[float], NDArray[np.float64]]:
        """Train on the pool without `held_out` against as many training images; loss curve and held-out logits."""
        pool = np.flatnonzero(~held_out)
        network = copy.deepcopy(model.network).requires_grad_(True)
        seed = seeds.draw_seed(generator)
        with seeds.seeded(seed):
            network.fc = nn.Linear(network.widths[-1], 1).to(context.device)
        rng = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        steps = self.epochs * -(-2 * len(pool) // self.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, steps)
        images = training.as_tensor(np.concatenate([task.test_images[pool], task.train_images]))
        losses = []
        for _ in context.progress(range(self.epochs), "ours-plus: epochs"):
            matched = len(pool) + match_classes(pool_labels[pool], train_labels, rng)
            chosen = torch.from_numpy(np.concatenate([np.arange(len(pool)), matched]))
            network.train()
            total = 0.0
            for batch in training.batches(chosen, self.batch_size, generator):
                x = training.augmented(network, images[batch], generator, self.erase_probability)
                from_pool = (batch < len(pool)).float().to(context.device)
                loss = F.binary_cross_entropy_with_logits(network(x)[:, 0], from_pool)
                training.step(optimizer, loss)
                schedule.step()
                total += loss.item() * len(batch)
            losses.append(total / len(chosen))
        faces = task.test_images[held_out]
        both = training.evaluate(network, faces) + training.evaluate(network, np.ascontiguousarray(faces[..., ::-1]))
        return losses, both[:, 0].astype(np.float64) / 2


def match_classes(
    wanted: NDArray[np.int64], available: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices into `available` with as many of each class as `wanted` has, drawn again only where there are too few."""
    pieces = []
    for label, count in zip(*np.unique(wanted, return_counts=True), strict=True):
        candidates = np.flatnonzero(available == label)
        if len(candidates):
            pieces.append(rng.choice(candidates, count, replace=count > len(candidates)))
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
