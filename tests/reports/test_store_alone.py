"""A report from an MLflow store alone: copied without results and caches, and with a cell deleted in MLflow."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from open_set_fer.benchmark.storage import sqlite_store as default_store
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.results import load
from open_set_fer.reports.render import render
from open_set_fer.reports.tables.build import Table, all_tables
from open_set_fer.reports.tables.latex import to_latex
from open_set_fer.reports.tables.text import cells_frame, to_frame, to_markdown
from open_set_fer.reports.tables.wide import wide_tables
from tests.reports.conftest import Store


@pytest.fixture
def copied(store: Store, tmp_path: Path) -> Tracker:
    """The store's database and artifacts, and nothing else of its home, in another place."""
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(store.folder / default_store.DATABASE, tmp_path / "elsewhere")
    shutil.copytree(store.folder / default_store.ARTIFACTS, tmp_path / "elsewhere" / default_store.ARTIFACTS)
    return Tracker(tmp_path / "elsewhere", "test")


def tables_of(tracker: Tracker) -> dict[str, Table]:
    own = load(tracker).under("own")
    return {table.name: table for table in [*all_tables(own), *wide_tables(own)]}


def texts(tracker: Tracker) -> dict[str, str]:
    """Every table as the files of a report have it."""
    made = {"cells": cells_frame(load(tracker)).to_csv(index=False)}
    for name, table in tables_of(tracker).items():
        frame = to_frame(table)
        made[name] = to_latex(table) + to_markdown(table) + frame.to_csv(index=False)
    return made


def test_every_table_comes_again_byte_by_byte(store: Store, copied: Tracker) -> None:
    assert texts(copied) == texts(store.tracker)


def test_a_deleted_cell_is_missing_everywhere_and_its_mean_is_marked(store: Store, copied: Tracker) -> None:
    before = tables_of(copied)
    for run in copied.cells():
        tags = run.data.tags
        if (tags["dataset"], tags["open_classes"], tags["method"]) == ("synthetic", "surprise", "baseline"):
            copied.client.delete_run(run.info.run_id)
    after = tables_of(copied)
    for name in ("table1_synthetic", "printed_table1"):
        (had, has) = (
            {row.label: row.entries[0] for row in tables[name].blocks[-1 if name.startswith("printed") else 0].rows}
            for tables in (before, after)
        )
        assert had["surprise"].value is not None
        assert had["mean"].mark == ""
        assert has["surprise"].text == "—"
        assert has["mean"].mark == "†"
        assert "mean over 2 of 3 rows" in " ".join(after[name].footnotes)
        assert "missing" in after[name].state
    frame = to_frame(after["table1_synthetic"]).set_index(["open_classes", "method", "metric"])
    assert frame.loc[("surprise", "baseline", "auroc"), "status"] == "missing"


@pytest.mark.slow
def test_the_whole_report_comes_again(store: Store, copied: Tracker, tmp_path: Path) -> None:
    folders = [render(tracker, tmp_path / name).parent for name, tracker in (("a", store.tracker), ("b", copied))]
    a, b = (sorted(path.relative_to(folder) for path in folder.rglob("*.*")) for folder in folders)
    assert a == b
    for path in a:
        if path.parent.name == "tables" or path.suffix in (".tex", ".png"):
            assert (folders[0] / path).read_bytes() == (folders[1] / path).read_bytes(), path
