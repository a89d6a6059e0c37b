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
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from open_set_fer.methods.contract import ClosedSetModel, Context, Detection, OpenSetTask
from open_set_fer.methods.lazy import F, nn, seeds, torch, training
from open_set_fer.methods.scaling import standardise
from open_set_fer.methods.scorer import Scorer, Scores
from open_set_fer.ranges import BatchSize, Epochs, Folds, NotNegative, Positive, Share

if TYPE_CHECKING:
    from open_set_fer.methods.backbones import Network


@dataclass(frozen=True, eq=False)
class DiscriminatorScorer(Scorer):
    """The discriminators, frozen: how much a face looks like what this pool alone had, plus its energy.

    networks: `closed_set`, and `fold_<f>`. settings: `folds`, for each the `mean` and `deviation` of the logits that it
    scored, `energy` likewise, and `energy_weight`. A face gets the mean over the folds; those of the task got the fold that had
    not trained on them.
    """

    repeats = False

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """The mean over the folds, plus the energy."""
        logits = training.evaluate(self.networks["closed_set"], images)
        energy, scale = _energy(logits), self.settings["energy"]
        score = self.by_fold(images).mean(axis=0)
        score = score + self.settings["energy_weight"] * (energy - scale["mean"]) / (scale["deviation"] or 1.0)
        return Scores(score, training.softmax(logits))

    def by_fold(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(folds, N): each fold's standardised logit."""
        return np.array([
            (_pool_logit(self.networks[f"fold_{fold}"], images) - scale["mean"]) / (scale["deviation"] or 1.0)
            for fold, scale in enumerate(self.settings["folds"], 1)
        ])  # fmt: skip


@dataclass(frozen=True)
class OursPlus:
    """Pool-against-training discriminator, cross-fitted, plus the closed-set model's energy; not in the paper."""

    name = "ours-plus"
    version = 2
    sees_pool = True
    scorer = DiscriminatorScorer

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
        networks = {"closed_set": model.network}
        generator = torch.Generator().manual_seed(seeds.draw_seed(context.generator))
        with context.phase("train"):
            # Pseudo labels on both sides: a true label on one and a pseudo label on the other would give them away.
            train_labels = training.evaluate(model.network, task.train_images).argmax(axis=1)
            folds = np.arange(len(pool_labels)) % self.folds  # the runner has shuffled the order
            for fold in context.progress(range(self.folds), "ours-plus: folds"):
                held_out = folds == fold
                curves[f"loss_{fold + 1}"], networks[f"fold_{fold + 1}"] = self._fold(
                    task, context, model, pool_labels, train_labels, held_out, generator
                )
                logits[held_out] = _pool_logit(networks[f"fold_{fold + 1}"], task.test_images[held_out])
        energy = _energy(model.test_logits)
        # Each fold's network has its own scale: joined raw, the fold with the larger logits would rank first.
        score = standardise(logits, folds) + self.energy_weight * standardise(energy)
        scales = {
            "folds": [_scale(logits[folds == fold]) for fold in range(self.folds)],
            "energy": _scale(energy), "energy_weight": self.energy_weight,
        }  # fmt: skip
        extras = {"pool_logit": logits, "energy": energy}
        return Detection(score, pool_labels, curves, extras, scorer=DiscriminatorScorer(networks, settings=scales))

    def _fold(
        self,
        task: OpenSetTask,
        context: Context,
        model: ClosedSetModel,
        pool_labels: NDArray[np.int64],
        train_labels: NDArray[np.int64],
        held_out: NDArray[np.bool_],
        generator: torch.Generator,
    ) -> tuple[list[float], Network]:
        """Train on the pool without `held_out` against as many training images; loss curve and network."""
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
        return losses, network


def _pool_logit(network: Network, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N,) logit of the faces and their mirror images."""
    both = training.evaluate(network, faces) + training.evaluate(network, np.ascontiguousarray(faces[..., ::-1]))
    return both[:, 0].astype(np.float64) / 2


def _energy(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) -logsumexp, of known classes."""
    return np.asarray(-logsumexp(logits.astype(np.float64), axis=1))


def _scale(values: NDArray[np.float64]) -> dict[str, float]:
    """What `standardise` does to these values, to do it to others; a deviation of 0 counts as 1."""
    return (
        {"mean": float(values.mean()), "deviation": float(values.std())}
        if len(values)
        else {"mean": 0.0, "deviation": 0.0}
    )


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
