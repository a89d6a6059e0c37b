"""Keys: hashes of all that a closed-set model or a cell depends on. Without torch, so that planning is quick."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from open_set_fer.errors import SuiteError
from open_set_fer.files import package_file, source_file
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings, Input

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
    """Hash of the settings in the content of a cell's key."""
    model, own = content["closed_set"], content.get("own_backbone")
    recipe = {name: model[name] for name in ("backbone", "closed_set", "version")}
    settings = [content["method"], content["method_version"], content["settings"], recipe]
    return digest([*settings, *(part for part in (own, content.get("files")) if part)])[:16]


@dataclass(frozen=True)
class Recipe:
    """Settings of a closed-set model, without data and seed, and of the networks that a method trains itself."""

    backbone: BackboneSettings
    closed_set: ClosedSetSettings
    own_backbone: BackboneSettings | None = None
    """Of the networks that the method trains itself, where it differs from the closed-set model's."""

    def content(self) -> dict[str, Any]:
        """Part of keys on the closed-set model; SuiteError for a missing checkpoint."""
        recipe = self.closed_set
        if recipe.model:  # nothing is trained: its content counts, not its path
            training: dict[str, Any] = {"model": content_digest(recipe.model, "model"), "classes": list(recipe.classes)}
        else:
            later = {"augmentation": "flip_or_noise", "targets": "labels", "model": "", "classes": ()}
            training = _without_later(asdict(recipe), later | {"input": asdict(recipe.input)})
        return {"backbone": _network_content(self.backbone), "closed_set": training, "version": VERSION}

    def check_networks(self, channels: int = 3) -> None:
        """Raise SuiteError if a network of timm or of a user does not fit, or a checkpoint does not fit its network."""
        for backbone in (self.backbone, self.own_backbone):
            if backbone is not None and (backbone.weights or ":" in backbone.name):
                from open_set_fer.methods.shared.backbones import check_network  # imports torch

                check_network(backbone, channels)

    def own_content(self) -> dict[str, Any]:
        """Part of a cell's key on the method's networks: empty where they are like the closed-set model."""
        return {} if self.own_backbone is None else {"own_backbone": _network_content(self.own_backbone)}


def _without_later(settings: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Settings without those added `later` that have their default, so that older keys stay."""
    return {name: value for name, value in settings.items() if later.get(name) != value}


def _network_content(backbone: BackboneSettings) -> dict[str, Any]:
    """Settings with their version; a checkpoint counts by its content, not its path, code by its file's content."""
    later = {"precision": "full", "input": asdict(Input())}
    network = _without_later(asdict(backbone), later) | {"version": BACKBONE_VERSION}
    if (backbone.name, backbone.stem) == ("resnet50", "face"):
        network["version"] = 3  # the stride moved to where the face checkpoints have it
    if backbone.weights:
        network["weights"] = content_digest(backbone.weights, "weights")
    if backbone.is_code:
        network["source"] = content_digest(str(source_file(backbone.name)), "backbone.name")
    return network


def content_digest(path: str, setting: str) -> str:
    """SHA-256 of the file that a setting names; SuiteError for no such file."""
    place = package_file(path).resolve()
    if not place.is_file():
        raise SuiteError(f"no checkpoint {path}", f"check the path given as `{setting}`")
    state = place.stat()
    return _file_digest(place, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _file_digest(path: Path, *state: int) -> str:
    """SHA-256 of a file; `state`, its inode, size and time of change, is part of the cache's key."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
