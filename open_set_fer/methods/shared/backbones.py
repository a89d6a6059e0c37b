"""Networks behind one interface: two small ones for CPUs, torchvision's ResNet-18/50, models of timm and of users.

Every network is stem -> stages -> global average pool -> one linear layer, so that a method can enter or leave at a
stage (PROSER mixes after the second, EOW samples the input of the last) and compute attention maps from the last
feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_set_fer.methods.shared.network import Network as Network
from open_set_fer.methods.shared.recipe import BUILT_IN, BackboneSettings
from open_set_fer.methods.shared.weights import check_checkpoint, load_weights


class StridedPointwise(nn.Conv2d):
    """A strided 1x1 convolution, as a subsampling followed by a convolution of stride 1.

    oneDNN's backward pass of the strided form writes past its buffers on processors with AVX-512 (fewer than 16 input
    channels, an odd batch, two threads), which kills the process or spoils its memory.
    """

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            pointwise = StridedPointwise(inputs, outputs, 1, stride, bias=False)
            self.skip = nn.Sequential(pointwise, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def draw_seed(generator: torch.Generator) -> int:
    """Draw a seed from 0 to 2^62 - 1 from a generator on the CPU."""
    return int(torch.randint(2**62, (1,), generator=generator))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator in the context, for fresh weights; restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build_network(settings: BackboneSettings, classes: int, channels: int, seed: int) -> Network:
    """Build a network with the settings' weights, or fresh ones drawn from the seed.

    classes: outputs of the linear layer. channels: of the images (1 or 3).
    """
    with seeded(seed):
        build = _small if settings.name in ("small", "shallow") else _resnet
        network = (build if settings.name in BUILT_IN else _foreign)(settings, classes, channels)
    network.settings = settings
    network.normalise_by(settings.input.mean, settings.input.sd)
    if settings.weights:
        load_weights(network, settings.weights)
    return network.to(memory_format=torch.channels_last)


def check_network(settings: BackboneSettings, channels: int = 3) -> None:
    """Raise SuiteError for a network that cannot be built or that its checkpoint does not fit; quick if known to fit.

    channels: of the images (1 or 3).
    """
    path = Path(settings.weights)
    _check_network(settings, channels, path.stat().st_mtime_ns if settings.weights and path.is_file() else 0)


@cache
def _check_network(settings: BackboneSettings, channels: int, changed: int) -> None:
    """`changed`, the checkpoint's modification time, is part of the cache's key."""
    network = build_network(replace(settings, weights=""), 5, channels, seed=0)
    if settings.weights:
        check_checkpoint(network, settings.weights)


def _small(settings: BackboneSettings, classes: int, channels: int) -> Network:
    """'shallow' lacks the first stage of 'small': no residual block works at half the image's resolution."""
    width = settings.width
    # Stride 2 at once: three quarters of the cost at full resolution buys little on 48 px faces.
    convolution = nn.Conv2d(channels, width, 3, 2, 1, bias=False)
    stem = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    shallow = settings.name == "shallow"
    widths = [3 * width // 2, 3 * width] if shallow else [width, 2 * width, 4 * width]
    strides = [2, 2] if shallow else [1, 2, 2]
    sizes = zip([width, *widths], widths, strides, strict=False)
    stages = nn.ModuleList([_Residual(inputs, outputs, stride) for inputs, outputs, stride in sizes])
    return Network(stem, stages, widths, classes, channels)


def _pointwise(convolution: nn.Conv2d, stride: int) -> StridedPointwise:
    """A 1x1 convolution with the same weights and another stride."""
    with torch.device("meta"):  # no weights are drawn: it gets the convolution's
        pointwise = StridedPointwise(convolution.in_channels, convolution.out_channels, 1, stride, bias=False)
    pointwise.weight = convolution.weight
    return pointwise


def _without_strided_pointwise(model: nn.Module) -> None:
    """Replace strided 1x1 convolutions (see `StridedPointwise`)."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is not nn.Conv2d or child.groups > 1 or child.bias is not None or child.padding != (0, 0):
                continue
            if child.kernel_size == (1, 1) and child.stride != (1, 1):
                setattr(module, name, _pointwise(child, int(child.stride[0])))


def _named(network: Network, model: nn.Module) -> Network:
    """The network with the names that its tensors have in the model."""
    own = {id(tensor): str(name) for name, tensor in network.state_dict(keep_vars=True).items()}
    source = {str(name): own.get(id(tensor), "") for name, tensor in model.state_dict(keep_vars=True).items()}
    network.source_names = {name: at for name, at in source.items() if at}
    network.source_names |= {name: name for name in ("fc.weight", "fc.bias")}
    return network


def _foreign(settings: BackboneSettings, classes: int, channels: int) -> Network:
    from open_set_fer.methods.shared.foreign import Cut

    cut = Cut(settings.name, classes, channels, settings.input.size)
    network = Network(cut.stem, cut.stages, cut.widths, classes, cut.channels)
    network.fc = cut.head
    network.normalise_by(cut.mean, cut.sd)
    _named(network, cut.model)
    _without_strided_pointwise(network)
    return network


def _resnet(settings: BackboneSettings, classes: int, _channels: int) -> Network:
    import torchvision  # over a second, and the small network does not need it

    model = getattr(torchvision.models, settings.name)(weights=None)
    for block in model.modules():
        if getattr(block, "downsample", None) is not None and settings.stem == "face" and settings.name == "resnet50":
            block.conv1, block.conv2.stride = _pointwise(block.conv1, block.conv2.stride[0]), (1, 1)
    _without_strided_pointwise(model)
    pool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True) if settings.stem == "face" else model.maxpool
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, pool)
    stages = nn.ModuleList([model.layer1, model.layer2, model.layer3, model.layer4])
    expansion = 4 if settings.name == "resnet50" else 1
    network = Network(stem, stages, [w * expansion for w in (64, 128, 256, 512)], classes, channels=3)
    return _named(network, model)
