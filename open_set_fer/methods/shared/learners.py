"""Learning of pseudo labels: networks, attention consistency, selection of clean samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Context
from open_set_fer.methods.shared import training
from open_set_fer.methods.shared.augmentation import add_noise, random_erase
from open_set_fer.methods.shared.backbones import Network, build_network, draw_seed


@dataclass(frozen=True)
class Recipe:
    """Loss and augmentation of a learner.

    erase_probability, noise_probability: for each image. consistency_weight: λ of attention-map consistency; 0 skips
    the flipped images. class_weights: (K,), of the cross-entropy.
    """

    erase_probability: float
    consistency_weight: float = 0.0
    noise_probability: float = 0.0
    class_weights: NDArray[np.float64] | None = None


class Learner:
    """A fresh network with an Adam optimiser and a random generator."""

    def __init__(
        self,
        context: Context,
        classes: int,
        channels: int,
        batch_size: int,
        weight_decay: float,
        pretrained: Network | None = None,
        pretrained_stages: int = 0,
    ) -> None:
        """pretrained: source of the stem and the first `pretrained_stages` stages (0: none)."""
        seed = draw_seed(context.generator)
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed + 1)
        self.network: Network = build_network(context.backbone, classes, channels, seed).to(context.device)
        if pretrained is not None and pretrained_stages:
            if pretrained.widths != self.network.widths:
                fault = "pretrained_stages: the closed-set model is of another kind than the method's own networks"
                raise SuiteError(fault, "leave out the label's `backbone` or its `pretrained_stages`")
            self.network.stem.load_state_dict(pretrained.stem.state_dict())
            for stage, start in zip(self.network.stages[:pretrained_stages], pretrained.stages, strict=False):
                stage.load_state_dict(start.state_dict())
        self.optimizer = torch.optim.Adam(self.network.parameters(), weight_decay=weight_decay)

    def train_epoch(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        selected: NDArray[np.bool_],
        learning_rate: float,
        recipe: Recipe,
    ) -> float:
        """Train one epoch on the selected samples; returns the mean loss.

        Loss: cross-entropy of the erased image + λ x attention-map consistency.
        """
        network = self.network
        training.set_learning_rate(self.optimizer, learning_rate)
        network.train()
        data, targets = training.as_tensor(images), training.as_tensor(labels)
        device = next(network.parameters()).device
        weights = None if recipe.class_weights is None else torch.from_numpy(recipe.class_weights).float().to(device)
        total, seen = 0.0, 0
        for batch in training.batches(torch.from_numpy(np.flatnonzero(selected)), self.batch_size, self.generator):
            # Erase first, then flip: the pair must differ by the flip alone.
            x = self.augmented(network.prepare(data[batch]), recipe.noise_probability, recipe.erase_probability)
            feature_map = network.feature_map(x)
            loss = F.cross_entropy(network.classify(feature_map), targets[batch].to(device), weights)
            if recipe.consistency_weight > 0:
                maps = attention_maps(feature_map, network.fc.weight)
                flipped = attention_maps(network.feature_map(x.flip(-1)), network.fc.weight)
                loss = loss + recipe.consistency_weight * consistency_loss(maps, flipped)
            training.step(self.optimizer, loss)
            total += loss.item() * len(batch)
            seen += len(batch)
        return total / seen

    def augmented(self, x: Tensor, noise_probability: float, erase_probability: float) -> Tensor:
        """Add noise to some prepared images (N, C, H, W) and erase parts of some."""
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
        """Cross-entropy (N,) of each image against its label, in evaluation mode.

        batch_statistics: normalise by each batch's statistics instead of the running ones. augmentation:
        probabilities of noise and of erasing; None: the images as they are.
        """
        compute = None if augmentation is None else lambda x: self.network(self.augmented(x, *augmentation))
        logits = training.evaluate(self.network, images, compute, batch_statistics=batch_statistics)
        return training.sample_losses(logits, labels)


def attention_maps(feature_map: Tensor, fc_weight: Tensor) -> Tensor:
    """Attention maps (N, K, h, w) of a feature map (N, D, h, w) (paper, Eq. 1).

    Channels are weighted by the classifier (K, D), detached: consistency trains the features, not the classifier. The
    spatial mean of a map plus the classifier's bias is the class's logit.
    """
    return torch.einsum("kd,ndhw->nkhw", fc_weight.detach(), feature_map)


def consistency_loss(maps: Tensor, maps_of_flipped: Tensor) -> Tensor:
    """Mean of (M(x) - flip(M(flip(x))))²: zero if attention follows the face (Eq. 2-3)."""
    return (maps - maps_of_flipped.flip(-1)).square().mean()


def clean_probability(losses: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Posterior (N,) of the low-mean component of a Gaussian mixture on scaled losses.

    Two components, losses scaled to [0, 1], at most 10 EM steps, tolerance 1e-2, covariance floor 5e-4, as in the
    scripts of DivideMix (Li et al. 2020), which the paper's cycle training builds on. If all losses are equal, all
    are clean.
    """
    from sklearn.exceptions import ConvergenceWarning  # imports within the function: a second, and not always needed
    from sklearn.mixture import GaussianMixture

    spread = float(np.ptp(losses))
    if spread == 0.0:
        return np.ones(len(losses))
    scaled = ((losses - losses.min()) / spread)[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a capped EM is the published recipe
        mixture.fit(scaled)
    return np.asarray(mixture.predict_proba(scaled)[:, mixture.means_.ravel().argmin()])


def select_clean(
    losses: NDArray[np.float64], labels: NDArray[np.int64], threshold: float = 0.5, seed: int = 0
) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """Mask (N,) of clean samples, and the classes without any, which are selected whole.

    The guard is not in the sources: a network that never sees a class again forgets it. An empty selection thereby
    becomes all samples.
    """
    clean = clean_probability(losses, seed) > threshold
    lost = tuple(sorted(set(np.unique(labels).tolist()) - set(np.unique(labels[clean]).tolist())))
    return clean | np.isin(labels, lost), lost


def guard_notes(selections: list[tuple[int, ...]], classes: tuple[str, ...]) -> list[str]:
    """One note on the selections that lost a class, if any; `selections`: the lost classes."""
    guarded = [lost for lost in selections if lost]
    if not guarded:
        return []
    names = ", ".join(name for index, name in enumerate(classes) if any(index in lost for lost in guarded))
    return [
        f"a class without a clean sample was kept whole in {len(guarded)} of {len(selections)} selections "
        f"(lost: {names})"
    ]
