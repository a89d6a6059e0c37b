"""Ours plus: the suite's transductive detector, not in the paper.

`ours` scores how hard a pseudo label is to learn, which requires scattered pseudo labels of open faces. Ours plus
scores what the test pool contains and the training set does not: closed faces of both look alike, open faces are in
the pool only (semi-supervised novelty detection, Blanchard, Lee and Scott, JMLR 2010). A network that starts from the
closed-set model learns to distinguish pool from training images, sampled so that every pseudo class weighs the same
on either side, and scores only images it was not trained on. The score is its logit, on one scale for all folds, plus
the closed-set model's energy. If held-out pool and training images cannot be distinguished, the energy alone is the
score.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

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


TWINS = 4
"""Held-out training images per pool image: more of them let the test find smaller differences."""


@dataclass(frozen=True)
class Side:
    """Images uint8 (N, C, H, W) and their pseudo labels (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def part(self, where: NDArray[np.bool_] | NDArray[np.int64]) -> Side:
        """The images at these places."""
        return Side(self.images[where], self.labels[where])


@dataclass(frozen=True)
class OursPlus:
    """Cross-fitted discriminator of pool and training images, plus the closed-set energy."""

    name = "ours-plus"
    version = 3
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
    degrade: Literal["none", "both", "known"] = "known"
    """Degrade (darken, brighten, blur, coarsen) images in training at random, so that image quality tells less: on both
    sides, or the training set's ('known') only, so that low quality is no property of the pool alone."""
    energy_weight: NotNegative = 1.0
    """Of the standardised energy -logsumexp(logits) relative to the standardised logit (0: logit alone)."""
    level: Share = 0.2
    """Level of the test whether pool and training images differ; for p-values above it the energy alone is the score
    (1: never). High for a test: with a tenth of open faces in a pool of 1000, the AUROC rises by about two standard
    errors."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by how much an image looks like what only the pool contains, plus the energy."""
        model = context.closed_set_model(task)
        faces = task.test_images if task.pool_images is None else task.pool_images
        pool_logits = model.test_logits if task.pool_images is None else training.evaluate(model.network, faces)
        pool = Side(faces, pool_logits.argmax(axis=1))
        generator = torch.Generator().manual_seed(backbones.draw_seed(context.generator))
        with context.phase("train"):
            # Pseudo labels on both sides: a true label on one and a pseudo label on the other would give them away.
            images = task.train_images if task.known_images is None else task.known_images
            known = Side(images, training.evaluate(model.network, images).argmax(axis=1))
            steps = context.progress(range(self.folds), "ours-plus: folds")
            fitted = [self._fit(fold, pool, known, model, context, generator) for fold in steps]
        folds = np.arange(len(faces)) % self.folds
        logits = np.zeros(len(faces))
        for fold, part in enumerate(fitted):
            logits[folds == fold] = part.logits
        pool_logit, energy = standardise(logits, folds), energy_of(pool_logits)
        area, p_value = separability(pool_logit, [part.known for part in fitted if len(part.known)])
        curves = {f"loss_{fold}": part.losses for fold, part in enumerate(fitted, 1)} | {"held_out_auroc": [area]}
        notes = []
        weights = {"logit_weight": 1.0, "energy_weight": self.energy_weight}
        if p_value > self.level:
            weights = {"logit_weight": 0.0, "energy_weight": 1.0}
            notes.append(
                f"held-out pool and training images cannot be told apart (AUROC {area:.3f}, p {p_value:.2g}): "
                "the energy alone is the score"
            )
        networks = {"closed_set": model.network} | {f"fold_{n}": part.network for n, part in enumerate(fitted, 1)}
        settings: dict[str, Any] = {"folds": [part.scale for part in fitted], "energy": scale_of(energy), **weights}
        scorer = DiscriminatorScorer(networks, settings=settings)
        if task.pool_images is not None:
            pool_logit, energy = scorer.by_fold(task.test_images).mean(axis=0), energy_of(model.test_logits)
        score = scorer.combined(pool_logit, energy)
        extras = {"pool_logit": pool_logit, "energy": energy}
        return Detection(score, model.pseudo_labels, curves, extras, notes, scorer=scorer)

    def _fit(
        self, fold: int, pool: Side, known: Side, model: ClosedSetModel, context: Context, generator: torch.Generator
    ) -> _Fold:
        """Train the network of a fold on the other folds, and score its own."""
        # The runner has shuffled the order.
        of_pool, of_known = (np.arange(len(side.labels)) % self.folds == fold for side in (pool, known))
        seed = backbones.draw_seed(generator)
        rng = np.random.default_rng(seed)
        network = copy.deepcopy(model.network).requires_grad_(True)
        with backbones.seeded(seed):
            network.fc = nn.Linear(network.widths[-1], 1).to(context.device)
        losses = self._train(network, pool.part(~of_pool), known.part(~of_known), context, rng, generator)
        logits = logits_of(network, pool.images[of_pool])
        # Each fold's network has its own scale: joined raw, the fold with the larger logits would rank first.
        scale = scale_of(logits)
        twins = known.part(of_known)
        twins = twins.part(match_classes(np.repeat(pool.labels[of_pool], TWINS), twins.labels, rng))
        alike = on_scale(logits_of(network, twins.images), scale) if len(twins.labels) else np.zeros(0)
        return _Fold(network, losses, logits, scale, alike)

    def _train(
        self,
        network: Network,
        pool: Side,
        known: Side,
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
                from_pool = batch < count
                worse = {"none": None, "both": torch.ones_like(from_pool), "known": ~from_pool}[self.degrade]
                x = training.augmented(network, images[batch], generator, self.erase_probability, degraded=worse)
                loss = F.binary_cross_entropy_with_logits(network(x)[:, 0], from_pool.float().to(context.device))
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


def separability(pool: NDArray[np.float64], known: list[NDArray[np.float64]]) -> tuple[float, float]:
    """AUROC of held-out pool over training images, and the one-sided Mann-Whitney p-value."""
    alike = np.concatenate(known) if known else np.zeros(0)
    if not len(alike):  # no training image of the pool's pseudo classes
        return 1.0, 0.0
    test = mannwhitneyu(pool, alike, alternative="greater")
    return float(test.statistic) / (len(pool) * len(alike)), float(test.pvalue)


def logits_of(network: Network, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Logits (N,), averaged over each face and its mirror image."""
    both = training.evaluate(network, faces) + training.evaluate(network, np.ascontiguousarray(faces[..., ::-1]))
    return both[:, 0].astype(np.float64) / 2


def energy_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Energies (N,): -logsumexp of the closed classes' logits."""
    return np.asarray(-logsumexp(logits.astype(np.float64), axis=1))


def match_classes(
    target: NDArray[np.int64], available: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices into `available` with the class counts of `target`. Images repeat only if a class has too few."""
    pieces = []
    for label, count in zip(*np.unique(target, return_counts=True), strict=True):
        candidates = np.flatnonzero(available == label)
        if len(candidates):
            pieces.append(rng.choice(candidates, count, replace=count > len(candidates)))
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
