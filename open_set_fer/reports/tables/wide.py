"""The paper's tables in the form in which it prints them: both metrics side by side, its data sets in one table.

Means alone, without deviations, of the paper's methods. Tables 4 and 5, which the paper prints of RAF-DB alone, have its numbers in
a column of their own. Nothing of these tables is written by hand: entries and notes are those of tables.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, MAIN_METRICS
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.paper import (
    ABLATION,
    PRINTED_AS,
    USUAL_DATASET,
    paper_rows,
    paper_value,
    unreadable_note,
)
from open_set_fer.reports.data.results import MISSING, PAPER_METHODS, Results, protocol_order
from open_set_fer.reports.tables.build import (
    TABLES,
    Table,
    TableSpec,
    coverage_notes,
    demonstration,
    metric_block,
    state,
)
from open_set_fer.reports.tables.entries import PARTIAL, PRINTED, Block, Entry, Row, group_cells, mark_best
from open_set_fer.reports.tables.text import spreadsheet_safe

PAPER = f"paper ({dataset_name(USUAL_DATASET)})"
"""Heading of the printed numbers' column: of that data set in every row, whatever the row's own is."""
PARTS = {
    "baseline": "none: baseline",
    "ours-attention-only": "attention",
    "ours-attention-resets": "attention, cyclic rate",
    "ours": "attention, cyclic rate, cycle training",
}
"""Rows of Table 5: which parts of ours are switched on."""
HEADS = {"table4": {"ours": "offline", "ours-online": "online"}}
"""Of columns whose methods have another name in one of the paper's tables."""


@dataclass(frozen=True)
class Form:
    """How the paper prints one of its tables. datasets: in its order. methods: columns, of the paper's those that are planned.

    paper: has a column of the printed numbers.
    """

    spec: TableSpec
    caption: str
    datasets: tuple[str, ...]
    methods: tuple[str, ...] = PAPER_METHODS
    paper: bool = False

    @property
    def families(self) -> tuple[str, ...]:
        """Of its rows, as printed."""
        return ("single",) if self.paper else self.spec.families


_SPECS = {spec.name: spec for spec in TABLES}
FORMS = (
    Form(_SPECS["table1"], "open-set detection with one open class", ("rafdb", "ferplus")),
    Form(_SPECS["table2"], "open-set detection with two and three open classes", ("rafdb", "ferplus")),
    Form(_SPECS["table3"], "open-set detection of compound expressions and of contempt", ("rafdb", "affectnet")),
    Form(
        _SPECS["table4"],
        "ours offline, on the whole test pool, and online",
        ("rafdb", "ferplus"),
        ("ours", "ours-online"),
        True,
    ),
    Form(
        _SPECS["table5"],
        "the parts of ours, switched on one after the other",
        ("rafdb", "ferplus"),
        tuple(ABLATION),
        True,
    ),
)


@dataclass
class _Section:
    """Rows of one data set: entries of each metric in turn, then printed ones. said: how many seeds, what lacks.

    spreads: standard deviations of AUROC over seeds.
    """

    dataset: str
    heading: str
    rows: list[Row]
    said: str = ""
    notes: list[str] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)


def printed_tables(results: Results) -> list[Table]:
    """The paper's tables that have a planned cell of the paper's methods; of own labels (`Results.under`)."""
    return [table for form in FORMS if (table := _table(results, form))]


def form_frame(table: Table) -> pd.DataFrame:
    """A row a line of the printed form, a column a number, full precision; texts as spreadsheet_safe gives them."""
    rows = [
        {"dataset": block.heading, table.row_head: row.label}
        | {
            f"{table.sees[column]}: {head}" if table.sees else head: entry.value
            for column, head, entry in zip(table.columns, table.heads, row.entries, strict=True)
        }
        for block in table.blocks
        for row in block.rows
    ]
    frame = pd.DataFrame(rows)
    frame.columns = [name.replace(" ↑", "").replace(" ↓", "") for name in frame.columns]
    return spreadsheet_safe(frame)


