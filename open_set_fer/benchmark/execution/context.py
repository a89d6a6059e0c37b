"""What a cell's method is lent: the shared closed-set model, its outputs, random numbers, clocks."""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np
import torch
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation.intermediate_scores import Reading
from open_set_fer.benchmark.execution.isolation import content_digest, read_only, seeded
from open_set_fer.benchmark.planning.keys import Recipe
from open_set_fer.benchmark.storage.checkpoints import (
    ModelStore,
    read_state,
    shared_output,
    unfinished_path,
    write_state,
)
from open_set_fer.errors import SuiteError, summary
from open_set_fer.methods.contract import ClosedSetModel, OpenSetTask
from open_set_fer.methods.shared.backbones import Network, build_network
from open_set_fer.methods.shared.trained import trained_state
from open_set_fer.methods.shared.training import evaluate, pooled_features, sample_losses, train_closed_set
from open_set_fer.methods.shared.unfinished import Unfinished

T = TypeVar("T")
Progress = Callable[[Iterable[Any], str], Iterator[Any]]
"""Iterates over steps, and shows a description and how many are done."""


class _Lent(ClosedSetModel):
    """The model as a method gets it: it remembers whether the outputs that pseudo-label settings change were read."""

    def __getattribute__(self, name: str) -> Any:
        if name == "test_logits":
            object.__setattr__(self, "was_read", True)
        return super().__getattribute__(name)


