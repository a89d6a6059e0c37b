"""The paper's tables and the side measurements, one table a data set, also as Markdown and tidy CSV.

A table is a list of blocks of rows; metrics are stacked as blocks so that the width depends on the methods alone. The
paper's numbers are a block of their own and are never mixed with measured ones.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from open_set_fer.benchmark.tracking import COORDINATES
from open_set_fer.reports.names import dataset_name, method_name
from open_set_fer.reports.paper import paper_results, paper_rows, paper_value
from open_set_fer.reports.query import FAILED, FAMILY_ORDER, FINISHED, MISSING, Results, method_order, protocol_order

DEMONSTRATION = "demonstration on synthetic faces: says nothing about real faces"
METRICS = {
    "auroc": "AUROC (higher is better)",
    "fpr_at_tpr95": "FPR@TPR95 (lower is better)",
}
LOWER_IS_BETTER = {"fpr_at_tpr95"}
SHORT = {"auroc": "AUROC ↑", "fpr_at_tpr95": "FPR@TPR95 ↓"}
"""Headings where there is no room."""
SIDE_METRICS = {
    "closed_set_accuracy": ("model accuracy", 3),
    "closed_accuracy": ("closed accuracy", 3),
    "oscr": ("OSCR", 3),
    "aupr_open": ("AUPR open", 3),
    "aupr_closed": ("AUPR closed", 3),
    "pseudo_label_entropy_open": ("entropy open", 3),
    "pseudo_label_entropy_closed": ("entropy closed", 3),
    "n_open": ("open faces", 0),
    "n_closed": ("closed faces", 0),
    "seconds.total": ("seconds", 1),
}
PARTIAL, NOT_PLANNED, NOT_MEASURED, PRINTED = "partial", "not planned", "not measured", "printed"
TEXTS = {FAILED: "failed", MISSING: "—", NOT_PLANNED: "·", NOT_MEASURED: "n/a"}
PAPER_DATASET = {"contempt": "affectnet"}
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What a text that a spreadsheet takes for a formula begins with."""
BOLD = (
    "Bold: best of its row; underlined: second best of three or more; both by the displayed mean alone, which says nothing of "
    "significance"
)


@dataclass
class Entry:
    """One number of a table and what it rests on.

    by_seed: the value of each finished seed. n_cells of n_planned cells went into `value`. coverage: the open classes
    that it averages over.
    """

    protocol: str
    open_classes: str
    method: str
    metric: str
    status: str
    value: float | None = None
    std: float | None = None
    by_seed: dict[int, float] = field(default_factory=dict)
    n_cells: int = 0
    n_planned: int = 0
    coverage: frozenset[str] = frozenset()
    digits: int = 3
    show_std: bool = True
    mark: str = ""
    best: bool = False
    second: bool = False

    @property
    def number(self) -> str:
        """The value as displayed; empty where there is none."""
        return "" if self.value is None else f"{self.value:.{self.digits}f}"

    @property
    def spread(self) -> str:
        """The deviation as displayed; empty where there is none or it is not shown."""
        return "" if self.value is None or self.std is None or not self.show_std else f"± {self.std:.{self.digits}f}"

    @property
    def text(self) -> str:
        """What is displayed, without bold and mark."""
        return f"{self.number} {self.spread}".strip() if self.number else TEXTS.get(self.status, "·")


@dataclass
class Row:
    """A labelled row; `is_mean` sets it off from the rows it averages."""

    label: str
    entries: list[Entry]
    is_mean: bool = False


@dataclass
class Block:
    """Rows under one heading; short: the heading where there is no room; note: what it leaves unsaid."""

    heading: str
    rows: list[Row]
    short: str
    note: str = ""


@dataclass
class Table:
    """name: file stem. reference: which of the paper's tables it is; state: seeds, missing cells, demonstration.

    columns: labels of the entries' columns; row_head: heading of the row labels; align: left or right. Left alignment
    sets means below each other whether or not a deviation follows. footnotes: all of them; laboratory: those that only
    who ran it needs.
    """

    name: str
    title: str
    reference: str
    state: str
    dataset: str
    row_head: str
    columns: list[str]
    blocks: list[Block]
    footnotes: list[str]
    laboratory: list[str]
    align: str = "left"

    @property
    def caption(self) -> str:
        """What the table shows, for whom the paper is at hand."""
        return f"{dataset_name(self.dataset)}: {self.title}{self.reference and f' ({self.reference})'}. {self.state}"

    @property
    def heads(self) -> list[str]:
        """The columns' headings as displayed."""
        return [method_name(label) for label in self.columns]

    def entries(self) -> Iterator[Entry]:
        """Measured entries in reading order."""
        for block in self.blocks:
            for row in block.rows:
                yield from (entry for entry in row.entries if entry.status != PRINTED)


