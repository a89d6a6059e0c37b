"""Builds the tables of results, one a data set, as blocks of rows; wide.py builds those in the paper's own layout.

Metrics are stacked as blocks so that the width depends on the methods alone. latex.py and text.py write tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, FPR_AT_TPR95, MAIN_METRICS, SIDE_METRICS
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS, Regime
from open_set_fer.reports.data.names import dataset_name, limit_notes, origin_differs
from open_set_fer.reports.data.paper import unreadable_note
from open_set_fer.reports.data.results import Results, method_order, protocol_order
from open_set_fer.reports.data.statistics import Comparison, compare, sentences
from open_set_fer.reports.tables import means, wording
from open_set_fer.reports.tables.controls import control_blocks, verdict
from open_set_fer.reports.tables.marks import CLOSED_ACCURACY, heading_mark, mark_no_detectors, mark_notes
from open_set_fer.reports.tables.paired_tests import HOW, paired_blocks
from open_set_fer.reports.tables.published import paper_blocks
from open_set_fer.reports.tables.specs import PAIRED, SHIFTED, SIDE, TABLES, TableSpec

DEMONSTRATION = "demonstration on synthetic faces: says nothing about real faces"
INDUCTIVE, TRANSDUCTIVE = "inductive", "transductive"
"""Whether a score depends on the face alone, or on the other faces of the pool too."""
RELEASED = Regime("released", 1.0).suffix
SHIFT_AUROC = replace(AUROC, title="AUROC of shifted closed faces", higher_is_better=None)
SHIFT_ACCEPTED = replace(FPR_AT_TPR95, title="shifted closed faces accepted at TPR95", higher_is_better=None)


@dataclass
class Table:
    """A table before it is written.

    name: file stem. state: seeds, missing cells, synthetic data. headings: of the columns as displayed, by label.
    notes: for every reader; provenance_notes: for whoever ran it. groups_of: the setting of each method; in the wide
    layout the metric of each column. marks: behind methods' names. verdicts: of label-based methods by their control.
    """

    spec: TableSpec
    name: str
    title: str
    dataset: str
    state: str
    headings: Mapping[str, str]
    blocks: list[means.Block]
    notes: list[str]
    provenance_notes: list[str] = field(default_factory=list)
    groups_of: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    verdicts: Mapping[str, str] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        reference = f" ({self.spec.reference})" if self.spec.reference else ""
        return f"{dataset_name(self.dataset)}: {self.title}{reference}. {self.state}"

    @property
    def heads(self) -> list[str]:
        """Headings of the columns as displayed."""
        return list(self.headings.values())

    @property
    def is_side(self) -> bool:
        """Whether the columns are measurements beside the paper's."""
        return self.spec.layout == "side"

    @property
    def footnotes(self) -> list[str]:
        """Every note."""
        return [*self.notes, *self.provenance_notes]

    def groups(self, columns: Iterable[int]) -> list[tuple[str, int]]:
        """Headings that neighbouring columns share, with their number of `columns`; none if all columns share one."""
        groups = [self.groups_of.get(label, "") for label in self.headings]
        shown = groupby(groups[column] for column in columns) if len(set(groups)) > 1 else ()
        return [(group, len(list(same))) for group, same in shown]

    def entries(self) -> Iterator[means.Entry]:
        """Measured entries in reading order."""
        return (entry for block in self.blocks for entry in block.entries if entry.status != means.PRINTED)


def all_tables(results: Results) -> list[Table]:
    """Every table that has a planned cell, data set by data set, of one pseudo-label setting (`Results.under`)."""
    tables: list[Table] = []
    for dataset in dict.fromkeys([*results.datasets, *results.shifted["dataset"]]):
        cells = results.of(dataset)
        groups = means.group_cells(cells)
        for spec in TABLES:
            subjects = cells["method"].map(spec.is_subject).astype(bool) & cells["protocol"].isin(spec.families)
            if rows := protocol_order(cells[subjects]):
                tables.append(_stacked_table(results, dataset, spec, groups, rows))
        if results.labels not in CONTROLS and (tests := _paired_table(results, dataset)):
            tables.append(tests)
        for family in dict.fromkeys(protocol for protocol, _ in protocol_order(cells)):
            tables.append(_side_table(results, dataset, family, groups))
        shifted = results.shifted[results.shifted["dataset"] == dataset]
        if results.labels in (None, "own") and len(shifted):
            tables.append(_shift_table(results, dataset, shifted))
    return tables


