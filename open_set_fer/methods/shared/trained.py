"""Closed-set models trained elsewhere: a checkpoint's tensors and the rows of its head for the closed classes."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from open_set_fer.errors import SuiteError, some
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.recipe import BackboneSettings
from open_set_fer.methods.shared.weights import by_own_name, read_checkpoint
from open_set_fer.plugins import nearest

HEAD = ("fc.weight", "fc.bias")


def trained_state(
    path: str | Path, backbone: BackboneSettings, classes: tuple[str, ...], closed: tuple[str, ...], channels: int
) -> dict[str, Tensor]:
    """State dict of a network with `closed` as outputs, from a model with `classes` as outputs.

    Raises SuiteError for a class that the model lacks, and for any tensor that is missing or of another shape.
    """
    lacking = [name for name in closed if name not in classes]
    if lacking or len(set(classes)) < len(classes):
        fault = f"no {', '.join(lacking)}{nearest(lacking[0], classes)}" if lacking else "a class twice"
        fix = "name the model's classes, in the order of its outputs, as the data set calls them"
        raise SuiteError(f"closed_set.classes: {fault} among {', '.join(classes)}", fix)
    tensors = read_checkpoint(path, "closed_set.model")
    network = build_network(backbone, len(classes), channels, 0)
    state = network.state_dict()
    expected = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    found = by_own_name(network, path, tensors)
    missing = [name for name in expected if name not in found]
    odd = [name for name in expected if name in found and found[name].shape != expected[name].shape]
    if heads := [name for name in odd if name in HEAD and found[name].shape[:1] != (len(classes),)]:
        fault = f"its head has {len(found[heads[0]])} outputs, closed_set.classes names {len(classes)}"
        raise SuiteError(f"model {path}: {fault}", "name one class an output, in their order")
    if missing or odd:
        texts = [f"{len(missing)} missing ({some(missing)})"] * bool(missing)
        texts += [f"{len(odd)} of another shape ({some(odd)})"] * bool(odd)
        fault = f"of {len(expected)} tensors of backbone {backbone.name!r} {' and '.join(texts)}"
        raise SuiteError(
            f"model {path} does not fit: {fault}; the file's first: {some(list(tensors))}",
            "set the [backbone] that the model was trained with",
        )
    state |= {name: found[name].to(expected[name].dtype) for name in expected}
    rows = [classes.index(name) for name in closed]
    return state | {name: state[name][rows] for name in HEAD}
