"""PROSER: placeholders for unknown classes, by mixed features and a dummy output.

Zhou, Ye and Zhan, "Learning Placeholders for Open-Set Recognition", CVPR 2021, and the authors' published code.
Logits here are always (N, K+1): K known classes, then the largest dummy at index K.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from open_set_fer.methods.contract import Context, Detection, OpenSetTask, Scorer, Scores
from open_set_fer.methods.shared.lazy import F, backbones, nn, torch, training
from open_set_fer.ranges import BatchSize, Count, Epochs, NotNegative, Positive, Share, Stages


@dataclass(frozen=True, eq=False)
class PlaceholderScorer(Scorer):
    """Scores by the network `classifier` and its dummy head, arrays `weight` and `bias`."""

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score by the dummy's lead; probabilities are over the known logits."""
        network = self.networks["classifier"]
        weight, bias = (torch.tensor(self.arrays[name]).to(network.fc.weight.device) for name in ("weight", "bias"))

        def logits_of(x: torch.Tensor) -> torch.Tensor:
            return open_logits(network, lambda features: F.linear(features, weight, bias), network.feature_map(x))

        logits = training.evaluate(network, images, logits_of)
        return Scores(delta_confidence(logits, self.settings["temperature"]), training.softmax(logits[:, :-1]))


@dataclass(frozen=True)
class Proser:
    """Inductive: a copy of the closed-set model, fine-tuned with a dummy head.

    Defaults: the authors' `proser_unknown_detection.py`, except `mix_different_only`, which is the paper's.
    """

    name = "proser"
    version = 2
    scorer = PlaceholderScorer

    epochs: Epochs = 10
    batch_size: Annotated[BatchSize, Field(ge=4)] = 128
    """Half of each batch is mixed, half is classified: at least 4, as batch norm needs two."""
    learning_rate: Positive = 1e-3
    """1/100 of the pre-training's, which is 0.1 there."""
    momentum: Share = 0.9
    weight_decay: NotNegative = 5e-4
    dummies: Count = 1
    """Outputs of the dummy head (C)."""
    alpha: Positive = 1.0
    """Of the Beta(alpha, alpha) distribution of each batch's mixing share."""
    mixup_weight: NotNegative = 0.01
    """Of the data placeholders' loss."""
    mix_different_only: bool = True
    """Mix only pairs of different classes (the code mixes any)."""
    mix_stage: Stages = 2
    """Stages before the mixed features."""
    lambda1: NotNegative = 1.0
    """Weight of the cross-entropy against the label."""
    lambda2: NotNegative = 1.0
    """Weight of the cross-entropy against the dummy with the label's logit masked."""
    temperature: Positive = 1024.0
    """Of the score's softmax."""
    erase_probability: Share = 0.5
    """Of random erasing, which follows the closed-set recipe's augmentation."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Fine-tune a copy of the closed-set model; score by p(dummy) - max p(known).

        curves: loss, data_placeholder_loss (before its weight; 0 if nothing was mixed), train_accuracy.
        """
        seed = backbones.draw_seed(context.generator)
        network = copy.deepcopy(context.closed_set_model(task).network).requires_grad_(True)
        with backbones.seeded(seed):
            dummy = nn.Linear(network.widths[-1], self.dummies).to(context.device)
        with context.phase("train"):
            curves = self._train(network, dummy, task, context, seed + 1)
        logits = training.evaluate(
            network, task.test_images, lambda x: open_logits(network, dummy, network.feature_map(x))
        )
        head = {name: tensor.detach().cpu().numpy() for name, tensor in dummy.named_parameters()}
        scorer = PlaceholderScorer({"classifier": network}, head, {"temperature": self.temperature})
        score = delta_confidence(logits, self.temperature)
        return Detection(score, logits[:, :-1].argmax(axis=1), curves, network=network, scorer=scorer)

    def _train(
        self, network: backbones.Network, dummy: nn.Linear, task: OpenSetTask, context: Context, seed: int
    ) -> dict[str, list[float]]:
        generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        data, labels = training.as_tensor(task.train_images), training.as_tensor(task.train_labels)
        recipe = context.closed_set
        targets = training.targets_of(task.train_labels, task.train_votes, recipe)
        parameters = [*network.parameters(), *dummy.parameters()]
        optimizer = torch.optim.SGD(parameters, self.learning_rate, self.momentum, weight_decay=self.weight_decay)
        # One momentum over all epochs; the authors create a new SGD each epoch.
        curves: dict[str, list[float]] = {"loss": [], "data_placeholder_loss": [], "train_accuracy": []}
        for _ in context.progress(range(self.epochs), "proser: epochs"):
            network.train()
            total, mixed_total, right, seen = 0.0, 0.0, 0, 0
            for batch in training.batches(torch.arange(len(labels)), self.batch_size, generator):
                half = len(batch) // 2
                if half < 2:
                    continue
                x = training.augmented(network, data[batch], generator, self.erase_probability, recipe.augmentation)
                # Both halves in one pass, with common batch statistics; the authors pass them separately.
                hidden = network.to_stage(x, self.mix_stage)
                y = labels[batch]
                order = torch.randperm(half, generator=generator)
                share = float(rng.beta(self.alpha, self.alpha))
                mixed = mix(hidden[:half], y[:half], order, share, self.mix_different_only)
                y = y[half:].to(context.device)
                logits = open_logits(network, dummy, network.from_stage(hidden[half:], self.mix_stage))
                shares = targets[batch[half:]].to(context.device)
                loss = classifier_placeholder_loss(logits, shares, y, self.lambda1, self.lambda2)
                if len(mixed) > 1:  # batch norm needs two
                    mixed_logits = open_logits(network, dummy, network.from_stage(mixed, self.mix_stage))
                    mixed_loss = training.unknown_loss(mixed_logits)
                    loss = loss + self.mixup_weight * mixed_loss
                    mixed_total += mixed_loss.item() * len(y)
                training.step(optimizer, loss)
                total += loss.item() * len(y)
                right += int((logits[:, :-1].argmax(1) == y).sum())
                seen += len(y)
            for name, value in (("loss", total), ("data_placeholder_loss", mixed_total), ("train_accuracy", right)):
                curves[name].append(value / max(seen, 1))
        return curves