def _table(
    results: Results, spec: TableSpec, dataset: str, methods: list[str], cells: pd.DataFrame, blocks: list[means.Block]
) -> Table:
    marks = {method: mark for method in methods if (mark := heading_mark(results, dataset, method))}
    name, title = f"{spec.name}_{slug(dataset)}{_setting(results, '_{0}')}", spec.title + _setting(results, ", {1}")
    text = wording.state(cells, "Mean" if spec.layout == "side" else "Mean ± standard deviation")
    text += demonstration(results, dataset, by_origin=spec not in (PAIRED, SHIFTED))
    headings = {method: results.title(method) + marks.get(method, "") for method in methods}
    notes, provenance = (make(results, dataset, methods) for make in (wording.method_notes, wording.warnings))
    settings = {method: setting_of(results, method) for method in methods}
    verdicts = {method: given for method in methods if (given := verdict(results, dataset, method))}
    return Table(spec, name, title, dataset, text, headings, blocks, notes, provenance, settings, marks, verdicts)


def _stacked_table(
    results: Results, dataset: str, spec: TableSpec, groups: means.Groups, rows: list[tuple[str, str]]
) -> Table:
    if results.labels not in (None, "own", "released"):  # the paper has no table of other pseudo-label settings
        spec = replace(spec, reference="", published="none")
    methods = [method for method in results.methods(dataset) if spec.is_column(method)]
    cells = results.of(dataset)
    in_rows = pd.MultiIndex.from_frame(cells[["protocol", "open_classes"]]).isin(rows)
    cells = cells[in_rows & cells["method"].isin(methods)]
    kind = "control " * (results.labels in CONTROLS)
    metrics = [replace(metric, title=kind + metric.title) if metric == AUROC else metric for metric in MAIN_METRICS]
    blocks = [means.metric_block(metric, groups, rows, methods, spec.has_mean) for metric in metrics]
    table = _table(results, spec, dataset, methods, cells, blocks)
    table.state += f" {wording.FPR_POSITIVE}"
    notes = [note for block in blocks for note in wording.coverage_notes(results, block, methods)]
    notes += wording.bold_notes(blocks, has_groups=len(set(table.groups_of.values())) > 1)
    mark_no_detectors(blocks[0], groups)
    notes += mark_notes(results, dataset, methods, blocks[0].entries)
    if results.labels not in CONTROLS:
        blocks += _accuracy_blocks(groups, rows, methods, spec.has_mean)
        blocks += control_blocks(results, dataset, methods)
    if spec.published != "none":
        plain = [(family, open_classes.removesuffix(RELEASED)) for family, open_classes in rows]
        blocks += paper_blocks(dataset, plain, methods, spec.published == "shared rows", spec.published_as)
    if any(entry.text == "·" for block in blocks for entry in block.entries):
        notes.append("·: not planned here, or not published by Zhang et al.")
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


def _accuracy_blocks(
    groups: means.Groups, rows: list[tuple[str, str]], methods: list[str], has_mean: bool
) -> list[means.Block]:
    """Closed accuracy, of which none is marked as best: most methods share the model. None if it is not measured."""
    block = means.metric_block(CLOSED_ACCURACY, groups, rows, methods, has_mean)
    for entry in block.entries:
        entry.best = entry.second = False
    return [block] if any(entry.value is not None for entry in block.entries) else []