class TaskContext:
    """What the method of one cell is lent: implements `methods.contract.Context`."""

    def __init__(
        self, path: Path, recipe: Recipe, seed: int, device: torch.device, progress: Progress, store: ModelStore | None
    ) -> None:
        """`path`: the file of the closed-set model, trained by `recipe` where neither it nor `store` has it."""
        self.backbone = recipe.own_backbone or recipe.backbone
        self.closed_set = recipe.closed_set
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self._progress = progress
        self._recipe, self._seed, self._path, self._store = recipe, seed, path, store
        self._content = ""
        self._network: Network | None = None
        self._outputs: dict[str, NDArray[np.float32]] = {}
        self._lent: _Lent | None = None
        self._lent_logits: NDArray[np.float32] | None = None
        self._reading: Reading | None = None

    @contextmanager
    def lent(
        self, method: str, task: OpenSetTask, lend: Callable[[ClosedSetModel], NDArray[np.float32]], reading: Reading
    ) -> Iterator[None]:
        """Inside, `method` works on the task: global random numbers from the seed, the closed-set model ready.

        lend: the logits (N, K) that the method gets, from the model with its own; not kept, since it knows the truth.
        reading: takes the scores that the method reports while it trains.

        Raises:
            SuiteError: the method wrote to the task's arrays.
        """
        self._reading = reading
        with seeded(self._seed):
            self._content = content_digest(task)
            network = self._trained(task)  # before the method can do anything to its images
            self._lent_logits = read_only(lend(ClosedSetModel(network, self._output("test_logits", task))))
            del lend
            yield
        if content_digest(task) != self._content:
            raise SuiteError(f"method {method!r} wrote to the task's arrays", "let it copy them first")

    def progress(self, steps: Iterable[T], description: str) -> Iterator[T]:
        """Iterate with a progress bar."""
        return self._progress(steps, description)

    def report(self, epoch: int, scores: Callable[[], NDArray[np.floating[Any]]]) -> None:
        """Report the scores of the test images after `epoch` epochs."""
        if self._reading is not None:
            self._reading(epoch, scores)

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

    def features(self, task: OpenSetTask) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pooled features (M, D) and (N, D) of training and test images by the closed-set model, read-only."""
        return self._output("train_features", task), self._output("test_features", task)

    def held_out_features(self, task: OpenSetTask) -> NDArray[np.float32] | None:
        """Pooled features (R, D) of the held-out faces, read-only; None for a task without."""
        return None if task.held_out_images is None else self._output("held_out_features", task)

    def closed_set_model(self, task: OpenSetTask) -> ClosedSetModel:
        """The closed-set model of the task, with the outputs of the cell's pseudo-label setting."""
        if self._lent is None:
            predictions = read_only(self.predictions(task))
            logits = self._output("test_logits", task) if self._lent_logits is None else self._lent_logits
            self._lent = _Lent(copy.deepcopy(self._trained(task)), read_only(logits.copy()), predictions)
        return self._lent

    @property
    def was_read(self) -> bool:
        """Whether the method read the outputs that pseudo-label settings change."""
        return self._lent is not None and getattr(self._lent, "was_read", False)

    def predictions(self, task: OpenSetTask) -> NDArray[np.int64]:
        """(N,) classes that the model itself gives the test images, whatever the method did to it."""
        classes: NDArray[np.int64] = self._output("test_logits", task).argmax(axis=1)
        return classes

    def assigned_labels(self, task: OpenSetTask) -> NDArray[np.int64]:
        """(N,) labels that the method gets: the predictions, changed by the pseudo-label setting."""
        if self._lent_logits is None:
            return self.predictions(task)
        labels: NDArray[np.int64] = self._lent_logits.argmax(axis=1)
        return labels

    def closed_set_loss(self, task: OpenSetTask) -> NDArray[np.float64]:
        """(N,) cross-entropy of the model's own logits against the assigned labels."""
        return sample_losses(self._output("test_logits", task), self.assigned_labels(task))

    def make_closed_set_model(self, task: OpenSetTask) -> None:
        """Have the closed-set model on disk, as a cell would."""
        with seeded(self._seed):
            self._trained(task)

    def _trained(self, task: OpenSetTask) -> Network:
        """The network with its weights from the file, which is fetched or trained if missing."""
        if self._network is None:
            with self.phase("closed_set"):
                network = self._with_state(task)
                self._network = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        return self._network

    def _with_state(self, task: OpenSetTask) -> Network:
        channels = task.train_images.shape[1]
        network = build_network(self._recipe.backbone, len(task.closed_classes), channels, self._seed).to(self.device)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Unfinished(unfinished_path(self._path))
        with filelock.FileLock(f"{self._path}.lock"):
            state = read_state(self._path)
            if state is None and self._store and self._store.fetch(self._path):
                state = read_state(self._path)  # a damaged one is None, and replaced by a newly trained one
            is_new = state is None
            if state is None and self._recipe.closed_set.model:
                write_state(self._path, self._given_state(task), {})
                state = read_state(self._path)
            elif state is None:
                generator = torch.Generator().manual_seed(self._seed)
                curves = train_closed_set(
                    network,
                    task.train_images,
                    task.train_labels,
                    self._recipe.closed_set,
                    generator,
                    self.progress,
                    task.train_votes,
                    unfinished,
                )
                write_state(self._path, network.state_dict(), curves)
                # Always from the file: a first run and a resumed one then compute with the same bytes.
                state = read_state(self._path)
            if state is None:
                raise SuiteError(f"{self._path} cannot be read back", "check the disk that holds --home")
            unfinished.remove()
            if self._store:
                self._store.share(self._path, replace=is_new)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:  # code of a user's that its module's file, whose digest is in the key, imports
            fault = f"{self._path} does not fit backbone {self._recipe.backbone.name!r}: {summary(error)}"
            raise SuiteError(fault, "remove that file: it was trained with other code") from error
        return network

    def _given_state(self, task: OpenSetTask) -> dict[str, torch.Tensor]:
        """The state of the closed-set model that the profile names, for the task's classes."""
        settings = self._recipe.closed_set
        return trained_state(
            settings.model, self._recipe.backbone, settings.classes, task.closed_classes, task.train_images.shape[1]
        )

    def _output(self, name: str, task: OpenSetTask) -> NDArray[np.float32]:
        """An output of the model on the task: from memory, from the file that its cells share, or computed now."""
        if name not in self._outputs:
            network = self._trained(task)

            def compute() -> NDArray[np.float32]:
                if name == "test_logits":
                    return evaluate(network, task.test_images)
                images = {
                    "train_features": task.train_images,
                    "test_features": task.test_images,
                    "held_out_features": task.held_out_images,
                }[name]
                assert images is not None
                return pooled_features(network, images)

            with self.phase("closed_set"):
                place = f"{self._content or content_digest(task)} {self.device.type} {torch.get_num_threads()}"
                values = shared_output(self._path, f"{name} {place}", compute)
            self._outputs[name] = read_only(values)
        return self._outputs[name]
