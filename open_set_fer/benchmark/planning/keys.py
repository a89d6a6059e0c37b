"""Keys: what a closed-set model and a cell depend on, hashed. Free of torch, so that planning is quick."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings

VERSION = 1
"""Raised whenever closed-set training changes its numbers; part of every closed-set and cell key."""
BACKBONE_VERSION = 2
"""Raised whenever a network computes other numbers with the same weights; part of the same keys.

2: 1x1 convolutions with a stride take it by leaving pixels out first: ResNets round otherwise than before, and a small
network with fewer than 16 channels may have been trained on memory that oneDNN had spoilt.
"""


def canonical(content: Any) -> str:
    """The JSON text that `digest` hashes."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def digest(content: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def settings_key(content: dict[str, Any]) -> str:
    """Hash of the settings alone in what a cell's key is the digest of."""
    model, own = content["closed_set"], content.get("own_backbone")
    recipe = {name: model[name] for name in ("backbone", "closed_set", "version")}
    settings = [content["method"], content["method_version"], content["settings"], recipe]
    return digest([*settings, own] if own else settings)[:16]


@dataclass(frozen=True)
class Recipe:
    """How a closed-set model is made, whatever the data and the seed; and of what kind a method's own networks are."""

    backbone: BackboneSettings
    closed_set: ClosedSetSettings
    own_backbone: BackboneSettings | None = None
    """Of the networks that the method makes itself, where it is not the closed-set model's."""

    def content(self) -> dict[str, Any]:
        """What keys have of the closed-set model; SuiteError where a checkpoint is not there."""
        return {
            "backbone": _network_content(self.backbone),
            "closed_set": _training_content(self.closed_set),
            "version": VERSION,
        }

    def own_content(self) -> dict[str, Any]:
        """What a cell's keys have besides: nothing where the method's networks are of the closed-set model's kind."""
        return {} if self.own_backbone is None else {"own_backbone": _network_content(self.own_backbone)}


def closed_set_content(fingerprint: str, classes: tuple[str, ...], recipe: Recipe, seed: int) -> dict[str, Any]:
    """All that a closed-set model depends on."""
    return recipe.content() | {"fingerprint": fingerprint, "closed_classes": list(classes), "seed": seed}


def _training_content(settings: ClosedSetSettings) -> dict[str, Any]:
    """The settings of the training."""
    return _without_later(asdict(settings), {"augmentation": "flip_or_noise", "targets": "labels"})


def _without_later(settings: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The settings; of those that came `later` only what is not at its default, given there, so that older keys stay."""
    return {name: value for name, value in settings.items() if later.get(name) != value}


def _network_content(backbone: BackboneSettings) -> dict[str, Any]:
    """The settings and what version they are of; a checkpoint counts by its content, not its path."""
    network = _without_later(asdict(backbone), {"precision": "full"}) | {"version": BACKBONE_VERSION}
    if (backbone.name, backbone.stem) == ("resnet50", "face"):
        network["version"] = 3  # the stride moved to where the face checkpoints have it
    if weights := backbone.weights:
        if not Path(weights).is_file():
            raise SuiteError(f"no checkpoint {weights}", "check the path given as `weights`")
        network["weights"] = _file_digest(weights, Path(weights).stat().st_mtime_ns)
    return network


@cache
def _file_digest(path: str, changed: int) -> str:
    """SHA-256 of a file; `changed`, its time of change, is there so that a new content is read anew."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
