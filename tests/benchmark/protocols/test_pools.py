"""Kinds of pools from profile to report: methods left out, tags of results, places of shifted faces."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, dry_plan, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.pool import Pool
from open_set_fer.benchmark.protocols.protocol import Protocol
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, Regime
from open_set_fer.benchmark.storage.verify import faults_of
from open_set_fer.cli.overview import result_tables
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.results import load
from open_set_fer.reports.tables.build import all_tables

POOLS = """
[[protocols.pools]]
size = 40
open_share = 0.25
[[protocols.pools]]
size = 40
open_share = 0.0
scored = "others"
[[protocols.pools]]
size = 60
open_share = 0.0
shift = "blur"
"""


@pytest.fixture
def profile(tmp_path):
    text = load_profile("smoke").text.replace('controls = ["flipped-true"]\ncontrol_classes = ["surprise"]\n', "")
    path = tmp_path / "pools.toml"
    path.write_text(text.replace('open_classes = ["surprise"]\n', 'open_classes = ["surprise"]\n' + POOLS), "utf-8")
    return load_profile(str(path))


def test_a_method_that_scores_its_pool_alone_is_left_out_where_others_are_scored(profile, tmp_path, caplog):
    selection = Selection(methods=("baseline", "ours", "ours-plus"))
    cells, _ = dry_plan(profile, selection, tmp_path / "cache")
    by_pool = {
        label: [c.label for c in cells if c.protocol.label == label] for label in {c.protocol.label for c in cells}
    }
    assert by_pool == {
        "surprise (40 images, 25% open)": ["baseline", "ours", "ours-plus"],
        "surprise (40 images, 0% open, the others scored)": ["baseline", "ours-plus"],
        "surprise (60 closed faces, half with blur)": ["baseline", "ours", "ours-plus"],
    }
    assert "it scores its pool alone: ours" in caplog.text


@pytest.mark.parametrize("regime", [OWN, Regime("released", 0.5), Regime("flipped-true", 0.2)])
@pytest.mark.parametrize(
    "pool",
    [
        Pool(size=40, open_share=0.125),
        Pool(size=40, open_share=0.0, scored="others", against="valid"),
        Pool(size=60, open_share=0.0, shift="jpeg"),
        Pool(size=40, open_share=0.5, open_from="test"),
        None,
    ],
)
def test_every_protocol_tells_its_choice_of_open_classes(pool, regime):
    whole = Protocol("pairs", ("neutral", "disgust"), ("fear", "anger"))
    for protocol in (whole, whole.on_test_split()):
        assert (protocol.on(pool) if pool else protocol).under(regime).choice == "fear+anger"


def test_regimes_of_open_faces_do_not_go_with_pools_that_have_none(profile, tmp_path):
    with pytest.raises(SuiteError, match="of open faces in the pool"):
        profile.protocols.check(profile.protocols.model_copy(update={"labels": "released"}).regime)
    text = profile.text.replace('shift = "blur"', 'shfit = "blur"')
    (tmp_path / "odd.toml").write_text(text, "utf-8")
    with pytest.raises(SuiteError, match="did you mean 'shift'"):
        load_profile(str(tmp_path / "odd.toml"))


@pytest.mark.slow
def test_cells_of_every_kind_say_what_they_are(profile, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = profile
    cells, face_sets = make_plan(settings, Selection(methods=("baseline", "ours-plus")), tmp_path / "cache")
    runner = Runner(tmp_path, settings)
    assert not runner.run(cells, face_sets, "test").failed
    tracker = runner.connection.tracker
    for run in tracker.cells():
        result, scores = tracker.read_cell(run), tracker.read_scores(run.info.run_id)
        assert faults_of(result, scores, tracker.read_json(run.info.run_id, "key.json")) == []
        assert (
            result.is_shift == ("half with blur" in result.tags["open_classes"]) == (result.tags["protocol"] == "shift")
        )
        assert ("AUROC of shifted faces" in result.title()) == result.is_shift
    results = load(tracker)
    own = results.under("own")
    assert len(results.cells) == 6
    assert len(own.cells) == 4
    assert len(own.shifted) == 2
    tables = {table.name: table for table in all_tables(own)}
    assert not any("blur" in row.label for block in tables["table1_synthetic"].blocks for row in block.rows)
    shift = tables["shift_synthetic"]
    assert [block.heading for block in shift.blocks] == [
        "AUROC of shifted closed faces",
        "shifted closed faces accepted at TPR95",
    ]
    assert [row.label for row in shift.blocks[0].rows] == ["surprise (60 closed faces, half with blur)"]
    logged = own.shifted.set_index("method").loc[list(shift.headings)]
    assert [entry.value for entry in shift.blocks[0].rows[0].entries] == list(logged["auroc"])
    assert [entry.value for entry in shift.blocks[1].rows[0].entries] == list(logged["fpr_at_tpr95"])
    assert not any(entry.best for entry in shift.entries())
    assert any("does not recognise looks unknown" in note for note in tables["table1_synthetic"].footnotes)
    alone = [table.name for table in all_tables(replace(own, cells=own.cells[:0]))]
    assert alone == ["shift_synthetic"]  # a profile of nothing else
    console = Console(width=200, file=StringIO())
    for table in result_tables(cells, runner.measured(cells, "auroc")["auroc"]):
        console.print(table)
    assert "shift: blur" in console.file.getvalue()
    assert sorted(tracker.client.search_runs([tracker.experiment_id], "tags.planned = 'true'")[0].data.metrics) == [
        f"{what}.{shift}{method}"
        for what in ("auroc", "cells")
        for shift in ("", "shift.")
        for method in ("baseline", "ours-plus")
    ]
