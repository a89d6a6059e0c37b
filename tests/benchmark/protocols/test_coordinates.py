"""Protocols as fields: what is hashed and stored stays as it was when pool and labels were parts of one text."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest

from open_set_fer.benchmark.protocols.pool import Pool
from open_set_fer.benchmark.protocols.protocol import FAMILIES, Protocol, enumerate_protocols, without_open_class
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, Regime
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT

CLASSES = (*BASIC, *COMPOUND, CONTEMPT)
POOLS = [
    None,
    Pool(size=90, open_share=0.1),
    Pool(size=40, open_share=0.125, open_from="test"),
    Pool(size=40, open_share=0.0, scored="others"),
    Pool(size=40, open_share=0.25, scored="others", against="valid"),
    Pool(size=50, open_share=0.5, against="train"),
    Pool(size=60, open_share=0.0, shift="blur"),
    Pool(size=60, open_share=0.0, shift="jpeg", against="train"),
]
REGIMES = [
    OWN,
    Regime("released", 1.0),
    Regime("released", 0.5),
    Regime("concentrated", 1.0),
    Regime("spiked", 0.05),
    Regime("flipped-true", 0.35),
]
FEAR, COMPOUNDS = enumerate_protocols(CLASSES, ("single", "compound"))[1::6]


def matrix() -> list[Protocol]:
    """Every choice of open classes on every pool under every pseudo-label setting."""
    choices = [
        *enumerate_protocols(CLASSES, FAMILIES),
        without_open_class(CLASSES),
        *enumerate_protocols(("cat", "dog (big)", "car"), ("single", "pairs")),
    ]
    protocols = []
    for protocol, on_test_split, pool, regime in itertools.product(choices, (False, True), POOLS, REGIMES):
        protocol = protocol.on_test_split() if on_test_split else protocol
        protocols.append((protocol.on(pool) if pool else protocol).under(regime))
    return protocols


@pytest.mark.parametrize(
    ("protocol", "place", "label"),
    [
        (FEAR, "fear", "fear"),
        (FEAR.under(REGIMES[2]), "fear", "fear (50% of labels as released)"),
        (FEAR.under(REGIMES[5]), "fear", "fear (35% of true labels flipped)"),
        (FEAR.on_test_split(), "fear (open faces of the test split)", "fear (open faces of the test split)"),
        (FEAR.on(POOLS[1]), "fear (90 images, 10% open)", "fear (90 images, 10% open)"),
        (
            FEAR.on(POOLS[2]).under(REGIMES[1]),
            "fear (open faces of the test split) (40 images, 12.5% open)",
            "fear (open faces of the test split) (40 images, 12.5% open) (labels as released)",
        ),
        (
            FEAR.on(POOLS[4]),
            "fear (40 images, 25% open)",
            "fear (40 images, 25% open, the others scored, against split valid)",
        ),
        (
            COMPOUNDS.on(POOLS[7]),
            "compound (60 closed faces, half shifted)",
            "compound (60 closed faces, half with jpeg, against split train)",
        ),
        (
            without_open_class(CLASSES).under(REGIMES[4]),
            "no open class",
            "no open class (5% of labels flipped in the pool)",
        ),
    ],
)
def test_the_text_of_the_shuffle_and_the_display_text_stay(protocol: Protocol, place: str, label: str) -> None:
    assert (protocol.place, protocol.label) == (place, label)


def test_texts_and_key_contents_of_every_protocol_stay() -> None:
    """The digest was computed when the controls kept the histogram of labels; `place` is what it was before."""
    texts = [[protocol.label, protocol.place, protocol.content()] for protocol in matrix()]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    assert (len(texts), digest) == (2304, "e39af60e68a6da62cda9d91dcba6230a3666859f7f00b680ff69e2a761e3b802")


def test_every_protocol_is_made_again_from_its_key_content() -> None:
    for protocol in matrix():
        for made in (protocol, protocol.counting("once")):
            assert Protocol.of_content(made.content(), made.closed) == made


def test_twins_are_a_field_that_neither_texts_nor_the_key_contents_of_older_cells_have() -> None:
    for protocol in matrix():
        once = protocol.counting("once")
        assert (once.label, once.place) == (protocol.label, protocol.place)
        assert once.content() == [*protocol.content(), "twins", "once"]
        assert (once.fields().get("twins"), protocol.fields().get("twins")) == ("once", None)


def test_a_class_may_be_named_like_a_pseudo_label_setting() -> None:
    protocol = enumerate_protocols(("cat (labels as released)", "dog (9 images, 50% open)", "car"), ("single",))[0]
    assert protocol.fields() == {"choice": "cat (labels as released)", "labels": "own"}