def is_variant(label: str) -> bool:
    """True for `ours` with other settings (Tables 4 and 5); `ours-plus` is a method of its own."""
    return label.startswith("ours-") and label != "ours-plus"


def all_tables(results: Results) -> list[Table]:
    """Every table that has a planned cell, data set by data set."""
    tables: list[Table] = []
    for dataset in results.datasets:
        cells = results.of(dataset)
        methods = method_order(cells["method"])
        main = [m for m in methods if not is_variant(m)]
        variants = [m for m in methods if is_variant(m) and m != "ours-online"]
        for name, title, reference, families, columns in (
            ("table1", "one open class", "the paper's Table 1", ["single"], main),
            ("table2", "two and three open classes", "the paper's Table 2", ["pairs", "triples"], main),
            ("table3", "compound expressions and contempt as open classes", "the paper's Table 3",
             ["compound", "contempt"], main),
            ("table4", "ours on the whole test pool and online, one image at a time", "the paper's Table 4",
             FAMILY_ORDER, ["ours", "ours-online"]),
            ("table5", "variants of ours", "the paper's Table 5 and further ones",
             FAMILY_ORDER, ["baseline", "ours", *variants]),
        ):  # fmt: skip
            deciding = columns if columns is main else [m for m in columns if is_variant(m)]
            chosen = cells[cells["method"].isin(deciding) & cells["protocol"].isin(families)]
            rows = protocol_order(zip(chosen["protocol"], chosen["open_classes"], strict=True))
            if rows:
                shown = [m for m in columns if m in methods]
                tables.append(_result_table(results, dataset, name, (title, reference), rows, shown))
        for family in dict.fromkeys(protocol for protocol, _ in _protocols(cells)):
            tables.append(_side_table(results, dataset, family, methods))
    return tables


# -- entries -----------------------------------------------------------------------------------------------------------


def _protocols(cells: pd.DataFrame) -> list[tuple[str, str]]:
    return protocol_order(zip(cells["protocol"], cells["open_classes"], strict=True))


def _grouped(cells: pd.DataFrame) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in cells.to_dict("records"):
        groups.setdefault((row["protocol"], row["open_classes"], row["method"]), []).append(
            {str(name): value for name, value in row.items()}
        )
    return groups


def _entry(cells: list[dict[str, Any]], protocol: str, opened: str, method: str, metric: str, digits: int = 3) -> Entry:
    """Mean over the seeds of one (protocol, open classes, method)."""
    made = Entry(protocol, opened, method, metric, NOT_PLANNED, n_planned=len(cells), digits=digits)
    if not cells:
        return made
    done = [cell for cell in cells if cell["status"] == FINISHED]
    made.by_seed = {int(c["seed"]): float(c[metric]) for c in done if metric in c and pd.notna(c[metric])}
    made.n_cells = len(made.by_seed)
    made.coverage = frozenset([opened]) if made.by_seed else frozenset()
    if made.by_seed:
        made.value, made.std = _mean_and_std(list(made.by_seed.values()))
        made.status = FINISHED if made.n_cells == made.n_planned else PARTIAL
    elif done:
        made.status = NOT_MEASURED
    else:
        made.status = FAILED if any(cell["status"] == FAILED for cell in cells) else MISSING
    return made


def _mean_and_std(values: list[float]) -> tuple[float, float | None]:
    # A single value is passed on as it is, so that tables repeat MLflow's number to the last bit.
    return (statistics.fmean(values), statistics.stdev(values)) if len(values) > 1 else (values[0], None)


