"""Reading of foreign checkpoints without executing anything in them.

Formats: safetensors; `torch.save` files of tensors in dicts, however nested, read with `weights_only=True`; the
VGGFace2 pickle (a latin-1 pickle of a dict of NumPy arrays), read by an unpickler restricted to NumPy arrays. A
network is found in one below any wrapper or prefix (`state_dict.module.`, `backbone.`), by the names of `_schemes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from open_set_fer.console import log
from open_set_fer.errors import SuiteError, some, summary
from open_set_fer.files import package_file
from open_set_fer.safe_pickle import read_numpy_pickle

if TYPE_CHECKING:
    from open_set_fer.methods.shared.network import Network

COUNTER = "num_batches_tracked"
"""Converted checkpoints lack the counters of batches, which do not matter."""


def read_checkpoint(path: str | Path, setting: str = "weights") -> dict[str, Tensor | NDArray[Any]]:
    """Read a checkpoint's tensors, those of nested dicts by dotted names; SuiteError for anything but plain tensors.

    setting: that names the path, for errors.
    """
    path = package_file(str(path))
    if not path.is_file():
        raise SuiteError(f"no checkpoint {path}", f"check the path given as `{setting}`")
    if text := _text_of(path):
        fix = "download the checkpoint again; where a browser shows a page first, save what its button gives"
        raise SuiteError(f"checkpoint {path} is a text or a web page, not a file of plain tensors: {text!r}", fix)
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            content: Any = safetensors.torch.load_file(path)
        elif path.suffix == ".pkl":
            content = read_numpy_pickle(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has its own exceptions for a foreign file
        reason, fix = _unread(path, error)
        raise SuiteError(f"checkpoint {path} is not a file of plain tensors: {reason}", fix) from error
    if not isinstance(content, dict):
        raise SuiteError(
            f"checkpoint {path} holds {type(content).__name__}, not a dict of tensors", "save a state dict"
        )
    tensors = dict(_flat(content))
    if not tensors:
        raise SuiteError(f"checkpoint {path} holds no tensor", "save a state dict")
    return tensors


def _text_of(path: Path) -> str:
    """Start of a text file (a web page, an answer in JSON, a Git LFS pointer); '' for any other file."""
    with path.open("rb") as file:
        start = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    words = " ".join(text.split())
    is_text = words.startswith(("<", "{", "version https://git-lfs")) or (" " in words and words.isprintable())
    return words[:60] if is_text and words.isprintable() else ""


def _unread(path: Path, error: Exception) -> tuple[str, str]:
    """Reason and fix of a file that its reader refused."""
    if "weights_only" not in str(error):
        return summary(error), "download or copy it again: it is cut short, or no checkpoint"
    # Torch's message on a pickle begins with advice to switch the check off.
    try:
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # of the old format, which has no list of them
        asked = []
    more = f" ({some(sorted(asked))})" if asked else ""
    fix = "save its state dict alone as safetensors, on a machine that trusts it"
    return f"it holds more than tensors{more}", fix


def _flat(content: dict[Any, Any], before: str = "") -> Iterator[tuple[str, Tensor | NDArray[Any]]]:
    """Tensors of nested dicts; dicts with numbers as keys, as the state of an optimizer has, are left out."""
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, torch.Tensor | np.ndarray):
            yield before + key, value


def _numbers(path: str | Path, key: str, value: Tensor | NDArray[Any]) -> Tensor:
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


class Place(NamedTuple):
    """A network's tensors in a checkpoint.

    prefix: of their names there. names: the network's own name of each, by the name behind the prefix. matched,
    missing, misshapen, unexpected: names behind the prefix; an unexpected tensor is of a module that the network has.
    others: further tensors behind the prefix, such as the classifier's.
    """

    prefix: str
    names: dict[str, str]
    matched: list[str]
    missing: list[str]
    misshapen: list[str]
    unexpected: list[str]
    others: list[str]

    @property
    def fits(self) -> bool:
        return not (self.misshapen or self.unexpected or any(not name.endswith(COUNTER) for name in self.missing))


def _schemes(network: Network) -> list[dict[str, str]]:
    """Own names of a network's tensors (without the classifier) by those of each way of naming.

    Those of the model it was cut from; for a ResNet those of `nn.Sequential(*resnet.children())`; for an EfficientNet
    of timm those of TensorFlow's ports (`_efficientnet_names`); its own.
    """
    source = {name: own for name, own in network.source_names.items() if not own.startswith("fc.")}
    schemes = [source, {name: name for name in network.state_dict() if not name.startswith("fc.")}]
    if "layer1.0.conv1.weight" in source:
        child = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
        parts = {name: name.partition(".") for name in source}
        schemes.insert(1, {f"{child[part]}.{rest}": source[name] for name, (part, _, rest) in parts.items()})
    if "blocks.0.0.conv_dw.weight" in source:
        schemes.insert(1, _efficientnet_names(source))
    return [scheme for scheme in schemes if scheme]


def _efficientnet_names(source: dict[str, str]) -> dict[str, str]:
    """Own names by those of TensorFlow's ports (`_blocks.3._depthwise_conv`), from those by timm's (`blocks.2.0`).

    Ports count blocks through all stages, and batch norms from the expansion, which the first blocks lack.
    """
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    expanded = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    expanded |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    squeeze = {"conv_reduce": "_se_reduce", "conv_expand": "_se_expand"}
    parts = {name: re.fullmatch(r"(blocks\.\d+\.\d+)\.(?:se\.)?(\w+)\.(\w+)", name) for name in source}
    blocks = list(dict.fromkeys(part[1] for part in parts.values() if part))
    names = {}
    for name, part in parts.items():
        if part is None:
            layer, _, rest = name.partition(".")
            names[f"{outer.get(layer, layer)}.{rest}"] = source[name]
        else:
            layers = squeeze | (expanded if f"{part[1]}.conv_pwl.weight" in source else plain)
            names[f"_blocks.{blocks.index(part[1])}.{layers.get(part[2], part[2])}.{part[3]}"] = source[name]
    return names


def _places(network: Network, tensors: dict[str, Tensor | NDArray[Any]]) -> list[Place]:
    """Every place where the network may lie, the one with most matching tensors first."""
    places, state = [], network.state_dict()
    for names in _schemes(network):
        first = next(iter(names))
        prefixes = {key.removesuffix(first) for key in tensors if key == first or key.endswith(f".{first}")}
        for prefix in sorted(prefixes) or [""]:
            behind = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
            there = [name for name in names if name in behind]
            matched = [name for name in there if tuple(behind[name].shape) == tuple(state[names[name]].shape)]
            modules = {name.partition(".")[0] for name in names}
            more = [name for name in behind if name not in names]
            unexpected = [name for name in more if _is_of(name.partition(".")[0], modules)]
            place = Place(
                prefix=prefix,
                names=names,
                matched=matched,
                missing=[name for name in names if name not in behind],
                misshapen=[name for name in there if name not in matched],
                unexpected=unexpected,
                others=[name for name in more if name not in unexpected],
            )
            places.append(place)
    return sorted(places, key=lambda place: -len(place.matched))


def _same(tensors: dict[str, Tensor | NDArray[Any]], one: Place, other: Place) -> bool:
    """Whether two places hold equal numbers."""
    return one.names == other.names and all(
        np.array_equal(np.asarray(tensors[one.prefix + name]), np.asarray(tensors[other.prefix + name]))
        for name in one.matched
    )


def _is_of(module: str, modules: set[str]) -> bool:
    """Whether a module is one of the network's, or would be its next stage."""
    stem = module.rstrip("0123456789")
    return module in modules or (stem != "" and stem != module and any(other.startswith(stem) for other in modules))


