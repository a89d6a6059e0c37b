"""Columns of a protocol: from the fields that plans and tags have, from display text where they have none."""

from __future__ import annotations

import pytest

from open_set_fer.benchmark.protocols.protocol import Protocol
from open_set_fer.reports.data.frame import COLUMNS
from open_set_fer.reports.data.results import Results, protocol_fields, typed_frame
from tests.benchmark.protocols.test_coordinates import matrix


def test_columns_from_plans_tags_and_display_text_are_the_same() -> None:
    for protocol in matrix():
        expected = {
            "choice": protocol.choice,
            "open_from": protocol.open_from,
            "pool": protocol.pool.text if protocol.pool else "",
            "twins": "keep",
            "labels": protocol.regime.labels,
            "label_share": protocol.regime.share,
        }
        assert protocol_fields(protocol.counting("once").tags()) == expected | {"twins": "once"}
        assert protocol_fields(protocol.fields()) == expected
        assert protocol_fields(protocol.tags()) == expected
        assert protocol_fields({"open_classes": protocol.label}) == pytest.approx(expected)


def test_display_text_is_not_read_where_there_are_fields() -> None:
    protocol = Protocol("single", ("dog", "car"), ("cat (20% of labels flipped)",))
    cell = protocol.fields() | {"open_classes": protocol.label}
    assert protocol_fields(cell)["labels"] == "own"
    assert protocol_fields(cell)["choice"] == "cat (20% of labels flipped)"


def test_cells_have_the_documented_columns_and_types(results: Results) -> None:
    types = {name: str(kind) for name, kind in results.cells.dtypes.items()}
    metrics = types.keys() - COLUMNS.keys()
    assert {name: types[name] for name in COLUMNS} == COLUMNS
    assert "auroc" in metrics
    assert {types[name] for name in metrics} == {"float64"}


def test_a_cell_without_a_run_has_the_same_types() -> None:
    row = {"dataset": "ferplus", "protocol": "single", "open_classes": "fear", "method": "ours", "seed": 0}
    frame = typed_frame([row | {"status": "missing"}], {})
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == COLUMNS
    assert frame["run_id"].isna().all()
    assert not frame["demonstration"].any()
