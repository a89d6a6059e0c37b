"""A network that learns pseudo labels: the part shared by `ours` and the label-noise methods it is compared with."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Context
from open_set_fer.methods.shared.attention import attention_maps, consistency_loss
from open_set_fer.methods.shared.augmentation import add_noise, random_erase
from open_set_fer.methods.shared.backbones import Network, build_network
from open_set_fer.methods.shared.seeds import draw_seed
from open_set_fer.methods.shared.training import (
    as_tensor,
    batches,
    evaluate,
    evaluate_with_batch_statistics,
    sample_losses,
    set_learning_rate,
    step,
)


class Learner:
    """A fresh network with its optimiser (Adam) and random numbers; `index` tells the learners of one cell apart."""

    def __init__(
        self,
        context: Context,
        classes: int,
        channels: int,
        index: int,
        batch_size: int,
        weight_decay: float,
        pretrained: Network | None = None,
        pretrained_stages: int = 0,
    ) -> None:
        """pretrained: a network whose stem and first `pretrained_stages` stages this one starts from (0: none)."""
        seed = draw_seed(context.generator)
        self.index = index
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed + 1)
        self.network: Network = build_network(context.backbone, classes, channels, seed).to(context.device)
        if pretrained is not None and pretrained_stages:
            if pretrained.widths != self.network.widths:
                raise SuiteError(
                    "pretrained_stages: the closed-set model is of another kind than the method's own networks",
                    "leave out the label's `backbone` or its `pretrained_stages`",
                )
            self.network.stem.load_state_dict(pretrained.stem.state_dict())
            for stage, given in zip(self.network.stages[:pretrained_stages], pretrained.stages, strict=False):
                stage.load_state_dict(given.state_dict())
        self.optimizer = torch.optim.Adam(self.network.parameters(), weight_decay=weight_decay)

    def train_epoch(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        selected: NDArray[np.bool_],
        learning_rate: float,
        consistency_weight: float,
        erase_probability: float,
        class_weights: NDArray[np.float64] | None = None,
        noise_probability: float = 0.0,
    ) -> float:
        """One epoch on the selected samples; returns the mean loss. class_weights: (K,) of the cross-entropy.

        Loss: cross-entropy of the erased image + consistency_weight (λ) x attention-map consistency; λ = 0 leaves the
        pass of the flipped image out.
        """
        network = self.network
        set_learning_rate(self.optimizer, learning_rate)
        network.train()
        data, targets = as_tensor(images), as_tensor(labels)
        device = next(network.parameters()).device
        weights = None if class_weights is None else torch.from_numpy(class_weights).float().to(device)
        total, seen = 0.0, 0
        for batch in batches(torch.from_numpy(np.flatnonzero(selected)), self.batch_size, self.generator):
            # Erase first, then flip: the pair must differ by the flip alone.
            x = self.augmented(network.prepare(data[batch]), noise_probability, erase_probability)
            feature_map = network.feature_map(x)
            loss = F.cross_entropy(network.classify(feature_map), targets[batch].to(device), weights)
            if consistency_weight > 0:
                maps = attention_maps(feature_map, network.fc.weight)
                flipped = attention_maps(network.feature_map(x.flip(-1)), network.fc.weight)
                loss = loss + consistency_weight * consistency_loss(maps, flipped)
            step(self.optimizer, loss)
            total += loss.item() * len(batch)
            seen += len(batch)
        return total / seen

    def augmented(self, x: Tensor, noise_probability: float, erase_probability: float) -> Tensor:
        """Prepared images (N, C, H, W), some noisy, some erased."""
        if noise_probability > 0:
            x = add_noise(x, self.network.std, self.generator, noise_probability)
        return random_erase(x, self.generator, erase_probability)

    def losses(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        batch_statistics: bool = False,
        augmentation: tuple[float, float] | None = None,
    ) -> NDArray[np.float64]:
        """(N,) cross-entropy of each image against its label, in evaluation mode.

        batch_statistics: batch norm takes those of each batch of images instead of the running ones. augmentation:
        probabilities of noise and of erasing; None for the images as they are.
        """
        compute = None if augmentation is None else lambda x: self.network(self.augmented(x, *augmentation))
        logits = (evaluate_with_batch_statistics if batch_statistics else evaluate)(self.network, images, compute)
        return sample_losses(logits, labels)
