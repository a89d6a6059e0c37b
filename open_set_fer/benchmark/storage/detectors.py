"""A detector on disk: the fitted scorer of a cell and its description, as safetensors and JSON; never unpickled.

A folder with `detector.json` (a Description) and `weights.safetensors`. `osfer run --keep-models` writes one into a
cell's result, `osfer detector build` one with a threshold and a rule for cropping.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray

from open_set_fer import plugins
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.settings import describe, settings_of
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError, summary
from open_set_fer.files import whole_folder
from open_set_fer.methods.contract import Method, Scorer, Scores
from open_set_fer.methods.shared.scorers import NetworkPlan, plans, rebuild, tensors
from open_set_fer.version import __version__

DESCRIPTION, WEIGHTS = "detector.json", "weights.safetensors"
REBUILD = "build it again: osfer detector build"


@dataclass(frozen=True)
class Box:
    """A face that the finder sees, in pixels of the picture; sureness: above 0."""

    left: float
    top: float
    width: float
    height: float
    sureness: float = 0.0


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CropRule(_Part):
    """The crop for a finder's box: a square of `scale` times its width, its centre moved by `right` and `down` widths.

    measured_on: training faces that say so; 0 where the finder sees too few of them, and the rule is FERPlus'.
    """

    finder: str = "dlib frontal face detector"
    scale: float = pydantic.Field(default=1.15, gt=0.2, lt=5)
    right: float = pydantic.Field(default=0.02, gt=-2, lt=2)
    down: float = pydantic.Field(default=-0.09, gt=-2, lt=2)
    measured_on: int = 0

    def square(self, box: Box) -> tuple[float, float, float]:
        """(left, top, side) in pixels of the picture."""
        side = self.scale * box.width
        x, y = box.left + (0.5 + self.right) * box.width, box.top + 0.5 * box.height + self.down * box.width
        return x - side / 2, y - side / 2, side


class MethodUsed(_Part):
    """The method, and its label in its profile."""

    name: str
    version: int
    label: str
    settings: dict[str, Any]


class Source(_Part):
    """The cell that it was made from. key, closed_set_key: of the cell and of its closed-set model."""

    dataset: str
    fingerprint: str
    open_classes: list[str]
    seed: int
    key: str
    closed_set_key: str
    demonstration: bool = False

    @classmethod
    def of(cls, cell: Cell, faces: FaceSet, key: str) -> Source:
        """The source of a cell's model with this key."""
        facts = {"dataset": cell.dataset, "open_classes": list(cell.protocol.open), "seed": cell.seed, "key": key}
        facts |= {"fingerprint": faces.fingerprint, "demonstration": faces.demonstration}
        return cls.model_validate(facts | {"closed_set_key": cell.closed_set_key})


class Calibration(_Part):
    """Origin and performance of the threshold.

    share: of known faces to accept. faces: number of known faces of `split` that it was set on. accepted_known,
    rejected_open: shares of the cell's test faces, None without such faces.
    """

    split: str
    share: float = pydantic.Field(gt=0, lt=1)
    faces: int
    accepted_known: float | None = None
    rejected_open: float | None = None


class Description(_Part):
    """Everything about a detector except its weights.

    classes: the K known ones. shape: (C, H, W) of the faces. scorer: its settings. sha256: of the file of weights.
    threshold: scores above it are unknown; None of a detector that only scores.
    """

    format: Literal[1] = 1
    suite: str = __version__
    classes: tuple[str, ...] = pydantic.Field(min_length=1)
    shape: tuple[Literal[1, 3], int, int]
    method: MethodUsed
    source: Source
    networks: dict[str, NetworkPlan]
    scorer: dict[str, Any]
    sha256: str
    threshold: float | None = None
    calibration: Calibration | None = None
    crop: CropRule | None = None


@dataclass(frozen=True)
class Detector:
    """A loaded detector."""

    description: Description
    scorer: Scorer

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score uint8 images (N, C, H, W) of its size; SuiteError for others and where a score is not finite."""
        shape = self.description.shape
        if images.ndim != 4 or images.shape[1:] != shape or images.dtype != np.uint8:
            fault = f"this detector takes uint8 faces of shape {shape}, not {images.dtype} {images.shape[1:]}"
            raise SuiteError(fault, "crop and scale them as its detector.json says")
        if not len(images):
            return Scores(np.zeros(0), np.zeros((0, len(self.description.classes))))
        scores = self.scorer.score(images)
        if not all(np.isfinite(values).all() for values in scores):
            raise SuiteError("this detector gives scores that are not finite", "build it again with other settings")
        return scores


def describe_scorer(
    scorer: Scorer, method: Method, label: str, classes: tuple[str, ...], shape: tuple[int, ...], source: Source
) -> Description:
    """The description of a scorer; `sha256` is filled in when it is written."""
    used = MethodUsed(name=method.name, version=method.version, label=label, settings=settings_of(method))
    facts = {"classes": classes, "shape": shape, "networks": plans(scorer), "scorer": dict(scorer.settings)}
    return Description.model_validate(facts | {"method": used, "source": source, "sha256": ""})


def write_detector(folder: Path, description: Description, scorer: Scorer) -> None:
    """Write both files so that the folder is whole or absent; it takes the place of an older one."""
    weights = safetensors.numpy.save(tensors(scorer))
    whole = description.model_copy(update={"sha256": hashlib.sha256(weights).hexdigest()})
    with whole_folder(folder) as partial:
        (partial / WEIGHTS).write_bytes(weights)
        (partial / DESCRIPTION).write_text(whole.model_dump_json(indent=1), "utf-8")


def read_description(folder: Path) -> Description:
    """The description of a detector; SuiteError for a folder that holds none."""
    try:
        return Description.model_validate_json(_read(folder, DESCRIPTION))
    except pydantic.ValidationError as error:
        raise SuiteError(describe(error, str(folder / DESCRIPTION)), REBUILD) from error


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise SuiteError(f"{folder} holds no detector: {name}: {error.strerror}", REBUILD) from error


def load_detector(folder: Path, device: torch.device | None = None) -> Detector:
    """Read a detector; SuiteError names the file that is missing, damaged or foreign.

    The class of its scorer is that of the method which is installed here under its name, whatever the folder holds.
    """
    description, weights, fix = read_description(folder), _read(folder, WEIGHTS), REBUILD
    if hashlib.sha256(weights).hexdigest() != description.sha256:
        raise SuiteError(f"{folder / WEIGHTS} is not the file that {DESCRIPTION} was written with", fix)
    kind = plugins.load(plugins.METHODS, description.method.name)
    if kind.version != description.method.version:
        raise SuiteError(
            f"{folder} is of {kind.name} version {description.method.version}, installed is version {kind.version}", fix
        )
    scorer_kind = getattr(kind, "scorer", None)
    if not (isinstance(scorer_kind, type) and issubclass(scorer_kind, Scorer)):
        raise SuiteError(f"{folder}: the installed method {kind.name!r} has no scorer", fix)
    try:
        numbers = safetensors.numpy.load(weights)
        scorer = rebuild(scorer_kind, description.networks, numbers, description.scorer, device or torch.device("cpu"))
    except (safetensors.SafetensorError, SuiteError) as error:
        raise SuiteError(f"{folder} cannot be used: {summary(error)}", fix) from error
    return Detector(description, scorer)
