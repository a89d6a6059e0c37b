"""Tables of a profile: its protocols, and the ranges that a study searches."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic import Field

from open_set_fer.benchmark.protocols.pool import OpenFrom, Pool
from open_set_fer.benchmark.protocols.protocol import Family, Twins
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS, LABELS, OWN, SHARES, Control, Labels, Regime
from open_set_fer.errors import SuiteError
from open_set_fer.plugins import nearest


class Strict(pydantic.BaseModel):
    """A table without unknown keys or converted values."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Protocols(Strict):
    """Protocols of a profile.

    families: in order.
    open_classes: only protocols that open these ('surprise', 'surprise+fear'); empty: all.
    pools: each protocol once for every entry, on this part of the test pool (see `Pool`); empty: on the whole pool.
    open_from: 'test' leaves the open faces of the train split out of the pool.
    twins: 'once' for one face of each group with the same or mirrored pixels in the pool, and no closed face that has a
        twin among the training images; 'keep' for all faces, as the paper's protocol.
    labels: the pseudo-label setting, with label_share where labels are not the image's own (see `Regime`).
    controls: positive controls of the plan, for its label-based methods, `label-loss` and `small-loss`.
    control_classes: controls only on the protocols that open these; empty: on all of the plan's.
    """

    families: Annotated[list[Family], Field(min_length=1)]
    open_classes: list[str] = []
    pools: list[Pool] = []
    all_pairs: bool = False
    all_triples: bool = False
    open_from: OpenFrom = "both"
    twins: Twins = "once"
    labels: Labels = "own"
    label_share: Annotated[float, Field(gt=0, le=1)] | None = None
    controls: list[Control] = []
    control_classes: list[str] = []

    @property
    def regime(self) -> Regime:
        """The pseudo-label setting of every protocol."""
        return regime_of(self.labels, self.label_share)

    @property
    def control_regimes(self) -> list[Regime]:
        """The pseudo-label settings of the plan's control cells, each once."""
        return [Regime(labels, SHARES[labels]) for labels in dict.fromkeys(self.controls)]

    def check(self, regime: Regime) -> None:
        """Raise SuiteError where a pseudo-label setting contradicts the other keys."""
        if regime.is_control and self.pools:
            raise SuiteError(f"protocols: labels '{regime.labels}' go with no pools", "take one out")
        if regime != OWN and any(pool.shift or pool.scored == "others" for pool in self.pools):
            fault = f"protocols: labels '{regime.labels}' are of open faces in the pool, and of nothing else"
            raise SuiteError(fault, "take labels, or the pools with a shift or with others scored, out")
        on_test_split = self.open_from == "test" or any(pool.open_from == "test" for pool in self.pools)
        if regime.labels not in ("own", "spiked") and on_test_split:
            fault = f"protocols: labels '{regime.labels}' have nothing to do with open faces of the test split"
            raise SuiteError(fault, "take labels or open_from out")

    @pydantic.model_validator(mode="after")
    def _checked(self) -> Protocols:
        self.check(self.regime)
        if self.controls and self.regime.is_control:
            raise SuiteError(f"protocols: labels '{self.labels}' are a control themselves", "write controls = []")
        if self.control_classes and not self.controls:
            raise SuiteError("protocols: control_classes without controls", 'for example controls = ["spiked"]')
        return self


def regime_of(labels: Labels, share: float | None) -> Regime:
    """The pseudo-label setting, with the default share for None; SuiteError for an impossible share."""
    if labels == "own" and share is not None:
        raise SuiteError("label_share has no meaning for the images' own labels", "choose other labels, or no share")
    if labels in CONTROLS and share == 1:
        raise SuiteError("label_share 1 leaves no label as it is", "choose less")
    return OWN if labels == "own" else Regime(labels, SHARES[labels] if share is None else share)


def regime_named(labels: str, share: float | None = None) -> Regime | None:
    """The pseudo-label setting of this name, None for ''; SuiteError for an unknown name or an impossible share."""
    kind = next((name for name in LABELS if name == labels), None)
    if kind is None and (labels or share is not None):
        wrong = f"--labels {labels!r}{nearest(labels, LABELS)}"
        fault = wrong if labels else "--label-share without --labels"
        raise SuiteError(fault, f"--labels is one of {', '.join(LABELS)}")
    if share is not None and not 0 < share <= 1:
        raise SuiteError(f"--label-share {share:g} is not above 0 and at most 1", "for example --label-share 0.5")
    return None if kind is None else regime_of(kind, share)


class Range(Strict):
    """Range from low to high, both included: integers where both are; log: uniform in the logarithm."""

    low: int | Annotated[float, Field(allow_inf_nan=False)]
    high: int | Annotated[float, Field(allow_inf_nan=False)]
    log: bool = False

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("low must not be above high, and above 0 with log")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value is a number of this range."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


Space = Annotated[
    Annotated[list[Any], pydantic.Tag("list")] | Annotated[Range, pydantic.Tag("range")],
    pydantic.Discriminator(lambda value: "list" if isinstance(value, list) else "range"),
]
