"""The shared closed-set models: trained once per key, kept as safetensors, and the context that lends them to methods."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import filelock
import safetensors.torch
import torch

from open_set_fer.benchmark.keys import digest
from open_set_fer.console import track
from open_set_fer.methods.backbones import build_network
from open_set_fer.methods.contract import BackboneSettings, ClosedSetModel, ClosedSetSettings, OpenSetTask
from open_set_fer.methods.training import evaluate, train_closed_set

T = TypeVar("T")


def in_training(store: Path, content: dict[str, Any]) -> bool:
    """Whether another process is training this closed-set model right now."""
    path = model_path(store, content)
    if path.exists() or not path.parent.is_dir():
        return False
    lock = filelock.FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def model_path(store: Path, content: dict[str, Any]) -> Path:
    """Where the closed-set model of this content is kept."""
    return store / f"{digest(content)}.safetensors"


class TaskContext:
    """What the methods of one task share: implements `methods.contract.Context`.

    One object serves every method of a (data set, protocol, seed); `begin()` gives each fresh random numbers and
    clocks, so that no method's result depends on which ran before it.
    """

    def __init__(
        self,
        store: Path,
        content: dict[str, Any],
        backbone: BackboneSettings,
        settings: ClosedSetSettings,
        device: torch.device,
    ) -> None:
        self.backbone = backbone
        self.device = device
        self.generator = torch.Generator()
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self._settings = settings
        self._seed = int(content["seed"])
        self._path = model_path(store, content)
        self._model: ClosedSetModel | None = None
        self._shared: dict[str, Any] = {}

    def begin(self) -> None:
        """Start a cell: random numbers from the seed alone (variants of a method stay comparable), fresh clocks."""
        self.generator = torch.Generator().manual_seed(self._seed)
        self.seconds, self.peak_mib = {}, {}

    def progress(self, steps: Iterable[T], description: str) -> Iterator[T]:
        """Iterate with a progress bar."""
        return track(steps, description)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase and take the peak memory: of the phase on a GPU, of the process so far on a CPU."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            if self.device.type == "cuda":
                self.peak_mib[name] = torch.cuda.max_memory_allocated(self.device) / 2**20
            else:
                self.peak_mib[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    def shared(self, key: str, compute: Callable[[], T]) -> T:
        """`compute()` once per task; later calls with the same key get the kept value."""
        if key not in self._shared:
            self._shared[key] = compute()
        value: T = self._shared[key]
        return value

    def closed_set_model(self, task: OpenSetTask) -> ClosedSetModel:
        """The closed-set model of the task, from memory, from the store, or trained now."""
        if self._model is None:
            with self.phase("closed_set"):
                self._model = self._load_or_train(task)
        return self._model

    def _load_or_train(self, task: OpenSetTask) -> ClosedSetModel:
        channels = task.train_images.shape[1]
        network = build_network(self.backbone, len(task.closed_classes), channels, self._seed).to(self.device)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{self._path}.lock"):
            if not self._path.exists():
                generator = torch.Generator().manual_seed(self._seed)
                curves = train_closed_set(
                    network, task.train_images, task.train_labels, self._settings, generator, self.progress
                )
                temporary = self._path.with_suffix(".new")
                state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
                safetensors.torch.save_file(state, temporary, {"curves": json.dumps(curves)})
                os.replace(temporary, self._path)
        # Always from the file: a first run and a resumed one then compute with the same bytes.
        network.load_state_dict(safetensors.torch.load_file(self._path))
        network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        return ClosedSetModel(network, evaluate(network, task.test_images))
