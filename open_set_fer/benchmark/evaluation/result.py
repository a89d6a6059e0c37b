"""Result of a cell, one type for the runner, the disk and MLflow; the version of its evaluation."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import pydantic

from open_set_fer.benchmark.protocols.pool import SHIFT
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS

EVALUATION = 3
"""Raised whenever a metric changes its numbers or is added.

No part of a cell's key: a cell of another version is re-evaluated from its scores, not computed.
2: AUROC by origin of the open faces, over correctly classified closed faces, its interval; the open fraction.
3: AUROC within the assigned label, added information, FPR@TPR95 with open as positive, AUROC without twins; DeLong's
intervals in place of the bootstrap's.
"""


@dataclass(frozen=True)
class DataUsed:
    """The data set of a cell: its name, content fingerprint, and images by split and class."""

    name: str
    fingerprint: str
    counts: dict[str, dict[str, int]]


@dataclass(frozen=True)
class CellResult:
    """A computed cell, without its scores.

    metrics, curves: numbers by name; a curve has one an epoch.
    tags: what names the cell, where and with what it was computed.
    notes: what a reader must know.
    started, ended: seconds since 1970.
    evaluation: the version of the evaluation (EVALUATION) that measured it.
    params, data: the settings by name and the data set.
    """

    metrics: dict[str, float]
    curves: dict[str, list[float]]
    tags: dict[str, str]
    notes: list[str] = field(default_factory=list)
    started: float | None = None
    ended: float | None = None
    evaluation: int = EVALUATION
    params: dict[str, Any] = field(default_factory=dict)
    data: DataUsed | None = None

    @property
    def is_current(self) -> bool:
        """Whether the suite's present evaluation measured it."""
        return self.evaluation == EVALUATION

    @property
    def is_control(self) -> bool:
        """Whether flipped labels were to be found, not open faces."""
        return self.tags.get("labels") in CONTROLS

    @property
    def is_shift(self) -> bool:
        """Whether shifted closed faces were told from unshifted ones, and no open face was there."""
        return self.tags.get("protocol") == SHIFT

    def title(self) -> str:
        """What the result is of, from the tags that name its cell, and its AUROC."""
        named = [self.tags[name] for name in ("dataset", "protocol", "open_classes", "method")]
        area = "control AUROC" if self.is_control else "AUROC of shifted faces" if self.is_shift else "AUROC"
        return f"{' '.join(named)} seed {self.tags['seed']}: {area} {self.metrics['auroc']:.3f}"

    def description(self) -> str:
        """Markdown for the page of the result's run."""
        files = "Every number is of `scores.parquet`, which has each face's score; `profile.toml` has the settings."
        return "\n".join([f"**{self.title()}**\n", *(f"- {note}" for note in self.notes), f"\n{files}"])

    def to_json(self) -> str:
        """The text of result.json."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CellResult:
        """The result in the text of result.json; ValueError for any other text."""
        result = _reader().validate_python(json.loads(text))
        if "auroc" not in result.metrics:
            raise ValueError("lacks the metric auroc")
        return result


@cache
def _reader() -> pydantic.TypeAdapter[CellResult]:
    """Made once: its making takes longer than the reading of a result."""
    return pydantic.TypeAdapter(CellResult)