def _paired_table(results: Results, dataset: str) -> Table | None:
    """The best method of each choice of open classes against each other method; None without two methods' scores."""
    cells = results.of(dataset)
    methods = [method for method in results.methods(dataset) if PAIRED.is_column(method)]
    cells = cells[cells["method"].isin(methods)]
    if not (blocks := paired_blocks(results, cells, methods)):
        return None
    table = _table(results, PAIRED, dataset, methods, cells, blocks)
    origins = [wording.ALL_ORIGINS] * _is_by_origin(results, dataset)
    return replace(table, notes=[HOW, *origins, *mark_notes(results, dataset, methods)])


def _shift_table(results: Results, dataset: str, cells: pd.DataFrame) -> Table:
    """Closed faces with a shift, without open faces: nothing is marked as best."""
    groups, rows = means.group_cells(cells), protocol_order(cells)
    methods = results.in_blocks(method_order(cells["method"]))
    blocks = [means.metric_rows(metric, groups, rows, methods) for metric in (SHIFT_AUROC, SHIFT_ACCEPTED)]
    notes = [wording.SHIFT_NOTE, *wording.sees_notes(results, methods), *limit_notes(methods)]
    table = _table(results, SHIFTED, dataset, methods, cells, blocks)
    return replace(table, headings={method: results.title(method) for method in methods}, notes=notes, marks={})


def _side_table(results: Results, dataset: str, family: str, groups: means.Groups) -> Table:
    """A block a choice of open classes, with a row a method and a column a measurement."""
    cells, methods = results.of(dataset), results.methods(dataset)
    cells = cells[cells["protocol"] == family]
    metrics = [m for m in SIDE_METRICS if m.name in cells and cells[m.name].notna().any()]
    metrics = metrics or [m for m in SIDE_METRICS if m.name == "oscr"]
    table = _table(results, SIDE, dataset, methods, cells, [])
    for _, open_classes in protocol_order(cells):
        places = {m: (family, open_classes, m) for m in methods if (family, open_classes, m) in groups}
        entries = {m: [means.seed_mean(groups, place, x) for x in metrics] for m, place in places.items()}
        rows = [means.Row(table.headings[m], own) for m, own in entries.items()]
        table.blocks.append(means.Block(open_classes, rows, open_classes))
    for entry in table.entries():
        entry.mark, entry.show_std = "‡" if entry.status == means.PARTIAL else "", False
    statuses = {entry.status for entry in table.entries()}
    notes = [wording.SIDE_NOTE, *mark_notes(results, dataset, methods), *table.notes]
    notes += ["‡ fewer seeds than planned."] * (means.PARTIAL in statuses)
    lack = f"{means.TEXTS[means.NOT_MEASURED]}: the method has no such measurement."
    notes += [lack] * (means.NOT_MEASURED in statuses)
    return replace(
        table,
        name=f"{SIDE.name}_{slug(dataset)}_{slug(family)}{_setting(results, '_{0}')}",
        title=f"{SIDE.title}, family {family}{_setting(results, ', {1}')}",
        headings={metric.title: metric.title for metric in metrics},
        notes=notes,
    )


def setting_of(results: Results, method: str) -> str:
    return TRANSDUCTIVE if results.states(method, "sees_pool") else INDUCTIVE


def demonstration(results: Results, dataset: str, by_origin: bool = True) -> str:
    """The last sentences of a caption: synthetic data, AUROC by origin, another pseudo-label setting; else ''.

    by_origin: whether AUROC is that of `Results.cells`.
    """
    sentence = f" {DEMONSTRATION[0].upper()}{DEMONSTRATION[1:]}."
    origin = f" {wording.BY_ORIGIN}" * (by_origin and _is_by_origin(results, dataset))
    return _setting(results, " {2}.") + origin + sentence * (dataset in results.demonstrations)


def _is_by_origin(results: Results, dataset: str) -> bool:
    """Whether some methods' AUROC is of the open faces of the test split alone."""
    return origin_differs(dataset) and bool(results.of(dataset)["sees_pool"].any())


def _setting(results: Results, form: str) -> str:
    """The pseudo-label setting in a form ({0} name, {1} part of a title, {2} sentence), '' of own labels."""
    texts = wording.SETTINGS.get(results.labels or "own")
    return form.format(results.labels, *texts) if texts else ""


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
