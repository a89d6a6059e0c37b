"""Network: stem, stages, global average pool and one linear layer, on uint8 images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.recipe import BackboneSettings


class Network(nn.Module):
    """stem -> stages -> average pool -> fc, on float images made by `prepare`."""

    def __init__(
        self, stem: nn.Sequential, stages: nn.ModuleList, widths: list[int], classes: int, channels: int
    ) -> None:
        super().__init__()
        self.stem, self.stages, self.widths, self.channels = stem, stages, widths, channels
        self.fc = nn.Linear(widths[-1], classes)
        self.settings: BackboneSettings | None = None  # set by `build_network`
        self.source_names: dict[str, str] = {}
        """Names of the tensors in the model that the network was cut from, with the network's own."""
        # ImageNet statistics for colour (the authors' code); a plain centre and scale for grey faces.
        mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if channels == 3 else ([0.5], [0.25])
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """Normalise uint8 (N, C, H, W) on the network's device; grey is repeated for colour."""
        if self.mean.is_cuda and not images.is_cuda:
            images = images.pin_memory()  # or the copy would wait for the GPU; bytes are a quarter of the floats' size
        x = images.to(self.mean.device, non_blocking=True).to(torch.float32).div_(255)
        size = self.settings.input.size if self.settings else 0
        if size and x.shape[-1] != size:
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True).clamp_(0, 1)
        if x.shape[1] == 1 and self.channels == 3:
            x = x.expand(-1, 3, -1, -1)
        elif x.shape[1] != self.channels:
            fix = "set the data set's `channels` to 1 or 3, as the network takes them"
            raise SuiteError(f"images have {x.shape[1]} channels, the network takes {self.channels}", fix)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def normalise_by(self, mean: Sequence[float], sd: Sequence[float]) -> None:
        """Normalise by another mean and sd of the channels, where they are given; SuiteError for another number."""
        for name, values in (("mean", mean), ("sd", sd)):
            if values and len(values) not in (1, self.channels):
                fault = f"closed_set.input.{name} has {len(values)} numbers, the network takes {self.channels} channels"
                raise SuiteError(fault, "give one number a channel")
            if values:
                getattr(self, "std" if name == "sd" else name).copy_(torch.tensor(values).view(1, -1, 1, 1))

    def to_stage(self, x: Tensor, stage: int) -> Tensor:
        """Hidden feature after `stage` stages (0: after the stem)."""
        return self._through([self.stem, *self.stages[:stage]], x)

    def from_stage(self, hidden: Tensor, stage: int, end: int | None = None) -> Tensor:
        """Last feature map (N, D, h, w), from the hidden feature after `stage` stages.

        end: stop after this many stages instead.
        """
        return self._through(self.stages[stage:end], hidden)

    def feature_map(self, x: Tensor) -> Tensor:
        """Last feature map (N, D, h, w)."""
        return self.to_stage(x, len(self.stages))

    def _through(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        """Output of the blocks, in the input's type whatever precision they compute in."""
        mixed = self.settings is not None and self.settings.precision == "mixed"
        hidden = x
        with torch.autocast(x.device.type, torch.bfloat16) if mixed else nullcontext():
            for block in blocks:
                hidden = block(hidden)
        return hidden.to(x.dtype)

    def classify(self, feature_map: Tensor) -> Tensor:
        """Logits (N, K) of a last feature map."""
        return torch.as_tensor(self.fc(feature_map.mean(dim=(2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.classify(self.feature_map(x))
