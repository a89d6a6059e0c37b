"""The run shown for a cell: settings there and back, renamed labels, equal settings, a wrong clock; warnings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.storage.mlflow_reader import read_notes
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.results import Results, load, method_order, protocol_order
from open_set_fer.reports.data.run_warnings import _method_warnings
from tests.complete import finished_cells
from tests.reports.conftest import ODD, Store

NUMBERS = itertools.count()
AUROC = {"a": 0.6, "b": 0.7, "c": 0.8}
"""By settings."""


class Lab:
    """An experiment in which plans and runs are logged as the runner logs them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tracker = Tracker(home, f"shown-{next(NUMBERS)}")
        (home / "profile.toml").write_text("")
        pd.DataFrame({"id": ["x"]}).to_parquet(home / "scores.parquet")

    def plan(self, cells: dict[str, str]) -> list[dict[str, Any]]:
        """cells: settings by label."""
        place = {"dataset": "ferplus", "protocol": "single", "open_classes": "fear", "seed": 0}
        return [place | {"method": label, "cell_key": f"key-{settings}"} for label, settings in cells.items()]

    def run(self, fail: bool = False, **tags: str) -> None:
        """`osfer run` of these labels: only cells without a finished run are computed."""
        labels = {name.replace("_", "-"): value for name, value in tags.items() if name in ("x", "y", "z")}
        more = {name: value for name, value in tags.items() if name not in labels}
        plan, done = self.plan(labels), finished_cells(self.tracker)
        missing = [cell for cell in plan if cell["cell_key"] not in done]
        if not missing:
            self.tracker.record_plan(plan, "", "osfer run")
            return
        parent = self.tracker.start_benchmark(plan, "", "osfer run")
        for cell in missing:
            settings = cell["cell_key"].removeprefix("key-")
            own = {name: str(value) for name, value in cell.items()} | {"settings_key": settings} | more
            if cell["cell_key"] in finished_cells(self.tracker):  # two labels with equal settings: computed once
                continue
            if fail:
                self.tracker.log_failure(parent, own, "ValueError: diverged")
                continue
            result = CellResult({"auroc": AUROC[settings]}, {}, own, data=DataUsed("ferplus", "f" * 64, {}))
            self.tracker.log_cell(parent, result, self.home, {})
        self.tracker.end(parent, "FINISHED")

    def shown(self) -> dict[str, float | str]:
        """AUROC, or the status of an unfinished cell, by label."""
        cells = load(self.tracker).cells
        return {c["method"]: c["auroc"] if c["status"] == "finished" else c["status"] for c in cells.to_dict("records")}

    def warnings(self) -> str:
        return "\n".join(warn.text for warn in load(self.tracker).warnings)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tmp_path_factory.mktemp("shown")


def test_settings_there_and_back_show_the_first_run_again(home: Path) -> None:
    lab = Lab(home)
    shown = []
    for settings in "aba":
        lab.run(x=settings)
        shown.append(lab.shown()["x"])
    assert shown == [0.6, 0.7, 0.6]
    assert "also finished with other settings; those of the latest plan are shown: fear seed 0" in lab.warnings()


def test_a_renamed_label_is_shown_by_its_new_name_alone(home: Path) -> None:
    lab = Lab(home)
    lab.run(x="a")
    lab.run(y="a")
    assert lab.shown() == {"y": 0.6}
    lab.run(x="a")
    assert lab.shown() == {"x": 0.6}


def test_one_run_serves_two_labels_with_equal_settings(home: Path) -> None:
    lab = Lab(home)
    lab.run(x="a", y="a")
    assert lab.shown() == {"x": 0.6, "y": 0.6}


def test_a_clock_set_wrong_does_not_reorder_the_plans(home: Path) -> None:
    lab = Lab(home)
    lab.run(x="a")
    for run in lab.tracker._search("tags.`osfer.kind` != ''"):
        ahead = run.info.start_time + 30 * 24 * 3600 * 1000
        _set_start(home, run.info.run_id, ahead)
    lab.run(x="b")
    assert lab.shown() == {"x": 0.7}


def _set_start(home: Path, run_id: str, start: int) -> None:
    import sqlite3

    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute("UPDATE runs SET start_time = ? WHERE run_uuid = ?", (start, run_id))


def test_planned_settings_without_a_result_are_missing_or_failed_not_older_ones(home: Path) -> None:
    lab = Lab(home)
    lab.run(x="a", z="c")
    lab.run(fail=True, x="b")
    assert lab.shown() == {"x": "failed", "z": 0.8}
    assert "a run with other settings finished and is not shown" in lab.warnings()
    lab.run(y="a")
    lab.tracker.start_benchmark(lab.plan({"z": "d"}), "", "osfer run")
    assert lab.shown() == {"x": "failed", "y": 0.6, "z": "missing"}
    assert "which are still to be computed: fear seed 0" in lab.warnings()


