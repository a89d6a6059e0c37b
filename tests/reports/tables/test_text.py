"""Markdown and CSV of the tables, whatever the labels."""

from __future__ import annotations

import io
import re

import pandas as pd

from open_set_fer.reports.data.results import load
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.text import cells_frame, spreadsheet_safe, to_markdown
from tests.reports.conftest import Store
from tests.reports.tables.test_latex import table


def test_markdown_rows_have_every_column(tables: dict[str, Table]) -> None:
    text = to_markdown(tables["table1_synthetic"])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {7}
    assert r"my\_method & 50% \#1" in text
    assert "**" in text


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
