"""A report owns what it wrote and nothing else, and its files repeat what was logged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.reports import render as module
from open_set_fer.reports.data.results import Results
from open_set_fer.reports.render import MANIFEST, _move, render, report_files
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.wide import wide_tables
from tests.reports.conftest import Store


def make(folder: Path, **files: str) -> Path:
    """A folder as `_render` leaves it; keys name files with __ for / and _x for .x."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(MANIFEST)
    }


OLD = {"index_html": "old page", "tables__a_csv": "1", "tables__gone_tex": "2"}
NEW = {"index_html": "new page", "tables__a_csv": "3", "figures__f_png": "4"}


def test_own_files_stay_and_those_of_an_earlier_report_go(tmp_path: Path) -> None:
    out = make(tmp_path / "tables", tables__hand_tex="mine", tables__notes_md="mine", figures__photo_png="mine")
    mine = tree(out)
    _move(make(tmp_path / "1", **OLD), out)
    _move(make(tmp_path / "2", **NEW), out)
    assert tree(out) == mine | {"index.html": "new page", "tables/a.csv": "3", "figures/f.png": "4"}
    assert {p.relative_to(out).as_posix() for p in report_files(out)} == {"index.html", "tables/a.csv", "figures/f.png"}


@pytest.mark.parametrize("name", ["index.html", "tables/a.csv", "figures/f.png"])
def test_a_file_that_no_report_wrote_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    with pytest.raises(SuiteError, match=f"{name} was not written by(.|\n)*--out"):
        _move(make(tmp_path / "2", **NEW), out)
    assert tree(out) == {name: "mine"}


def test_a_file_changed_by_hand_is_refused_and_a_stale_one_is_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    _move(make(tmp_path / "1", **OLD), out)
    (out / "tables/gone.tex").write_text("edited")
    _move(make(tmp_path / "2", **NEW), out)
    assert (out / "tables/gone.tex").read_text() == "edited"
    (out / "tables/a.csv").write_text("edited")
    with pytest.raises(SuiteError, match=r"a\.csv was not written by `osfer report`, or was changed since"):
        _move(make(tmp_path / "3", **OLD), out)
    assert (out / "index.html").read_text() == "new page"


@pytest.mark.parametrize("writes", range(5))
def test_a_report_stopped_at_any_file_can_be_repeated(
    tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    _move(make(tmp_path / "1", **OLD), out)
    left = iter(range(writes))

    def dying(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            _move(make(tmp_path / "2", **NEW), out)
    assert (out / "index.html").read_text() in ("old page", "new page")
    _move(tmp_path / "2", out)
    assert tree(out) == {"index.html": "new page", "tables/a.csv": "3", "figures/f.png": "4"}


def test_a_manifest_cannot_make_a_report_delete_elsewhere(tmp_path: Path) -> None:
    out = make(tmp_path / "out", keep_txt="mine")
    digest = module._digest(out / "keep.txt")
    (out / MANIFEST).write_text(json.dumps({"keep.txt": [digest], "tables/../keep.txt": [digest]}))
    _move(make(tmp_path / "2", **NEW), out)
    assert (out / "keep.txt").read_text() == "mine"


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("[")
    with pytest.raises(SuiteError, match=r"\.osfer-report\.json is damaged"):
        report_files(tmp_path)


def test_a_file_as_folder_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", lambda tracker: None)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SuiteError, match=r"cannot be written to .*file(.|\n)*--out"):
        module.render(None, tmp_path / "file")  # type: ignore[arg-type]
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_finished_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(tmp_path / "home", "empty")
    with pytest.raises(SuiteError, match=r"'empty' has no finished cell(.|\n)*osfer run. with the same --profile"):
        render(tracker, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def csv(rendered: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(rendered / "tables" / f"{name}.csv", engine="python")  # reads floats as Python does


def test_csv_repeats_the_logged_numbers_exactly(rendered: Path, store: Store) -> None:
    cells = csv(rendered, "cells").set_index(["dataset", "open_classes", "method", "seed"])
    for coordinates, metrics in store.logged.items():
        if coordinates == ("synthetic", "fear", "dias", 0):  # hidden by a later failure
            continue
        for name, value in metrics.items():
            assert cells.loc[coordinates, name] == value
    assert cells.loc[("synthetic", "fear", "eow", 0), "error"] == "ValueError: <diverged> & more"
    table = csv(rendered, "table1_ferplus").set_index(["open_classes", "method", "metric"])
    assert table.loc[("surprise", "ours", "auroc"), "value"] == store.logged["ferplus", "surprise", "ours", 0]["auroc"]
    assert table.loc[("surprise", "ours", "auroc"), "paper"] == 0.933


def test_csv_is_tidy(rendered: Path) -> None:
    frame = csv(rendered, "table1_synthetic")
    assert not frame.duplicated(["open_classes", "method", "metric"]).any()
    by = frame.set_index(["open_classes", "method", "metric"])
    assert by.loc[("surprise", "baseline", "auroc"), ["n_seeds", "n_cells", "n_planned", "status"]].tolist() == [
        2,
        2,
        2,
        "finished",
    ]
    assert by.loc[("fear", "ours", "auroc"), "status"] == "partial"
    assert by.loc[("fear", "eow", "auroc"), "status"] == "failed"
    assert by.loc[("mean", "eow", "auroc"), ["n_cells", "n_planned", "status"]].tolist() == [2, 6, "partial"]
    assert frame["paper"].isna().all()  # the paper has no such data set


def test_files_are_complete_and_stale_ones_gone(rendered: Path, tables: dict[str, Table], results: Results) -> None:
    names = {path.name for path in (rendered / "tables").iterdir()}
    stems = {*tables, *(form.name for form in wide_tables(results.under("own")))}
    assert names == {f"{name}.{suffix}" for name in stems for suffix in ("tex", "md", "csv")} | {"cells.csv"}
    figures = {path.name for path in (rendered / "figures").iterdir()}
    stems = {
        "auroc_synthetic",
        "auroc_ferplus",
        "roc_ferplus_single",
        "roc_synthetic_single",
        "roc_synthetic_compound",
        "figure4_ferplus_single",
        "figure4_synthetic_compound",
        "figure4_synthetic_single_1",
        "figure4_synthetic_single_2",
    }
    assert figures == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "pdf", "svg")}
    for path in (rendered / "figures").iterdir():
        assert path.read_bytes()[:4] == {".pdf": b"%PDF", ".png": b"\x89PNG", ".svg": b"<svg"}[path.suffix]
