"""Lazy imports for method files: `from open_set_fer.methods.shared.lazy import nn, torch`.

Planning imports every method for its settings alone, and torch takes seconds; each name here is imported on first
use. A method of another package may import torch at its top: the commands that load the method then start later.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import nn

    from open_set_fer.methods.shared import augmentation, backbones, learners, training
else:

    class _Module:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(import_module(self._name), attribute)

    torch, nn, F = (_Module(name) for name in ("torch", "torch.nn", "torch.nn.functional"))
    augmentation, backbones, learners, training = (
        _Module(f"open_set_fer.methods.shared.{name}") for name in ("augmentation", "backbones", "learners", "training")
    )

__all__ = ["F", "augmentation", "backbones", "learners", "nn", "torch", "training"]