def _table(results: Results, form: Form) -> Table | None:
    subjects = results.cells["method"].map(form.spec.is_subject).astype(bool) & results.cells["method"].isin(
        form.methods
    )
    cells = results.cells[subjects & results.cells["protocol"].isin(form.families)]
    if cells.empty:
        return None
    if form.methods == PAPER_METHODS:
        form = replace(form, methods=tuple(method for method in PAPER_METHODS if method in set(cells["method"])))
    present = list(dict.fromkeys(cells["dataset"]))
    of_paper = {name: [d for d in present if PRINTED_AS.get(d, d) == name] for name in form.datasets}
    others = [d for d in present if PRINTED_AS.get(d, d) not in form.datasets]
    sections: list[_Section] = []
    build = _ablation if form.spec.printed_as else _by_class
    for name, datasets in of_paper.items():
        for dataset in datasets:
            sections += build(results, form, dataset, cells[cells["dataset"] == dataset])
        if not datasets and any(of_paper.values()):
            sections += _missing(form, name)
    for dataset in others:
        sections += build(results, form, dataset, cells[cells["dataset"] == dataset])
    return _finished(results, form, sections, present)


def _by_class(results: Results, form: Form, dataset: str, cells: pd.DataFrame) -> list[_Section]:
    """A row a choice of open classes, then their mean."""
    rows = protocol_order(cells)
    blocks = _blocks(results, form, dataset, rows)
    lines = [
        Row(line[0].label, [e for row in line for e in row.entries], line[0].is_mean)
        for line in zip(*(block.rows for block in blocks), strict=True)
    ]
    if form.paper:
        is_whole = set(rows) == set(paper_rows(USUAL_DATASET, list(form.families)))
        for line in lines:
            line.entries += _printed(form, line.entries[0].protocol, line.label, not line.is_mean or is_whole)
    return [_section(results, form, dataset, dataset_name(dataset), lines, blocks)]


def _ablation(results: Results, form: Form, dataset: str, cells: pd.DataFrame) -> list[_Section]:
    """A section a choice of open classes, in it a row a variant."""
    sections = []
    for family, opened in protocol_order(cells):
        blocks = _blocks(results, form, dataset, [(family, opened)])
        columns = [block.rows[0].entries for block in blocks]
        if form.paper:
            columns.append(_printed(form, family, opened))
        rows = [
            Row(PARTS[method], list(entries))
            for method, entries in zip(form.methods, zip(*columns, strict=True), strict=True)
        ]
        sections.append(_section(results, form, dataset, f"{dataset_name(dataset)}, {opened} open", rows, blocks))
    return sections


def _blocks(results: Results, form: Form, dataset: str, rows: list[tuple[str, str]]) -> list[Block]:
    groups = group_cells(results.of(dataset))
    blocks = [metric_block(m, groups, rows, list(form.methods), form.spec.has_mean) for m in MAIN_METRICS]
    for entry in (entry for block in blocks for row in block.rows for entry in row.entries):
        entry.show_std = False
        if entry.status == PARTIAL:
            entry.mark = "†"
    return blocks


def _section(
    results: Results, form: Form, dataset: str, heading: str, rows: list[Row], blocks: list[Block]
) -> _Section:
    cells = results.of(dataset)
    shown = cells[cells["method"].isin(form.methods) & cells["protocol"].isin(form.families)]
    notes = [note for block in blocks for note in coverage_notes(block, list(form.methods))]
    notes = [f"{dataset_name(dataset)}: {note.replace('‡', '†')}" for note in notes]
    spreads = [entry.std for row in blocks[0].rows for entry in row.entries if entry.std is not None]
    return _Section(dataset, heading, rows, state(shown, "Mean") + demonstration(results, dataset), notes, spreads)