def _mean_entry(column: list[Entry]) -> Entry:
    """Mean over rows of the rows' means; the deviation is that of the per-seed means over all rows."""
    first = column[0]
    families = "+".join(dict.fromkeys(entry.protocol for entry in column))
    made = Entry(families, "mean", first.method, first.metric, MISSING, digits=first.digits)
    made.n_planned, made.n_cells = sum(e.n_planned for e in column), sum(e.n_cells for e in column)
    made.coverage = frozenset().union(*(e.coverage for e in column))
    values = [entry.value for entry in column if entry.value is not None]
    if not values:
        statuses = {entry.status for entry in column}
        made.status = FAILED if FAILED in statuses else MISSING if MISSING in statuses else statuses.pop()
        return made
    made.value = statistics.fmean(values)
    shared = set.intersection(*(set(entry.by_seed) for entry in column if entry.by_seed))
    made.by_seed = {seed: statistics.fmean(e.by_seed[seed] for e in column if e.by_seed) for seed in sorted(shared)}
    made.status = FINISHED if all(entry.status == FINISHED for entry in column) else PARTIAL
    if made.status == FINISHED and len(made.by_seed) > 1:
        made.std = statistics.stdev(made.by_seed.values())
    return made


def mark_best(entries: list[Entry], metric: str) -> None:
    """Mark the best displayed number, and the second best of three; equal ones share the mark.

    A mean over fewer rows than another method's is never marked; where it is the better number nothing is.
    """
    rivals = [(round(entry.value, entry.digits), entry) for entry in entries if entry.value is not None]
    if len(rivals) < 2:
        return
    everything = frozenset().union(*(entry.coverage for _, entry in rivals))
    ranked = sorted({value for value, _ in rivals}, reverse=metric not in LOWER_IS_BETTER)
    for value, entry in rivals:
        entry.best = value == ranked[0] and entry.coverage == everything
    if len(rivals) > 2 and any(entry.best for _, entry in rivals):
        for value, entry in rivals:
            entry.second = value in ranked[1:2] and entry.coverage == everything


# -- tables ------------------------------------------------------------------------------------------------------------


def _result_table(
    results: Results, dataset: str, name: str, about: tuple[str, str], rows: list[tuple[str, str]], methods: list[str]
) -> Table:
    cells = _grouped(results.of(dataset))
    blocks: list[Block] = []
    footnotes: dict[str, None] = {}  # ordered set
    with_mean = len(rows) > 1 and name != "table3"
    for metric, heading in METRICS.items():
        made = [Row(opened, [_entry(cells.get((family, opened, m), []), family, opened, m, metric) for m in methods])
                for family, opened in rows]  # fmt: skip
        if with_mean:
            columns = zip(*(row.entries for row in made), strict=True)
            made.append(Row("mean", [_mean_entry(list(column)) for column in columns], is_mean=True))
        for row in made:
            mark_best(row.entries, metric)
            for entry in row.entries:
                if entry.status == PARTIAL:
                    entry.mark = "†" if row.is_mean else "‡"
        means = [entry for entry in made[-1].entries if made[-1].is_mean and entry.mark]
        if means:
            over = "; ".join(_coverage(entry, made[:-1], methods.index(entry.method)) for entry in means)
            footnotes[f"† mean over {over}."] = None
        partial = [f"{method_name(e.method)}, {e.open_classes}: {e.n_cells} of {e.n_planned}"
                   for r in made if not r.is_mean for e in r.entries if e.mark]  # fmt: skip
        if partial:
            footnotes[f"‡ fewer seeds than planned: {'; '.join(partial)}."] = None
        blocks.append(Block(heading, made, SHORT[metric]))
    shown = [e for block in blocks for row in block.rows for e in row.entries]
    if any(entry.best for entry in shown):
        fewer = any(e.mark == "†" for e in shown)
        footnotes[BOLD + ("; no mean over fewer rows than another method's." if fewer else ".")] = None
    blocks += _paper_blocks(dataset, rows, methods, name)
    used = {entry.text for block in blocks for row in block.rows for entry in row.entries}
    if "·" in used:
        footnotes["·: not planned here, or not printed in the paper."] = None
    if name == "table5":
        footnotes[_printed_ablations()] = None
    laboratory = [f"Warning: {warn.about(methods)}" for warn in results.warnings_for(dataset, methods)]
    chosen = pd.DataFrame(
        [row for (f, o, m), found in cells.items() if (f, o) in rows and m in methods for row in found]
    )
    if "selection" in chosen:
        laboratory += [f"Hyperparameters: {selection}." for selection in chosen["selection"].dropna().unique()]
    title, reference = about
    return Table(
        f"{name}_{slug(dataset)}", title, reference, _state(chosen) + demonstration(results, dataset), dataset,
        "open classes", methods, blocks, [*footnotes, *laboratory], laboratory,
    )  # fmt: skip


