"""Tables in the paper's own layout: golden LaTeX, published numbers beside, absent data sets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from open_set_fer.reports.data.paper import paper_results
from open_set_fer.reports.data.results import FAILED, MISSING
from open_set_fer.reports.tables.build import Table, all_tables
from open_set_fer.reports.tables.latex import to_latex
from open_set_fer.reports.tables.text import to_frame, to_markdown
from open_set_fer.reports.tables.wide import wide_tables
from tests.reports.made import Cell, results_of

GOLDEN = Path(__file__).parents[1] / "golden"
"""To renew after an intended change: `python -m tests.reports.tables.test_wide`, then look at the difference."""
NAMES = ("printed_table1", "printed_table4", "printed_table5", "table1_ferplus")
METHODS = ("baseline", "dias", "ours", "ours-online", "ours-attention-only", "ours-attention-resets")


def numbers() -> dict[Cell, tuple[float, float] | str]:
    """Two seeds of two choices of open classes of FERPlus, one cell missing and two failed."""
    made: dict[Cell, tuple[float, float] | str] = {
        ("ferplus", "single", opened, method, seed): (0.5 + 0.05 * place + 0.1 * row + 0.01 * seed, 0.9 - 0.05 * place)
        for row, opened in enumerate(("surprise", "fear"))
        for place, method in enumerate(METHODS)
        for seed in (0, 1)
    }
    made["ferplus", "single", "fear", "ours", 1] = MISSING
    made["ferplus", "single", "fear", "dias", 0] = made["ferplus", "single", "fear", "dias", 1] = FAILED
    return made


def forms() -> dict[str, Table]:
    return {table.name: table for table in wide_tables(results_of(numbers()))}


def golden() -> dict[str, str]:
    """Every wide table of the made results, and an ordinary table."""
    ordinary = next(table for table in all_tables(results_of(numbers())) if table.name == "table1_ferplus")
    return {table.name: to_latex(table) for table in [*forms().values(), ordinary]}


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_what_it_was(name: str) -> None:
    assert golden()[name] == (GOLDEN / f"{name}.tex").read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_that_stood_in_tables_set_by_hand(name: str) -> None:
    """golden/numbers.json: every number in order, from the files before tables were written by pandas."""
    before = json.loads((GOLDEN / "numbers.json").read_text("utf-8"))[name].split()
    lines = [line for line in golden()[name].splitlines() if not line.startswith("%")]
    assert re.findall(r"\d+\.\d+", "\n".join(lines)) == before


def test_metrics_stand_side_by_side_and_a_data_set_without_cells_keeps_its_rows() -> None:
    table = forms()["printed_table1"]
    assert table.groups(range(len(list(table.headings)))) == [("AUROC ↑", 3), ("FPR@TPR95 ↓", 3)]
    rafdb, ferplus = table.blocks
    assert [row.label for row in rafdb.rows][-2:] == ["neutral", "mean"]
    assert {entry.text for row in rafdb.rows for entry in row.entries} == {"—"}
    assert "—: no cell of RAF-DB in these results." in table.footnotes
    surprise, fear, mean = ferplus.rows
    assert [entry.number for entry in surprise.entries[:3]] == ["0.505", "0.555", "0.605"]
    assert [entry.text + entry.mark for entry in fear.entries] == [
        "0.605",
        "failed",
        "0.700†",
        "0.900",
        "failed",
        "0.800†",
    ]
    assert [entry.text + entry.mark for entry in mean.entries[:3]] == ["0.555", "0.555†", "0.652†"]
    assert "FERPlus: † fewer seeds than planned: Ours, fear: 1 of 2." in table.footnotes
    assert "Standard deviation of AUROC over seeds: at most 0.007." in table.footnotes


def several() -> dict[str, Table]:
    """The wide tables of several open classes at once: AUROC 0.5 of the baseline, 0.1 more a row, 0.2 more for ours."""
    rows = [
        ("ferplus", "pairs", "surprise+fear"),
        ("ferplus", "pairs", "fear+disgust"),
        ("ferplus", "triples", "surprise+fear+disgust"),
        ("rafdb_compound", "compound", "compound"),
        ("ferplus", "contempt", "contempt"),
    ]
    made: dict[Cell, tuple[float, float] | str] = {
        (*place, method, seed): (0.5 + 0.1 * (row % 3) + 0.2 * (method == "ours") + 0.02 * seed, 0.9 - 0.1 * (row % 3))
        for row, place in enumerate(rows)
        for method in ("baseline", "ours")
        for seed in (0, 1)
    }
    return {table.name: table for table in wide_tables(results_of(made))}


def test_table_2_has_pairs_then_triples_and_one_mean_over_both() -> None:
    table = several()["printed_table2"]
    assert "two and three open classes" in table.caption
    assert "the paper's Table 2" in table.caption
    assert table.groups(range(len(list(table.headings)))) == [("AUROC ↑", 2), ("FPR@TPR95 ↓", 2)]
    rafdb, ferplus = table.blocks
    assert (rafdb.heading, ferplus.heading) == ("RAF-DB", "FERPlus")
    assert len(rafdb.rows) == 6 + 5 + 1, "the paper's pairs, triples and their mean, as dashes"
    assert [[row.label, *(entry.number for entry in row.entries)] for row in ferplus.rows] == [
        ["surprise+fear", "0.510", "0.710", "0.900", "0.900"],
        ["fear+disgust", "0.610", "0.810", "0.800", "0.800"],
        ["surprise+fear+disgust", "0.710", "0.910", "0.700", "0.700"],
        ["mean", "0.610", "0.810", "0.800", "0.800"],
    ]


def test_table_3_has_compound_expressions_and_contempt_of_their_data_sets_and_no_mean() -> None:
    table = several()["printed_table3"]
    assert "the paper's Table 3" in table.caption
    shown = {
        block.heading: [[row.label, *(entry.text for entry in row.entries)] for row in block.rows]
        for block in table.blocks
    }
    compound, affectnet, ferplus = shown
    assert shown[compound] == [["compound", "0.510", "0.710", "0.900", "0.900"]]
    assert (affectnet, shown[affectnet]) == ("AffectNet", [["contempt", "—", "—", "—", "—"]])
    assert (ferplus, shown[ferplus]) == ("FERPlus", [["contempt", "0.610", "0.810", "0.800", "0.800"]])
    assert compound.startswith("RAF-DB")
    assert set(several()) == {"printed_table2", "printed_table3"}


def test_printed_numbers_stand_in_a_column_named_for_their_data_set() -> None:
    paper = paper_results()
    for name, head in (("printed_table4", "paper (RAF-DB) AUROC: online"), ("printed_table5", "paper (RAF-DB) AUROC")):
        table = forms()[name]
        frame = to_frame(table)
        assert head in frame.columns
        of_ferplus = frame[frame["dataset"].str.startswith("FERPlus")]
        printed = paper[paper["table"] == name.removeprefix("printed_")].set_index(["open_classes", "method"])["value"]
        if name == "printed_table4":
            assert list(of_ferplus[head])[:2] == [printed["surprise", "ours-online"], printed["fear", "ours-online"]]
            assert of_ferplus[head].isna().tolist() == [False, False, True], "no printed mean is of two classes"
        else:
            surprise = of_ferplus[of_ferplus["dataset"] == "FERPlus, surprise open"]
            assert surprise[head].tolist()[:2] == [printed["surprise", "none"], printed["surprise", "attention"]]
            assert len(surprise) == 4, "the ablation's four rows"
        assert any("not of FERPlus, another data set" in note for note in table.footnotes)
        for text in (to_markdown(table), to_latex(table)):
            assert "paper (RAF-DB)" in text.replace("\\\\\\strut", "").replace("\n", " ").replace("  ", " ")


def test_the_papers_own_data_set_is_not_called_another() -> None:
    of_rafdb = {("rafdb", *cell[1:]): value for cell, value in numbers().items()}
    tables = {table.name: table for table in wide_tables(results_of(of_rafdb))}
    assert not any("another data set" in note for note in tables["printed_table4"].footnotes)
    assert [block.heading for block in tables["printed_table4"].blocks] == ["RAF-DB", "FERPlus"]


def test_data_sets_of_others_alone_make_no_rows_of_dashes() -> None:
    of_others = {("synthetic", *cell[1:]): value for cell, value in numbers().items()}
    (first, *_) = wide_tables(results_of(of_others))
    assert [block.heading for block in first.blocks] == ["Rendered faces"]
    assert "says nothing about real faces" in first.state


if __name__ == "__main__":
    for name, text in golden().items():
        (GOLDEN / f"{name}.tex").write_text(text, "utf-8")