def open_logits(
    network: backbones.Network, dummy: Callable[[torch.Tensor], torch.Tensor], feature_map: torch.Tensor
) -> torch.Tensor:
    """Known logits and largest dummy logit (N, K+1) of a last feature map (N, D, h, w)."""
    largest = dummy(feature_map.mean(dim=(2, 3))).amax(dim=1, keepdim=True)
    return torch.cat([network.classify(feature_map), largest], dim=1)


def mix(
    hidden: torch.Tensor, labels: torch.Tensor, order: torch.Tensor, share: float, different_only: bool
) -> torch.Tensor:
    """Data placeholders by manifold mixup: share x hidden + (1 - share) x hidden[order].

    hidden: (N, D, h, w). labels, order: (N,) on the CPU. different_only: leaves out pairs of one class, so the result
    may have fewer rows, even none.
    """
    rows = torch.arange(len(labels))
    if different_only:
        rows = rows[labels != labels[order]]
    return share * hidden[rows] + (1 - share) * hidden[order[rows]]


def classifier_placeholder_loss(
    logits: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, lambda1: float, lambda2: float
) -> torch.Tensor:
    """lambda1 x cross-entropy against the targets + lambda2 x masked cross-entropy against dummy.

    logits: (N, K+1). targets: labels (N,) or shares (N, K). labels: (N,), 0..K-1. The second term (the paper's
    classifier placeholders) pushes the dummy to the second place after one class, the label also where the targets are
    shares; its logit is set to -1e9 and so gets no gradient.
    """
    masked = logits.scatter(1, labels[:, None], -1e9)
    return lambda1 * training.known_loss(logits, targets) + lambda2 * training.unknown_loss(masked)


def delta_confidence(logits: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """Score (N,) p(dummy) - max p(known) of logits (N, K+1): higher = more likely unknown.

    The softmax is in float64: at temperature 1024 it is nearly uniform, and float32 would make ties. The sign is fixed;
    the authors' code takes the sign with the higher AUROC.
    """
    probabilities = training.softmax(logits.astype(np.float64) / temperature)
    return np.asarray(probabilities[:, -1] - probabilities[:, :-1].max(axis=1))
