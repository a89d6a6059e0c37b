"""The positive control in a report: paired with label-loss, marked where it stays below, and said where it lacks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.results import load
from open_set_fer.reports.page.summary import summaries
from open_set_fer.reports.render import render
from open_set_fer.reports.tables.build import INDUCTIVE, TRANSDUCTIVE, all_tables
from open_set_fer.reports.tables.controls import HOW_TO_READ, controls_of, heading_mark
from open_set_fer.reports.tables.latex import to_latex
from open_set_fer.reports.tables.text import to_frame, to_markdown
from tests.reports.conftest import Store

FLIPPED, TRUE = "surprise (5% of labels flipped in the pool)", "surprise (20% of true labels flipped)"
OTHER = "fear (5% of labels flipped in the pool)"
STATED = dict.fromkeys(("ours-best", "their method", "cleanlab"), "true")
"""Labels that are no method's name; what their runs are tagged with."""


class Marked(Store):
    """Tags say what a method states of itself, as those of the runner do, for labels that are not methods' names."""

    def tags(self, *coordinates: Any) -> dict[str, str]:
        stated = STATED.get(coordinates[3])
        facts = {"label_based": stated, "sees_pool": stated} if stated else {}
        return super().tags(*coordinates) | facts

    def make_plan(self, cells: list[tuple[str, str, str, str, int]]) -> None:
        names = ("dataset", "protocol", "open_classes", "method", "seed")
        plan = [dict(zip(names, cell, strict=True)) | {"cell_key": self.key(*cell, "a")} for cell in cells]
        self.parent = self.tracker.start_benchmark(plan, "", "osfer run")

    def control(self, opened: str, method: str, seed: int) -> float:
        return self.logged["ferplus", opened, method, seed]["auroc"]


