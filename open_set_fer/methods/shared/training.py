"""Parts of every training loop: batches, schedules, evaluation, closed-set training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from open_set_fer.methods.shared.augmentation import random_erase, vary
from open_set_fer.methods.shared.backbones import Network
from open_set_fer.methods.shared.recipe import ClosedSetSettings
from open_set_fer.methods.shared.unfinished import Unfinished, go_on, state_of


def batches(indices: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Split `indices` at random into batches; a last one of one is dropped (batch norm)."""
    shuffled = indices[torch.randperm(len(indices), generator=generator)]
    for piece in torch.split(shuffled, batch_size):
        if len(piece) > 1:
            yield piece


def epoch_learning_rate(start: float, decay: float, epoch: int, cycle: int = 0) -> float:
    """Learning rate start x decay^epoch; with `cycle` > 0 it is reset every `cycle` epochs."""
    return start * decay ** (epoch % cycle if cycle else epoch)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Wrap an array as a CPU tensor, sharing contiguous memory: do not write to it.

    A task's arrays are read-only, which torch does not support and warns about; a cell that writes to them fails.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array))


@contextmanager
def frozen_statistics(network: Network) -> Iterator[None]:
    """Keep batch norm's running statistics unchanged; it still normalises by the batch."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.inference_mode()
def evaluate(
    network: Network,
    images: NDArray[np.uint8],
    compute: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 512,
    batch_statistics: bool = False,
) -> NDArray[np.float32]:
    """Compute logits, or `compute(prepared batch)`, on uint8 (N, C, H, W) in evaluation mode.

    batch_statistics: with batch norm by each batch's statistics instead.
    """
    network.train(batch_statistics)
    with frozen_statistics(network) if batch_statistics else nullcontext():
        parts = (as_tensor(images[start : start + batch_size]) for start in range(0, len(images), batch_size))
        return np.asarray(torch.cat([(compute or network)(network.prepare(part)).float().cpu() for part in parts]))


def pooled_features(network: Network, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pooled last feature maps (N, D) of uint8 (N, C, H, W): the input of the linear layer."""
    return evaluate(network, images, lambda x: network.feature_map(x).mean(dim=(2, 3)))


def head_logits(network: Network, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits (N, K) of pooled features (N, D), in float64."""
    head = deepcopy(network.fc).double().cpu().requires_grad_(False)
    return np.asarray(head(as_tensor(features).double()))


def sample_losses(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy (N,) of each image against its label."""
    return np.asarray(F.cross_entropy(as_tensor(logits).double(), as_tensor(labels), reduction="none"))


def train_closed_set(
    network: Network,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    settings: ClosedSetSettings,
    generator: torch.Generator,
    progress: Callable[[Iterable[int], str], Iterable[int]],
    votes: NDArray[np.uint8] | None = None,
    unfinished: Unfinished | None = None,
) -> dict[str, list[float]]:
    """Train in place on uint8 (N, C, H, W), labels 0..K-1; returns loss and accuracy curves.

    votes: (N, K), used with the settings' targets 'votes'. unfinished: keeps the state after epochs; where it has one,
    the training goes on from it.
    """
    data, classes = as_tensor(images), as_tensor(labels)
    targets = targets_of(labels, votes, settings)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * -(-len(classes) // settings.batch_size)
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, steps)
    curves: dict[str, list[float]] = {"loss": [], "train_accuracy": []}
    device = next(network.parameters()).device
    kept = unfinished.read(network.state_dict()) if unfinished else None
    if kept is not None:
        go_on(kept, network, optimizer, one_cycle, generator)
        curves = kept["curves"]
    for epoch in progress(range(len(curves["loss"]), settings.epochs), "closed-set model"):
        if settings.schedule == "exponential":
            set_learning_rate(optimizer, epoch_learning_rate(settings.learning_rate, settings.lr_decay, epoch))
        network.train()
        total, right, seen = 0.0, 0, 0
        for batch in batches(torch.arange(len(classes)), settings.batch_size, generator):
            x = augmented(network, data[batch], generator, settings.erase_probability, settings.augmentation)
            logits = network(x)
            loss = F.cross_entropy(logits, targets[batch].to(device))
            step(optimizer, loss)
            if settings.schedule == "one_cycle":
                one_cycle.step()
            total += loss.item() * len(batch)
            right += int((logits.argmax(1) == classes[batch].to(device)).sum())
            seen += len(batch)
        curves["loss"].append(total / seen)
        curves["train_accuracy"].append(right / seen)
        if unfinished:
            unfinished.after_epoch(lambda: state_of(network, optimizer, one_cycle, generator) | {"curves": curves})
    return curves


def targets_of(labels: NDArray[np.int64], votes: NDArray[np.uint8] | None, settings: ClosedSetSettings) -> Tensor:
    """Targets of `cross_entropy`: the labels (N,), or under the settings' 'votes' the shares of the votes (N, K)."""
    if settings.targets == "labels" or votes is None:
        return as_tensor(labels)
    counts = as_tensor(votes).float()
    return counts / counts.sum(dim=1, keepdim=True)


def known_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, K), or (N, K+1) with an output for unknowns, against `targets_of` K classes."""
    return F.cross_entropy(
        logits, targets if targets.ndim == 1 else F.pad(targets, (0, logits.shape[1] - targets.shape[1]))
    )


def unknown_loss(logits: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, K+1) against their last output, for unknowns."""
    return -logits.log_softmax(dim=1)[:, -1].mean()


def augmented(
    network: Network, images: Tensor, generator: torch.Generator, erase_probability: float, kind: str = "flip_or_noise"
) -> Tensor:
    """Prepare and augment a training batch, uint8 (N, C, H, W), as the closed-set recipe does.

    kind: of `augmentation.vary`; random erasing follows.
    """
    x = vary(network.prepare(images), network.std, generator, kind)
    return random_erase(x, generator, erase_probability)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimisation step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Row-wise softmax in float64."""
    return np.asarray(as_tensor(logits).double().softmax(dim=1))
