"""What is left of a method to score faces that it has not seen: networks, arrays and settings, kept without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pydantic
from numpy.typing import NDArray

from open_set_fer.errors import SuiteError
from open_set_fer.methods.lazy import backbones, torch, training
from open_set_fer.methods.recipe import BackboneSettings

if TYPE_CHECKING:
    from open_set_fer.methods.backbones import Network

NETWORK, ARRAY = "network.", "array."
"""Prefixes of the names of tensors: `network.<name>.<tensor>`, `array.<name>`."""


class Scores(NamedTuple):
    """unknown_score: float64 (N,), HIGHER = more likely unknown. probabilities: float64 (N, K) of the closed classes."""

    unknown_score: NDArray[np.float64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores faces one at a time; a subclass has `score`. Which one a method has, its class says as `scorer`.

    networks: by name, made by `build_network`. arrays: numbers, by name. settings: what JSON can hold.
    repeats: the task's own test images get the scores of `Detection` again; False where those came from parts of the
    scorer, each for the images that it had not been trained on.
    """

    networks: Mapping[str, Network]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    repeats: ClassVar[bool] = True

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score uint8 images (N, C, H, W) of the task's size."""
        raise NotImplementedError


class NetworkPlan(pydantic.BaseModel):
    """How a kept network is built, before it gets its tensors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    backbone: BackboneSettings
    outputs: int = pydantic.Field(gt=0)
    channels: int


def plans(scorer: Scorer) -> dict[str, NetworkPlan]:
    """How each network is built again; SuiteError for one that is not of this suite."""
    found = {}
    for name, network in scorer.networks.items():
        settings = getattr(network, "settings", None)
        if settings is None:
            raise SuiteError(
                f"the scorer's network {name!r} was not made by methods.backbones.build_network",
                "keep the tensors of other networks among the scorer's arrays, and build them in its `score`",
            )
        found[name] = NetworkPlan(
            backbone=replace(settings, weights=""), outputs=network.fc.out_features, channels=network.channels
        )
    return found


def tensors(scorer: Scorer) -> dict[str, NDArray[Any]]:
    """All numbers of a scorer by name."""
    found = {
        f"{NETWORK}{name}.{key}": tensor.detach().cpu().contiguous().numpy()
        for name, network in scorer.networks.items() for key, tensor in network.state_dict().items()
    }  # fmt: skip
    return found | {f"{ARRAY}{name}": np.ascontiguousarray(array) for name, array in scorer.arrays.items()}


def rebuild(
    kind: type[Scorer],
    network_plans: Mapping[str, NetworkPlan],
    numbers: Mapping[str, NDArray[Any]],
    settings: Mapping[str, Any],
    device: torch.device,
) -> Scorer:
    """A scorer from what `plans` and `tensors` gave; SuiteError where they do not fit."""
    networks = {}
    for name, plan in network_plans.items():
        prefix = f"{NETWORK}{name}."
        # A path to weights would be read from this machine's disk.
        network = backbones.build_network(replace(plan.backbone, weights=""), plan.outputs, plan.channels, 0)
        state = {key.removeprefix(prefix): _tensor(array) for key, array in numbers.items() if key.startswith(prefix)}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise SuiteError(f"the tensors of network {name!r} do not fit: {' '.join(str(error).split())}") from error
        networks[name] = network.to(device).eval().requires_grad_(False)
    arrays = {key.removeprefix(ARRAY): array for key, array in numbers.items() if key.startswith(ARRAY)}
    return kind(networks, arrays, dict(settings))


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(array))  # a copy: loaded arrays may be read-only


@dataclass(frozen=True, eq=False)
class ConfidenceScorer(Scorer):
    """What the logits of one network, `classifier`, say: settings `score` is 'msp', 'max_logit' or 'loss'.

    'loss' is the cross-entropy against the network's own answer.
    """

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """By the classifier's logits alone."""
        logits = training.evaluate(self.networks["classifier"], images)
        probabilities = training.softmax(logits)
        if self.settings["score"] == "max_logit":
            score = -logits.max(axis=1).astype(np.float64)
        elif self.settings["score"] == "loss":
            score = training.sample_losses(logits, logits.argmax(axis=1))
        else:
            score = -probabilities.max(axis=1)
        return Scores(score, probabilities)
