"""What is left of a method to score faces that it has not seen: networks, arrays and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from open_set_fer.methods.shared.backbones import Network


class Scores(NamedTuple):
    """unknown_score: float64 (N,), HIGHER = more likely unknown. probabilities: float64 (N, K) of the closed classes."""

    unknown_score: NDArray[np.float64]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores faces one at a time; a subclass has `score`. Which one a method has, its class says as `scorer`.

    networks: by name, made by `build_network`. arrays: numbers, by name. settings: what JSON can hold.
    repeats: the task's own test images get the scores of `Detection` again; False where those came from parts of the
    scorer, each for the images that it had not been trained on.
    """

    networks: Mapping[str, Network]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    repeats: ClassVar[bool] = True

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score uint8 images (N, C, H, W) of the task's size."""
        raise NotImplementedError
