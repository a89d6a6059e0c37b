"""Protocols: which classes are closed and which are open, on which pool, under which pseudo-label setting.

Pure rules from the classes of a data set (Section 4.1 of the paper); `task.py` draws the images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from open_set_fer.benchmark.protocols.pool import SHIFT, OpenFrom, Pool
from open_set_fer.benchmark.protocols.pseudo_labels import KEPT, LABELS, OWN, Regime
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT
from open_set_fer.errors import SuiteError
from open_set_fer.plugins import nearest

Family = Literal["single", "pairs", "triples", "compound", "contempt"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Twins = Literal["keep", "once"]

PAPER_PAIRS = tuple(itertools.pairwise(BASIC))
PAPER_TRIPLES = tuple(zip(BASIC, BASIC[1:], BASIC[2:], strict=False))


def qualifiers(open_from: str, pool: str, regime: Regime) -> list[str]:
    """Display texts of a protocol's open_from, pool and pseudo-label setting; empty for the paper's text."""
    return [*["open faces of the test split"] * (open_from == "test"), *filter(None, (pool, regime.text))]


def display_text(name: str, open_from: str, pool: str, regime: Regime) -> str:
    """Display text of a choice of open classes, or of a family, with its qualifiers in brackets."""
    return name + "".join(f" ({text})" for text in qualifiers(open_from, pool, regime))


@dataclass(frozen=True)
class Protocol:
    """Which classes are closed and which are open, on which test pool and under which pseudo-label setting.

    family: 'shift' for a pool of closed faces with a shift, which no table of open faces shows.
    pool: None for the whole test pool, as in every table of the paper.
    open_from: the splits whose open faces are in the pool, 'both' as in the paper.
    regime: the pseudo-label setting.
    twins: 'once' for a pool without repeated faces (`task.split_faces`); older results have 'keep'.
    """

    family: Family | Literal["shift"]
    closed: tuple[str, ...]
    open: tuple[str, ...]
    pool: Pool | None = None
    open_from: OpenFrom = "both"
    regime: Regime = OWN
    twins: Twins = "keep"

    def on(self, pool: Pool) -> Protocol:
        """This protocol on a part of its test pool."""
        if pool.open_from == "test":
            return self.on_test_split().on(pool.model_copy(update={"open_from": "both"}))
        return replace(self, family=SHIFT if pool.shift else self.family, pool=pool)

    def on_test_split(self) -> Protocol:
        """This protocol with the open faces of the test split alone."""
        return replace(self, open_from="test")

    def under(self, regime: Regime) -> Protocol:
        """This protocol under a pseudo-label setting."""
        return replace(self, regime=regime)

    def counting(self, twins: Twins) -> Protocol:
        """This protocol with repeated faces in its pool, or without."""
        return replace(self, twins=twins)

    @property
    def choice(self) -> str:
        """Name of the open classes: 'surprise+fear', 'compound'."""
        is_compound = self.family == "compound" or (
            self.family == SHIFT and set(self.open) <= set(COMPOUND) and any(name in BASIC for name in self.closed)
        )
        return "compound" if is_compound and self.open else "+".join(self.open) or "no open class"

    @property
    def label(self) -> str:
        """Display text, stored as `open_classes`: the choice of open classes, then pool and pseudo-label setting."""
        return self._named(self.pool.text if self.pool else "", self.regime)

    @property
    def place(self) -> str:
        """Seed text of the draw of images: the same under every pseudo-label setting and whatever part is scored."""
        return self._named(self.pool.drawn if self.pool else "", OWN)

    def _named(self, pool: str, regime: Regime) -> str:
        return display_text(self.choice, self.open_from, pool, regime)

    @property
    def has_open(self) -> bool:
        """Whether open faces are to be detected: not in controls, nor in pools with a shift."""
        return bool(self.open) and not self.regime.is_control and not (self.pool and self.pool.shift)

    def fields(self) -> dict[str, Any]:
        """Coordinates beside family and label, as plan.json and tags keep them; most defaults are left out."""
        fields: dict[str, Any] = {"choice": self.choice, "labels": self.regime.labels}
        fields |= {"open_from": self.open_from} if self.open_from != "both" else {}
        fields |= {"pool": self.pool.text} if self.pool else {}
        fields |= {"twins": self.twins} if self.twins != "keep" else {}
        return fields | ({"label_share": self.regime.share} if self.regime != OWN else {})

    def tags(self) -> dict[str, str]:
        """`fields` as MLflow keeps them."""
        return {name: f"{value:g}" if isinstance(value, float) else value for name, value in self.fields().items()}

    def content(self) -> list[Any]:
        """Part of a cell's key."""
        content: list[Any] = [self.family, *self.open, *(self.pool.content() if self.pool else [])]
        content += ["open_from", self.open_from] * (self.open_from != "both")
        content += self.regime.content()
        return content + ["twins", self.twins] * (self.twins != "keep")

    @classmethod
    def of_content(cls, content: list[Any], closed: tuple[str, ...]) -> Protocol:
        """The protocol that has this `content()`; ValueError where none has.

        >>> pool = Protocol("pairs", ("neutral", "disgust"), ("fear", "anger")).on(Pool(size=9, open_share=0.5))
        >>> Protocol.of_content(pool.content(), pool.closed) == pool
        True
        """
        family, *rest = content
        regime, pool = OWN, None
        open_from: OpenFrom = "both"
        twins: Twins = "keep"
        if rest[-2:] == ["twins", "once"]:
            twins, rest = "once", rest[:-2]
        parts = rest[:-1] if rest[-1:] == [KEPT] else rest
        if parts[-3:-2] == ["labels"] and isinstance(parts[-1], float):
            regime, rest = Regime(parts[-2], parts[-1]), parts[:-3]
        if rest[-2:] == ["open_from", "test"]:
            open_from, rest = "test", rest[:-2]
        if numbers := [place for place, part in enumerate(rest) if not isinstance(part, str)]:
            pool, rest = Pool.of_content(rest[numbers[0] :]), rest[: numbers[0]]
        protocol = cls(family, closed, tuple(rest)) if rest else without_open_class(closed)
        protocol = replace(protocol.on(pool) if pool else protocol, open_from=open_from, regime=regime, twins=twins)
        if protocol.content() != content or regime.labels not in LABELS:
            raise ValueError(f"no protocol has {content}")
        return protocol


