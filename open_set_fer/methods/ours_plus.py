"""Ours plus: the suite's transductive detector, not in the paper.

`ours` scores how hard a pseudo label is to learn, which requires scattered pseudo labels of open faces. Ours plus
scores what the test pool contains and the training set does not: closed faces of both look alike, open faces are in
the pool only (semi-supervised novelty detection, Blanchard, Lee and Scott, JMLR 2010). A network that starts from the
closed-set model learns to distinguish pool from training images, sampled so that every pseudo class weighs the same
on either side, and scores only images it was not trained on. The score is its logit, on one scale for all folds, plus
the closed-set model's energy. The energy alone is the score if held-out pool and training images cannot be
distinguished, or if the first layer's statistics distinguish them nearly as well: then the pictures differ, not the
expressions.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from open_set_fer.methods.contract import ClosedSetModel, Context, Detection, OpenSetTask, Scorer, Scores
from open_set_fer.methods.shared.lazy import F, backbones, nn, torch, training
from open_set_fer.methods.shared.scorers import on_scale, scale_of, standardise
from open_set_fer.methods.shared.two_samples import (
    MATCHES,
    Sample,
    linear_probe,
    match_classes,
    separability,
    two_samples,
)
from open_set_fer.ranges import BatchSize, Epochs, Folds, NotNegative, Positive, Share

if TYPE_CHECKING:
    from torch import Tensor

    from open_set_fer.methods.shared.backbones import Network


@dataclass(frozen=True, eq=False)
class DiscriminatorScorer(Scorer):
    """The frozen discriminators' logits plus the energy.

    networks: `closed_set`, and `fold_<f>`. settings: `folds`, for each the `mean` and `deviation` of its held-out
    logits; `energy`, the same of the energies; the weights `logit_weight` and `energy_weight`. A new face gets the
    mean over the folds; a face of the pool got the fold that had not trained on it.
    """

    repeats = False

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Average over the folds, plus the energy."""
        logits = training.evaluate(self.networks["closed_set"], images)
        return Scores(self.combined(self.by_fold(images).mean(axis=0), energy_of(logits)), training.softmax(logits))

    def by_fold(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Standardised logits (folds, N)."""
        scales = self.settings["folds"]
        logits = [logits_of(self.networks[f"fold_{fold}"], images) for fold in range(1, 1 + len(scales))]
        return np.array([on_scale(values, scale) for values, scale in zip(logits, scales, strict=True)])

    def combined(self, pool_logit: NDArray[np.float64], energy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (N,) from standardised logits and raw energies."""
        energies = self.settings["energy_weight"] * on_scale(energy, self.settings["energy"])
        return np.asarray(self.settings["logit_weight"] * pool_logit + energies)


SHIFT_LEVEL = 0.01
"""Level of the test for a shift: in small pools the probe's AUROC differs from 0.5 by chance."""


@dataclass(frozen=True)
class OursPlus:
    """Cross-fitted discriminator of pool and training images, plus the closed-set energy."""

    name = "ours-plus"
    version = 4
    sees_pool = True
    scores_others = True
    scorer = DiscriminatorScorer

    epochs: Epochs = 8
    """Of each fold's network."""
    folds: Folds = 2
    """Each pool image is scored by the network not trained on its fold."""
    batch_size: BatchSize = 128
    learning_rate: Positive = 1e-3
    """Maximum of the one-cycle schedule."""
    weight_decay: NotNegative = 1e-4
    erase_probability: Share = 0.5
    energy_weight: NotNegative = 0.5
    """Of the standardised energy -logsumexp(logits) relative to the standardised logit (0: logit alone)."""
    level: Share = 0.05
    """Level of the test whether pool and training images differ; for p-values above it the energy alone is the score
    (1: never)."""
    shift_ratio: Positive = 0.75
    """The energy alone is the score, too, if a linear probe on the first layer's channel statistics separates pool and
    training images by this fraction of the networks' AUROC above 0.5, or more: such a difference lies in the pictures
    (blur, light, noise, crop), not in the expressions."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by how much an image looks like what only the pool contains, plus the energy."""
        model = context.closed_set_model(task)
        generator = torch.Generator().manual_seed(backbones.draw_seed(context.generator))
        with context.phase("train"):
            pool, known = two_samples(task, model, self.folds)
            steps = context.progress(range(self.folds), "ours-plus: folds")
            fitted = [self._fit(fold, pool, known, model, context, generator) for fold in steps]
        logits = np.zeros(len(pool.images))
        for fold, part in enumerate(fitted):
            logits[pool.held_out(fold)] = part.logits
        pool_logit, energy = standardise(logits, pool.folds), energy_of(pool.logits)
        area, p_value = separability(pool_logit, np.concatenate([part.known for part in fitted]))
        low_area, low_p_value = self._low_level(model.network, pool, known, generator)
        curves = {f"loss_{fold}": part.losses for fold, part in enumerate(fitted, 1)}
        curves |= {"held_out_auroc": [area], "low_level_auroc": [low_area]}
        reason = self._reason(area, p_value, low_area, low_p_value)
        weights = {"logit_weight": 0.0 if reason else 1.0, "energy_weight": 1.0 if reason else self.energy_weight}
        notes = [f"{reason}: the energy alone is the score"] if reason else []
        networks = {"closed_set": model.network} | {f"fold_{n}": part.network for n, part in enumerate(fitted, 1)}
        settings: dict[str, Any] = {"folds": [part.scale for part in fitted], "energy": scale_of(energy), **weights}
        scorer = DiscriminatorScorer(networks, settings=settings)
        if task.pool_images is not None:
            pool_logit, energy = scorer.by_fold(task.test_images).mean(axis=0), energy_of(model.test_logits)
        score = scorer.combined(pool_logit, energy)
        extras = {"pool_logit": pool_logit, "energy": energy}
        return Detection(score, model.pseudo_labels, curves, extras, notes, scorer=scorer)

    def _reason(self, area: float, p_value: float, low_area: float, low_p_value: float) -> str:
        """Why the energy alone is the score, or ''; areas: AUROC by the networks, and by low-level statistics."""
        if p_value > self.level:
            return f"held-out pool and training images cannot be told apart (AUROC {area:.3f}, p {p_value:.2g})"
        if low_p_value <= SHIFT_LEVEL and low_area - 0.5 >= self.shift_ratio * (area - 0.5):
            return (
                f"the pictures of pool and training images differ by more than expressions (AUROC {low_area:.3f} by "
                f"statistics of the first layer, {area:.3f} by the networks)"
            )
        return ""

    def _low_level(
        self, network: Network, pool: Sample, known: Sample, generator: torch.Generator
    ) -> tuple[float, float]:
        """AUROC and p-value of pool over known images by a linear probe on the first layer's channel statistics."""
        rng = np.random.default_rng(backbones.draw_seed(generator))
        compute = partial(stem_statistics, network)
        of_pool, of_known = (training.evaluate(network, side.images, compute) for side in (pool, known))
        probe = linear_probe(pool, known, of_pool, of_known, rng)
        return separability(probe.pool, probe.known)

    def _fit(
        self,
        fold: int,
        pool: Sample,
        known: Sample,
        model: ClosedSetModel,
        context: Context,
        generator: torch.Generator,
    ) -> _Fold:
        """Train the network of a fold on the other folds, and score its own."""
        seed = backbones.draw_seed(generator)
        rng = np.random.default_rng(seed)
        network = copy.deepcopy(model.network).requires_grad_(True)
        with backbones.seeded(seed):
            network.fc = nn.Linear(network.widths[-1], 1).to(context.device)
        losses = self._train(
            network, pool.part(pool.learnt(fold)), known.part(known.learnt(fold)), context, rng, generator
        )
        own, alike = pool.part(pool.held_out(fold)), known.part(known.held_out(fold))
        logits = logits_of(network, own.images)
        # Each fold's network has its own scale: joined raw, the fold with the larger logits would rank first.
        scale = scale_of(logits)
        alike = alike.part(match_classes(np.repeat(own.labels, MATCHES), alike.labels, rng))
        known_logits = on_scale(logits_of(network, alike.images), scale) if len(alike.labels) else np.zeros(0)
        return _Fold(network, losses, logits, scale, known_logits)

    def _train(
        self,
        network: Network,
        pool: Sample,
        known: Sample,
        context: Context,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> list[float]:
        """Train to distinguish `pool` from as many `known` images; returns the loss curve."""
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        count = len(pool.labels)
        steps = self.epochs * -(-2 * count // self.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, steps)
        images = training.as_tensor(np.concatenate([pool.images, known.images]))
        losses = []
        for _ in context.progress(range(self.epochs), "ours-plus: epochs"):
            matched = count + match_classes(pool.labels, known.labels, rng)
            rows = torch.from_numpy(np.concatenate([np.arange(count), matched]))
            network.train()
            total = 0.0
            for batch in training.batches(rows, self.batch_size, generator):
                x = training.augmented(network, images[batch], generator, self.erase_probability, "geometry")
                from_pool = (batch < count).float().to(context.device)
                loss = F.binary_cross_entropy_with_logits(network(x)[:, 0], from_pool)
                training.step(optimizer, loss)
                schedule.step()
                total += loss.item() * len(batch)
            losses.append(total / len(rows))
        return losses


class _Fold(NamedTuple):
    """Network of a fold, its loss curve, and its logits of the fold's pool images.

    scale: of these logits. known: standardised logits of matched held-out training images.
    """

    network: Network
    losses: list[float]
    logits: NDArray[np.float64]
    scale: dict[str, float]
    known: NDArray[np.float64]


def stem_statistics(network: Network, x: Tensor) -> Tensor:
    """Mean and standard deviation (N, 2C) over places of the stem's C channels: of the picture, hardly of the face."""
    hidden = network.to_stage(x, 0).flatten(2)
    return torch.cat([hidden.mean(dim=2), hidden.std(dim=2)], dim=1)


def logits_of(network: Network, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Logits (N,), averaged over each face and its mirror image."""
    both = training.evaluate(network, faces) + training.evaluate(network, np.ascontiguousarray(faces[..., ::-1]))
    return both[:, 0].astype(np.float64) / 2


def energy_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Energies (N,): -logsumexp of the closed classes' logits."""
    return np.asarray(-logsumexp(logits.astype(np.float64), axis=1))
