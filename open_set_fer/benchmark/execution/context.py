"""The shared closed-set models: trained once per key, kept as safetensors, and the context that lends them to methods."""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import filelock
import numpy as np
import torch
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation.intermediate_scores import Reading
from open_set_fer.benchmark.execution.isolation import ProcessState, content_digest, isolated
from open_set_fer.benchmark.planning.keys import Recipe
from open_set_fer.benchmark.storage.checkpoints import read_state, write_state
from open_set_fer.benchmark.storage.model_store import ModelStore
from open_set_fer.console import track
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import ClosedSetModel, OpenSetTask
from open_set_fer.methods.shared.backbones import Network, build_network
from open_set_fer.methods.shared.training import evaluate, pooled_features, train_closed_set

if TYPE_CHECKING:
    pass

T = TypeVar("T")


class _Lent(ClosedSetModel):
    """The model as a cell gets it: it remembers whether the outputs that follow the label regime were read."""

    def __getattribute__(self, name: str) -> Any:
        if name == "test_logits":
            object.__setattr__(self, "was_read", True)
        return super().__getattribute__(name)


class TaskContext:
    """What the methods of one task share: implements `methods.contract.Context`.

    One object serves every method of a (data set, protocol, seed); `cell()` gives each fresh random numbers, clocks and
    process-wide state and its own copy of the network, so that no method's result depends on which ran before it.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        store: ModelStore | None = None,
    ) -> None:
        """`path`: the file of the closed-set model, trained by `recipe` where neither it nor `store` has it."""
        self.backbone = recipe.backbone  # for the method's own networks: a cell may set another
        self._backbone = recipe.backbone
        self.device = device
        self.generator = torch.Generator()
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self._settings = recipe.closed_set
        self._seed = seed
        self._path = path
        self._store = store
        self._model: ClosedSetModel | None = None
        self._lent: _Lent | None = None
        self._lent_logits: NDArray[np.float32] | None = None
        self._features: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self._reading: Reading | None = None
        self._state = ProcessState()
        self._content = ""

    @contextmanager
    def cell(
        self,
        method: str,
        task: OpenSetTask,
        lend: Callable[[ClosedSetModel], NDArray[np.float32]] | None = None,
        reading: Reading | None = None,
    ) -> Iterator[None]:
        """A cell of `method`: random numbers from the seed alone (variants of a method stay comparable), fresh clocks.

        lend: the logits (N, K) that methods get, from the model with its own; asked once, and not kept: it knows the truth.
        reading: what becomes of the scores that the method reports while it trains.

        Raises SuiteError when the method wrote to the task's arrays. They are spoilt then: make another task.
        """
        self.generator = torch.Generator().manual_seed(self._seed)
        self.seconds, self.peak_mib = {}, {}
        self._lent = None
        self._reading = reading
        with isolated(self._state, self._seed):
            self._content = self._content or content_digest(task)
            model = self._trained(task)  # before the method can do anything to its images
            if self._lent_logits is None:
                self._lent_logits = _read_only(lend(model) if lend else model.test_logits)
            del lend
            yield
        if content_digest(task) != self._content:
            raise SuiteError(
                f"method {method!r} wrote to the task's arrays, which other methods share", "let it copy them first"
            )

    def report(self, epoch: int, scores: Callable[[], NDArray[np.floating[Any]]]) -> None:
        """The scores of the test images after `epoch` epochs, for whoever reads them."""
        if self._reading is not None:
            self._reading(epoch, scores)

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

    def features(self, task: OpenSetTask) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pooled features (M, D) and (N, D) of training and test images by the model itself, read-only; computed once."""
        if self._features is None:
            network = self._trained(task).network
            train, test = (_read_only(pooled_features(network, x)) for x in (task.train_images, task.test_images))
            self._features = train, test
        return self._features

    def closed_set_model(self, task: OpenSetTask) -> ClosedSetModel:
        """The closed-set model of the task; the network is this cell's own copy."""
        if self._lent is None:
            model = self._trained(task)
            logits = model.test_logits if self._lent_logits is None else self._lent_logits
            answers = model.pseudo_labels
            answers.flags.writeable = False
            self._lent = _Lent(copy.deepcopy(model.network), _read_only(logits.copy()), answers)
        return self._lent

    @property
    def was_read(self) -> bool:
        """Whether this cell's method read the outputs that follow the label regime."""
        return self._lent is not None and getattr(self._lent, "was_read", False)

    def answers(self, task: OpenSetTask) -> NDArray[np.int64]:
        """(N,) classes that the model itself gives the test images, whatever a method did to its copy."""
        return self._trained(task).pseudo_labels

    def given_labels(self, task: OpenSetTask) -> NDArray[np.int64]:
        """(N,) the labels that this task's methods get: the answers, but for what the label regime changes."""
        if self._lent_logits is None:
            return self.answers(task)
        labels: NDArray[np.int64] = self._lent_logits.argmax(axis=1)
        return labels

    def _trained(self, task: OpenSetTask) -> ClosedSetModel:
        """From memory, from the store, or trained now."""
        if self._model is None:
            with self.phase("closed_set"):
                self._model = self._load_or_train(task)
        return self._model

    def make_closed_set_model(self, task: OpenSetTask) -> None:
        """Have the closed-set model on disk, as a cell would."""
        with isolated(self._state, self._seed):
            self._with_state(task)

    def _load_or_train(self, task: OpenSetTask) -> ClosedSetModel:
        network = self._with_state(task).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        return ClosedSetModel(network, evaluate(network, task.test_images))

    def _with_state(self, task: OpenSetTask) -> Network:
        """The network with its weights from the file, which is fetched or trained where it is not there."""
        channels = task.train_images.shape[1]
        network = build_network(self._backbone, len(task.closed_classes), channels, self._seed).to(self.device)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{self._path}.lock"):
            state = read_state(self._path)
            if state is None and self._store and self._store.fetch(self._path):
                state = read_state(self._path)  # a damaged one is None, and replaced by what is trained now
            is_new = state is None
            if state is None:
                generator = torch.Generator().manual_seed(self._seed)
                curves = train_closed_set(
                    network,
                    task.train_images,
                    task.train_labels,
                    self._settings,
                    generator,
                    self.progress,
                    task.train_votes,
                )
                write_state(self._path, network.state_dict(), curves)
                # Always from the file: a first run and a resumed one then compute with the same bytes.
                state = read_state(self._path)
            if state is None:
                raise SuiteError(f"{self._path} cannot be read back", "check the disk that holds --home")
            if self._store:
                self._store.share(self._path, replace=is_new)
        network.load_state_dict(state)
        return network


def _read_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    array.flags.writeable = False
    return array
