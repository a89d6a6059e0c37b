"""Files of closed-set models and of their outputs, safetensors with a digest, and the store that homes share."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from open_set_fer.benchmark.storage.connection import public_address
from open_set_fer.benchmark.storage.detectors import Source, describe_scorer, write_detector
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, summary
from open_set_fer.files import write_whole
from open_set_fer.methods.baseline import Baseline
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.scorers import ConfidenceScorer

if TYPE_CHECKING:
    from open_set_fer.benchmark.planning.cells import Cell
    from open_set_fer.datasets.faceset import FaceSet


def closed_set_path(home: Path, cell: Cell) -> Path:
    """The file of the cell's closed-set model."""
    return home / "closed_set" / f"{cell.closed_set_key}.safetensors"


def unfinished_path(path: Path) -> Path:
    """The file of the training that will make the closed-set model `path`."""
    return path.with_suffix(".unfinished")


def write_state(path: Path, state: dict[str, Tensor], curves: dict[str, list[float]]) -> None:
    """A state dict as safetensors with its curves and digest, on the disk before it has its name."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    written = json.dumps(curves)
    write_whole(path, safetensors.torch.save(tensors, {"curves": written, "sha256": _digest(tensors, written)}))


def read_state(path: Path) -> dict[str, Tensor] | None:
    """The state dict of a file made by `write_state`, or None for no such file.

    A damaged file is set aside as `<name>.damaged` and named in the log: None, too.
    """
    path.with_suffix(".new").unlink(missing_ok=True)  # of a process that died while it wrote
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        if metadata.get("sha256") == _digest(tensors, metadata.get("curves", "")):
            return tensors
        reason = "its content does not have the digest it was written with"
    except (safetensors.SafetensorError, ValueError) as error:
        reason = str(error)
    aside = path.with_suffix(".damaged")
    os.replace(path, aside)
    log.warning("%s is damaged (%s): kept as %s, computing it again", path, reason, aside.name)
    return None


def _digest(tensors: dict[str, Tensor], curves: str) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, and the curves."""
    content = hashlib.sha256(curves.encode())
    for name, tensor in sorted(tensors.items()):
        array = tensor.numpy()
        content.update(f"{name} {array.dtype} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def shared_output(path: Path, name: str, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """An output of the closed-set model in the file `path`, computed once and kept for the other cells of the model.

    name: everything that the output depends on besides the model: what it is, the images, device and threads.
    """
    folder = path.parent / "outputs"
    folder.mkdir(exist_ok=True)
    kept = folder / f"{path.stem[:32]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"
    with filelock.FileLock(f"{kept}.lock"):
        state = read_state(kept)
        if state is None:
            write_state(kept, {"output": torch.from_numpy(compute())}, {})
            state = read_state(kept)
    if state is None:
        raise SuiteError(f"{kept} cannot be read back", "check the disk that holds --home")
    return state["output"].numpy().copy()  # not the file's memory


def kept_closed_set(home: Path, cell: Cell, faces: FaceSet) -> Path:
    """A closed-set model as a detector's folder, beside its file and made once: its unknown score is the baseline's.

    Raises SuiteError where its file is not in this home.
    """
    path = closed_set_path(home, cell)
    folder = path.with_suffix(".model")
    with filelock.FileLock(f"{path}.lock"):
        if folder.is_dir():
            return folder
        state = read_state(path)
        if state is None:
            fix = "run where it was trained, or share closed-set models with --store"
            raise SuiteError(f"{path} is not there", fix)
        classes, shape = cell.protocol.closed, faces.images.shape[1:]
        network = build_network(cell.recipe.backbone, len(classes), shape[0], cell.seed)
        network.load_state_dict(state)
        scorer = ConfidenceScorer({"classifier": network}, settings={"score": "msp"})
        source = Source.of(cell, faces, cell.closed_set_key)
        write_detector(folder, describe_scorer(scorer, Baseline(), "closed-set", classes, shape, source), scorer)
    return folder


class ModelStore:
    """Files by name under one URL. A store that does not answer costs a warning: models are trained here then."""

    def __init__(self, url: str) -> None:
        """SuiteError: fsspec knows no such kind of address, or lacks the package for it."""
        import fsspec

        self.name = public_address(url)
        try:
            self._files, self._folder = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            fix = "an fsspec URL such as s3://bucket/models (pip install s3fs) or file:///shared/models"
            raise SuiteError(f"--store {self.name} cannot be used: {summary(error)}", fix) from error

    def fetch(self, path: Path) -> bool:
        """Copy the stored file of this name to `path`, whole or not at all; False for no such file."""
        try:
            content = self._files.cat_file(f"{self._folder}/{path.name}")
        except FileNotFoundError:
            return False
        except Exception as error:  # each kind of store has its own
            log.warning("the store %s does not give %s: %s", self.name, path.name, summary(error))
            return False
        write_whole(path, content)
        return True

    def share(self, path: Path, replace: bool = False) -> None:
        """Copy `path` into the store, visible once it is whole, where it is not there yet or to be replaced."""
        target = f"{self._folder}/{path.name}"
        try:
            if not replace and self._files.exists(target):
                return
            self._files.makedirs(self._folder, exist_ok=True)
            with self._files.transaction, self._files.open(target, "wb") as file:
                file.write(path.read_bytes())
        except Exception as error:
            log.warning("the store %s does not take %s: %s", self.name, path.name, summary(error))
