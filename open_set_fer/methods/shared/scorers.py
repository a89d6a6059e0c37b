"""Saving of scorers, the scorer of plain classifiers, and scores on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Scorer, Scores
from open_set_fer.methods.shared.lazy import backbones, torch, training
from open_set_fer.methods.shared.recipe import BackboneSettings

NETWORK, ARRAY = "network.", "array."
"""Prefixes of tensor names: `network.<name>.<tensor>`, `array.<name>`."""


@dataclass(frozen=True, eq=False)
class ConfidenceScorer(Scorer):
    """Scores by the logits of the network `classifier`.

    settings: `score`, 'msp', 'max_logit' or 'loss', the cross-entropy against the network's own prediction.
    """

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score by the classifier's logits alone."""
        return self.of_logits(training.evaluate(self.networks["classifier"], images))

    def of_logits(self, logits: NDArray[Any]) -> Scores:
        """Score by logits (N, K)."""
        probabilities = training.softmax(logits)
        if self.settings["score"] == "max_logit":
            score = -logits.max(axis=1).astype(np.float64)
        elif self.settings["score"] == "loss":
            score = training.sample_losses(logits, logits.argmax(axis=1))
        else:
            score = -probabilities.max(axis=1)
        return Scores(score, probabilities)


class NetworkPlan(pydantic.BaseModel):
    """Architecture of a saved network, without its tensors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    backbone: BackboneSettings
    outputs: int = pydantic.Field(gt=0)
    channels: int

    @pydantic.field_validator("backbone")
    @classmethod
    def _imports_nothing(cls, backbone: BackboneSettings) -> BackboneSettings:
        if backbone.is_code:
            raise SuiteError(f"backbone {backbone.name!r} is code, which a file must not name", "keep no models")
        return backbone


def plans(scorer: Scorer) -> dict[str, NetworkPlan]:
    """Architectures of a scorer's networks; SuiteError for a network not made by the suite."""
    by_name = {}
    for name, network in scorer.networks.items():
        settings = getattr(network, "settings", None)
        if settings is None:
            raise SuiteError(
                f"the scorer's network {name!r} was not made by methods.shared.backbones.build_network",
                "keep the tensors of other networks among the scorer's arrays, and build them in its `score`",
            )
        by_name[name] = NetworkPlan(
            backbone=replace(settings, weights=""), outputs=network.fc.out_features, channels=network.channels
        )
    return by_name


def tensors(scorer: Scorer) -> dict[str, NDArray[Any]]:
    """All numbers of a scorer by name."""
    weights = {
        f"{NETWORK}{name}.{key}": tensor.detach().cpu().contiguous().numpy()
        for name, network in scorer.networks.items()
        for key, tensor in network.state_dict().items()
    }
    return weights | {f"{ARRAY}{name}": np.ascontiguousarray(array) for name, array in scorer.arrays.items()}


def rebuild(
    kind: type[Scorer],
    network_plans: Mapping[str, NetworkPlan],
    numbers: Mapping[str, NDArray[Any]],
    settings: Mapping[str, Any],
    device: torch.device,
) -> Scorer:
    """Rebuild a scorer from `plans` and `tensors`; SuiteError if they do not fit."""
    networks = {}
    for name, plan in network_plans.items():
        prefix = f"{NETWORK}{name}."
        # A path to weights would be read from this machine's disk.
        network = backbones.build_network(replace(plan.backbone, weights=""), plan.outputs, plan.channels, 0)
        # A copy: loaded arrays may be read-only.
        own = {key.removeprefix(prefix): array for key, array in numbers.items() if key.startswith(prefix)}
        state = {key: torch.from_numpy(np.array(array)) for key, array in own.items()}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise SuiteError(f"the tensors of network {name!r} do not fit: {' '.join(str(error).split())}") from error
        networks[name] = network.to(device).eval().requires_grad_(False)
    arrays = {key.removeprefix(ARRAY): array for key, array in numbers.items() if key.startswith(ARRAY)}
    return kind(networks, arrays, dict(settings))


def standardise(values: NDArray[np.float64], groups: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Scale values (N,) to zero mean and unit deviation, within each of `groups` (N,) if given.

    Constant values become zeros. Groups are for values of different networks, whose units differ.
    """
    if groups is not None:
        scaled = np.empty(len(values))
        for group in np.unique(groups):
            scaled[groups == group] = standardise(values[groups == group])
        return scaled
    deviation = float(values.std())
    return (values - values.mean()) / deviation if deviation > 0 else np.zeros_like(values)


def scale_of(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean and standard deviation of values (N,), for `on_scale`; zeros for no values."""
    mean, deviation = (values.mean(), values.std()) if len(values) else (0.0, 0.0)
    return {"mean": float(mean), "deviation": float(deviation)}


def on_scale(values: NDArray[np.float64], scale: Mapping[str, float]) -> NDArray[np.float64]:
    """Standardise values by the mean and deviation of others; a deviation of 0 counts as 1."""
    return (values - scale["mean"]) / (scale["deviation"] or 1.0)