def test_only_runs_with_other_settings_than_the_latest_plans_is_an_error_that_says_so(home: Path) -> None:
    lab = Lab(home)
    lab.run(x="a")
    lab.tracker.start_benchmark(lab.plan({"x": "b"}), "", "osfer run")
    with pytest.raises(SuiteError, match=r"none of the 1 finished cells(.|\n)*osfer run. with the same --profile"):
        load(lab.tracker)


def test_a_run_with_nothing_to_do_and_nothing_new_leaves_no_plan(home: Path) -> None:
    lab = Lab(home)
    lab.run(x="a")
    lab.run(x="a")
    assert len(lab.tracker._search("tags.`osfer.kind` = 'benchmark'")) == 1


def test_a_part_of_the_plan_leaves_the_other_cells_as_they_were(home: Path) -> None:
    lab = Lab(home)
    lab.run(x="a", y="b")
    lab.run(y="c")
    assert lab.shown() == {"x": 0.6, "y": 0.8}


def test_cells_of_different_environments_are_warned_about(home: Path) -> None:
    lab = Lab(home)
    lab.run(x="a", threads="1", torch="2.14.0", python="3.12.1", version="0.1")
    lab.run(y="b", threads="2", torch="2.14.1", python="3.12.1", version="0.2")
    said = lab.warnings()
    assert "2 numbers of threads (1, 2)" in said
    assert "2 versions of torch (2.14.0, 2.14.1)" in said
    assert "2 versions of the suite (0.1, 0.2)" in said
    assert "Python" not in said


def test_scores_from_a_file_a_cell_are_not_said_to_have_different_settings() -> None:
    cells = pd.DataFrame({"dataset": "made", "method": ["a", "a", "b", "b"], "settings_key": list("1212")})
    said = list(_method_warnings(cells.assign(git_commit="c0ffee"), {"a"}))
    assert said == [("made", "b", "the cells shown were computed with 2 different settings.")]


def test_every_planned_cell_has_a_status(results: Results, store: Store) -> None:
    assert len(results.cells) == len(store.plan)
    assert results.cells["status"].value_counts().to_dict() == {"finished": 20, "failed": 4, "missing": 4}
    assert results.demonstrations == {"synthetic"}


def test_the_run_with_the_planned_settings_counts(results: Results, store: Store) -> None:
    cells = results.cells.set_index(["dataset", "open_classes", "method", "seed"])
    assert cells.loc[("synthetic", "surprise", "baseline", 0), "settings_key"] == "b"
    shown = store.logged["synthetic", "surprise", "baseline", 0]["auroc"]
    assert cells.loc[("synthetic", "surprise", "baseline", 0), "auroc"] == shown
    assert cells.loc[("synthetic", "surprise", "dias", 0), "status"] == "finished"  # failed before
    assert cells.loc[("synthetic", "fear", "dias", 0), "status"] == "failed"  # finished before, with other settings


def test_warnings_name_duplicates_settings_and_commits(results: Results) -> None:
    found = {(warn.methods, warn.text) for warn in results.warnings}
    assert (
        ("baseline",),
        "also finished with other settings; those of the latest plan are shown: surprise seed 0.",
    ) in found
    assert (("baseline",), "the cells shown were computed with 2 different settings.") in found
    assert ((ODD,), "computed from a checkout with uncommitted changes (c0ffee-dirty).") in found
    hidden = (
        "failed with the settings of the latest plan; a run with other settings finished and is not shown: fear seed 0."
    )
    assert (("dias",), hidden) in found
    assert len(found) == 4
    assert not results.warnings_for("ferplus", ["baseline", "ours"])


def test_notes_cut_at_the_tags_length_are_kept() -> None:
    assert read_notes('["a", "b"]') == ["a", "b"]
    assert read_notes('["a", "lo') == ['["a", "lo']
    assert read_notes("") == []


def test_orders() -> None:
    assert method_order(["x", "ours", "dias", "a", "baseline"]) == ["baseline", "dias", "ours", "x", "a"]
    rows = [
        ("pairs", "fear+disgust"),
        ("single", "neutral"),
        ("pairs", "surprise+fear"),
        ("single", "zeal"),
        ("single", "fear"),
    ]
    cells = pd.DataFrame([{"protocol": family, "open_classes": name, "choice": name} for family, name in rows])
    assert [label for _, label in protocol_order(cells)] == ["fear", "neutral", "zeal", "surprise+fear", "fear+disgust"]
