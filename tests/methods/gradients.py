"""Gradients of every built-in network, in a process of its own: float32, channels last, two threads, odd batches.

Run by test_backbones.py, so that a crash in native code fails a test instead of ending pytest. Prints, as JSON, the
largest relative error of any parameter's gradient against a contiguous float64 pass, by network and batch.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from open_set_fer.methods.dias import NOISE, build_gan
from open_set_fer.methods.shared.backbones import Network, build_network
from open_set_fer.methods.shared.recipe import BackboneSettings


def networks(kind: str) -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Name, network and the shape of one input."""
    if kind == "small":
        for width, channels, size in itertools.product((4, 8, 16, 32), (1, 3), (24, 33)):
            network: nn.Module = build_network(BackboneSettings("small", width=width), 6, channels, 0)
            yield f"small {width} wide, {channels} channels, {size} px", network, (channels, size, size)
    elif kind == "shallow":
        for width, channels, size in itertools.product((8, 32), (1, 3), (24, 33)):
            network = build_network(BackboneSettings("shallow", width=width), 6, channels, 0)
            yield f"shallow {width} wide, {channels} channels, {size} px", network, (channels, size, size)
    elif kind == "gan":
        for width, channels in itertools.product((4, 8, 16), (1, 3)):
            for name, network in zip(
                ("generator", "discriminator"), build_gan(48, 48, channels, 3, width, 0), strict=True
            ):
                shape = (NOISE, 1, 1) if name == "generator" else (3, 48, 48)
                yield f"{name} {width} wide, {channels} channels", network.to(memory_format=torch.channels_last), shape
    else:
        for stem, channels in itertools.product(("torchvision", "face"), (1, 3)):
            yield (
                f"{kind} {stem}, {channels} channels",
                build_network(BackboneSettings(kind, stem=stem), 6, 3, 0),
                (channels, 48, 48),
            )


def gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Of a scalar of the output with respect to every parameter, in training mode."""
    network.train().zero_grad()
    out = network(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * weights).sum().backward()
    return [parameter.grad for parameter in network.parameters()]


def worst(network: nn.Module, shape: tuple[int, ...], batch: int) -> float:
    """Largest |difference| / |gradient| over the parameters; several passes, for a spoilt heap shows late."""
    random = torch.Generator().manual_seed(batch)
    if isinstance(network, Network):
        x = network.prepare(torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, generator=random))
    else:
        x = torch.randn((batch, *shape), generator=random).contiguous(memory_format=torch.channels_last)
    exact_network = copy.deepcopy(network).double().to(memory_format=torch.contiguous_format)
    exact = gradients(exact_network, x.double().contiguous())
    largest = max(float(g.norm()) for g in exact)
    for _ in range(4 if shape[-1] < 48 else 1):
        found = gradients(network, x)
    # A convolution's bias before batch norm has no gradient but rounding: measured against the largest, not itself.
    return max(
        float((a.double() - b).norm() / max(float(b.norm()), 1e-3 * largest)) for a, b in zip(found, exact, strict=True)
    )


if __name__ == "__main__":
    torch.set_num_threads(2)
    kind, batches = sys.argv[1], [int(word) for word in sys.argv[2].split(",")]
    print(
        json.dumps(
            {
                f"{name}, batch {batch}": worst(network, shape, batch)
                for name, network, shape in networks(kind)
                for batch in batches
            }
        )
    )
