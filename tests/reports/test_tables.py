"""Marks, Markdown and CSV of the tables, whatever the labels."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest

from open_set_fer import plugins
from open_set_fer.benchmark.metrics import AUROC, FPR_AT_TPR95, Metric
from open_set_fer.errors import SuiteError
from open_set_fer.reports.entries import Entry, mark_best
from open_set_fer.reports.formats import cells_frame, spreadsheet_safe, to_markdown
from open_set_fer.reports.names import METHODS, dataset_name, method_name
from open_set_fer.reports.query import load
from open_set_fer.reports.tables import TABLES, all_tables
from tests.reports.conftest import Store
from tests.reports.test_latex import table


def entries(*values: float | None, metric: Metric = AUROC, rows: tuple[str, ...] = ("fear",)) -> list[Entry]:
    return [Entry("single", "fear", "m", metric, "finished", v, coverage=frozenset(rows)) for v in values]


@pytest.mark.parametrize(
    ("values", "metric", "best", "second"),
    [
        ((0.9, 0.7, 0.8), AUROC, [0], [2]),
        ((0.9, 0.7, 0.8), FPR_AT_TPR95, [1], [2]),
        ((0.8004, 0.8, 0.7, 0.7004, 0.6), AUROC, [0, 1], [2, 3]),  # equal as displayed: the mark is shared
        ((0.9, 0.7), AUROC, [0], []),  # the worse of two is no second best
        ((0.9, None, None), AUROC, [], []),
        ((0.5, 0.5, 0.5), AUROC, [0, 1, 2], []),
    ],
)
def test_best_and_second_best(values, metric, best, second):
    made = entries(*values, metric=metric)
    mark_best(made)
    assert [k for k, e in enumerate(made) if e.best] == best
    assert [k for k, e in enumerate(made) if e.second] == second


def test_a_mean_over_fewer_rows_gets_no_mark_and_leaves_none_below_it():
    short, *whole = entries(0.7), *entries(0.9, 0.6, rows=("fear", "anger"))
    made = [*short, *whole]
    mark_best(made)
    assert [e.best for e in made] == [False, True, False]
    assert not any(e.second for e in made)
    made[0].value = 0.95
    mark_best(made)
    assert not any(e.best or e.second for e in made)


def test_the_reader_is_told_what_bold_and_underlined_mean(store: Store):
    made = next(t for t in all_tables(load(store.tracker)) if t.name == "table1_synthetic")
    [note] = [note for note in made.footnotes if "Bold" in note]
    assert "says nothing of significance; no mean over fewer rows" in note
    assert note not in made.laboratory
    assert [note for note in made.laboratory if not note.startswith(("Warning: ", "Hyperparameters: "))] == []


def test_markdown_rows_stay_whole_with_labels_of_several_lines():
    text = to_markdown(table(["two\nlines", "a|b", "c"], ["fear\n\n| x |", "\r\n"]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {5}
    assert "| open classes | two lines | a\\|b | c |" in text
    assert "**0.565**" in text or "**0.578**" in text


def test_second_best_is_underlined_in_markdown():
    text = to_markdown(table(["a", "b", "c", "d"], ["fear"]))
    assert "<u>0.578</u>" in text


def test_texts_that_a_spreadsheet_would_compute_are_kept_from_it():
    frame = pd.DataFrame(
        {"method": ["=1+1", "@x", "-m", "ours", "\t=1"], "value": [-0.5, 1e-17, 2.0, None, 3.0], "n": range(5)}
    )
    safe = spreadsheet_safe(frame)
    assert safe["method"].tolist() == ["'=1+1", "'@x", "'-m", "ours", "'\t=1"]
    read = pd.read_csv(io.StringIO(safe.to_csv(index=False)))
    pd.testing.assert_series_equal(read["value"], frame["value"])
    pd.testing.assert_series_equal(read["n"], frame["n"])


def test_cells_csv_keeps_every_number_and_label_of_an_ordinary_store(store: Store):
    results = load(store.tracker)
    frame = cells_frame(results)
    for name in ("method", "open_classes", "seed", "auroc", "seconds.total"):
        pd.testing.assert_series_equal(frame[name], results.cells[name])


def test_names():
    assert (method_name("eow"), method_name("ours-online"), method_name("mine")) == ("EOW", "Ours (online)", "mine")
    assert (dataset_name("rafdb"), dataset_name("mine")) == ("RAF-DB", "mine")
    assert len(set(METHODS.values())) == len(METHODS)


def test_a_data_sets_title_is_its_classs_and_a_broken_one_is_shown_as_typed(monkeypatch: pytest.MonkeyPatch):
    def load(group: str, name: str) -> type:
        if name == "broken":
            raise SuiteError("cannot import it")
        return type("Faces", (), {"title": "My Faces"} if name == "titled" else {})

    monkeypatch.setattr(plugins, "load", load)
    dataset_name.cache_clear()
    assert [dataset_name(name) for name in ("titled", "untitled", "broken")] == ["My Faces", "untitled", "broken"]
    dataset_name.cache_clear()


def test_the_specs_name_the_papers_tables_and_every_method_has_its_column():
    assert [spec.name for spec in TABLES] == [f"table{number}" for number in range(1, 6)]
    assert all(spec.reference.startswith(f"the paper's Table {spec.name[-1]}") for spec in TABLES)
    for label in ("baseline", "ours", "ours-plus", "ours-online", "ours-balanced", "anything"):
        columns = [spec.name for spec in TABLES if spec.is_column(label)]
        assert columns, label
        assert {spec.name for spec in TABLES if spec.is_subject(label)} <= set(columns), label
