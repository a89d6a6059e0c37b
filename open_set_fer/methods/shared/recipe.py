"""Settings that all methods of a profile share: backbone and closed-set training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from open_set_fer.errors import SuiteError
from open_set_fer.plugins import nearest
from open_set_fer.ranges import BatchSize, Count, Epochs, NotNegative, Positive, Share

BUILT_IN = ("small", "shallow", "resnet18", "resnet50")
"""Backbones of the suite."""


@dataclass(frozen=True)
class Input:
    """Images as a network that was trained elsewhere takes them."""

    size: Annotated[int, Field(ge=0, le=1024)] = 0
    """Pixels a side, to which images are scaled; 0: as the data set has them."""
    mean: tuple[float, ...] = ()
    """Of each channel, from 0 to 1; (): the network's usual ones."""
    sd: tuple[Positive, ...] = ()
    """Standard deviation of each channel, on the same scale."""

    def __post_init__(self) -> None:
        """Raise SuiteError for a mean and deviation of pixels from 0 to 255."""
        if any(not 0 <= value <= 1 for value in self.mean) or any(value > 1 for value in self.sd):
            fault = f"closed_set.input: mean {list(self.mean)} and sd {list(self.sd)} are not of pixels from 0 to 1"
            raise SuiteError(fault, "divide both by 255 if they are of pixels from 0 to 255")


@dataclass(frozen=True)
class BackboneSettings:
    """Backbone of all methods."""

    name: str = "small"
    """'small' and 'shallow' are for CPUs: at 48 px their last map is 6x6. 'resnet18', 'resnet50': torchvision's.
    'timm:NAME': a convolutional model of timm. 'package.module:function': your own, called as function(classes=,
    channels=); `methods/shared/foreign.py` has its contract, `testing.check_backbone` tests it."""
    width: Count = 16
    """Channels of the stem. 'small': 1, 2 and 4 times as many in its three stages; 'shallow': 1.5 and 3 times in its
    two; at twice the width it costs 1.4 times as much as 'small' and learns FERPlus better."""
    stem: Literal["torchvision", "face"] = "torchvision"
    """Of the ResNets. 'face', the stem of the published face checkpoints: a max-pool without padding, in ceil mode,
    and in ResNet-50 the stride in a block's first convolution (1x1) instead of its second (3x3). Tensor shapes are
    the same, so a checkpoint loads into either, but fits only one."""
    weights: str = ""
    """Path of a checkpoint for the network (see `methods/shared/weights.py`), or `package:file` of an installed
    package; '': fresh weights."""
    precision: Literal["full", "mixed"] = "full"
    """Of the stem and the stages: 'full' is float32; 'mixed' is bfloat16 where PyTorch's autocast considers it safe,
    for GPUs that support it (many CPUs are far slower). Weights, feature maps, logits and losses are float32 either
    way."""
    input: Input = Input()
    """Set under [closed_set]: images as the closed-set model was trained on them."""

    @property
    def is_code(self) -> bool:
        """Whether it is a function of a user's package, which no file of a detector may name."""
        return ":" in self.name and not self.name.startswith("timm:")

    def __post_init__(self) -> None:
        """Raise SuiteError for a backbone or weights that there cannot be, before a cell is computed."""
        if self.name not in BUILT_IN and not re.fullmatch(r"timm:[\w.]+|[\w.]+:\w+", self.name):
            fix = f"one of {', '.join(BUILT_IN)}, timm:NAME, or package.module:function"
            raise SuiteError(f"backbone.name: unknown backbone {self.name!r}{nearest(self.name, BUILT_IN)}", fix)
        if self.weights and self.name in ("small", "shallow"):
            fix = "remove `weights` or use backbone resnet18 or resnet50"
            raise SuiteError(f"backbone {self.name!r} has no pretrained weights", fix)


@dataclass(frozen=True)
class ClosedSetSettings:
    """Closed-set training; defaults are the authors' code: Adam, flip or noise, random erasing."""

    epochs: Epochs = 60
    batch_size: BatchSize = 512
    learning_rate: Positive = 1e-3
    """The maximum under the schedule 'one_cycle'."""
    weight_decay: NotNegative = 1e-4
    lr_decay: Positive = 0.9
    """Factor on the learning rate each epoch, under the schedule 'exponential'."""
    schedule: Literal["exponential", "one_cycle"] = "exponential"
    """'exponential' as published, or 'one_cycle' (Smith and Topin 2018) for trainings of few epochs."""
    erase_probability: Share = 0.5
    """Of random erasing, for each image."""
    augmentation: Literal["flip_or_noise", "geometry"] = "flip_or_noise"
    """Before erasing: the authors' (`augmentation.flip_or_noise`), or flip, shift, rotation and scale (`move`)."""
    targets: Literal["labels", "votes"] = "labels"
    """'votes': distribution of the annotators' votes for the closed classes (Barsoum et al. 2016), for data sets with
    votes."""
    model: str = ""
    """Path of a trained model, used as it is, without training: a state dict of the backbone with its linear head."""
    classes: tuple[str, ...] = ()
    """The model's classes in the order of its outputs; those of the closed classes are picked."""
    input: Input = Input()
    """Images as the model was trained on them; every network of the profile gets them so."""

    def __post_init__(self) -> None:
        """Raise SuiteError for a model without the names of its outputs."""
        if bool(self.model) != bool(self.classes):
            fix = (
                'write both: model = "mine.pth" and classes = ["neutral", "happiness", ...] in the order of its outputs'
            )
            raise SuiteError("closed_set: a model needs its classes, and classes a model", fix)
