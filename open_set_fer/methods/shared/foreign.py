"""Networks of timm and of users, cut into stem, stages and linear head.

A model fits if its child modules, run in order, give a feature map (N, D, h, w), and its logits are those of one linear
layer on the map's average over the pixels. Nothing else is asked: neither base class nor names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module, reload
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from open_set_fer.errors import SuiteError, summary
from open_set_fer.files import look_here
from open_set_fer.plugins import nearest

STAGES = 4
"""The most stages; earlier ones are part of the stem."""
SIDE = 64
"""Pixels a side of the image on which a model is tried, unless its own size is set."""
CONTRACT = (
    "a module whose children, run in order, give a feature map, and whose logits are one nn.Linear of the map's "
    "average over pixels (torchvision's and timm's ResNets and EfficientNets fit)"
)


class Cut:
    """A model's parts: stem, stages, widths (channels after each stage), head; mean and sd of its input, if known."""

    def __init__(self, name: str, classes: int, channels: int, side: int) -> None:
        self.model = _timm(name, classes) if name.startswith("timm:") else _own(name, classes, channels)
        self.channels = 3 if name.startswith("timm:") else channels
        config = getattr(self.model, "pretrained_cfg", None) or {}
        self.mean, self.sd = tuple(config.get("mean", ())), tuple(config.get("std", ()))
        self.head = _head(name, self.model, classes)
        parts, maps = _parts(name, self.model, self.head, torch.zeros(2, self.channels, side or SIDE, side or SIDE))
        groups: list[list[nn.Module]] = []
        sizes: list[torch.Size] = []
        for part, feature_map in zip(parts, maps, strict=True):
            if not sizes or feature_map.shape[2:] != sizes[-1][2:]:
                groups.append([])
                sizes.append(feature_map.shape)
            groups[-1].append(part)
            sizes[-1] = feature_map.shape
        if len(groups) < 2:
            raise SuiteError(f"backbone {name!r} keeps one resolution from image to head", f"it must be {CONTRACT}")
        first = max(1, len(groups) - STAGES)
        self.stem = nn.Sequential(*(part for group in groups[:first] for part in group))
        self.stages = nn.ModuleList(nn.Sequential(*group) for group in groups[first:])
        self.widths = [size[1] for size in sizes[first:]]


def _timm(name: str, classes: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise SuiteError(f"backbone {name!r} needs timm", "pip install 'open-set-fer[timm]'") from error
    kind = name.removeprefix("timm:")
    if not re.fullmatch(r"[\w.]+", kind) or not timm.is_model(kind):  # nothing is fetched from a hub
        raise SuiteError(f"timm has no model {kind!r}{nearest(kind, timm.list_models())}", "see timm.list_models()")
    model: nn.Module = timm.create_model(kind, pretrained=False, num_classes=classes)
    return model


_STATES: dict[str, int] = {}
"""Time of change of each module's file when it was imported."""


def _imported(name: str) -> ModuleType:
    """The module; anew if its file has changed since: its content is part of keys."""
    module = import_module(name)
    path = Path(getattr(module, "__file__", None) or "")
    state = path.stat().st_mtime_ns if path.is_file() else 0
    if _STATES.setdefault(name, state) != state:
        module, _STATES[name] = reload(module), state
    return module


def _own(name: str, classes: int, channels: int) -> nn.Module:
    module, _, function = name.partition(":")
    look_here()
    try:
        build = getattr(_imported(module), function)
    except (ImportError, AttributeError) as error:
        fix = "name it as package.module:function, importable where osfer runs (PYTHONPATH, or pip install)"
        raise SuiteError(f"backbone {name!r} cannot be imported: {summary(error)}", fix) from error
    try:
        model = build(classes=classes, channels=channels)
    except Exception as error:  # a user's code may raise anything
        raise SuiteError(
            f"backbone {name!r}: {summary(error)}", "it is called as function(classes=, channels=)"
        ) from error
    if not isinstance(model, nn.Module):
        raise SuiteError(f"backbone {name!r} returns a {type(model).__name__}", "return an nn.Module")
    return model


def _head(name: str, model: nn.Module, classes: int) -> nn.Linear:
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == classes]
    if not linear:
        raise SuiteError(f"backbone {name!r} has no linear layer with {classes} outputs", f"it must be {CONTRACT}")
    return linear[-1]


def _children(module: nn.Module, head: nn.Linear) -> Iterator[nn.Module]:
    """Child modules in order, plain sequences taken apart, up to the module with the head."""
    for child in module.children():
        if any(part is head for part in child.modules()):
            return
        if type(child) is nn.Sequential:
            yield from _children(child, head)
        else:
            yield child


@torch.no_grad()
def _parts(name: str, model: nn.Module, head: nn.Linear, probe: Tensor) -> tuple[list[nn.Module], list[Tensor]]:
    """The modules before the pooling and their outputs for `probe`; SuiteError unless they give the model's logits."""
    training = model.training
    model.eval()
    probe = torch.randn(probe.shape, generator=torch.Generator().manual_seed(0))
    parts: list[nn.Module] = []
    maps: list[Tensor] = []
    try:
        expected = model(probe)
        hidden = probe
        for part in _children(model, head):
            if "AdaptivePool" in type(part).__name__ or isinstance(part, nn.AdaptiveAvgPool2d):
                break
            hidden = part(hidden)
            parts.append(part)
            maps.append(hidden)
        own = head(maps[-1].mean(dim=(2, 3)))
        if own.shape != expected.shape or not torch.allclose(own, expected, atol=1e-4, rtol=1e-4):
            raise ValueError("its logits are not those of its linear layer on the averaged feature map")
    except Exception as error:  # of any layer that cannot be run in this order
        raise SuiteError(f"backbone {name!r} cannot be cut: {summary(error)}", f"it must be {CONTRACT}") from error
    finally:
        model.train(training)
    return parts, maps
