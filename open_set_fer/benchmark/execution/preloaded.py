"""Imports of the server that forks the cells' processes: what a cell needs, without any state of a run."""

import matplotlib.backends.backend_agg
import pyarrow.parquet
import scipy.stats
import sklearn.metrics
import torch.optim

from open_set_fer.benchmark.execution import devices, task_run
from open_set_fer.methods.shared import learners

__all__ = ["devices", "learners", "matplotlib", "pyarrow", "scipy", "sklearn", "task_run", "torch"]