def find_network(network: Network, path: str | Path, tensors: dict[str, Tensor | NDArray[Any]]) -> Place:
    """Place of a ResNet's tensors in a checkpoint, under whatever prefix.

    Raises SuiteError unless every tensor of the network, its classifier excepted, is there in its shape, no other
    tensor belongs to its modules (a deeper network has such), and one place alone has them.
    """
    state = network.state_dict()
    places = _places(network, tensors)
    best = places[0]
    fitting = [place for place in places if place.fits]
    if len(fitting) > 1 and not all(_same(tensors, fitting[0], other) for other in fitting[1:]):
        where = " and ".join(repr(place.prefix) for place in fitting)
        raise SuiteError(
            f"checkpoint {path} holds the network {len(fitting)} times, as {where}",
            "save the state dict that is meant alone",
        )
    if fitting:
        return fitting[0]
    first = next(iter(best.names))  # of other channels, for example: it would stay random below pretrained layers
    if first in best.misshapen:
        sizes = f"{tuple(tensors[best.prefix + first].shape)}, the network's {tuple(state[best.names[first]].shape)}"
        raise SuiteError(f"checkpoint {path}: {first} is {sizes}", "choose a checkpoint for RGB images")
    relevant = [name for name in best.names if not name.endswith(COUNTER)]
    lacking = [name for name in best.missing + best.misshapen if not name.endswith(COUNTER)]
    fault = f"fills {len(relevant) - len(lacking)} of the network's {len(relevant)} tensors"
    missing = [f"first missing: {lacking[:3]}"] if lacking else []
    further = best.unexpected or [key for key in tensors if not key.startswith(best.prefix)]
    more = [f"{len(further)} that the network lacks, first unexpected: {further[:3]}"] if further else []
    raise SuiteError(
        f"checkpoint {path} {'; '.join([fault, *missing, *more])}", "choose the backbone of the checkpoint"
    )


def load_weights(network: Network, path: str | Path) -> Place:
    """Fill a ResNet (`backbones.Network`) from a checkpoint, its classifier excepted; SuiteError as `find_network`."""
    place, numbers = check_checkpoint(network, path)
    state = network.state_dict()
    where = f" under {place.prefix!r}" if place.prefix else ""
    others = f", {len(place.others)} not used: {some(place.others)}" if place.others else ""
    log.info("weights %s: %d tensors%s%s", path, len(numbers), where, others)
    filled = {place.names[name]: tensor.to(state[place.names[name]].dtype) for name, tensor in numbers.items()}
    network.load_state_dict(filled, strict=False)
    return place


def check_checkpoint(network: Network, path: str | Path) -> tuple[Place, dict[str, Tensor]]:
    """Place of the network and its tensors by the names there; SuiteError if they do not fit."""
    tensors = read_checkpoint(path)
    place = find_network(network, path, tensors)
    return place, {name: _numbers(path, place.prefix + name, tensors[place.prefix + name]) for name in place.matched}


def by_own_name(network: Network, path: str | Path, tensors: dict[str, Tensor | NDArray[Any]]) -> dict[str, Tensor]:
    """A checkpoint's tensors, the classifier's too, by the network's names, below whatever prefix; for `trained.py`."""
    place = _places(network, tensors)[0]
    head = {name: own for name, own in network.source_names.items() if own.startswith("fc.")}
    names = place.names | {own: own for own in head.values()} | head
    there = {name: own for name, own in names.items() if place.prefix + name in tensors}
    return {own: _numbers(path, place.prefix + name, tensors[place.prefix + name]) for name, own in there.items()}
