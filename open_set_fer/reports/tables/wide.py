"""Builds the tables in the paper's own layout: both metrics side by side, its data sets in one table, no deviations.

Tables 4 and 5, which the paper prints for RAF-DB alone, have its numbers in further columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from open_set_fer.benchmark.evaluation.metrics import AUROC, MAIN_METRICS
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.paper import PRINTED_AS, USUAL_DATASET, paper_rows, paper_value, unreadable_note
from open_set_fer.reports.data.results import MISSING, Results, method_order, protocol_order
from open_set_fer.reports.tables.build import Table, demonstration
from open_set_fer.reports.tables.controls import verdict
from open_set_fer.reports.tables.marks import (
    BLIND,
    CLOSED_ACCURACY,
    LOW_ACCURACY,
    is_inaccurate,
    mark_no_detectors,
    mark_notes,
)
from open_set_fer.reports.tables.means import (
    NOT_ASKED,
    PRINTED,
    Block,
    Entry,
    Groups,
    Row,
    group_cells,
    mark_best,
    metric_block,
    row_mean,
    seed_mean,
)
from open_set_fer.reports.tables.specs import WIDE_TABLES, TableSpec
from open_set_fer.reports.tables.wording import FPR_POSITIVE, coverage_notes, state

PAPER = f"paper ({dataset_name(USUAL_DATASET)})"
"""Heading of the published numbers' columns: of that data set in every row, whatever the row's own is."""
NOT_RUN = "not run."  # state of a data set without a cell


@dataclass
class _Section:
    """The blocks of one data set, and what captions and notes need of them; spreads: deviations of AUROC over seeds."""

    dataset: str
    blocks: list[Block]
    state: str
    notes: list[str]
    spreads: list[float]


def wide_tables(results: Results) -> list[Table]:
    """The tables that have a planned cell of the paper's methods; of own labels (`Results.under`)."""
    return [table for spec in WIDE_TABLES if (table := _table(results, spec))]


def _table(results: Results, spec: TableSpec) -> Table | None:
    cells = results.cells
    cells = cells[cells["method"].map(spec.is_subject).astype(bool) & cells["protocol"].isin(spec.families)]
    if cells.empty:
        return None
    methods = list(spec.method_names) or method_order(cells["method"])
    present = list(dict.fromkeys(cells["dataset"]))
    rows = {dataset: protocol_order(cells[cells["dataset"] == dataset]) for dataset in _datasets(spec, present)}
    sections = [_section(results, spec, dataset, own, methods) for dataset, own in rows.items()]
    states = list(dict.fromkeys(section.state for section in sections))
    by_dataset = [f"{dataset_name(section.dataset)}: {section.state}" for section in sections]
    headings, groups = _headings(results, spec, methods)
    names = " and ".join(dataset_name(section.dataset) for section in sections)
    text = f"{states[0] if len(states) == 1 else ' '.join(by_dataset)} {FPR_POSITIVE}"
    blocks, notes = [block for section in sections for block in section.blocks], _notes(spec, sections, present)
    return Table(spec, spec.name, spec.title, names, text, headings, blocks, notes, groups_of=groups)


def _datasets(spec: TableSpec, present: list[str]) -> list[str]:
    """The paper's data sets in its order, absent ones too if one of them is present; then other data sets."""
    by_name = {name: [d for d in present if PRINTED_AS.get(d, d) == name] for name in spec.datasets}
    of_paper = [dataset for datasets in by_name.values() for dataset in datasets]
    if of_paper:
        of_paper = [dataset for name, datasets in by_name.items() for dataset in datasets or [name]]
    return [*of_paper, *(dataset for dataset in present if dataset not in of_paper)]


def _section(
    results: Results, spec: TableSpec, dataset: str, rows: list[tuple[str, str]], methods: list[str]
) -> _Section:
    """The blocks of a data set; one without rows has the paper's rows with dashes."""
    cells, name = results.of(dataset), dataset_name(dataset)
    cells = cells[cells["method"].isin(methods) & cells["protocol"].isin(spec.families)]
    if rows:
        text, groups = state(cells, "Mean") + demonstration(results, dataset), group_cells(cells)
    else:
        families = list(spec.families)
        rows = paper_rows(dataset, families) or paper_rows(USUAL_DATASET, families)
        rows = rows[:1] if spec.methods_in_rows else rows
        text, groups = NOT_RUN, {(*row, method): [{"status": MISSING}] for row in rows for method in methods}
    metrics = [metric_block(metric, groups, rows, methods, spec.has_mean) for metric in MAIN_METRICS]
    for entry in (entry for block in metrics for entry in block.entries):
        entry.show_std, entry.mark = False, "†" * bool(entry.mark)
    notes = [
        f"{name}: {note.replace('‡', '†')}" for block in metrics for note in coverage_notes(results, block, methods)
    ]
    spreads = [entry.std for entry in metrics[0].entries if entry.std is not None]
    mark_no_detectors(metrics[0], groups)
    for entry in metrics[0].rows[-1].entries if spec.has_mean else ():
        entry.mark += BLIND * (verdict(results, dataset, entry.method) == "blind")
    notes += [f"{name}: {note}" for note in mark_notes(results, dataset, methods, metrics[0].entries)]
    blocks = _side_by_side(spec, name, metrics, rows, methods)
    if not spec.methods_in_rows:
        blocks[0].rows += _accuracy_row(results, dataset, groups, rows, blocks[0].rows[0].entries)
    return _Section(dataset, blocks, text, notes, spreads)


