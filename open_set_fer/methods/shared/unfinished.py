"""File of a training that is not done: a killed one goes on after its last kept epoch, to the same numbers."""

from __future__ import annotations

import hashlib
import io
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from open_set_fer.console import log
from open_set_fer.files import write_whole

DIGEST = hashlib.sha256().digest_size
COST = 0.05
"""Share of the training's time that writing may take at most: epochs much shorter than a write are not all kept."""


class Unfinished:
    """State of a training in one file, written whole after epochs and read back by the next attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written, self._took = 0.0, 0.0

    def read(self, fits: dict[str, Tensor]) -> dict[str, Any] | None:
        """The kept state; None for no file, or if it is damaged or of another network than `fits`."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        fault = "it is damaged"
        if hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]:
            try:
                state: dict[str, Any] = torch.load(io.BytesIO(content[DIGEST:]), map_location="cpu", weights_only=True)
            except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
                fault = str(error).partition("\n")[0]
            else:
                if _shapes(state["network"]) == _shapes(fits):
                    return state
                fault = "it is of another network"
        log.warning("%s cannot be gone on with (%s): training from the beginning", self.path, fault)
        return None

    def after_epoch(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state: after the first epoch, and after later ones as often as COST allows."""
        start = time.monotonic()
        if self._written and start - self._written < self._took / COST:
            return
        buffer = io.BytesIO()
        torch.save(state(), buffer)
        content = buffer.getvalue()
        write_whole(self.path, hashlib.sha256(content).digest() + content)
        self._written = time.monotonic()
        self._took = self._written - start

    def remove(self) -> None:
        """Remove the file: the training is done."""
        self.path.unlink(missing_ok=True)


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def state_of(
    network: nn.Module, optimizer: torch.optim.Optimizer, schedule: LRScheduler, generator: torch.Generator
) -> dict[str, Any]:
    """All that the next epoch depends on: `go_on` puts it back."""
    return {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": generator.get_state(),
        "global": torch.get_rng_state(),  # of networks with dropout
        "gpus": torch.cuda.get_rng_state_all() if next(network.parameters()).is_cuda else [],
    }


def go_on(
    kept: dict[str, Any],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    generator: torch.Generator,
) -> None:
    """Put everything of `state_of` back."""
    network.load_state_dict(kept["network"])
    optimizer.load_state_dict(kept["optimizer"])
    schedule.load_state_dict(kept["schedule"])
    generator.set_state(kept["generator"])
    torch.set_rng_state(kept["global"])
    if next(network.parameters()).is_cuda and len(kept["gpus"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(kept["gpus"])