def _coverage(mean: Entry, rows: list[Row], column: int) -> str:
    present = [row.entries[column] for row in rows if row.entries[column].value is not None]
    partial = f" ({mean.n_cells} of {mean.n_planned} cells)" if any(e.status == PARTIAL for e in present) else ""
    return f"{len(present)} of {len(rows)} rows{partial} for {method_name(mean.method)}"


def _paper_blocks(dataset: str, rows: list[tuple[str, str]], methods: list[str], name: str) -> list[Block]:
    """The paper's numbers for the data set, or for the one the paper uses, said to be another."""
    blocks: list[Block] = []
    if name == "table5":  # its printed form has no such columns: a footnote tells
        return blocks
    enough = all if name == "table4" else any
    families = list(dict.fromkeys(family for family, _ in rows))
    for metric, heading in METRICS.items():
        made: dict[str, list[Row]] = {}
        printed: dict[str, list[tuple[str, str]]] = {}
        for family in families:
            source = dataset if paper_rows(dataset, [family]) else PAPER_DATASET.get(family, "rafdb")
            wanted = paper_rows(source, [family])
            if not _words(wanted) & _words(rows):  # digits, say: the paper opened nothing like it
                continue
            if name == "table4":
                wanted = [row for row in wanted if row in rows]
            printed.setdefault(source, []).extend(wanted)
        for source, found in printed.items():
            for family, opened in found:
                entries = [_printed(source, family, opened, m, metric) for m in methods]
                if enough(entry.value is not None for entry in entries):
                    made.setdefault(source, []).append(Row(opened, entries))
            sources = "+".join(dict.fromkeys(family for family, _ in found))
            if source in made and found == paper_rows(source, sources.split("+")):
                mean = [_printed(source, sources, "mean", m, metric) for m in methods]
                if any(entry.value is not None for entry in mean):
                    made[source].append(Row("mean", mean, is_mean=True))
        for source, block_rows in made.items():
            for row in block_rows:
                mark_best(row.entries, metric)
            what = f"{dataset_name(source)} as printed"
            other = ", with the paper's settings" if source == dataset else "; another data set, not comparable"
            note = f"{what}: numbers of Zhang et al. (AAAI 2024){other.replace('the paper', 'that paper')}."
            blocks.append(Block(f"Paper ({what}{other}): {heading}", block_rows, f"{what}: {SHORT[metric]}", note))
    return blocks


def _words(rows: list[tuple[str, str]]) -> set[str]:
    """Every class named in (family, open classes) pairs."""
    return {part for _, opened in rows for part in opened.split("+")}


def _printed(dataset: str, protocol: str, opened: str, method: str, metric: str) -> Entry:
    return Entry(protocol, opened, method, metric, PRINTED, paper_value(dataset, protocol, opened, method, metric))


def _printed_ablations() -> str:
    frame = paper_results()
    found = [
        f"{method_name(row['method'])} {row['value']:.3f}"
        for row in frame[frame["table"] == "table5"].to_dict("records")
    ]
    return f"Paper's Table 5 (RAF-DB, surprise open, AUROC, as far as readable): {'; '.join(found)}."


def _side_table(results: Results, dataset: str, family: str, methods: list[str]) -> Table:
    cells = results.of(dataset)
    cells = cells[cells["protocol"] == family]
    groups = _grouped(cells)
    metrics = [m for m in SIDE_METRICS if m in cells.columns and cells[m].notna().any()] or ["oscr"]
    blocks: list[Block] = []
    for _, opened in _protocols(cells):
        rows = [
            Row(method_name(m), [_entry(groups[family, opened, m], family, opened, m, metric, SIDE_METRICS[metric][1])
                    for metric in metrics])
            for m in methods if (family, opened, m) in groups
        ]  # fmt: skip
        blocks.append(Block(opened, rows, opened))
    footnotes = [
        "Model accuracy: of the closed-set model on closed test faces; closed accuracy: of the method's own classes. "
        "Entropy: of the closed-set model's labels on open and on closed faces, 1 when spread evenly over the closed "
        "classes. Seconds: of one cell."
    ]
    entries = [entry for block in blocks for row in block.rows for entry in row.entries]
    for entry in entries:
        entry.mark, entry.show_std = "‡" if entry.status == PARTIAL else "", False
    if any(entry.mark for entry in entries):
        footnotes.append("‡ fewer seeds than planned.")
    if any(entry.status == NOT_MEASURED for entry in entries):
        footnotes.append("n/a: the method has no such measurement.")
    laboratory = [f"Warning: {warn.about(methods)}" for warn in results.warnings_for(dataset, methods)]
    return Table(
        f"side_{slug(dataset)}_{family}", f"side measurements, family {family}", "",
        _state(cells, "Mean") + demonstration(results, dataset), dataset, "method",
        [SIDE_METRICS[m][0] for m in metrics], blocks, footnotes + laboratory, laboratory, "right",
    )  # fmt: skip


