"""Tables as Markdown and tidy CSV; latex.py has LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import METRICS
from open_set_fer.benchmark.storage.mlflow_reader import COORDINATES
from open_set_fer.reports.data.paper import paper_rows, paper_value
from open_set_fer.reports.data.results import FACTS, FAILED, Results
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.means import NOT_ASKED, Entry

NUMBER_COLUMNS = [
    *("table", "dataset", "protocol", "open_classes", "method", "metric", "value", "std", "n_seeds", "n_cells"),
    *("n_planned", "status", "best", "paper", "setting", "verdict"),
]
CELL_COLUMNS = [
    *("status", "error", "run_id", "source", "cell_key", "settings_key", "git_commit", "host", "device"),
    *("demonstration", "fingerprint", "reads_labels"),
]
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # beginnings of texts that a spreadsheet takes for formulas


def markdown_escape(text: str) -> str:
    """Text on one line that Markdown shows unchanged, also in a table."""
    return re.sub(r"([\\|*_`<>\[\]#])", r"\\\1", " ".join(text.split()))


def pipe_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, texts escaped."""
    return _pipe_lines([[markdown_escape(text) for text in row] for row in (heads, *rows)], ["---"] * len(heads))


def _pipe_lines(rows: list[list[str]], rules: list[str]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (rows[0], rules, *rows[1:])]


def to_markdown(table: Table) -> str:
    """Caption, one pipe table a block, footnotes."""
    rules = ["---", *["---:" if table.is_side else ":---"] * len(table.headings)]
    heads = [list(map(markdown_escape, [table.spec.row_head, *table.heads]))]
    if groups := table.groups(range(len(table.headings))):
        above = "" if table.spec.layout == "wide" else "*setting*"
        heads.append([above, *(f"*{group}*" for group, count in groups for _ in range(count))])
    lines = [f"**{markdown_escape(table.caption)}**", ""]
    for block in table.blocks:
        rows = [[markdown_escape(row.label), *map(_markdown_entry, row.entries)] for row in block.rows]
        lines += [markdown_escape(block.heading), "", *_pipe_lines([*heads, *rows], rules), ""]
    lines += [f"- {markdown_escape(note)}" for note in table.footnotes]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_entry(entry: Entry) -> str:
    text = markdown_escape(entry.text)
    text = f"**{text}**" if entry.best else f"<u>{text}</u>" if entry.second else text
    return text + markdown_escape(entry.mark)


def to_frame(table: Table) -> pd.DataFrame:
    """The numbers at full precision, a row a number; in the wide layout rows and columns as displayed.

    n_cells of n_planned cells finished; paper: the published number for the same data set; verdict: blind, weak or
    sensitive by the control, whose own rows are of metric sensitivity. Texts are as spreadsheet_safe gives them.
    """
    if table.spec.layout == "wide":
        return spreadsheet_safe(_wide_frame(table))
    entries = [entry for entry in table.entries() if entry.status != NOT_ASKED]
    frame = pd.DataFrame([vars(entry) for entry in entries]).assign(
        table=table.name,
        dataset=table.dataset,
        metric=[entry.metric.name for entry in entries],
        n_seeds=[len(entry.by_seed) for entry in entries],
        paper=pd.Series([printed_value(table, entry) for entry in entries], dtype=float),
        setting=[table.groups_of.get(entry.method, "") for entry in entries],
        verdict=[table.verdicts.get(entry.method, "") for entry in entries],
    )
    return spreadsheet_safe(frame[NUMBER_COLUMNS])


def _wide_frame(table: Table) -> pd.DataFrame:
    names = [f"{table.groups_of.get(column, '')}: {head}" for column, head in table.headings.items()]
    columns = [re.sub("^: | [↑↓]", "", name) for name in names]
    labelled = [(block.heading, row) for block in table.blocks for row in block.rows]
    rows = [[heading, row.label, *(entry.value for entry in row.entries)] for heading, row in labelled]
    return pd.DataFrame(rows, columns=["dataset", table.spec.row_head, *columns])


def printed_value(table: Table, entry: Entry) -> float | None:
    """The published number for the same data set; of a mean only if it is over the same rows."""
    if entry.open_classes == "mean":
        measured = [e for e in table.entries() if e.open_classes != "mean" and e.metric in METRICS]
        rows = {(e.protocol, e.open_classes) for e in measured}
        if rows != set(paper_rows(table.dataset, entry.protocol.split("+"))):
            return None
    method = table.spec.published_as.get(entry.method, entry.method)
    return paper_value(table.dataset, entry.protocol, entry.open_classes, method, entry.metric.name)


def cells_frame(results: Results) -> pd.DataFrame:
    """Every planned cell with its status, error, tags and metrics as logged, texts as spreadsheet_safe gives them."""
    leading = [*COORDINATES, *CELL_COLUMNS, *FACTS]
    skipped = {*leading, "notes", "counts", "logged", "features"}
    metrics = sorted(str(name) for name in results.cells.columns if name not in skipped)
    frame = results.cells[[*leading, *metrics]].copy()
    frame.loc[frame["status"] != FAILED, "error"] = ""
    return spreadsheet_safe(frame)


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with an apostrophe before every text (not number) that a spreadsheet would compute, such as `=1+1`."""
    return frame.map(lambda x: "'" + x if isinstance(x, str) and x.startswith(FORMULA_STARTS) else x)
