"""Figure 6: bars of the labels that open faces are given, under three regimes, with the printed numbers beside."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.paper import figure6_value
from open_set_fer.reports.data.results import Results, load
from open_set_fer.reports.figures.pseudo_labels import GROUPS, label_figures
from open_set_fer.reports.tables.build import all_tables
from tests.reports.conftest import Store

OPENED = ("surprise", "surprise (labels concentrated)", "surprise (labels as released)")
GIVEN = {OPENED[0]: ["fear", "fear", "anger", "neutral"], OPENED[1]: ["fear"], OPENED[2]: ["fear", "anger", "neutral"]}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Ours with surprise open, without a finished cell of labels as released."""
    home = tmp_path_factory.mktemp("labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        made = Store(Tracker(home, "test"), home)
        (home / "profile.toml").write_text("")
        cells = [("ferplus", "single", opened, "ours", 0) for opened in OPENED]
        names = ("dataset", "protocol", "open_classes", "method", "seed")
        plan = [dict(zip(names, cell, strict=True)) | {"cell_key": made.key(*cell, "a")} for cell in cells]
        made.parent = made.tracker.start_benchmark(json.loads(json.dumps(plan)), "", "osfer run")
        for cell in cells[:2]:
            made.finish(*cell)
        return load(made.tracker)


def with_labels(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every open face gets the labels of GIVEN in turn; closed faces are of fear, anger and neutral."""
    opened = dict(zip(results.cells["run_id"], results.cells["open_classes"], strict=True))

    def scores(self: Results, run_id: str) -> pd.DataFrame:
        labels = GIVEN[opened[run_id]]
        closed = ["fear", "anger", "neutral"]
        return pd.DataFrame(
            {
                "is_open": [True] * 12 + [False] * 3,
                "truth": ["open"] * 12 + closed,
                "given_class": labels * (12 // len(labels)) + closed,
            }
        )

    monkeypatch.setattr(Results, "scores", scores)


def test_bars_are_the_shares_of_the_open_faces_labels(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    with_labels(results, monkeypatch)
    (figure,) = label_figures(results)
    left, right = figure.figure.axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["fear", "anger", "neutral"], "the paper's order"
    own, concentrated = ([bar.get_height() for bar in bars] for bars in left.containers[:2])
    assert own == pytest.approx([0.5, 0.25, 0.25])
    assert concentrated == pytest.approx([1, 0, 0])
    assert "own: mostly fear (50%), entropy 0.95" in figure.alternative
    assert "as released: missing" in figure.alternative, "a group without a cell is shown as missing"
    diamonds = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "D"]
    assert diamonds == [0.918, 0.803]
    aurocs = results.cells.set_index("open_classes")["auroc"]
    assert [bar.get_width() for bars in right.containers for bar in bars] == pytest.approx(list(aurocs.dropna()))
    assert "0.918 (own) and 0.803 (concentrated), with RAF-DB and surprise open" in figure.caption


def test_auroc_within_the_label_stands_beside_auroc(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    with_labels(results, monkeypatch)
    within = results.cells["auroc"].where(results.cells["open_classes"] != OPENED[0]) * 0 + 0.55
    (figure,) = label_figures(replace(results, cells=results.cells.assign(auroc_within_label=within)))
    bars = [bar for container in figure.figure.axes[1].containers for bar in container]
    assert sum(bar.get_width() == pytest.approx(0.55) for bar in bars) == 1
    assert "concentrated: mostly fear (100%), entropy 0.00, AUROC" in figure.alternative
    assert ", within the label 0.550" in figure.alternative
    assert "Pale bar: AUROC within the assigned label" in figure.caption


def test_there_is_none_without_a_concentrated_cell(results: Results) -> None:
    assert list(label_figures(results.under("own"))) == []


def test_no_printed_number_is_of_labels_as_released(results: Results) -> None:
    assert [figure6_value(group.regime.labels) for group in GROUPS] == [0.918, 0.803, None]


def test_no_table_of_the_paper_is_of_concentrated_labels(results: Results) -> None:
    (table,) = (made for made in all_tables(results.under("concentrated")) if not made.is_side)
    assert "labels concentrated" in table.caption
    assert "the paper's Table" not in table.caption
    assert not any(block.printed for block in table.blocks)