def enumerate_protocols(
    classes: tuple[str, ...], families: tuple[Family, ...], all_pairs: bool = False, all_triples: bool = False
) -> list[Protocol]:
    """The protocols of `families` that a data set with these classes allows, in the paper's order.

    Families 'single', 'pairs' and 'triples' open basic classes and leave compound expressions and contempt out. A data
    set whose classes are not the basic expressions opens its own classes, every combination of them.
    """
    faces, base = any(name in BASIC for name in classes), base_classes(classes)
    ordered = sorted(base, key=lambda name: BASIC.index(name) if name in BASIC else len(BASIC))  # as in the tables
    groups: dict[str, Iterable[tuple[str, ...]]] = {
        "single": [(name,) for name in ordered],
        "pairs": itertools.combinations(base, 2) if all_pairs or not faces else PAPER_PAIRS,
        "triples": itertools.combinations(base, 3) if all_triples or not faces else PAPER_TRIPLES,
        "compound": [tuple(name for name in classes if name in COMPOUND)],
        "contempt": [(CONTEMPT,) if CONTEMPT in classes else ()],
    }
    protocols: list[Protocol] = []
    for family, group in ((name, group) for name in families for group in groups[name]):
        closed = tuple(name for name in base if name not in group)
        if group and len(closed) >= 2 and set(group) <= set(classes):
            protocols.append(Protocol(family, closed, group))
    return protocols


def base_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes without compound expressions and contempt; all classes of a data set without basic expressions."""
    has_expressions = any(name in BASIC for name in classes)
    return tuple(name for name in classes if name not in COMPOUND and name != CONTEMPT) if has_expressions else classes


def without_open_class(classes: tuple[str, ...]) -> Protocol:
    """The protocol of a control without open classes: every base class is closed."""
    return Protocol("single", base_classes(classes), ())


def opening(protocols: list[Protocol], names: str) -> list[Protocol]:
    """The protocols with these open classes ('surprise' or 'surprise+fear'); raises SuiteError for an unknown name."""
    choice = "+".join(part.strip() for part in names.split("+"))
    matching = [p for p in protocols if p.choice == choice or sorted(p.open) == sorted(choice.split("+"))]
    if not matching:
        choices = [p.choice for p in protocols]
        raise SuiteError(
            f"no protocol opens {names!r}{nearest(choice, choices)}", f"choose among: {', '.join(choices)}"
        )
    return matching
