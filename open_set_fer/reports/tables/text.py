"""Tables as Markdown and tidy CSV; latex.py has LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import METRICS
from open_set_fer.benchmark.storage.tracking import COORDINATES
from open_set_fer.reports.data.paper import paper_rows, paper_value
from open_set_fer.reports.data.results import FACTS, FAILED, Results
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.entries import NOT_ASKED, Entry

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What a text that a spreadsheet takes for a formula begins with."""


def markdown_escape(text: str) -> str:
    """Text on one line that Markdown prints as it is, also in a table."""
    return re.sub(r"([\\|*_`<>\[\]#])", r"\\\1", " ".join(text.split()))


def pipe_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, texts escaped."""
    escaped = [[markdown_escape(text) for text in row] for row in (heads, *rows)]
    return [
        f"| {' | '.join(escaped[0])} |",
        f"|{' --- |' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in escaped[1:]),
    ]


def to_markdown(table: Table) -> str:
    """Caption, one pipe table a block, footnotes."""
    lines = [f"**{markdown_escape(table.caption)}**", ""]
    for block in table.blocks:
        lines += [markdown_escape(block.heading), ""]
        lines.append("| " + " | ".join(map(markdown_escape, [table.row_head, *table.heads])) + " |")
        lines.append("| --- |" + (" :--- |" if table.align == "left" else " ---: |") * len(table.columns))
        if groups := table.groups(range(len(table.columns))):
            said = f"*{table.group_head}*" if table.group_head else ""
            lines.append(
                f"| {said} | " + " | ".join(f"*{sees}*" for sees, count in groups for _ in range(count)) + " |"
            )
        for row in block.rows:
            shown = [_markdown_entry(entry) for entry in row.entries]
            lines.append("| " + " | ".join([markdown_escape(row.label), *shown]) + " |")
        lines.append("")
    lines += [f"- {markdown_escape(note)}" for note in table.footnotes]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_entry(entry: Entry) -> str:
    text = markdown_escape(entry.text)
    text = f"**{text}**" if entry.best else f"<u>{text}</u>" if entry.second else text
    return text + markdown_escape(entry.mark)


def to_frame(table: Table) -> pd.DataFrame:
    """One row a number, full precision, texts as spreadsheet_safe gives them.

    value, std over n_seeds; n_cells of n_planned cells finished; paper: the printed number for the same data set; sees: one
    face at a time, or the pool; not_informative: below label-loss in the control, whose own rows are of metric control_auroc.
    """
    measured = [entry for entry in table.entries() if entry.status != NOT_ASKED]
    rows = [
        {
            "table": table.name,
            "dataset": table.dataset,
            "protocol": entry.protocol,
            "open_classes": entry.open_classes,
            "method": entry.method,
            "metric": entry.metric.name,
            "value": entry.value,
            "std": entry.std,
            "n_seeds": len(entry.by_seed),
            "n_cells": entry.n_cells,
            "n_planned": entry.n_planned,
            "status": entry.status,
            "best": entry.best,
            "paper": printed_value(table, entry),
            "sees": table.sees.get(entry.method, ""),
            "not_informative": entry.method in table.marks,
        }
        for entry in measured
    ]
    return spreadsheet_safe(pd.DataFrame(rows))


def printed_value(table: Table, entry: Entry) -> float | None:
    """The printed number of the same data set; of a mean only where it is over the same rows."""
    if entry.open_classes == "mean":
        rows = {
            (e.protocol, e.open_classes) for e in table.entries() if e.open_classes != "mean" and e.metric in METRICS
        }
        if rows != set(paper_rows(table.dataset, entry.protocol.split("+"))):
            return None
    method = table.printed_as.get(entry.method, entry.method)
    return paper_value(table.dataset, entry.protocol, entry.open_classes, method, entry.metric.name)


def cells_frame(results: Results) -> pd.DataFrame:
    """Every planned cell with its status, error, tags and metrics as logged, texts as spreadsheet_safe gives them."""
    leading = [
        *COORDINATES,
        "status",
        "error",
        "run_id",
        "source",
        "cell_key",
        "settings_key",
        "git_commit",
        "host",
        "device",
        "demonstration",
        "fingerprint",
        "reads_labels",
        *FACTS,
    ]
    skipped = {*leading, "notes", "counts", "logged", "features"}
    metrics = sorted(str(name) for name in results.cells.columns if name not in skipped)
    frame = results.cells[[*leading, *metrics]].copy()
    frame.loc[frame["status"] != FAILED, "error"] = ""
    return spreadsheet_safe(frame)


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with an apostrophe before every text that a spreadsheet would compute, such as `=1+1`.

    Labels and errors come from users' files; the numbers, negative ones too, stay numbers.
    """
    return frame.map(
        lambda value: "'" + value if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
    )
