"""Pseudo-label settings in a report: separate tables with titles; methods that do not read labels are left out."""

from __future__ import annotations

from typing import Any

import pytest

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.results import load, protocol_order
from open_set_fer.reports.render import render
from open_set_fer.reports.tables.build import all_tables
from tests.reports.conftest import Store
from tests.reports.page.test_summary import made

RELEASED, FLIPPED = "surprise (labels as released)", "surprise (20% of true labels flipped)"
READS = {"baseline": "true", "label-loss": "true", "some knn": "false", "never ran": ""}


class Regimes(Store):
    """Tags say whether a method read the labels."""

    def tags(self, *coordinates: Any) -> dict[str, str]:
        return super().tags(*coordinates) | {"reads_labels": READS[coordinates[3]]}


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    home = tmp_path_factory.mktemp("regimes")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        made = Regimes(Tracker(home, "test"), home)
        (home / "profile.toml").write_text("seeds = [0]\n")
        cells = [
            ("ferplus", "single", opened, method, 0) for opened in ("surprise", RELEASED, FLIPPED) for method in READS
        ]
        names = ("dataset", "protocol", "open_classes", "method", "seed")
        plan = [dict(zip(names, cell, strict=True)) | {"cell_key": made.key(*cell, "a")} for cell in cells]
        made.parent = made.tracker.start_benchmark(plan, "", "osfer run")
        for cell in cells:
            if cell[3] != "never ran":
                made.finish(*cell)
        made.tracker.end(made.parent, "FINISHED")
        yield made.tracker


def test_each_regime_has_its_tables_and_says_what_it_is(tracker):
    results = load(tracker)
    assert results.regimes == ["own", "released", "flipped-true"]
    own, released, control = (
        {table.name: table for table in all_tables(results.under(labels))} for labels in results.regimes
    )
    assert set(own) == {"table1_ferplus", "paired_ferplus", "side_ferplus_single"}
    assert set(released) == {"table1_ferplus_released", "paired_ferplus_released", "side_ferplus_single_released"}
    assert set(control) == {"table1_ferplus_flipped-true", "side_ferplus_single_flipped-true"}
    table = released["table1_ferplus_released"]
    assert "one open class, labels as released (the paper's Table 1)" in table.caption
    assert "Open faces of the train split have the outputs for random training images" in table.caption
    assert [row.label for row in table.blocks[0].rows] == [RELEASED]
    assert any(block.printed for block in table.blocks), "the paper's numbers are of these labels"
    assert "released" not in own["table1_ferplus"].caption
    flipped = control["table1_ferplus_flipped-true"]
    assert "positive control: true labels flipped" in flipped.caption
    assert "the paper's Table" not in flipped.caption
    assert flipped.blocks[0].heading == "control AUROC (higher is better)"
    assert not any(block.printed for block in flipped.blocks)


def test_a_method_that_read_no_label_is_left_out_of_other_regimes_and_said_to_be(tracker):
    results = load(tracker)
    (own, *_), (released, _, side) = (all_tables(results.under(labels)) for labels in ("own", "released"))
    assert list(own.headings) == list(READS)
    assert list(released.headings) == ["baseline", "label-loss", "never ran"], "what never ran is missing, not left out"
    for table in (released, side):
        assert any("some knn: their scores do not use the labels" in note for note in table.footnotes)
    assert not any("Left out" in note for note in own.footnotes)


def test_the_page_has_all_regimes_and_its_summary_own_labels_alone(tracker, tmp_path):
    page = render(tracker, tmp_path / "report").read_text("utf-8")
    assert (tmp_path / "report" / "tables" / "table1_ferplus_flipped-true.tex").exists()
    assert "control AUROC" in page
    assert "1 of 3 choices" not in page


def test_rows_stand_in_the_order_of_their_classes():
    cells = made(
        {("single", f"{name} (labels as released)", "ours", 0): 0.5 for name in ("neutral", "fear", "surprise")}
    ).cells
    assert [label.split()[0] for _, label in protocol_order(cells)] == ["surprise", "fear", "neutral"]


def test_a_regime_of_which_no_cell_has_run_has_a_table_of_missing_cells():
    results = made({("single", "surprise", "ours", 0): 0.7, ("single", FLIPPED, "ours", 0): None})
    results.cells["reads_labels"] = ["true", None]
    of_control = results.under("flipped-true")
    assert list(of_control.results.columns) == list(results.results.columns)
    assert [entry.text for entry in all_tables(of_control)[0].entries()] == ["—", "—"]
