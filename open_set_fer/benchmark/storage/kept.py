"""The detector that a result may hold beside its scores, and its tag."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MODEL, MODELS_TAG = "model", "models"
"""The folder with the cell's detector, and the tag of a cell run with --keep-models: `kept`, or `none` if its method
cannot score a single face."""


@dataclass(frozen=True)
class KeptModel:
    """A detector's folder, the key and the name that it is logged under, and more tags."""

    folder: Path
    key: str
    name: str
    tags: dict[str, str] = field(default_factory=dict)