def _state(cells: pd.DataFrame, over_seeds: str = "Mean ± standard deviation") -> str:
    """How many seeds, and how many cells lack."""
    per_group = cells.groupby(["protocol", "open_classes", "method"]).size()
    low, high = int(per_group.min()), int(per_group.max())
    if high == 1:
        used = sorted(map(int, set(cells["seed"])))
        seeds = f"One seed ({used[0]})." if len(used) == 1 else "One seed each."
    else:
        seeds = f"{over_seeds} over {high if low == high else f'{low} to {high}'} seeds."
    missing, failed = (int((cells["status"] == status).sum()) for status in (MISSING, FAILED))
    parts = [f"{count} {word}" for count, word in ((missing, "missing"), (failed, "failed")) if count]
    if not parts:
        return seeds
    parts[0] = parts[0].replace(" ", f" of {len(cells)} cells ", 1)
    return f"{seeds} {', '.join(parts)}."


def demonstration(results: Results, dataset: str) -> str:
    """The sentence that every caption on a demonstration data set ends with, else nothing."""
    return f" {DEMONSTRATION[0].upper()}{DEMONSTRATION[1:]}." if dataset in results.demonstrations else ""


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)


# -- Markdown ----------------------------------------------------------------------------------------------------------


def markdown_escape(text: str) -> str:
    """Text on one line that Markdown prints as it is, also in a table."""
    return re.sub(r"([\\|*_`<>\[\]#])", r"\\\1", " ".join(text.split()))


def to_markdown(table: Table) -> str:
    """Caption, one pipe table a block, footnotes."""
    lines = [f"**{markdown_escape(table.caption)}**", ""]
    for block in table.blocks:
        lines += [markdown_escape(block.heading), ""]
        lines.append("| " + " | ".join(map(markdown_escape, [table.row_head, *table.heads])) + " |")
        lines.append("| --- |" + (" :--- |" if table.align == "left" else " ---: |") * len(table.columns))
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


# -- CSV ---------------------------------------------------------------------------------------------------------------


def to_frame(table: Table) -> pd.DataFrame:
    """One row a number, full precision, texts as spreadsheet_safe gives them.

    value, std over n_seeds; n_cells of n_planned cells finished; paper: the printed number for the same data set.
    """
    rows_here = {(entry.protocol, entry.open_classes) for entry in table.entries()}
    made = []
    for entry in table.entries():
        paper = paper_value(table.dataset, entry.protocol, entry.open_classes, entry.method, entry.metric)
        if entry.open_classes == "mean":  # comparable only when it averages the paper's rows
            averaged = {row for row in rows_here if row[1] != "mean"}
            paper = paper if averaged == set(paper_rows(table.dataset, entry.protocol.split("+"))) else None
        made.append(
            {
                "table": table.name, "dataset": table.dataset, "protocol": entry.protocol,
                "open_classes": entry.open_classes, "method": entry.method, "metric": entry.metric,
                "value": entry.value, "std": entry.std, "n_seeds": len(entry.by_seed), "n_cells": entry.n_cells,
                "n_planned": entry.n_planned, "status": entry.status, "best": entry.best, "paper": paper,
            }
        )  # fmt: skip
    return spreadsheet_safe(pd.DataFrame(made))


def cells_frame(results: Results) -> pd.DataFrame:
    """Every planned cell with its status, error, tags and metrics as logged, texts as spreadsheet_safe gives them."""
    leading = [*COORDINATES, "status", "error", "run_id", "cell_key", "settings_key", "git_commit", "host", "device",
               "demonstration", "fingerprint"]  # fmt: skip
    skipped = {*leading, "notes", "counts", "logged"}
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
