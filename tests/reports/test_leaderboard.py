"""The leaderboard: what is merged, what is not and why, who agrees, and the ranking itself."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from open_set_fer.benchmark.evaluation.result import EVALUATION, CellResult, DataUsed
from open_set_fer.reports import leaderboard as boards
from open_set_fer.reports.leaderboard import DIFFERS, EQUAL, WITHIN, Source, leaderboard

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


def test_means_ranks_and_counts_by_hand():
    ada = Source(
        "ada",
        [
            cell("ours", "surprise", 0, 0.6),
            cell("ours", "surprise", 1, 0.8),
            cell("ours", "fear", 0, 0.5),
            cell("ours", "fear", 1, 0.7),
            cell("baseline", "surprise", 0, 0.7),
            cell("baseline", "fear", 0, 0.8),
        ],
    )
    bob = Source("bob", [cell("eow", "surprise", 0, 0.99)])  # one of the two protocols
    (board,) = leaderboard([ada, bob]).boards
    assert (board.dataset, board.family, board.protocols) == ("ferplus", "single", ("surprise", "fear"))
    baseline, ours, eow = board.rows
    assert [row.method for row in board.rows] == ["baseline", "ours", "eow"]
    assert [row.rank for row in board.rows] == [1, 2, None]
    assert baseline.metrics["auroc"] == pytest.approx(0.75)
    assert ours.metrics["auroc"] == pytest.approx(0.65)
    assert ours.metrics["fpr_at_tpr95"] == pytest.approx(0.35)
    assert ours.std == pytest.approx(0.2 / 2**0.5)  # of 0.55 and 0.75
    assert (ours.seeds, ours.cells, ours.protocols, baseline.std) == (2, 4, 2, None)
    assert (eow.protocols, eow.sources) == (1, ("bob",))


def test_equal_means_share_a_rank_and_other_settings_are_another_row():
    source = Source("ada", [cell("ours", auroc=0.6), cell("ours", auroc=0.6, settings="b"), cell("dias", auroc=0.5)])
    (board,) = leaderboard([source]).boards
    assert [(row.method, row.settings_key, row.rank) for row in board.rows] == [
        ("ours", "ours-a", 1),
        ("ours", "ours-b", 1),
        ("dias", "dias-a", 3),
    ]


def test_families_and_label_regimes_have_boards_of_their_own():
    cells = [
        cell(),
        cell(opened="surprise+fear", protocol="pairs"),
        cell(labels="released", label_share="1", settings="r"),
    ]
    found = leaderboard([Source("ada", cells)]).boards
    assert [board.family for board in found] == ["single", "single, labels released 1", "pairs"]
    (control,) = leaderboard([Source("ada", [cell(labels="flipped", label_share="0.2")])]).boards
    assert "control: no face is open" in boards.title(control)
    assert not any("control" in boards.title(board) for board in found)


def test_a_pool_has_a_board_of_its_own_and_takes_no_rank_away():
    pool = "(600 images, 30% open)"
    cells = [
        cell(),
        cell("dias", auroc=0.5),
        cell(opened=f"surprise {pool}"),
        cell(opened=f"surprise {pool} (labels as released)", labels="released", label_share="1", settings="r"),
    ]
    found = leaderboard([Source("ada", cells)]).boards
    assert [(board.family, [row.rank for row in board.rows]) for board in found] == [
        ("single", [1, 2]),
        ("single, 600 images, 30% open", [1]),
        ("single, 600 images, 30% open, labels released 1", [1]),
    ]


@pytest.mark.parametrize(("other", "agreement"), [(0.6, EQUAL), (0.6 + 5e-7, WITHIN), (0.61, DIFFERS)])
def test_a_cell_that_two_have_counts_once_and_is_shown_with_both_values(other, agreement):
    mine = cell(auroc=0.6)
    board = leaderboard([Source("ada", [mine]), Source("bob", [elsewhere(mine, other, threads="4")])])
    (shared,) = board.shared
    assert shared.values == {"ada": 0.6, "bob": other}
    assert shared.agreement == agreement
    assert "threads 2, 4" in shared.circumstances
    (row,) = board.boards[0].rows
    assert (row.cells, row.metrics["auroc"]) == (1, 0.6)


def test_a_copy_is_no_second_computation_but_a_changed_copy_is_shown():
    mine = cell(auroc=0.6)
    copy = replace(mine, tags=mine.tags | {"imported_from": "ada"}, started=mine.started + 0.001)
    assert leaderboard([Source("ada", [mine]), Source("bob", [copy])]).shared == ()
    changed = replace(copy, metrics=copy.metrics | {"auroc": 0.9})
    (shared,) = leaderboard([Source("ada", [mine]), Source("bob", [changed])]).shared
    assert shared.agreement == DIFFERS
    assert shared.values == {"ada": 0.6, "ada in bob": 0.9}


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
    board = leaderboard([Source("ada", most), Source("bob", odd, refused={"cell 12": "its auroc is 1"})])
    assert [row.cells for row in board.boards[0].rows] == [3]
    reasons = {left.reason for left in board.left_out}
    assert len(reasons) == 6
    assert all(left.source == "bob" for left in board.left_out)
    for words in (
        "data fingerprint eeeeeeeeeeee; 5 cells on ferplus have dddddddddddd",
        "`osfer measure`",
        "update this suite",
        "method version 1 of ours, the newest here is 2",
        "backbone version 1",
        "its auroc is 1",
    ):
        assert sum(words in reason for reason in reasons) == 1, words


def test_nothing_to_rank():
    assert leaderboard([Source("ada", [])]).boards == ()


def test_names_are_text_everywhere():
    hostile = "<script>|[red]x[/]`=1+1`"
    board = leaderboard([Source("=cmd()", [cell(hostile, opened="</td>|`x`")]), Source("b", [], {"a|b": "c\n# d"})])
    markdown = boards.to_markdown(board)
    assert "\\<script\\>\\|\\[red\\]x\\[/\\]\\`=1+1\\`" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| 1 ")]
    assert len(rows) == 1
    assert "\n# d" not in markdown
    (row,) = csv.DictReader(io.StringIO(boards.to_frame(board).to_csv(index=False)))
    assert row["sources"] == "'=cmd()"
    assert row["method"] == hostile
