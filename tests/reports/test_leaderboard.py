"""The leaderboard: what is merged, what is not and why, who agrees, and the ranking itself."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pandas as pd
import pytest

from open_set_fer.benchmark.evaluation.result import EVALUATION, CellResult, DataUsed
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.leaderboard import leaderboard
from open_set_fer.reports.render import render
from tests.benchmark.storage.test_exchange import compute_otherwise, sync
from tests.complete import finished_cells

pytestmark = pytest.mark.usefixtures("local_store")

DATA = "d" * 36


def cell(method="ours", opened="surprise", seed=0, auroc=0.6, settings="a", fingerprint=DATA, version="2", **more):
    """A finished cell; more: tags."""
    tags = {
        "dataset": "ferplus",
        "protocol": "single",
        "open_classes": opened,
        "method": method,
        "seed": str(seed),
        "cell_key": f"{method}/{opened}/{seed}/{settings}/{fingerprint}/{version}",
        "settings_key": f"{method}-{settings}",
        "labels": "own",
        "host": "one",
        "threads": "2",
        "demonstration": "false",
    }
    params = {
        "method.name": method.partition("-")[0],
        "method.version": version,
        "backbone.name": "resnet18",
        "backbone.stem": "face",
        "backbone.version": "2",
    }
    metrics = {"auroc": auroc, "fpr_at_tpr95": 1 - auroc, "seconds.total": 3.0}
    return CellResult(
        metrics, {}, tags | more, started=1000.0 + seed, params=params, data=DataUsed("ferplus", fingerprint, {})
    )


def elsewhere(result, auroc=None, **tags):
    """The same cell computed by somebody else."""
    metrics = result.metrics | ({"auroc": auroc} if auroc is not None else {}) | {"seconds.total": 99.0}
    return replace(result, metrics=metrics, tags=result.tags | {"host": "two"} | tags, started=5.0)


def of(source, *cells):
    """The cells as they are logged from somebody else's results."""
    return [replace(cell, tags=cell.tags | {"imported_from": source}) for cell in cells]


def rows(board):
    return [row for _, row in board.iterrows()]


def test_means_ranks_and_counts_by_hand():
    ada = [
        cell("ours", "surprise", 0, 0.6),
        cell("ours", "surprise", 1, 0.8),
        cell("ours", "fear", 0, 0.5),
        cell("ours", "fear", 1, 0.7),
        cell("baseline", "surprise", 0, 0.7),
        cell("baseline", "fear", 0, 0.8),
    ]
    bob = of("bob", cell("eow", "surprise", 0, 0.99))  # one of the two protocols
    (board,) = leaderboard([*ada, *bob]).boards
    baseline, ours, eow = rows(board)
    assert set(zip(board["dataset"], board["family"], board["of_protocols"], strict=True)) == {("ferplus", "single", 2)}
    assert list(board["method"]) == ["baseline", "ours", "eow"]
    assert [*board["rank"][:2], pd.isna(eow["rank"])] == [1, 2, True]
    assert baseline["auroc"] == pytest.approx(0.75)
    assert ours["auroc"] == pytest.approx(0.65)
    assert ours["fpr_at_tpr95"] == pytest.approx(0.35)
    assert ours["auroc_std"] == pytest.approx(0.2 / 2**0.5)  # of 0.55 and 0.75
    assert (ours["seeds"], ours["cells"], ours["protocols"]) == (2, 4, 2)
    assert pd.isna(baseline["auroc_std"])
    assert (eow["protocols"], eow["source"], ours["source"]) == (1, "bob", "this home")


def test_equal_means_share_a_rank_and_other_settings_are_another_row():
    cells = [cell("ours", auroc=0.6), cell("ours", auroc=0.6, settings="b"), cell("dias", auroc=0.5)]
    (board,) = leaderboard(cells).boards
    assert [(row["method"], row["settings_key"], row["rank"]) for row in rows(board)] == [
        ("ours", "ours-a", 1),
        ("ours", "ours-b", 1),
        ("dias", "dias-a", 3),
    ]


def families(cells):
    return [board["family"].iloc[0] for board in leaderboard(cells).boards]


def test_families_and_pseudo_label_settings_have_separate_boards():
    cells = [
        cell(),
        cell(opened="surprise+fear", protocol="pairs"),
        cell(labels="released", label_share="1", settings="r"),
    ]
    assert families(cells) == ["single", "single, labels released 1", "pairs"]
    (control,) = leaderboard([cell(labels="spiked", label_share="0.05")]).sections()
    assert "control: no face is open" in control[0]
    assert not any("control" in title for title, _, _ in leaderboard(cells).sections())


