"""Tooltips of the page's numbers: runs, seeds, differences to published numbers."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import unquote

import pandas as pd
import pytest

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.errors import SuiteError
from open_set_fer.reports.page import page
from open_set_fer.reports.page.page import table_library
from open_set_fer.reports.page.tooltips import MOST_RUNS, Tooltips
from open_set_fer.reports.tables.build import Table, all_tables
from tests.reports.page.test_summary import SEEDS, made

UI = "http://127.0.0.1:5000"


def entry(table: Table, open_classes: str, method: str):
    return next(e for e in table.entries() if (e.open_classes, e.method, e.metric) == (open_classes, method, AUROC))


def test_a_number_tells_each_seed_and_links_to_its_runs():
    table = all_tables(SEEDS)[0]
    cells = SEEDS.cells.assign(auroc_low=0.11, auroc_high=0.97, closed_accuracy=0.625)
    tooltips = Tooltips(replace(SEEDS, cells=cells), UI)
    link, text, _ = tooltips.about(table, entry(table, "fear", "ours"))
    assert text.splitlines() == [
        "Ours, fear: AUROC 0.310 ± 0.014",
        "seed 0: 0.300 [0.110, 0.970], closed accuracy 0.625",
        "seed 1: 0.320 [0.110, 0.970], closed accuracy 0.625",
    ]
    runs = SEEDS.cells[(SEEDS.cells["method"] == "ours") & (SEEDS.cells["open_classes"] == "fear")]["run_id"]
    assert f"searchFilter=attributes.run_id IN ({', '.join(map(repr, runs))})&" in unquote(link)
    _, mean, _ = tooltips.about(table, entry(table, "mean", "ours"))
    assert "mean over 2 choices of open classes, 4 of 4 cells\nseed 0: 0.350\nseed 1: 0.370" in mean
    assert mean.endswith("closed accuracy 0.625")
    assert Tooltips(SEEDS, "").about(table, entry(table, "fear", "ours"))[0] == ""


def test_one_run_is_linked_itself_and_many_are_searched_by_method():
    one = made({("single", "fear", "baseline", 0): 0.6})
    table = all_tables(one)[0]
    link, _, _ = Tooltips(one, UI).about(table, entry(table, "fear", "baseline"))
    assert link.startswith(f"{UI}/#/experiments/7/runs/run0?")
    many = made({("single", "fear", "baseline", seed): 0.6 for seed in range(MOST_RUNS + 1)})
    link = unquote(Tooltips(many, UI).method_link("ferplus", "baseline"))
    assert "searchFilter=tags.dataset = 'ferplus' AND tags.method = 'baseline'&" in link


def test_the_difference_is_to_the_number_published_for_the_same_data_set():
    results = made({("single", "surprise", "baseline", 0): 0.6, ("single", "fear", "baseline", 0): 0.4})
    rafdb, digits = (replace(results, cells=results.cells.assign(dataset=name)) for name in ("rafdb", "digits"))
    table, tooltips = all_tables(rafdb)[0], Tooltips(rafdb, "")
    # Zhang et al., Table 1, RAF-DB: baseline 0.517 with surprise open, 0.411 with fear open.
    assert tooltips.about(table, entry(table, "surprise", "baseline"))[2] == "+0.083"
    assert tooltips.about(table, entry(table, "fear", "baseline"))[2] == "−0.011"
    assert tooltips.about(table, entry(table, "mean", "baseline"))[2] == ""  # the published mean is over seven rows
    assert tooltips.has_differences(table)
    assert not Tooltips(digits, "").has_differences(all_tables(digits)[0])


def test_the_library_stands_in_a_page_as_it_is(monkeypatch):
    library = table_library()
    assert "window.DataTable=" in library
    assert "export{" not in library
    assert "</script" not in library

    class Other:
        def joinpath(self, *_):
            return self

        def read_text(self, _):
            return "export{x as y};"

    table_library.cache_clear()
    monkeypatch.setattr(page.resources, "files", lambda _: Other())
    with pytest.raises(SuiteError, match=r"constraints\.txt"):
        table_library()
    table_library.cache_clear()


def test_what_has_no_value_says_nothing():
    results = made({("single", "fear", "baseline", 0): 0.6, ("single", "fear", "eow", 0): None})
    table = all_tables(results)[0]
    assert Tooltips(results, UI).about(table, entry(table, "fear", "eow")) == ("", "", "")
    assert pd.isna(entry(table, "fear", "eow").value)
