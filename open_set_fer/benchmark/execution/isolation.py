"""State of a cell's process: random numbers, threads and the task's arrays."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import threadpoolctl
import torch
from numpy.typing import NDArray

from open_set_fer.methods.contract import OpenSetTask

T = TypeVar("T", bound=np.generic)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside: global random numbers of Python, NumPy and torch from `seed` (0..2^32-1). Afterwards: the former ones.

    BLAS libraries (NumPy, SciPy) get as many threads as torch: the number of threads changes the order of sums.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a method may draw from it
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(gpus), threadpoolctl.threadpool_limits(torch.get_num_threads(), user_api="blas"):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def read_only(array: NDArray[T]) -> NDArray[T]:
    """The same array, to which NumPy does not write."""
    array.flags.writeable = False
    return array


def content_digest(task: OpenSetTask) -> str:
    """SHA-256 of a task's arrays. Read-only flags stop NumPy; a tensor over the same memory can still be written to."""
    content = hashlib.sha256()
    for array in task.arrays:
        for start in range(0, len(array), 4096):  # a piece at a time: the array may be a file's memory map
            content.update(np.ascontiguousarray(array[start : start + 4096]).data)
    return content.hexdigest()
