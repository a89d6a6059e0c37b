"""Reading of foreign checkpoints without executing anything in them.

Formats: safetensors; `torch.save` files of plain tensors (state dict, or a dict with `state_dict`), read with
`weights_only=True`; the VGGFace2 pickle (a latin-1 pickle of a dict of NumPy arrays), read by an unpickler restricted
to NumPy arrays. Keys are torchvision's, with or without a `module.` prefix.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from open_set_fer.console import log
from open_set_fer.errors import SuiteError, summary
from open_set_fer.safe_pickle import read_numpy_pickle

if TYPE_CHECKING:
    from open_set_fer.methods.shared.backbones import Network

LEAST_MATCHED = 0.8
"""Smallest fraction of the network's tensors (without the classifier) that a checkpoint must fill."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint's tensors by name; raises SuiteError for anything but plain tensors."""
    path = Path(path)
    if not path.is_file():
        raise SuiteError(f"no checkpoint {path}", "check the path given as `weights`")
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            content: Any = safetensors.torch.load_file(path)
        elif path.suffix == ".pkl":
            content = read_numpy_pickle(path, "latin1")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has its own exceptions for a foreign file
        # Torch's message on a pickle begins with advice to switch the check off.
        reason = "it holds more than tensors" if "weights_only" in str(error) else summary(error)
        fix = "convert it to safetensors on a machine that trusts it"
        raise SuiteError(f"checkpoint {path} is not a file of plain tensors: {reason}", fix) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise SuiteError(
            f"checkpoint {path} holds {type(content).__name__}, not a dict of tensors", "save a state dict"
        )
    tensors = {
        str(key).removeprefix("module."): _numbers(path, str(key), value)
        for key, value in content.items()
        if isinstance(value, torch.Tensor | np.ndarray)
    }
    if not tensors:
        raise SuiteError(f"checkpoint {path} holds no tensor", "save a state dict")
    return tensors


def _numbers(path: Path, key: str, value: Tensor | NDArray[Any]) -> Tensor:
    """Convert a checkpoint's entry to a dense, finite, real tensor; SuiteError if it is not."""
    kind = str(value.dtype)
    if isinstance(value, torch.Tensor) or value.dtype.kind in "biuf":
        tensor = torch.as_tensor(value)
        if tensor.layout == torch.strided and not tensor.is_complex():
            if tensor.isfinite().all():
                return tensor
            kind = "NaN or infinite values"
        elif tensor.layout != torch.strided:
            kind = "a sparse tensor"
    raise SuiteError(
        f"checkpoint {path}: {key} holds {kind}, not finite real numbers", "save it as a dense float tensor"
    )


def load_weights(network: Network, path: str | Path) -> dict[str, list[str]]:
    """Fill a network from a checkpoint of the model it was cut from, the classifier excepted.

    Returns the matched, missing, misshapen and unexpected keys. Raises SuiteError if less than LEAST_MATCHED of the
    network's tensors match in name and shape.
    """
    tensors = read_checkpoint(path)
    state = network.state_dict()
    names = {source: name for source, name in network.source_names.items() if not name.startswith("fc.")}
    report: dict[str, list[str]] = {
        "matched": [k for k in names if k in tensors and tensors[k].shape == state[names[k]].shape],
        "missing": [k for k in names if k not in tensors],
        "misshapen": [k for k in names if k in tensors and tensors[k].shape != state[names[k]].shape],
        "unexpected": [k for k in tensors if k not in names],
    }
    # Converted checkpoints lack the counters of batches, which do not matter.
    relevant = [k for k in names if not k.endswith("num_batches_tracked")]
    matched = [k for k in report["matched"] if k in relevant]
    first = next(iter(names))  # of other channels, for example: it would stay random below pretrained layers
    if first in report["misshapen"]:
        sizes = f"{tuple(tensors[first].shape)}, the network's {tuple(state[names[first]].shape)}"
        raise SuiteError(f"checkpoint {path}: {first} is {sizes}", "choose a checkpoint for RGB images")
    if len(matched) < LEAST_MATCHED * len(relevant):
        raise SuiteError(
            f"checkpoint {path} fills {len(matched)} of the network's {len(relevant)} tensors; first missing: "
            f"{(report['missing'] + report['misshapen'])[:3]}, first unexpected: {report['unexpected'][:3]}",
            "choose the backbone of the checkpoint",
        )
    counts = ", ".join(f"{len(keys)} {kind}" for kind, keys in report.items())
    log.info("weights %s: %s%s", path, counts, f" (missing: {report['missing'][:3]} ...)" if report["missing"] else "")
    network.load_state_dict({names[k]: tensors[k].to(state[names[k]].dtype) for k in report["matched"]}, strict=False)
    return report
