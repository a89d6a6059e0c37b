"""Reading of pickles of plain containers and NumPy arrays, without executing anything else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

_NUMPY_ONLY = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


class _NumpyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NUMPY_ONLY:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not a NumPy array")
        return super().find_class(module, name)


def read_numpy_pickle(path: Path) -> Any:
    """Read a pickle, of Python 2 too; raises UnpicklingError if it holds more than containers and NumPy arrays."""
    with path.open("rb") as file:
        return _NumpyUnpickler(file, encoding="latin1").load()
