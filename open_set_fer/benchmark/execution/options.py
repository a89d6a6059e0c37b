"""How cells are run: what changes no cell's key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RunOptions:
    """How and where cells are computed, and what is kept beside their scores.

    device: 'auto', 'cpu', 'cuda', 'cuda:1'. threads: CPU threads of each cell (None: see `jobs`).
    jobs: cells at once; None for one with torch's own number of threads, 0 for as many as a Ray cluster has room for.
    cell_timeout: seconds, after which a cell is ended and fails.
    backend, address, gpus: 'local', or 'ray' with the cluster's address and the GPUs of each cell.
    store: fsspec URL where closed-set models are shared with other homes.
    keep_features: keep the features of each cell's network on its test faces.
    keep_models: keep each cell's fitted scorer.
    allow_face_artifacts: log pictures of faces of every data set, not of the rendered ones alone.
    """

    device: str = "auto"
    threads: int | None = None
    jobs: int | None = None
    cell_timeout: float | None = None
    backend: Literal["local", "ray"] = "local"
    address: str = ""
    gpus: float = 0.0
    store: str = ""
    keep_features: bool = False
    keep_models: bool = False
    allow_face_artifacts: bool = False
