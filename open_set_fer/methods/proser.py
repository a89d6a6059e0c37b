"""PROSER: placeholders for unknown classes, as data (mixed features) and in the classifier (a dummy output).

Zhou, Ye and Zhan, "Learning Placeholders for Open-Set Recognition", CVPR 2021, and the authors' published code. Logits
here are always [K known ones, largest dummy one]: (N, K+1), the dummy at index K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.ranges import BatchSize, Count, Epochs, NotNegative, Positive, Share, Stages

if TYPE_CHECKING:
    from torch import Tensor, nn

    from open_set_fer.methods.backbones import Network


class Proser:
    """A copy of the closed-set model, fine-tuned with a dummy head. Inductive: test images are only scored."""

    name = "proser"
    version = 1

    @dataclass(frozen=True)
    class Settings:
        """Defaults: the authors' `proser_unknown_detection.py`, but `mix_different_only`, which is the paper's.

        learning_rate: 1/100 of the pre-training's, 0.1 there. batch_size: at least 4; half of each batch is mixed,
        half is classified. dummies: outputs of the dummy head (C).
        alpha: of the Beta(alpha, alpha) that each batch draws its mixing share from. mixup_weight: of the data
        placeholders' loss. mix_different_only: mix only pairs of different classes (the code mixes any).
        mix_stage: stages before the mixed features. lambda1: weight of the cross-entropy against the label; lambda2: of
        that against the dummy once the label's logit is masked. temperature: of the score's softmax.
        erase_probability: of random erasing, from the suite's closed-set recipe.
        """

        epochs: Epochs = 10
        batch_size: BatchSize = 128
        learning_rate: Positive = 1e-3
        momentum: Share = 0.9
        weight_decay: NotNegative = 5e-4
        dummies: Count = 1
        alpha: Positive = 1.0
        mixup_weight: NotNegative = 0.01
        mix_different_only: bool = True
        mix_stage: Stages = 2
        lambda1: NotNegative = 1.0
        lambda2: NotNegative = 1.0
        temperature: Positive = 1024.0
        erase_probability: Share = 0.5

    def __init__(self, settings: Settings) -> None:
        """Raises SuiteError for a batch size whose halves would be too small for batch norm."""
        if settings.batch_size < 4:
            raise SuiteError(f"proser: batch_size is {settings.batch_size}", "give it 4 or more: each half needs two")
        self.settings = settings

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Fine-tune a copy of the closed-set model; score by p(dummy) - max p(known).

        curves: loss, data_placeholder_loss (before its weight; 0 where nothing was mixed), train_accuracy.
        """
        import copy

        import torch
        from torch import nn

        from open_set_fer.methods.training import evaluate

        seed = int(torch.randint(2**62, (1,), generator=context.generator))
        network = copy.deepcopy(context.closed_set_model(task).network).requires_grad_(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            dummy = nn.Linear(network.widths[-1], self.settings.dummies).to(context.device)
        with context.phase("train"):
            curves = self._train(network, dummy, task, context, seed + 1)
        logits = evaluate(network, task.test_images, lambda x: open_logits(network, dummy, network.feature_map(x)))
        return Detection(delta_confidence(logits, self.settings.temperature), logits[:, :-1].argmax(axis=1), curves)

    def _train(
        self, network: Network, dummy: nn.Linear, task: OpenSetTask, context: Context, seed: int
    ) -> dict[str, list[float]]:
        import torch

        from open_set_fer.methods.augmentation import flip_or_noise, random_erase
        from open_set_fer.methods.training import as_tensor, batches, step

        s = self.settings
        generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        data, targets = as_tensor(task.train_images), as_tensor(task.train_labels)
        optimizer = torch.optim.SGD(
            [*network.parameters(), *dummy.parameters()], s.learning_rate, s.momentum, weight_decay=s.weight_decay
        )
        curves: dict[str, list[float]] = {"loss": [], "data_placeholder_loss": [], "train_accuracy": []}
        for _ in context.progress(range(s.epochs), "proser: epochs"):
            network.train()
            total, mixed_total, right, seen = 0.0, 0.0, 0, 0
            for batch in batches(torch.arange(len(targets)), s.batch_size, generator):
                half = len(batch) // 2
                if half < 2:
                    continue
                x = flip_or_noise(network.prepare(data[batch]), network.std, generator)
                hidden = network.to_stage(random_erase(x, generator, s.erase_probability), s.mix_stage)
                y = targets[batch]
                order = torch.randperm(half, generator=generator)
                share = float(rng.beta(s.alpha, s.alpha))
                mixed = mix(hidden[:half], y[:half], order, share, s.mix_different_only)
                y = y[half:].to(context.device)
                logits = open_logits(network, dummy, network.from_stage(hidden[half:], s.mix_stage))
                loss = classifier_placeholder_loss(logits, y, s.lambda1, s.lambda2)
                if len(mixed) > 1:  # batch norm needs two
                    mixed_logits = open_logits(network, dummy, network.from_stage(mixed, s.mix_stage))
                    mixed_loss = data_placeholder_loss(mixed_logits)
                    loss = loss + s.mixup_weight * mixed_loss
                    mixed_total += mixed_loss.item() * len(y)
                step(optimizer, loss)
                total += loss.item() * len(y)
                right += int((logits[:, :-1].argmax(1) == y).sum())
                seen += len(y)
            for name, value in (("loss", total), ("data_placeholder_loss", mixed_total), ("train_accuracy", right)):
                curves[name].append(value / max(seen, 1))
        return curves


def open_logits(network: Network, dummy: nn.Linear, feature_map: Tensor) -> Tensor:
    """[known logits, largest dummy logit] (N, K+1) of a last feature map (N, D, h, w)."""
    import torch

    largest = dummy(feature_map.mean(dim=(2, 3))).amax(dim=1, keepdim=True)
    return torch.cat([network.classify(feature_map), largest], dim=1)


def mix(hidden: Tensor, labels: Tensor, order: Tensor, share: float, different_only: bool) -> Tensor:
    """Manifold mixup: share x hidden + (1 - share) x hidden[order]: the paper's data placeholders.

    hidden: (N, D, h, w). labels, order: (N,) on the CPU. different_only: leaves pairs of one class out, so the result
    may have fewer rows, even none.
    """
    import torch

    rows = torch.arange(len(labels))
    if different_only:
        rows = rows[labels != labels[order]]
    return share * hidden[rows] + (1 - share) * hidden[order[rows]]


def data_placeholder_loss(logits: Tensor) -> Tensor:
    """Mean cross-entropy of mixed features' logits (N, K+1) against the dummy."""
    return -logits.log_softmax(dim=1)[:, -1].mean()


def classifier_placeholder_loss(logits: Tensor, labels: Tensor, lambda1: float, lambda2: float) -> Tensor:
    """lambda1 x cross-entropy against the label + lambda2 x cross-entropy against the dummy without the label's logit.

    logits: (N, K+1). labels: (N,), 0..K-1. The second term (the paper's classifier placeholders) wants the dummy to come
    next after the true class, whose logit is set to -1e9 there, so that it gets no gradient from it.
    """
    import torch.nn.functional as F

    masked = logits.scatter(1, labels[:, None], -1e9)
    return lambda1 * F.cross_entropy(logits, labels) - lambda2 * masked.log_softmax(dim=1)[:, -1].mean()


def delta_confidence(logits: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """s (N,) = p(dummy) - max p(known) of logits (N, K+1): higher = more likely unknown.

    The softmax is taken at the given temperature and in float64: at 1024 it is nearly uniform, and float32 would make
    ties. The sign is fixed; the authors' code takes whichever sign has the higher AUROC.
    """
    from open_set_fer.methods.training import softmax

    probabilities = softmax(logits.astype(np.float64) / temperature)
    scores: NDArray[np.float64] = probabilities[:, -1] - probabilities[:, :-1].max(axis=1)
    return scores
