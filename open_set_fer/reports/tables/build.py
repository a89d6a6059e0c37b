"""Builds the tables of results, one a data set; wide.py builds those in the paper's own layout.

A table is a list of blocks of rows. Metrics are stacked as blocks so that the width depends on the methods alone; the
paper's published numbers are blocks of their own. latex.py and text.py write tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, FPR_AT_TPR95, MAIN_METRICS, SIDE_METRICS, Metric
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS, Regime
from open_set_fer.reports.data.names import dataset_name, limit_notes, method_name
from open_set_fer.reports.data.paper import unreadable_note
from open_set_fer.reports.data.results import Results, method_order, protocol_order
from open_set_fer.reports.data.statistics import Comparison, compare, sentences
from open_set_fer.reports.tables.controls import control_blocks, heading_mark
from open_set_fer.reports.tables.entries import (
    NOT_MEASURED,
    PARTIAL,
    PRINTED,
    TEXTS,
    Block,
    Entry,
    Groups,
    Row,
    group_cells,
    metric_block,
    metric_rows,
    seed_mean,
)
from open_set_fer.reports.tables.notes import (
    SETTINGS,
    SHIFT_NOTE,
    SIDE_NOTE,
    bold_notes,
    coverage_notes,
    method_notes,
    sees_notes,
    state,
    warnings,
)
from open_set_fer.reports.tables.published import paper_blocks
from open_set_fer.reports.tables.specs import SHIFTED, SIDE, TABLES, Published, TableSpec

DEMONSTRATION = "demonstration on synthetic faces: says nothing about real faces"
ONE_FACE, POOL = "one face at a time", "the pool"
"""What a method sees, the basis of its score of a face: inductive, transductive."""
RELEASED = Regime("released", 1.0).suffix
SHIFT_AUROC = replace(AUROC, title="AUROC of shifted closed faces", higher_is_better=None)
SHIFT_ACCEPTED = replace(FPR_AT_TPR95, title="shifted closed faces accepted at TPR95", higher_is_better=None)


@dataclass
class Table:
    """A table before it is written.

    name: file stem. title: without the data set; state: seeds, missing cells, synthetic data. headings: of the columns
    as displayed, by label. notes: for every reader; provenance_notes: for whoever ran it. groups_of: what each method
    sees; in the wide layout the metric of each column. marks: behind methods' names.
    """

    spec: TableSpec
    name: str
    title: str
    dataset: str
    state: str
    headings: Mapping[str, str]
    blocks: list[Block]
    notes: list[str]
    provenance_notes: list[str] = field(default_factory=list)
    groups_of: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        """The caption of Markdown and page, with the paper's table that it reproduces."""
        reference = f" ({self.spec.reference})" if self.spec.reference else ""
        return f"{dataset_name(self.dataset)}: {self.title}{reference}. {self.state}"

    @property
    def columns(self) -> list[str]:
        """Labels of the columns."""
        return list(self.headings)

    @property
    def heads(self) -> list[str]:
        """Headings of the columns as displayed."""
        return list(self.headings.values())

    @property
    def row_head(self) -> str:
        """Heading of the row labels."""
        return self.spec.row_head

    @property
    def group_head(self) -> str:
        """Heading of the row of groups."""
        return "" if self.spec.layout == "wide" else "sees"

    @property
    def is_side(self) -> bool:
        """Whether the columns are measurements beside the paper's."""
        return self.spec.layout == "side"

    @property
    def align(self) -> str:
        """Alignment of the columns: numbers with deviations and marks to the left, measurements to the right."""
        return "right" if self.is_side else "left"

    @property
    def footnotes(self) -> list[str]:
        """Every note."""
        return [*self.notes, *self.provenance_notes]

    def groups(self, columns: Iterable[int]) -> list[tuple[str, int]]:
        """Headings that neighbouring columns share, with their number of `columns`; none if all columns share one."""
        labels = self.columns
        if len({self.groups_of.get(label) for label in labels}) < 2:
            return []
        return [(group, len(list(same))) for group, same in groupby(self.groups_of.get(labels[c], "") for c in columns)]

    def entries(self) -> Iterator[Entry]:
        """Measured entries in reading order."""
        for block in self.blocks:
            for row in block.rows:
                yield from (entry for entry in row.entries if entry.status != PRINTED)


def all_tables(results: Results) -> list[Table]:
    """Every table that has a planned cell, data set by data set, of one pseudo-label setting (`Results.under`)."""
    tables: list[Table] = []
    for dataset in dict.fromkeys([*results.datasets, *results.shifted["dataset"]]):
        cells = results.of(dataset)
        groups = group_cells(cells)
        for spec in TABLES:
            subjects = cells["method"].map(spec.is_subject).astype(bool) & cells["protocol"].isin(spec.families)
            if rows := table_rows(cells[subjects]):
                tables.append(_stacked_table(results, dataset, spec, groups, rows))
        for family in dict.fromkeys(protocol for protocol, _ in table_rows(cells)):
            tables.append(_side_table(results, dataset, family, groups))
        shifted = results.shifted[results.shifted["dataset"] == dataset]
        if results.labels in (None, "own") and len(shifted):
            tables.append(_shift_table(results, dataset, shifted))
    return tables


