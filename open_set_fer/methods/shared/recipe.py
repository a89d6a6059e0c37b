"""Settings that all methods of a profile share: backbone and closed-set training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from open_set_fer.errors import SuiteError
from open_set_fer.ranges import BatchSize, Count, Epochs, NotNegative, Positive, Share


@dataclass(frozen=True)
class BackboneSettings:
    """Backbone of all methods."""

    name: Literal["small", "shallow", "resnet18", "resnet50"] = "small"
    """'small' and 'shallow' are for CPUs: at 48 px their last map is 6x6."""
    width: Count = 16
    """Channels of the stem. 'small': 1, 2 and 4 times as many in its three stages; 'shallow': 1.5 and 3 times in its
    two; at twice the width it costs 1.4 times as much as 'small' and learns FERPlus better."""
    stem: Literal["torchvision", "face"] = "torchvision"
    """Of the ResNets. 'face', the stem of the published face checkpoints: a max-pool without padding, in ceil mode,
    and in ResNet-50 the stride in a block's first convolution (1x1) instead of its second (3x3). Tensor shapes are
    the same, so a checkpoint loads into either, but fits only one."""
    weights: str = ""
    """Path of a checkpoint for a ResNet (see `methods/shared/weights.py`); '': fresh weights."""
    precision: Literal["full", "mixed"] = "full"
    """Of the stem and the stages: 'full' is float32; 'mixed' is bfloat16 where PyTorch's autocast considers it safe,
    for GPUs that support it (many CPUs are far slower). Weights, feature maps, logits and losses are float32 either
    way."""

    def __post_init__(self) -> None:
        """Raise SuiteError for weights the network cannot have, before a cell is computed."""
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
