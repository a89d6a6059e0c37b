"""Ours plus: a transductive detector of our own, not the paper's.

`ours` asks how hard a pseudo label is to learn; that needs pseudo labels of open faces to be scattered. Ours plus asks what the
test pool has that the training set has not: closed faces of both look alike, open faces are in the pool alone (semi-supervised
novelty detection, Blanchard, Lee and Scott, JMLR 2010). A network that starts from the closed-set model learns to tell pool from
training images, both drawn so that every pseudo class weighs the same on either side, and scores only images that it was not
trained on. Its logit, on one scale for all folds, and the closed-set model's energy are added. Where held-out pool images
cannot be told from held-out training images, the networks have found nothing, and the energy alone is the score.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import mannwhitneyu

from open_set_fer.methods.contract import ClosedSetModel, Context, Detection, OpenSetTask, Scorer, Scores
from open_set_fer.methods.shared.lazy import F, backbones, nn, torch, training
from open_set_fer.methods.shared.scorers import on_scale, scale_of, standardise
from open_set_fer.ranges import BatchSize, Epochs, Folds, NotNegative, Positive, Share

if TYPE_CHECKING:
    from open_set_fer.methods.shared.backbones import Network


@dataclass(frozen=True, eq=False)
class DiscriminatorScorer(Scorer):
    """The discriminators, frozen: how much a face looks like what this pool alone had, plus its energy.

    networks: `closed_set`, and `fold_<f>`. settings: `folds`, for each the `mean` and `deviation` of the logits that it
    scored, `energy` likewise, and the weights of both, `logit_weight` and `energy_weight`. A face gets the mean over the folds;
    those of the pool got the fold that had not trained on them.
    """

    repeats = False

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """The mean over the folds, plus the energy."""
        logits = training.evaluate(self.networks["closed_set"], images)
        return Scores(self.combined(self.by_fold(images).mean(axis=0), energy_of(logits)), training.softmax(logits))

    def by_fold(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(folds, N): each fold's standardised logit."""
        return np.array(
            [
                on_scale(logits_of(self.networks[f"fold_{fold}"], images), scale)
                for fold, scale in enumerate(self.settings["folds"], 1)
            ]
        )

    def combined(self, pool_logit: NDArray[np.float64], energy: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) scores from standardised logits and energies as they are."""
        energies = self.settings["energy_weight"] * on_scale(energy, self.settings["energy"])
        return np.asarray(self.settings["logit_weight"] * pool_logit + energies)


TWINS = 4
"""Held-out training images to one of the pool: there are plenty, and with more of them the test finds smaller differences."""


@dataclass(frozen=True)
class Side:
    """Images uint8 (N, C, H, W) and their pseudo labels (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def part(self, where: NDArray[np.bool_] | NDArray[np.int64]) -> Side:
        """These images alone."""
        return Side(self.images[where], self.labels[where])


@dataclass(frozen=True)
class OursPlus:
    """Pool-against-training discriminator, cross-fitted, plus the closed-set model's energy; not in the paper."""

    name = "ours-plus"
    version = 3
    sees_pool = True
    scores_others = True
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
    degrade: Literal["none", "both", "known"] = "known"
    """Whose training pictures are made darker, brighter, blurred and coarse at random, so that these tell less: both sides', or
    those of the training images alone, so that a bad picture in the pool is nothing that the pool alone has."""
    energy_weight: NotNegative = 1.0
    """Of the standardised energy -logsumexp(logits) next to the standardised logit (0: logit alone)."""
    level: Share = 0.2
    """Of the test whether pool and training images differ; above it the energy alone is the score (1: never). High for a
    test: what a tenth of open faces adds to the AUROC of a pool of 1000 is some two standard errors."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by how much an image looks like one that only the pool has, plus the energy."""
        model = context.closed_set_model(task)
        faces = task.test_images if task.pool_images is None else task.pool_images
        pool_logits = model.test_logits if task.pool_images is None else training.evaluate(model.network, faces)
        pool = Side(faces, pool_logits.argmax(axis=1))
        folds = np.arange(len(faces)) % self.folds  # the runner has shuffled the order
        logits = np.zeros(len(faces))
        alike: list[NDArray[np.float64]] = []
        curves: dict[str, list[float]] = {}
        networks = {"closed_set": model.network}
        scales: list[dict[str, float]] = []
        generator = torch.Generator().manual_seed(backbones.draw_seed(context.generator))
        with context.phase("train"):
            # Pseudo labels on both sides: a true label on one and a pseudo label on the other would give them away.
            images = task.train_images if task.known_images is None else task.known_images
            known = Side(images, training.evaluate(model.network, images).argmax(axis=1))
            for fold in context.progress(range(self.folds), "ours-plus: folds"):
                mine, of_known = folds == fold, np.arange(len(images)) % self.folds == fold
                seed = backbones.draw_seed(generator)
                rng = np.random.default_rng(seed)
                network, curves[f"loss_{fold + 1}"] = self._train(
                    pool.part(~mine), known.part(~of_known), context, model, seed, rng, generator
                )
                networks[f"fold_{fold + 1}"] = network
                logits[mine] = logits_of(network, faces[mine])
                # Each fold's network has its own scale: joined raw, the fold with the larger logits would rank first.
                scales.append(scale_of(logits[mine]))
                twins = known.part(of_known)
                twins = twins.part(match_classes(np.repeat(pool.labels[mine], TWINS), twins.labels, rng))
                if len(twins.labels):
                    alike.append(on_scale(logits_of(network, twins.images), scales[-1]))
        pool_logit, energy = standardise(logits, folds), energy_of(pool_logits)
        area, p_value = told_apart(pool_logit, alike)
        curves["held_out_auroc"] = [area]
        notes = []
        weights = {"logit_weight": 1.0, "energy_weight": self.energy_weight}
        if p_value > self.level:
            weights = {"logit_weight": 0.0, "energy_weight": 1.0}
            notes.append(
                f"held-out pool and training images cannot be told apart (AUROC {area:.3f}, p {p_value:.2g}): "
                "the energy alone is the score"
            )
        settings: dict[str, Any] = {"folds": scales, "energy": scale_of(energy), **weights}
        scorer = DiscriminatorScorer(networks, settings=settings)
        if task.pool_images is not None:
            pool_logit, energy = scorer.by_fold(task.test_images).mean(axis=0), energy_of(model.test_logits)
        score = scorer.combined(pool_logit, energy)
        extras = {"pool_logit": pool_logit, "energy": energy}
        return Detection(score, model.pseudo_labels, curves, extras, notes, scorer=scorer)

    def _train(
        self,
        pool: Side,
        known: Side,
        context: Context,
        model: ClosedSetModel,
        seed: int,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[Network, list[float]]:
        """A network that tells `pool` from as many `known` images, and its loss curve."""
        network = copy.deepcopy(model.network).requires_grad_(True)
        with backbones.seeded(seed):
            network.fc = nn.Linear(network.widths[-1], 1).to(context.device)
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        count = len(pool.labels)
        steps = self.epochs * -(-2 * count // self.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, steps)
        images = training.as_tensor(np.concatenate([pool.images, known.images]))
        losses = []
        for _ in context.progress(range(self.epochs), "ours-plus: epochs"):
            matched = count + match_classes(pool.labels, known.labels, rng)
            chosen = torch.from_numpy(np.concatenate([np.arange(count), matched]))
            network.train()
            total = 0.0
            for batch in training.batches(chosen, self.batch_size, generator):
                from_pool = batch < count
                worse = {"none": None, "both": torch.ones_like(from_pool), "known": ~from_pool}[self.degrade]
                x = training.augmented(network, images[batch], generator, self.erase_probability, degraded=worse)
                loss = F.binary_cross_entropy_with_logits(network(x)[:, 0], from_pool.float().to(context.device))
                training.step(optimizer, loss)
                schedule.step()
                total += loss.item() * len(batch)
            losses.append(total / len(chosen))
        return network, losses


def told_apart(pool: NDArray[np.float64], known: list[NDArray[np.float64]]) -> tuple[float, float]:
    """AUROC of held-out pool images over held-out known ones, and the p-value of Mann and Whitney's one-sided test."""
    alike = np.concatenate(known) if known else np.zeros(0)
    if not len(alike):  # no known image of any of the pool's pseudo classes
        return 1.0, 0.0
    test = mannwhitneyu(pool, alike, alternative="greater")
    return float(test.statistic) / (len(pool) * len(alike)), float(test.pvalue)


def logits_of(network: Network, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N,) logits, averaged over each face and its mirror image."""
    both = training.evaluate(network, faces) + training.evaluate(network, np.ascontiguousarray(faces[..., ::-1]))
    return both[:, 0].astype(np.float64) / 2


def energy_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) -logsumexp, of known classes."""
    return np.asarray(-logsumexp(logits.astype(np.float64), axis=1))


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
