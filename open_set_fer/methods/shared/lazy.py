"""torch and what is built on it, for method files: `from open_set_fer.methods.shared.lazy import nn, torch, training`.

Planning imports every method for its settings alone, and torch takes seconds; so each name here stands for a module
that is imported when something of it is first used. A method of another package may as well import torch at its top:
it then delays the commands that use it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import nn

    from open_set_fer.methods.shared import augmentation, backbones, learners, seeds, training
else:

    class _Module:
        """Stands for a module; not in sys.modules, so nobody else meets it."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(import_module(self._name), attribute)

    torch, nn, F = (_Module(name) for name in ("torch", "torch.nn", "torch.nn.functional"))
    augmentation, backbones, learners, seeds, training = (
        _Module(f"open_set_fer.methods.shared.{name}")
        for name in ("augmentation", "backbones", "learners", "seeds", "training")
    )

__all__ = ["F", "augmentation", "backbones", "learners", "nn", "seeds", "torch", "training"]
