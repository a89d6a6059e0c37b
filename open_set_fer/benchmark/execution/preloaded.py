"""Imports of the server that forks the cells' processes: what a cell needs, without any state of a run."""

import contextlib
import importlib

import matplotlib.backends.backend_agg
import matplotlib.pyplot
import pyarrow.pandas_compat
import pyarrow.parquet
import scipy.stats
import sklearn.metrics
import torch.optim

from open_set_fer.benchmark.execution import devices, task_run, worker
from open_set_fer.methods.shared import learners

with contextlib.suppress(ImportError):  # optional; over a second for each cell of a post-hoc detector otherwise
    importlib.import_module("pytorch_ood.detector")

__all__ = ["devices", "learners", "matplotlib", "pyarrow", "scipy", "sklearn", "task_run", "torch", "worker"]
