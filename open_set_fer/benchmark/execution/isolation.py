"""What a cell must not inherit from the one before it: process-wide state of Python, NumPy and torch, and the task's arrays."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import threadpoolctl
import torch

from open_set_fer.methods.contract import OpenSetTask


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    if value != _deterministic():  # torch imports its compiler for this: seconds
        torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _set_environment(value: dict[str, str]) -> None:
    for name in os.environ.keys() - value.keys():
        del os.environ[name]
    os.environ.update(value)


def _cudnn() -> tuple[bool, bool, bool]:
    flags = torch.backends.cudnn
    return flags.benchmark, flags.deterministic, flags.allow_tf32


def _set_cudnn(value: tuple[bool, bool, bool]) -> None:
    flags = torch.backends.cudnn
    flags.benchmark, flags.deterministic, flags.allow_tf32 = value


_SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (_deterministic, _set_deterministic),
    (_cudnn, _set_cudnn),
    (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
    (lambda: torch.is_autocast_enabled("cuda"), lambda on: torch.set_autocast_enabled("cuda", on)),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    (np.geterr, lambda value: np.seterr(**value)),
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (os.getcwd, os.chdir),
    (lambda: dict(os.environ), _set_environment),
)
"""Readers and writers of the process-wide state that changes a method's numbers, or where it reads and writes."""


class ProcessState:
    """The process-wide state at the time of its making."""

    def __init__(self) -> None:
        self._values = [read() for read, _ in _SWITCHES]

    def restore(self) -> None:
        """Set everything back to what it was."""
        for (_, write), value in zip(_SWITCHES, self._values, strict=True):
            write(value)
        torch.set_default_device(None)  # the suite never has one
        torch.set_flush_denormal(False)  # torch's own start, which it cannot be asked for


@lru_cache(1)
def _libraries(modules: int) -> threadpoolctl.ThreadpoolController:
    """The numeric libraries of this process: looked for again, which takes 3 ms, once more modules are imported."""
    return threadpoolctl.ThreadpoolController()


@contextmanager
def isolated(state: ProcessState, seed: int) -> Iterator[None]:
    """Inside: `state`, gradients on, global random numbers from `seed` (0..2^32-1). Afterwards: what was before.

    BLAS libraries (NumPy, SciPy) get as many threads as torch: the number of threads changes the order of sums.
    """
    before = ProcessState()
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.random.fork_rng(gpus))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.callback(before.restore)
        state.restore()
        libraries = _libraries(len(sys.modules))
        stack.enter_context(libraries.limit(limits=torch.get_num_threads(), user_api="blas"))
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - a method may draw from the global generator
        torch.manual_seed(seed)
        yield


def content_digest(task: OpenSetTask) -> str:
    """SHA-256 of a task's arrays. Read-only flags stop NumPy; a tensor over the same memory can still be written to."""
    content = hashlib.sha256()
    for array in task.arrays:
        for start in range(0, len(array), 4096):  # a piece at a time: the array may be a file's memory map
            content.update(np.ascontiguousarray(array[start : start + 4096]).data)
    return content.hexdigest()
