"""EOW-Softmax: K+1 outputs, the extra one trained on negatives sampled by its own energy.

Wang et al., "Energy-Based Open-World Uncertainty Modeling for Confidence Calibration", ICCV 2021, and the authors'
published code. The energy is E(e) = log p(K+1 | e): low where the network takes a feature for known data. Stochastic
gradient Langevin dynamics (SGLD) draws features of low energy, and training gives them to class K+1.

The authors sample features of either sign (a WideResNet's residual sum). Here they are the input of the last stage,
behind a ReLU: sampling starts above zero and stays there, or class K+1 could be told by a sign that no face has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from open_set_fer.methods.contract import Context, Detection, OpenSetTask, Scorer, Scores
from open_set_fer.methods.shared.lazy import backbones, torch, training
from open_set_fer.ranges import BatchSize, Count, CountOrZero, Epochs, NotNegative, Positive, Share


@dataclass(frozen=True, eq=False)
class OpenOutputScorer(Scorer):
    """Scores by the last of K+1 outputs of the network `classifier`."""

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score by p(K+1); probabilities are over the K known outputs."""
        logits = training.evaluate(self.networks["classifier"], images)
        return Scores(open_probability(logits), training.softmax(logits[:, :-1]))


@dataclass(frozen=True)
class EOW:
    """Inductive classifier with K+1 outputs: s = p(K+1).

    The authors' fine-tuning on held-out images and noise in testing are for calibration and are left out.

    Defaults: the command in the authors' readme (15 epochs, Adam 1e-4, 1,000 iterations of warm-up, start at epoch 8,
    weight 0.1, noise 0.01), for the rest the defaults of their `train.py`. Epochs are counted from 0.
    """

    name = "eow"
    version = 3
    scorer = OpenOutputScorer

    epochs: Epochs = 15
    batch_size: BatchSize = 64
    learning_rate: Positive = 1e-4
    weight_decay: NotNegative = 0.0
    warmup_iterations: CountOrZero = 1000
    """The learning rate rises linearly over these; 0 for none."""
    decay_epochs: tuple[CountOrZero, ...] = (7, 10)
    """The learning rate is multiplied by `decay_rate` at the start of these epochs."""
    decay_rate: Positive = 0.5
    ebm_start_epoch: CountOrZero = 8
    """First epoch with negatives."""
    ebm_weight: NotNegative = 0.1
    """Of the negatives' cross-entropy in the loss."""
    input_noise: NotNegative = 0.01
    """Standard deviation of the Gaussian noise on the normalised images, in training only."""
    feature_noise: NotNegative = 0.01
    """The same on the features after the first stage."""
    buffer_size: Count = 10_000
    """Features in the replay buffer, in memory as float32."""
    fresh_share: Share = 0.05
    """Fraction of each batch of negatives that starts anew instead of from the buffer."""
    sgld_steps: CountOrZero = 100
    """Steps of the sampling for each batch."""
    sgld_step_size: NotNegative = 1.0
    sgld_noise: NotNegative = 1e-3
    """Standard deviation of the noise of each step."""
    sgld_direction: Literal["away", "towards"] = "away"
    """'away' goes against the gradient of log p(K+1), to features that the network still takes for known, as in the
    authors' code; 'towards' goes along it."""
    erase_probability: Share = 0.5
    """Of random erasing, which follows the closed-set recipe's augmentation (the authors pad and crop instead)."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Train K+1 outputs on the training images from fresh weights; score by p(K+1).

        curves: loss, train_accuracy, and negative_loss (the negatives' part of the loss, 0 before they begin).
        """
        seed = backbones.draw_seed(context.generator)
        outputs, channels = len(task.closed_classes) + 1, task.train_images.shape[1]
        network = backbones.build_network(context.backbone, outputs, channels, seed).to(context.device)
        with context.phase("train"):
            curves = self._train(network, task, context, torch.Generator().manual_seed(seed + 1))
        logits = training.evaluate(network, task.test_images)
        scorer = OpenOutputScorer({"classifier": network})
        score = open_probability(logits)
        return Detection(score, logits[:, :-1].argmax(axis=1), curves, network=network, scorer=scorer)

    def _train(
        self, network: backbones.Network, task: OpenSetTask, context: Context, generator: torch.Generator
    ) -> dict[str, list[float]]:
        data, labels = training.as_tensor(task.train_images), training.as_tensor(task.train_labels)
        recipe = context.closed_set
        targets = training.targets_of(task.train_labels, task.train_votes, recipe)
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        buffer: ReplayBuffer | None = None
        curves: dict[str, list[float]] = {"loss": [], "negative_loss": [], "train_accuracy": []}
        iteration = 0
        for epoch in context.progress(range(self.epochs), "eow: epochs"):
            network.train()
            total, negative_total, right, seen = 0.0, 0.0, 0, 0
            for batch in training.batches(torch.arange(len(labels)), self.batch_size, generator):
                settings = self.learning_rate, iteration, self.warmup_iterations, epoch, self.decay_epochs
                training.set_learning_rate(optimizer, learning_rate(*settings, self.decay_rate))
                x = training.augmented(network, data[batch], generator, self.erase_probability, recipe.augmentation)
                hidden = network.to_stage(x + _noise_like(x, self.input_noise, generator), 1)
                hidden = hidden + _noise_like(hidden, self.feature_noise, generator)
                logits = network.classify(network.from_stage(hidden, 1))
                y = labels[batch].to(context.device)
                loss = training.known_loss(logits, targets[batch].to(context.device))
                if epoch >= self.ebm_start_epoch:
                    if buffer is None:
                        shape = _sampled_shape(network, data[:1])
                        buffer = ReplayBuffer(self.buffer_size, shape, self.fresh_share, generator)
                    negative_logits = self._negative_logits(network, buffer, len(y), generator)
                    negative = self.ebm_weight * training.unknown_loss(negative_logits)
                    loss = loss + negative
                    negative_total += negative.item() * len(y)
                training.step(optimizer, loss)
                iteration += 1
                total += loss.item() * len(y)
                right += int((logits.argmax(1) == y).sum())
                seen += len(y)
            for name, value in (("loss", total), ("negative_loss", negative_total), ("train_accuracy", right)):
                curves[name].append(value / seen)
        return curves

    def _negative_logits(
        self, network: backbones.Network, buffer: ReplayBuffer, count: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Logits (up to `count`, K+1) of newly sampled negatives; samples get no gradients.

        The network is in evaluation mode meanwhile: by the running statistics of batch norm, negatives and faces pass
        the same function, as in the authors' network without batch norm. Otherwise the negatives' statistics would
        dominate the running ones, which normalise test images.
        """
        samples, where = buffer.draw(count)
        network.eval()
        gradient = energy_gradient(network, self.sgld_direction)
        samples = samples.to(next(network.parameters()).device)
        for _ in range(self.sgld_steps):
            samples = sgld_step(gradient, samples, self.sgld_step_size, self.sgld_noise, generator)
        buffer.store(where, samples)
        logits = network.classify(network.from_stage(samples, _sampled_stage(network)))
        network.train()
        return logits


class ReplayBuffer:
    """Features (size, *shape) on the CPU from which sampling continues.

    Initially uniform in [0, 0.2]: the authors' ±0.1, shifted to the range of features behind a ReLU.
    """

    def __init__(self, size: int, shape: tuple[int, ...], fresh_share: float, generator: torch.Generator) -> None:
        self.fresh_share = fresh_share
        self.generator = generator
        self.features = self._fresh(size, shape)

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Starting points (n, *shape) and their distinct places (n,), n = min(count, size).

        With probability `fresh_share` a point is drawn anew instead of taken from its place.
        """
        where = torch.randperm(len(self.features), generator=self.generator)[:count]
        fresh = torch.rand(len(where), generator=self.generator) < self.fresh_share
        samples = self.features[where]
        samples[fresh] = self._fresh(int(fresh.sum()), tuple(self.features.shape[1:]))
        return samples, where

    def store(self, where: torch.Tensor, samples: torch.Tensor) -> None:
        """Store samples (n, *shape) at the places (n,) returned by `draw`."""
        self.features[where] = samples.detach().cpu()

    def _fresh(self, count: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty((count, *shape)).uniform_(0.0, 0.2, generator=self.generator)


def sgld_step(
    gradient: Callable[[torch.Tensor], torch.Tensor],
    samples: torch.Tensor,
    step_size: float,
    noise: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """One step of SGLD: e - step_size x dE/de + noise x normal, clipped at zero.

    gradient: dE/de of samples, both (N, ...). noise: standard deviation; as in the authors' code independent of the
    step size, where Welling and Teh (2011) tie the two. Samples stay in the range of a ReLU.
    """
    moved = samples - step_size * gradient(samples) + _noise_like(samples, noise, generator)
    return moved.clamp_min(0.0)


def energy_gradient(
    network: backbones.Network, direction: Literal["away", "towards"]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Function dE/de of features e (N, D, h, w) at the input of the last stage.

    E = log p(K+1 | e) for 'away' (descending it leads away from class K+1), its negative for 'towards'. The
    probability has a floor of 1e-12, as in the authors' code: below it, samples rest. The parameters' gradients stay
    as they are.
    """
    sign = 1.0 if direction == "away" else -1.0

    def gradient(samples: torch.Tensor) -> torch.Tensor:
        e = samples.detach().requires_grad_(True)
        probability = network.classify(network.from_stage(e, _sampled_stage(network))).softmax(dim=1)[:, -1]
        (slope,) = torch.autograd.grad(sign * (probability + 1e-12).log().sum(), e)
        return slope

    return gradient


def open_probability(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Score (N,) p(K+1) of logits (N, K+1): higher = more likely unknown."""
    return training.softmax(logits)[:, -1]


def learning_rate(
    start: float, iteration: int, warmup: int, epoch: int, decay_epochs: tuple[int, ...], decay_rate: float
) -> float:
    """Learning rate start x min(1, iteration / warmup) x decay_rate^(decay epochs reached), counted from 0."""
    warm = min(1.0, iteration / warmup) if warmup else 1.0
    return start * warm * decay_rate ** sum(epoch >= decay_epoch for decay_epoch in decay_epochs)


def _sampled_stage(network: backbones.Network) -> int:
    """Stages before the sampled features: all but the last."""
    return len(network.stages) - 1


def _sampled_shape(network: backbones.Network, image: torch.Tensor) -> tuple[int, ...]:
    """(D, h, w) at the input of the last stage for one uint8 image (1, C, H, W)."""
    network.eval()
    with torch.no_grad():
        shape = network.to_stage(network.prepare(image), _sampled_stage(network)).shape[1:]
    network.train()
    return tuple(shape)


def _noise_like(x: torch.Tensor, scale: float, generator: torch.Generator) -> torch.Tensor:
    """Normal noise of the shape of `x`, drawn on the CPU for the same numbers on all devices."""
    return torch.randn(x.shape, generator=generator).mul_(scale).to(x)