def test_a_pool_has_a_separate_board_and_takes_no_rank_away():
    pool = "(600 images, 30% open)"
    cells = [
        cell(),
        cell("dias", auroc=0.5),
        cell(opened=f"surprise {pool}"),
        cell(opened=f"surprise {pool} (labels as released)", labels="released", label_share="1", settings="r"),
    ]
    assert [(board["family"].iloc[0], list(board["rank"])) for board in leaderboard(cells).boards] == [
        ("single", [1, 2]),
        ("single, 600 images, 30% open", [1]),
        ("single, 600 images, 30% open, labels released 1", [1]),
    ]


@pytest.mark.parametrize(("other", "agreement"), [(0.6, "equal"), (0.6 + 5e-7, "within 1e-6"), (0.61, "differs")])
def test_a_cell_that_two_have_counts_once_and_is_shown_with_both_values(other, agreement):
    mine = cell(auroc=0.6)
    board = leaderboard([mine, *of("bob", elsewhere(mine, other, threads="4"))])
    (shared,) = rows(board.shared)
    assert shared["AUROC"] == f"this home: 0.600000; bob: {other:.6f}"
    assert shared["agreement"] == agreement
    assert "threads 2, 4" in shared["what differs otherwise"]
    (row,) = rows(board.boards[0])
    assert (row["cells"], row["auroc"]) == (1, 0.6)


def test_what_cannot_stand_beside_the_rest_is_listed_with_the_reason():
    most = [cell(seed=seed) for seed in range(3)]
    odd = [
        cell(fingerprint="e" * 36),
        replace(cell(settings="old"), evaluation=EVALUATION - 1),
        replace(cell(settings="new"), evaluation=EVALUATION + 1),
        cell(version="1"),
    ]
    older = cell("dias")
    odd.append(replace(older, params=older.params | {"backbone.version": "1"}))
    board = leaderboard([*most, *of("bob", *odd)])
    assert [row["cells"] for row in rows(board.boards[0])] == [3]
    reasons = set(board.left_out["reason"])
    assert len(reasons) == 5
    assert set(board.left_out["source"]) == {"bob"}
    for words in (
        "data fingerprint eeeeeeeeeeee; 5 cells on ferplus have dddddddddddd",
        "`osfer reevaluate`",
        "update this suite",
        "method version 1 of ours, the newest here is 2",
        "backbone version 1",
    ):
        assert sum(words in reason for reason in reasons) == 1, words


def test_names_are_text_everywhere():
    hostile = "<script>|[red]x[/]`=1+1`"
    board = leaderboard(of("=cmd()", cell(hostile, opened="</td>|`x`")))
    markdown = board.to_markdown()
    assert "\\<script\\>\\|\\[red\\]x\\[/\\]\\`=1+1\\`" in markdown
    assert len([line for line in markdown.splitlines() if line.startswith("| 1 ")]) == 1
    (row,) = csv.DictReader(io.StringIO(board.to_frame().to_csv(index=False)))
    assert row["source"] == "'=cmd()"
    assert row["method"] == hostile


def test_a_report_has_the_leaderboard_of_a_home_with_cells_of_several_people(ada, home, tmp_path):
    sync(home, ada)
    render(Tracker(home, "smoke"), tmp_path / "one")
    assert not list((tmp_path / "one").rglob("leaderboard*"))
    assert "Leaderboard" not in (tmp_path / "one" / "index.html").read_text()
    theirs = compute_otherwise(sorted((ada / "results").iterdir())[0])
    sync(home, ada, "<i>Eve")
    tracker = Tracker(home, "smoke")
    render(tracker, tmp_path / "two")
    with (tmp_path / "two/tables/leaderboard.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["source"], row["cells"], row["seeds"]) == ("Ada", "2", "2")
    mean = sum(metrics["auroc"] for metrics in finished_cells(tracker).values()) / 2
    assert float(row["auroc"]) == pytest.approx(mean)
    page = (tmp_path / "two" / "index.html").read_text()
    assert 'id="leaderboard"' in page
    assert f"&lt;i&gt;Eve: {theirs:.6f}" in page
    assert "| differs |" in (tmp_path / "two/tables/leaderboard.md").read_text()
    cells = pd.read_csv(tmp_path / "two/tables/cells.csv")
    assert set(cells["source"]) == {"Ada"}
