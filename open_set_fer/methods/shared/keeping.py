"""A scorer as numbers and plain text, and back: nothing of it is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.lazy import backbones, torch
from open_set_fer.methods.shared.recipe import BackboneSettings
from open_set_fer.methods.shared.scorer import Scorer

NETWORK, ARRAY = "network.", "array."
"""Prefixes of the names of tensors: `network.<name>.<tensor>`, `array.<name>`."""


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
        for name, network in scorer.networks.items()
        for key, tensor in network.state_dict().items()
    }
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
