"""What the tables hold: rows, columns, states, means, marks, the paper's numbers, footnotes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from open_set_fer.reports.data.results import Results, load
from open_set_fer.reports.tables.build import DEMONSTRATION, Table, all_tables
from open_set_fer.reports.tables.latex import to_latex
from open_set_fer.reports.tables.means import Entry
from open_set_fer.reports.tables.wording import BY_ORIGIN
from tests.reports.conftest import ODD, Store
from tests.reports.made import results_of

PAPER = 4
"""Index of the first block with the paper's numbers in a table with three measured blocks and one of the control."""


def entry(table: Table, block: int, label: str, method: str) -> Entry:
    row = next(row for row in table.blocks[block].rows if row.label == label)
    return row.entries[list(table.headings).index(method)]


def test_table_1_has_the_papers_order(tables: dict[str, Table]) -> None:
    table = tables["table1_synthetic"]
    assert list(table.headings) == ["baseline", "eow", "dias", ODD, "ours"]
    assert [row.label for row in table.blocks[0].rows] == ["surprise", "fear", "disgust", "mean"]
    assert [block.heading for block in table.blocks[:2]] == ["AUROC (higher is better)", "FPR@TPR95 (lower is better)"]


def test_states_are_shown_and_counted(tables: dict[str, Table]) -> None:
    table = tables["table1_synthetic"]
    assert entry(table, 0, "disgust", "eow").text == "—"
    assert entry(table, 0, "fear", "eow").text == "failed"
    assert entry(table, 0, "disgust", ODD).text == "·"
    assert entry(table, 0, "disgust", "baseline").text == "0.500 ± 0.000"  # constant scores
    assert entry(table, 0, "fear", "ours").mark == "‡"
    assert "3 of 21 cells missing, 3 failed." in table.caption
    assert "over 1 to 2 seeds" in table.caption


def test_means_over_incomplete_columns_are_marked(tables: dict[str, Table], store: Store) -> None:
    table = tables["table1_synthetic"]
    mean = entry(table, 0, "mean", "eow")
    of_eow = [store.logged["synthetic", "surprise", "eow", seed]["auroc"] for seed in (0, 1)]
    assert mean.value == pytest.approx(np.mean(of_eow))
    assert (mean.mark, mean.std) == ("†", None)
    assert entry(table, 0, "mean", "ours").mark == "†"
    assert entry(table, 0, "mean", "baseline").mark == ""
    marked = next(note for note in table.footnotes if note.startswith("†"))
    assert "1 of 3 rows for EOW" in marked
    assert "3 of 3 rows (5 of 6 cells) for Ours" in marked


def test_means_and_deviations_agree_with_pandas(tables: dict[str, Table], store: Store) -> None:
    logged = pd.DataFrame(
        [{"dataset": d, "open": o, "method": m, "seed": s, **v} for (d, o, m, s), v in store.logged.items()]
    )
    for block, metric in enumerate(("auroc", "fpr_at_tpr95")):
        frame = logged[(logged["dataset"] == "synthetic") & (logged["open"] != "compound")]
        expected = frame.groupby(["open", "method"])[metric].agg(["mean", "std", "count"])
        for opened, method in [("surprise", "baseline"), ("surprise", "ours"), ("fear", "ours"), ("disgust", "ours")]:
            shown = entry(tables["table1_synthetic"], block, opened, method)
            want = expected.loc[(opened, method)]
            assert shown.value == pytest.approx(want["mean"])
            assert len(shown.by_seed) == want["count"]
            if want["count"] > 1:
                assert shown.std == pytest.approx(want["std"])
        mean = entry(tables["table1_synthetic"], block, "mean", "baseline")
        by_seed = frame[frame["method"] == "baseline"].groupby("seed")[metric].mean()
        assert mean.value == pytest.approx(by_seed.mean())
        assert mean.std == pytest.approx(by_seed.std(ddof=1))


def test_bold_is_the_best_of_its_row(tables: dict[str, Table]) -> None:
    for name in ("table1_synthetic", "table1_ferplus"):
        for block, pick in ((0, max), (1, min)):
            for row in tables[name].blocks[block].rows:
                values = [round(e.value, 3) for e in row.entries if e.value is not None]
                bold = [round(e.value, 3) for e in row.entries if e.best and e.value is not None]
                if not row.is_mean:
                    assert set(bold) == ({pick(values)} if len(values) > 1 else set())
    shown = tables["table1_synthetic"].blocks[0].rows[-1].entries
    assert not any(e.best for e in shown if len(e.coverage) < 3)


def test_demonstration_captions(results: Results, tables: dict[str, Table]) -> None:
    for table in tables.values():
        assert (DEMONSTRATION in table.caption.lower()) == (table.dataset == "synthetic")
        assert (DEMONSTRATION in to_latex(table).lower()) == (table.dataset == "synthetic")
    assert {"table4_synthetic", "variants_synthetic", "table3_synthetic", "side_ferplus_single"} <= set(tables)


def test_paper_blocks_say_what_they_are(tables: dict[str, Table]) -> None:
    demonstration, ferplus = tables["table1_synthetic"], tables["table1_ferplus"]
    assert "RAF-DB as published; another data set, not comparable" in demonstration.blocks[PAPER].heading
    assert (
        ferplus.blocks[PAPER].heading
        == "Paper (FERPlus as published, with the paper's settings): AUROC (higher is better)"
    )
    assert entry(ferplus, PAPER, "surprise", "ours").text == "0.933"
    assert entry(ferplus, PAPER, "mean", "baseline").text == "0.424"
    assert len(ferplus.blocks) == PAPER + 1  # no FPR@TPR95 is printed for FERPlus


def test_footnotes_carry_warnings_of_shown_methods_only(tables: dict[str, Table]) -> None:
    of = {name: " ".join(table.footnotes) for name, table in tables.items()}
    assert "2 different settings" in of["table1_synthetic"]
    assert "Warning" not in of["table4_synthetic"]
    assert "Warning" not in of["table1_ferplus"]


def test_side_measurements(tables: dict[str, Table]) -> None:
    table = tables["side_synthetic_single"]
    surprise = next(block for block in table.blocks if block.heading == "surprise")
    odd = next(row for row in surprise.rows if row.label == ODD)
    texts = dict(zip(table.headings, (e.text for e in odd.entries), strict=True))
    assert texts["model accuracy"] == "n/a"
    assert texts["open faces"] == "20"
    assert texts["seconds"] == "12.3"


def test_the_reader_is_told_what_bold_and_underlined_mean(store: Store):
    made = next(t for t in all_tables(load(store.tracker)) if t.name == "table1_synthetic")
    [note] = [note for note in made.footnotes if "Bold" in note]
    assert "says nothing of significance; methods of both kinds taken together; no mean over fewer rows" in note
    assert note not in made.provenance_notes
    assert [
        note
        for note in made.provenance_notes
        if not note.startswith(("Warning: ", "Hyperparameters: ", "No test of differences"))
    ] == []


def test_the_caption_says_whose_open_faces_the_auroc_of_transductive_methods_is_of():
    place = ("affectnet", "contempt", "contempt")
    for methods, said in ((("baseline", "ours-plus"), True), (("baseline",), False)):
        results = results_of({(*place, method, 0): (0.8, 0.5) for method in methods})
        table = next(table for table in all_tables(results) if table.name.startswith("table3"))
        assert (BY_ORIGIN in table.caption) == said
