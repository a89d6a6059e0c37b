"""A report replaces a report as a whole and no other folder, and its files repeat what was logged."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.reports import render as module
from open_set_fer.reports.data.results import Results
from open_set_fer.reports.render import MARKER, render
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.wide import wide_tables
from tests.reports.conftest import Store

OLD = {"index.html": "old page", "tables/a.csv": "1", "tables/gone.tex": "2", MARKER: ""}
NEW = {"index.html": "new page", "tables/a.csv": "3", "figures/f.png": "4", MARKER: ""}


def make(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render NEW, whatever the tracker holds."""
    monkeypatch.setattr(module, "load", lambda tracker: SimpleNamespace(profile="made"))
    monkeypatch.setattr(module, "_render", lambda results, folder, *_: make(folder, NEW))


def write(out: Path) -> None:
    render(None, out)  # type: ignore[arg-type]


@pytest.mark.parametrize("old", [None, {}, OLD, OLD | {f"{MARKER}.lock": ""}, {f"{MARKER}.lock": ""}])
def test_a_report_takes_the_place_of_an_earlier_one(
    tmp_path: Path, rendering: None, old: dict[str, str] | None
) -> None:
    out = tmp_path / "below" / "out"
    if old is not None:
        out.mkdir(parents=True)
        make(out, old)
    write(out)
    assert tree(out) == NEW
    assert {path.name for path in out.parent.iterdir()} == {"out"}


def test_reports_of_one_folder_are_written_one_after_the_other(tmp_path: Path, rendering: None) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [tmp_path / "out"] * 8))
    assert tree(tmp_path / "out") == NEW
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_linked_folder_stays_a_link(tmp_path: Path, rendering: None) -> None:
    make(tmp_path / "real", OLD)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "real") == NEW


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"index.html": "mine", "tables/a.csv": "mine"}, rf"it has no {MARKER}"),
        ({"thesis.tex": "mine"}, r"it holds thesis\.tex"),
        ({"index.html": "mine", f"{MARKER}.lock": ""}, rf"it has no {MARKER}"),
        (OLD | {"notes.md": "mine"}, r"it holds notes\.md"),
    ],
)
def test_a_folder_that_is_not_a_report_is_refused(
    tmp_path: Path, rendering: None, files: dict[str, str], reason: str
) -> None:
    make(tmp_path / "out", files)
    with pytest.raises(SuiteError, match=rf"is not a report \({reason}(.|\n)*--out"):
        write(tmp_path / "out")
    assert tree(tmp_path / "out") == files
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_the_working_directory_is_refused(tmp_path: Path, rendering: None, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, OLD)
    for place in (tmp_path, tmp_path / "tables"):
        monkeypatch.chdir(place)
        with pytest.raises(SuiteError, match="is the working directory or above it"):
            write(tmp_path)
    assert tree(tmp_path) == OLD


@pytest.mark.parametrize("moves", range(3))
def test_a_report_stopped_at_any_move_can_be_repeated(
    tmp_path: Path, rendering: None, moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    make(out, OLD)
    left = iter(range(moves))

    def dying(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("open_set_fer.files.os.replace", dying)
        if moves < 2:
            with pytest.raises(KeyboardInterrupt):
                write(out)
        else:
            write(out)
    kept = next(place for place in (out, tmp_path / "out.old") if place.exists())  # killed between its two moves
    assert tree(kept) in (OLD, NEW)
    write(out)
    assert tree(out) == NEW
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_full_disk_leaves_the_earlier_report(
    tmp_path: Path, rendering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", OLD)

    def full(_: object, folder: Path, *more: object) -> None:
        make(folder, {"index.html": "half a"})
        raise OSError(28, "No space left on device", str(folder / "index.html"))

    monkeypatch.setattr(module, "_render", full)
    with pytest.raises(SuiteError, match=r"cannot be written to(.|\n)*No space left"):
        write(tmp_path / "out")
    assert tree(tmp_path / "out") == OLD
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_file_as_folder_is_one_clear_error(tmp_path: Path, rendering: None) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SuiteError, match=r"cannot be written to .*file(.|\n)*--out"):
        write(tmp_path / "file")
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
        "result_synthetic",
        "result_ferplus",
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