def table_rows(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(family, open classes) of the cells in the paper's order."""
    return protocol_order(cells)


def _table(
    results: Results, spec: TableSpec, dataset: str, methods: list[str], cells: pd.DataFrame, blocks: list[Block]
) -> Table:
    marks = {method: mark for method in methods if (mark := heading_mark(results, dataset, method))}
    return Table(
        spec,
        f"{spec.name}_{slug(dataset)}{_suffix(results)}",
        spec.title + _setting(results),
        dataset,
        state(cells, "Mean" if spec.layout == "side" else "Mean ± standard deviation")
        + demonstration(results, dataset),
        _headings(methods, marks),
        blocks,
        method_notes(results, dataset, methods),
        warnings(results, dataset, methods),
        {method: what_it_sees(results, method) for method in methods},
        marks,
    )


def _stacked_table(
    results: Results, dataset: str, spec: TableSpec, groups: Groups, rows: list[tuple[str, str]]
) -> Table:
    if results.labels not in (None, "own", "released"):  # the paper has no table of other pseudo-label settings
        spec = replace(spec, reference="", published=Published.NONE)
    methods = [method for method in results.methods(dataset) if spec.is_column(method)]
    cells = results.of(dataset)
    in_rows = pd.MultiIndex.from_frame(cells[["protocol", "open_classes"]]).isin(rows)
    cells = cells[in_rows & cells["method"].isin(methods)]
    blocks = [metric_block(metric, groups, rows, methods, spec.has_mean) for metric in _metrics(results)]
    table = _table(results, spec, dataset, methods, cells, blocks)
    notes = [note for block in blocks for note in coverage_notes(block, methods)]
    notes += bold_notes(blocks, has_groups=len(set(table.groups_of.values())) > 1)
    if results.labels not in CONTROLS:
        blocks += control_blocks(results, dataset, methods)
    if spec.published is not Published.NONE:
        plain = [(family, open_classes.removesuffix(RELEASED)) for family, open_classes in rows]
        blocks += paper_blocks(dataset, plain, methods, spec.published is Published.SHARED_ROWS, spec.published_as)
    if any(entry.text == "·" for block in blocks for entry in block.entries):
        notes.append("·: not planned here, or not printed by Zhang et al.")
    if spec.published_as and spec.reference:
        notes.append(unreadable_note())
    table.notes = list(dict.fromkeys(notes + table.notes))
    comparison = compare(cells)
    if isinstance(comparison, Comparison):
        table.notes.append(sentences(comparison))
    else:
        table.provenance_notes.append(comparison)
    table.provenance_notes += [f"Hyperparameters: {text}." for text in cells["selection"].dropna().unique()]
    return table


def _shift_table(results: Results, dataset: str, cells: pd.DataFrame) -> Table:
    """Closed faces with a shift, without open faces: nothing is marked as best."""
    groups, rows = group_cells(cells), table_rows(cells)
    methods = results.in_blocks(method_order(cells["method"]))
    blocks = [metric_rows(metric, groups, rows, methods) for metric in (SHIFT_AUROC, SHIFT_ACCEPTED)]
    notes = [SHIFT_NOTE, *sees_notes(results, methods), *limit_notes(methods)]
    table = _table(results, SHIFTED, dataset, methods, cells, blocks)
    return replace(table, headings=_headings(methods, {}), notes=notes, marks={})


def _side_table(results: Results, dataset: str, family: str, groups: Groups) -> Table:
    """A block a choice of open classes, with a row a method and a column a measurement."""
    cells, methods = results.of(dataset), results.methods(dataset)
    cells = cells[cells["protocol"] == family]
    metrics = [m for m in SIDE_METRICS if m.name in cells and cells[m.name].notna().any()]
    metrics = metrics or [m for m in SIDE_METRICS if m.name == "oscr"]
    table = _table(results, SIDE, dataset, methods, cells, [])
    for _, open_classes in table_rows(cells):
        places = {m: (family, open_classes, m) for m in methods if (family, open_classes, m) in groups}
        rows = [Row(table.headings[m], [seed_mean(groups, place, x) for x in metrics]) for m, place in places.items()]
        table.blocks.append(Block(open_classes, rows, open_classes))
    entries = [entry for block in table.blocks for entry in block.entries]
    for entry in entries:
        entry.mark, entry.show_std = "‡" if entry.status == PARTIAL else "", False
    notes = [SIDE_NOTE, *table.notes]
    if any(entry.mark for entry in entries):
        notes.append("‡ fewer seeds than planned.")
    if any(entry.status == NOT_MEASURED for entry in entries):
        notes.append(f"{TEXTS[NOT_MEASURED]}: the method has no such measurement.")
    return replace(
        table,
        name=f"{SIDE.name}_{slug(dataset)}_{slug(family)}{_suffix(results)}",
        title=f"{SIDE.title}, family {family}{_setting(results)}",
        headings={metric.title: metric.title for metric in metrics},
        notes=notes,
    )


def _metrics(results: Results) -> tuple[Metric, ...]:
    """The main metrics; a control's AUROC has a title of its kind."""
    if results.labels not in CONTROLS:
        return MAIN_METRICS
    return tuple(replace(m, title=f"control {m.title}") if m == AUROC else m for m in MAIN_METRICS)


def what_it_sees(results: Results, method: str) -> str:
    """The basis of a method's score of a face."""
    return POOL if results.states(method, "sees_pool") else ONE_FACE


def _headings(methods: list[str], marks: Mapping[str, str]) -> dict[str, str]:
    return {method: method_name(method) + marks.get(method, "") for method in methods}


def demonstration(results: Results, dataset: str) -> str:
    """The last sentences of a caption on synthetic data or on another pseudo-label setting than own labels, else ''."""
    setting = f" {SETTINGS[results.labels][1]}." if results.labels in SETTINGS else ""
    return setting + (f" {DEMONSTRATION[0].upper()}{DEMONSTRATION[1:]}." if dataset in results.demonstrations else "")


def _setting(results: Results) -> str:
    return f", {SETTINGS[results.labels][0]}" if results.labels in SETTINGS else ""


def _suffix(results: Results) -> str:
    return f"_{results.labels}" if results.labels in SETTINGS else ""


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