def _missing(form: Form, name: str) -> list[_Section]:
    """A data set of the paper's without a cell: its rows all the same, so that the table keeps its form."""
    rows = paper_rows(name, list(form.families)) or paper_rows(USUAL_DATASET, list(form.families))
    sections = []

    def dashes(family: str, opened: str, methods: tuple[str, ...]) -> list[Entry]:
        return [Entry(family, opened, method, metric, MISSING) for metric in MAIN_METRICS for method in methods]

    if form.spec.printed_as:
        family, opened = "single", "surprise"
        printed = _printed(form, family, opened)
        lines = [
            Row(PARTS[method], [*dashes(family, opened, (method,)), printed[place]])
            for place, method in enumerate(form.methods)
        ]
        sections.append(_Section(name, f"{dataset_name(name)}, {opened} open", lines))
    elif rows:
        if form.spec.has_mean:
            rows = [*rows, ("+".join(dict.fromkeys(family for family, _ in rows)), "mean")]
        lines = [
            Row(
                opened,
                dashes(family, opened, form.methods) + (_printed(form, family, opened) if form.paper else []),
                opened == "mean",
            )
            for family, opened in rows
        ]
        sections.append(_Section(name, dataset_name(name), lines))
    for section in sections:
        section.said = "not run."
    return sections


def _printed(form: Form, family: str, opened: str, known: bool = True) -> list[Entry]:
    """The paper's AUROC of RAF-DB for each method, for a row of any data set."""
    values = [
        paper_value(USUAL_DATASET, family, opened, form.spec.printed_as.get(m, m), AUROC.name) for m in form.methods
    ]
    entries = [
        Entry(family, opened, method, AUROC, PRINTED, value if known else None)
        for method, value in zip(form.methods, values, strict=True)
    ]
    mark_best(entries)
    return entries


def _finished(results: Results, form: Form, sections: list[_Section], present: list[str]) -> Table:
    names: dict[str, str] = {}
    heads: dict[str, str] = {}
    is_ablation = bool(form.spec.printed_as)
    groups = [(metric.short, metric.short) for metric in MAIN_METRICS] + [
        (PAPER, f"{PAPER} {AUROC.short}")
    ] * form.paper
    for group, title in groups:
        for method in (form.spec.name,) if is_ablation else form.methods:
            column = f"{group}/{method}"
            names[column], heads[column] = (
                title,
                title if is_ablation else HEADS.get(form.spec.name, {}).get(method, method_name(method)),
            )
    said = list(dict.fromkeys(section.said for section in sections))
    by_dataset = dict.fromkeys(f"{dataset_name(section.dataset)}: {section.said}" for section in sections)
    of = "column" if is_ablation else "row and metric"
    notes = [f"Bold: best of its {of}, underlined: second best of three or more, by the displayed mean."]
    spreads = [std for section in sections for std in section.spreads]
    if spreads:
        notes.append(f"Standard deviation of {AUROC.title} over seeds: at most {max(spreads):.{AUROC.decimals}f}.")
    notes += dict.fromkeys(note for section in sections for note in section.notes)
    if form.paper:
        others = [dataset_name(d) for d in present if PRINTED_AS.get(d, d) != USUAL_DATASET]
        other = f"; not of {', '.join(others)}, another data set, with which they cannot be compared" if others else ""
        notes.append(f"{PAPER}: AUROC as Zhang et al. (AAAI 2024) print it, of {dataset_name(USUAL_DATASET)}{other}.")
    if is_ablation:
        notes.append(unreadable_note())
    lacking = [dataset_name(section.dataset) for section in sections if section.said == "not run."]
    if lacking:
        notes.append(f"—: no cell of {', '.join(dict.fromkeys(lacking))} in these results.")
    if any(e.text == "·" for section in sections for row in section.rows for e in row.entries):
        notes.append("·: not planned here, or not printed.")
    datasets = list(dict.fromkeys(dataset_name(section.dataset) for section in sections))
    return Table(
        f"printed_{form.spec.name}",
        form.caption,
        form.spec.reference,
        said[0] if len(said) == 1 else " ".join(by_dataset),
        " and ".join(datasets),
        "parts of ours" if is_ablation else "open classes",
        list(names),
        [Block(section.heading, section.rows, section.heading) for section in sections],
        notes,
        [],
        sees=names if not is_ablation else {},
        group_head="",
        named=heads,
    )