METHODS = ("baseline", "their method", "cleanlab", "knn", "ours", "ours-plus")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`ours` is below label-loss with predictions flipped, above with true labels flipped; `their method` never is."""
    home = tmp_path_factory.mktemp("controls")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = Marked(Tracker(home, "made"), home)
        (home / "profile.toml").write_text("seeds = [0]\n")
        own = [("ferplus", "single", "surprise", method, 0) for method in METHODS]
        controls = [
            ("ferplus", "single", opened, method, seed)
            for opened, method, seed in (
                (FLIPPED, "ours", 0),
                (FLIPPED, "ours", 1),
                (FLIPPED, "ours", 2),
                (OTHER, "ours", 0),
                (TRUE, "ours", 0),
                (FLIPPED, "their method", 0),
                (FLIPPED, "baseline", 0),
                (FLIPPED, "label-loss", 0),
                (FLIPPED, "label-loss", 1),
                (TRUE, "label-loss", 0),
            )
        ]
        store.make_plan([*own, *controls])
        strong = {
            (FLIPPED, "label-loss"): 3.0,
            (TRUE, "label-loss"): 0.5,
            (TRUE, "ours"): 3.0,
            (FLIPPED, "their method"): 9.0,
        }
        for cell in [*own, *controls]:
            if cell[2:] != (FLIPPED, "ours", 2):
                store.finish(*cell, gap=strong.get(cell[2:4], 0.3))
        store.tracker.end(store.parent, "FINISHED")
        yield store


@pytest.fixture(scope="module")
def results(made):
    return load(made.tracker)


@pytest.fixture(scope="module")
def table(results):
    return next(table for table in all_tables(results.under("own")) if table.name == "table1_ferplus")


def test_a_control_and_label_loss_are_means_over_the_same_cells(made, results):
    flipped, true = controls_of(results, "ferplus", "ours")
    assert flipped.value == pytest.approx(np.mean([made.control(FLIPPED, "ours", seed) for seed in (0, 1)]))
    assert flipped.reference == pytest.approx(np.mean([made.control(FLIPPED, "label-loss", seed) for seed in (0, 1)]))
    assert flipped.counted == "2 of 4 cells", "seed 2 is missing, fear has no label-loss"
    assert flipped.std == pytest.approx(np.std([made.control(FLIPPED, "ours", seed) for seed in (0, 1)], ddof=1))
    assert (true.value, true.counted) == (made.control(TRUE, "ours", 0), "1 cell")
    assert (flipped.is_informative, true.is_informative) == (False, True)
    assert controls_of(results.under("own"), "ferplus", "ours") == [flipped, true], "whatever regime a table is of"


def test_without_label_loss_there_is_a_value_and_no_verdict(made, results):
    cells = results.every_cell[results.every_cell["method"] != "label-loss"]
    alone = replace(results, cells=cells)
    flipped = controls_of(alone, "ferplus", "ours")[0]
    assert (flipped.reference, flipped.is_informative, flipped.n_cells) == (None, None, 3)


def test_a_control_asks_nothing_of_methods_that_score_no_label(results):
    assert [controls_of(results, "ferplus", method) for method in ("baseline", "knn", "ours-plus")] == [[], [], []]
    assert [results.states(method, "label_based") for method in METHODS] == [False, True, True, False, True, False]
    assert [results.states(method, "sees_pool") for method in METHODS] == [False, True, True, False, True, True]


def test_the_mark_goes_by_answers_flipped(results):
    marked = {method: heading_mark(results, "ferplus", method) for method in METHODS}
    assert {method for method, mark in marked.items() if mark} == {"ours"}


def test_a_table_has_the_control_beside_its_numbers(made, results, table):
    control, true, other = table.blocks[2:5]
    assert control.heading == "Positive control, 5% of labels flipped in the pool: AUROC (higher is better)"
    texts = {
        row.label: dict(zip(table.headings, (e.text + e.mark for e in row.entries), strict=True))
        for row in control.rows
    }
    ours = controls_of(results, "ferplus", "ours")[0]
    assert texts["the method"] == {
        "baseline": "",
        "knn": "",
        "their method": f"{made.control(FLIPPED, 'their method', 0):.3f}",
        "cleanlab": "not run",
        "ours": f"{ours.value:.3f} ± {ours.std:.3f}§",
        "ours-plus": "",
    }
    assert texts["label loss"]["ours"] == f"{ours.reference:.3f}"
    assert "20% of true labels flipped" in true.heading
    assert other.printed
    assert HOW_TO_READ in table.footnotes
    (mark,) = (note for note in table.footnotes if note.startswith("§"))
    assert mark.startswith(
        f"§ Not informative, below label-loss in the control: Ours ({ours.value:.3f} against {ours.reference:.3f}"
    )
    assert "20% of true labels flipped, 1 cell" in mark, "the fairer control is said, too"
    (lacking,) = (note for note in table.footnotes if note.startswith("Control not run"))
    assert lacking == (
        "Control not run: Cleanlab; it comes from `osfer run --profile made --dataset ferplus --open surprise --method "
        "cleanlab,label-loss --labels spiked`."
    )


def test_methods_that_see_the_pool_stand_apart_from_those_that_see_one_face(table):
    assert list(table.headings) == ["baseline", "knn", "ours", "their method", "cleanlab", "ours-plus"]
    assert table.groups(range(6)) == [(INDUCTIVE, 2), (TRANSDUCTIVE, 4)]
    assert table.groups(range(1, 3)) == [(INDUCTIVE, 1), (TRANSDUCTIVE, 1)]
    assert table.heads[2] == "Ours§"
    assert "Ours, their method, Cleanlab, Ours-plus are transductive" in " ".join(table.footnotes)
    assert "methods of both kinds taken together" in " ".join(table.footnotes)


def test_every_format_has_marks_and_blocks(results, table):
    markdown, latex, frame = to_markdown(table), to_latex(table), to_frame(table)
    assert f"| *setting* | *{INDUCTIVE}* | *{INDUCTIVE}* | *{TRANSDUCTIVE}* |" in markdown
    assert "| Ours§ |" in markdown
    groups = [rf"\multicolumn{{{n}}}{{l}}{{\textit{{{sees}}}}}" for n, sees in ((2, INDUCTIVE), (4, TRANSDUCTIVE))]
    assert rf"\textit{{setting}} & {' & '.join(groups)} \\" in latex
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-7}" in latex
    assert r"Ours\textsuperscript{\S}" in latex
    control = frame[frame["metric"] == "control_auroc"].set_index(["open_classes", "method"])
    assert set(control.loc["5% of labels flipped in the pool"].index) == {"ours", "their method", "cleanlab"}
    assert control.loc[("5% of labels flipped in the pool", "ours"), "n_cells"] == 2
    assert control.loc[("5% of labels flipped in the pool", "cleanlab"), "status"] == "not run"
    assert set(frame.loc[frame["not_informative"], "method"]) == {"ours"}
    assert set(frame.loc[frame["setting"] == TRANSDUCTIVE, "method"]) == {
        "ours",
        "their method",
        "cleanlab",
        "ours-plus",
    }
    side = next(table for table in all_tables(results.under("own")) if table.is_side)
    assert [row.label for row in side.blocks[0].rows][2] == "Ours§"
    assert side.groups(range(len(list(side.headings)))) == []


def test_the_papers_mean_stands_beside_the_same_rows_whatever_the_control(results, table):
    frame = to_frame(table)
    assert frame.loc[(frame["metric"] == "auroc") & (frame["method"] == "baseline"), "paper"].tolist() == [0.406]


def test_the_summary_says_control_mark_and_block(results):
    (summary,) = summaries(results.under("own"))
    by_label = {row.method: row for row in summary.standings}
    assert by_label["ours"].name == "Ours§"
    assert ["20% of true labels flipped" in text for text in by_label["ours"].controls] == [False, True]
    assert (by_label["cleanlab"].controls, by_label["knn"].controls) == (("not run",), ())
    assert (by_label["ours"].setting, by_label["knn"].setting) == (TRANSDUCTIVE, INDUCTIVE)
    assert any(row.controls for row in summary.standings)
    assert "by its control it is not informative (§)" in summary.finding


def test_the_page_shows_all_of_it(made, tmp_path):
    page = render(made.tracker, tmp_path / "report").read_text("utf-8")
    assert re.search(
        rf'<th colspan="2" scope="colgroup">{INDUCTIVE}</th><th colspan="4" scope="colgroup">{TRANSDUCTIVE}</th>', page
    )
    assert '<th scope="col">Ours§</th>' in page
    assert f"<small>{TRANSDUCTIVE}</small>" in page
    assert "Control not run: Cleanlab" in page
    assert '<td class="not-run" data-order="">not run</td>' in page


def test_a_store_without_label_based_methods_says_nothing_of_controls(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Marked(Tracker(tmp_path, "made"), tmp_path)
    (tmp_path / "profile.toml").write_text("seeds = [0]\n")
    cells = [("ferplus", "single", "surprise", method, 0) for method in ("baseline", "knn")]
    store.make_plan(cells)
    for cell in cells:
        store.finish(*cell)
    results = load(store.tracker).under("own")
    text = " ".join(to_markdown(table) + to_latex(table) for table in all_tables(results))
    assert "ontrol" not in text
    assert "*setting*" not in text
    assert not any(row.controls for row in summaries(results)[0].standings)
    assert isinstance(to_frame(all_tables(results)[0]), pd.DataFrame)