def _accuracy_row(
    results: Results, dataset: str, groups: Groups, rows: list[tuple[str, str]], columns: list[Entry]
) -> list[Row]:
    """Mean closed accuracy below the columns of AUROC; none if it is not measured."""
    entries = []
    for column in columns:
        entry = Entry(column.protocol, "mean", column.method, CLOSED_ACCURACY, NOT_ASKED)
        if column.metric == AUROC and column.status != PRINTED:
            entry = row_mean([seed_mean(groups, (*row, column.method), CLOSED_ACCURACY) for row in rows])
            entry.show_std, entry.mark = False, LOW_ACCURACY * is_inaccurate(results, dataset, column.method)
        entries.append(entry)
    is_measured = any(entry.value is not None for entry in entries)
    return [Row("closed accuracy, mean", entries)] * is_measured


def _side_by_side(
    spec: TableSpec, name: str, metrics: list[Block], rows: list[tuple[str, str]], methods: list[str]
) -> list[Block]:
    """A block with a row a choice of open classes; of a table with methods in rows a block a choice."""
    is_whole = set(rows) == set(paper_rows(USUAL_DATASET, list(spec.families)))
    lines: list[Row] = []
    blocks: list[Block] = []
    for same in zip(*(block.rows for block in metrics), strict=True):
        label, is_mean, columns = same[0].label, same[0].is_mean, [row.entries for row in same]
        if spec.published == "column":
            columns.append(_published(spec, methods, columns[0][0].protocol, label, not is_mean or is_whole))
        lines.append(Row(label, [entry for column in columns for entry in column], is_mean))
        of_methods = zip(methods, zip(*columns, strict=True), strict=True)
        parts = [Row(spec.method_names.get(method, method), list(entries)) for method, entries in of_methods]
        blocks.append(Block(f"{name}, {label} open", parts, f"{name}, {label} open"))
    return blocks if spec.methods_in_rows else [Block(name, lines, name)]


def _published(spec: TableSpec, methods: list[str], family: str, open_classes: str, is_comparable: bool) -> list[Entry]:
    """The paper's AUROC on its usual data set for each method; empty for a mean over other rows."""
    entries = [Entry(family, open_classes, method, AUROC, PRINTED) for method in methods]
    for entry in entries if is_comparable else ():
        name = spec.published_as.get(entry.method, entry.method)
        entry.value = paper_value(USUAL_DATASET, family, open_classes, name, AUROC.name)
    mark_best(entries)
    return entries


def _headings(results: Results, spec: TableSpec, methods: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    titles = {metric.short: metric.short for metric in MAIN_METRICS}
    if spec.published == "column":
        titles[PAPER] = f"{PAPER} {AUROC.short}"
    if spec.methods_in_rows:
        return titles, {}
    columns = {f"{group}/{method}": (group, method) for group in titles for method in methods}
    headings = {column: spec.method_names.get(m, results.title(m)) for column, (_, m) in columns.items()}
    return headings, {column: titles[group] for column, (group, _) in columns.items()}


def _notes(spec: TableSpec, sections: list[_Section], present: list[str]) -> list[str]:
    place = "column" if spec.methods_in_rows else "row and metric"
    notes = [f"Bold: best of its {place}, underlined: second best of three or more, by the displayed mean."]
    if spreads := [std for section in sections for std in section.spreads]:
        notes.append(f"Standard deviation of {AUROC.title} over seeds: at most {max(spreads):.{AUROC.decimals}f}.")
    notes += dict.fromkeys(note for section in sections for note in section.notes)
    if spec.published == "column":
        others = [dataset_name(d) for d in present if PRINTED_AS.get(d, d) != USUAL_DATASET]
        other = f"; not of {', '.join(others)}, another data set, with which they cannot be compared" if others else ""
        notes.append(f"{PAPER}: AUROC as Zhang et al. (AAAI 2024) print it, of {dataset_name(USUAL_DATASET)}{other}.")
    if spec.published_as:
        notes.append(unreadable_note())
    if absent := [dataset_name(section.dataset) for section in sections if section.state == NOT_RUN]:
        notes.append(f"—: no cell of {', '.join(absent)} in these results.")
    if any(entry.text == "·" for section in sections for block in section.blocks for entry in block.entries):
        notes.append("·: not planned here, or not published.")
    return notes
