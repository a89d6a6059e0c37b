"""A card without a card: tensors on `cuda` are PyTorch's fake ones, with their values beside them on the CPU.

A fake tensor knows its device and refuses, as a card would, an operation on tensors of two devices; it has no values.
Here each fake tensor carries them, so that a method runs to its end: branches on numbers included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
REAL_GENERATOR, HIGHEST_BIT = torch.Generator, 2**63
ENGINES_GRAD = torch.autograd.grad
INDEXING = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_unsafe_index")


class WrongDevice(AssertionError):
    """What a fake tensor lets pass and a card does not."""


class Generator(torch.Generator):
    """torch.Generator that may be the card's: a CPU generator whose seed has the highest bit set.

    Operations get another object for the same generator, so that an attribute would be lost.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.on_card = torch.device(device).type == "cuda"
        self.manual_seed(0)

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls)

    def manual_seed(self, seed: int) -> Generator:
        super().manual_seed(seed + HIGHEST_BIT * self.on_card)
        return self


class Card(TorchDispatchMode):
    """Computes each operation on fake tensors for the devices, and on the CPU for the values."""

    def __init__(self, fakes: FakeTensorMode) -> None:
        super().__init__()
        self.fakes, self.operations = fakes, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else CPU
        given = args, kwargs or {}
        leaves = tree_leaves(given)
        values, named = tree_map(_value, given)
        with unset_fake_temporarily():
            computed = func(*values, **named)
        if not any(isinstance(leaf, FakeTensor) or _is_card(leaf) for leaf in leaves):
            return computed
        self.operations += 1
        if func is torch.ops.aten._local_scalar_dense.default:
            return computed
        _check(func, args, leaves)
        faked, as_named = tree_map(self._fake, given)
        with self.fakes:
            try:
                fake = func(*faked, **as_named)
            except DynamicOutputShapeException:  # the shape depends on the values
                device = next(leaf.device for leaf in leaves if isinstance(leaf, FakeTensor))
                fake = tree_map(lambda value: self.fakes.from_tensor(value).to(device), computed)
        return tree_map(_joined, fake, computed)

    def _fake(self, leaf: Any) -> Any:
        is_real = isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor)
        return self.fakes.from_tensor(leaf) if is_real else leaf


def _is_card(leaf: Any) -> bool:
    return isinstance(leaf, torch.device) and leaf.type == "cuda"


def _value(leaf: Any) -> Any:
    if isinstance(leaf, FakeTensor):
        return leaf.value
    return CPU if _is_card(leaf) else leaf


def _joined(fake: Any, computed: Any) -> Any:
    """The fake tensor with its value where it is on the card; else the value alone."""
    if not isinstance(fake, FakeTensor) or fake.device.type == "cpu":
        return computed
    # Batch norm in evaluation mode has statistics of another shape, which nothing reads.
    assert fake.dtype == computed.dtype
    assert fake.shape == computed.shape or computed.numel() == 0
    fake.value = computed
    return fake


def _check(func: Any, args: Any, leaves: list[Any]) -> None:
    """Raise WrongDevice for what fake tensors let pass: a CPU tensor indexed by the card's, another's generator."""
    if func._schema.name in INDEXING and args[0].device.type == "cpu":
        raise WrongDevice(f"{func}: a tensor on the CPU is indexed by one on the card")
    for leaf in leaves:
        if isinstance(leaf, REAL_GENERATOR) and leaf.initial_seed() < HIGHEST_BIT:
            raise WrongDevice(f"{func}: tensor and generator are on two devices")


def _apply(module: nn.Module, change: Any, recurse: bool = True) -> nn.Module:
    """nn.Module._apply with new parameters: the values of a fake tensor cannot be exchanged in place."""
    for child in module.children():
        child._apply(change)
    for name, tensor in module._parameters.items():
        if tensor is not None:
            module._parameters[name] = nn.Parameter(change(tensor.detach()), tensor.requires_grad)
    for name, tensor in module._buffers.items():
        if tensor is not None:
            module._buffers[name] = change(tensor)
    return module


def _gradients(root: Tensor, wanted: list[Tensor] | None) -> list[Tensor | None]:
    """Walk the graph as PyTorch's engine does, which has no queue for a card that is not there.

    wanted: tensors whose gradients are returned; None: gradients accumulate in the leaves.
    """
    edges = [torch.autograd.graph.get_gradient_edge(tensor) for tensor in wanted or []]
    order: list[Any] = []
    seen: set[Any] = set()

    def visit(node: Any) -> None:
        seen.add(node)
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                visit(child)
        order.append(node)

    inputs: dict[Any, list[Tensor | None]] = {}

    def add(node: Any, place: int, gradient: Tensor | None) -> None:
        given = inputs.setdefault(node, [])
        given += [None] * (place + 1 - len(given))
        if gradient is not None:
            expected = node._input_metadata[place]
            if gradient.device != expected.device and gradient.dim():
                raise WrongDevice(f"{node}: a gradient on {gradient.device}, expected on {expected.device}")
            gradient = gradient.sum_to_size(expected.shape).to(expected.dtype)
            given[place] = gradient if given[place] is None else given[place] + gradient

    found: list[Tensor | None] = [None] * len(edges)
    start = torch.autograd.graph.get_gradient_edge(root)
    add(start.node, start.output_nr, torch.ones_like(root))
    visit(start.node)
    for node in reversed(order):
        given = inputs.pop(node, [])
        for index, edge in enumerate(edges):
            if edge.node is node and len(given) > edge.output_nr:
                found[index] = given[edge.output_nr]
        if all(gradient is None for gradient in given) or (wanted is not None and not node.next_functions):
            continue
        results = node(*given)
        results = results if isinstance(results, tuple) else (results,)
        for (child, place), gradient in zip(node.next_functions, results, strict=False):
            if child is not None:
                add(child, place, gradient)
    return found


def _backward(loss: Tensor) -> None:
    with torch.no_grad():
        _gradients(loss, None)


def _grad(output: Any, wanted: Any, *more: Any, **settings: Any) -> Any:
    if not isinstance(output, FakeTensor):
        return ENGINES_GRAD(output, wanted, *more, **settings)
    with torch.no_grad():
        return tuple(_gradients(output, [wanted]))


def _copy(tensor: FakeTensor, memo: dict[int, Any]) -> Tensor:
    """Copy of a fake tensor without its mode."""
    fresh = tensor.detach().clone()
    memo[id(tensor)] = nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh
    return memo[id(tensor)]


@contextmanager
def card() -> Iterator[Card]:
    """Inside, device `cuda` is there; yields what counts its operations."""
    with pytest.MonkeyPatch.context() as patch:
        fakes = FakeTensorMode()
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(Tensor, "backward", _backward)
        patch.setattr(torch.autograd, "grad", _grad)
        patch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
        patch.setattr(nn.Module, "_apply", _apply)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        patch.setattr(FakeTensor, "__deepcopy__", _copy, raising=False)
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "none")
        patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: None)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 0)
        # cuDNN's operations have no form for the CPU, which computes the values.
        with torch.backends.cudnn.flags(enabled=False), fakes, Card(fakes) as device:
            yield device
