"""The paper's tables and the side measurements, one table a data set: what each holds.

A table is a list of blocks of rows; metrics are stacked as blocks so that the width depends on the methods alone. The
paper's numbers are a block of their own. latex.py and formats.py write them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import groupby

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, FPR_AT_TPR95, MAIN_METRICS, SIDE_METRICS, Metric
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS, Labels, Regime
from open_set_fer.reports.data.names import dataset_name, limit_notes, method_name
from open_set_fer.reports.data.paper import ABLATION, unreadable_note
from open_set_fer.reports.data.results import FAILED, FAMILY_ORDER, MISSING, Results, method_order, protocol_order
from open_set_fer.reports.data.statistics import Comparison, compare, sentences
from open_set_fer.reports.tables.controls import control_blocks, control_notes, heading_mark
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
    mark_best,
    row_mean,
    seed_mean,
)
from open_set_fer.reports.tables.published import paper_blocks

DEMONSTRATION = "demonstration on synthetic faces: says nothing about real faces"
RELEASED = Regime("released", 1.0).suffix
BOLD = (
    "Bold: best of its row; underlined: second best of three or more; both by the displayed mean alone, which says nothing of "
    "significance"
)
ONE_FACE, POOL = "one face at a time", "the pool"
"""What a method sees: what its score of a face depends on."""
SIDE_NOTE = (
    "Model accuracy: of the closed-set model on closed test faces; closed accuracy: of the method's own classes. "
    "Entropy: of the closed-set model's labels on open and on closed faces, 1 when spread evenly over the closed "
    "classes. AUROC from, to: 95 % bootstrap interval over faces, which has nothing of seeds. AUROC test split, train split: open "
    "faces of that split alone; AUROC right class: closed faces that the method classifies rightly alone. Share open: the AUPR open "
    "of chance. Seconds: of one cell."
)
SHIFT_AUROC = replace(AUROC, title="AUROC of shifted closed faces", higher_is_better=None)
SHIFT_ACCEPTED = replace(FPR_AT_TPR95, title="shifted closed faces accepted at TPR95", higher_is_better=None)
SHIFT_NOTE = (
    "No face is unknown. A method that does not mind the shift has an AUROC of 0.5, shifted over unshifted faces, and accepts 0.95 of the "
    "shifted faces at the threshold that accepts 95 % of the unshifted ones."
)
REGIMES: dict[Labels, tuple[str, str]] = {
    "released": (
        "labels as released",
        "Open faces of the train split have the outputs for random training images, as the released code pairs them",
    ),
    "concentrated": (
        "labels concentrated",
        "Open faces all have the closed class that most of them got from the closed-set model (the comparison group of Figure 6)",
    ),
    "flipped": (
        "positive control: labels flipped",
        "Closed faces alone: what is to be found are labels flipped at random, not open faces",
    ),
    "flipped-true": (
        "positive control: true labels flipped",
        "Closed faces with their true labels alone: what is to be found are labels flipped at random, not open faces",
    ),
}
"""What a title and a caption say of a label regime."""


def is_variant(label: str) -> bool:
    """True for `ours` with other settings (Tables 4 and 5); `ours-plus` is a method of its own, with variants of its own."""
    return label.startswith("ours-") and not label.startswith("ours-plus")


def _is_method(label: str) -> bool:
    return not is_variant(label)


def _is_ablation(label: str) -> bool:
    return is_variant(label) and label in ABLATION


def _is_further_variant(label: str) -> bool:
    return is_variant(label) and label not in ABLATION and label != "ours-online"


class Printed(Enum):
    """How the paper's numbers stand in a table."""

    ROWS = "every row that it prints of the table's families"
    SHARED_ROWS = "the rows of the table that it has a number of for every column"
    NONE = "nothing: the table is none of the paper's"


@dataclass(frozen=True)
class TableSpec:
    """One of the paper's tables, or one like them.

    families: of its rows. is_column: which methods are its columns. is_subject: which methods' protocols are its rows;
    without a cell of one there is no table. has_mean: a last row is the mean of the others. printed_as: what
    paper_results.csv calls a method in it.
    """

    name: str
    title: str
    reference: str
    families: tuple[str, ...]
    is_column: Callable[[str], bool] = _is_method
    is_subject: Callable[[str], bool] = _is_method
    has_mean: bool = True
    printed: Printed = Printed.ROWS
    printed_as: Mapping[str, str] = field(default_factory=dict)


TABLES = (
    TableSpec("table1", "one open class", "the paper's Table 1", ("single",)),
    TableSpec("table2", "two and three open classes", "the paper's Table 2", ("pairs", "triples")),
    TableSpec(
        "table3",
        "compound expressions and contempt as open classes",
        "the paper's Table 3",
        ("compound", "contempt"),
        has_mean=False,
    ),
    TableSpec(
        "table4",
        "ours on the whole test pool and online, one image at a time",
        "the paper's Table 4",
        FAMILY_ORDER,
        is_column=lambda label: label in ("ours", "ours-online"),
        is_subject=lambda label: label == "ours-online",
        printed=Printed.SHARED_ROWS,
    ),
    TableSpec(
        "table5",
        "the parts of ours switched on one after the other",
        "the paper's Table 5",
        FAMILY_ORDER,
        is_column=lambda label: label in ABLATION,
        is_subject=_is_ablation,
        printed_as=ABLATION,
    ),
    TableSpec(
        "variants",
        "further variants of ours",
        "",
        FAMILY_ORDER,
        is_column=lambda label: label in ("baseline", "ours") or _is_further_variant(label),
        is_subject=_is_further_variant,
        printed=Printed.NONE,
    ),
)


@dataclass
class Table:
    """name: file stem. reference: which of the paper's tables it is; state: seeds, missing cells, demonstration.

    columns: labels of the entries' columns; row_head: heading of the row labels; align: left or right. Left alignment
    sets means below each other whether or not a deviation follows. footnotes: all of them; laboratory: those that only
    who ran it needs. is_side: of measurements beside the paper's. marks: behind methods' names. sees: what each method sees.
    printed_as: as in its TableSpec. group_head: what is said before the groups that `sees` makes. named: heads that are no methods'.
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
    is_side: bool = False
    marks: dict[str, str] = field(default_factory=dict)
    sees: dict[str, str] = field(default_factory=dict)
    printed_as: Mapping[str, str] = field(default_factory=dict)
    group_head: str = "sees"
    named: Mapping[str, str] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        """What the table shows, for whom the paper is at hand."""
        return f"{dataset_name(self.dataset)}: {self.title}{self.reference and f' ({self.reference})'}. {self.state}"

    @property
    def heads(self) -> list[str]:
        """The columns' headings as displayed."""
        return [self.named.get(label) or method_name(label) + self.marks.get(label, "") for label in self.columns]

    def groups(self, columns: Iterable[int]) -> list[tuple[str, int]]:
        """What methods of neighbouring columns see, and how many of `columns` do; nothing where all columns see the same."""
        if len({self.sees.get(label) for label in self.columns}) < 2:
            return []
        return [(sees, len(list(of))) for sees, of in groupby(self.sees.get(self.columns[c], "") for c in columns)]

    def entries(self) -> Iterator[Entry]:
        """Measured entries in reading order."""
        for block in self.blocks:
            for row in block.rows:
                yield from (entry for entry in row.entries if entry.status != PRINTED)


def all_tables(results: Results) -> list[Table]:
    """Every table that has a planned cell, data set by data set; of one label regime (`Results.under`)."""
    tables: list[Table] = []
    for dataset in dict.fromkeys([*results.datasets, *results.shifted["dataset"]]):
        cells = results.of(dataset)
        methods = results.methods(dataset)
        groups = group_cells(cells)
        for spec in TABLES:
            subjects = cells["method"].map(spec.is_subject).astype(bool) & cells["protocol"].isin(spec.families)
            if rows := _protocols(cells[subjects]):
                columns = [method for method in methods if spec.is_column(method)]
                tables.append(_result_table(results, dataset, spec, groups, rows, columns))
        for family in dict.fromkeys(protocol for protocol, _ in _protocols(cells)):
            tables.append(_side_table(results, dataset, family, groups, methods))
        shifted = results.shifted[results.shifted["dataset"] == dataset]
        if results.labels in (None, "own") and len(shifted):
            tables.append(_shift_table(results, dataset, shifted))
    return tables


def _protocols(cells: pd.DataFrame) -> list[tuple[str, str]]:
    return protocol_order(cells)


# -- the paper's tables ------------------------------------------------------------------------------------------------


def _result_table(
    results: Results, dataset: str, spec: TableSpec, groups: Groups, rows: list[tuple[str, str]], methods: list[str]
) -> Table:
    is_control = results.labels in CONTROLS
    is_printed = results.labels in (None, "own", "released")  # other labels are none of the paper's tables
    blocks = [metric_block(metric, groups, rows, methods, spec.has_mean) for metric in _metrics(results)]
    notes = [note for block in blocks for note in coverage_notes(block, methods)]
    sees = _sees(results, methods)
    has_groups = len(set(sees.values())) > 1
    notes += _bold_note([entry for block in blocks for row in block.rows for entry in row.entries], has_groups)
    if not is_control:
        blocks += control_blocks(results, dataset, methods)
    if spec.printed is not Printed.NONE and is_printed:
        plain = [(family, opened.removesuffix(RELEASED)) for family, opened in rows]
        blocks += paper_blocks(dataset, plain, methods, spec.printed is Printed.SHARED_ROWS, spec.printed_as)
    if any(entry.text == "·" for block in blocks for row in block.rows for entry in row.entries):
        notes.append("·: not planned here, or not printed by Zhang et al.")
    if spec.printed_as and is_printed:
        notes.append(unreadable_note())
    notes += (
        _sees_note(results, methods)
        + limit_notes(methods)
        + control_notes(results, dataset, methods)
        + _left_out(results, dataset)
    )
    cells = results.of(dataset)
    in_rows = pd.MultiIndex.from_frame(cells[["protocol", "open_classes"]]).isin(rows)
    cells = cells[in_rows & cells["method"].isin(methods)]
    laboratory = _warnings(results, dataset, methods)
    differences = compare(cells)
    if isinstance(differences, Comparison):
        notes.append(sentences(differences))
    else:
        laboratory.append(differences)
    laboratory += [f"Hyperparameters: {selection}." for selection in cells["selection"].dropna().unique()]
    reference = spec.reference if is_printed else ""
    return Table(
        f"{spec.name}_{slug(dataset)}{_suffix(results)}",
        spec.title + _regime(results),
        reference,
        state(cells) + demonstration(results, dataset),
        dataset,
        "open classes",
        methods,
        blocks,
        [*dict.fromkeys(notes), *laboratory],
        laboratory,
        marks=_marks(results, dataset, methods),
        sees=sees,
        printed_as=spec.printed_as,
    )


def metric_block(
    metric: Metric, groups: Groups, protocols: list[tuple[str, str]], methods: list[str], has_mean: bool
) -> Block:
    """A metric's rows, marked, with their mean where there are several."""
    rows = []
    for family, open_classes in protocols:
        places = [(family, open_classes, method) for method in methods]
        rows.append(Row(open_classes, [seed_mean(groups, place, metric) for place in places]))
    if has_mean and len(rows) > 1:
        columns = zip(*(row.entries for row in rows), strict=True)
        rows.append(Row("mean", [row_mean(list(column)) for column in columns], is_mean=True))
    for row in rows:
        mark_best(row.entries)
        for entry in row.entries:
            if entry.status == PARTIAL:
                entry.mark = "†" if row.is_mean else "‡"
    return Block(metric.heading, rows, metric.short)


def coverage_notes(block: Block, methods: list[str]) -> list[str]:
    """What † and ‡ stand for in a block."""
    rows, last = [row for row in block.rows if not row.is_mean], block.rows[-1]
    notes = []
    means = [entry for entry in last.entries if last.is_mean and entry.mark]
    if means:
        over = "; ".join(_coverage(entry, rows, methods.index(entry.method)) for entry in means)
        notes.append(f"† mean over {over}.")
    partial = [
        f"{method_name(e.method)}, {e.open_classes}: {e.n_cells} of {e.n_planned}"
        for row in rows
        for e in row.entries
        if e.mark
    ]
    if partial:
        notes.append(f"‡ fewer seeds than planned: {'; '.join(partial)}.")
    return notes


def _coverage(mean: Entry, rows: list[Row], column: int) -> str:
    present = [row.entries[column] for row in rows if row.entries[column].value is not None]
    partial = f" ({mean.n_cells} of {mean.n_planned} cells)" if any(e.status == PARTIAL for e in present) else ""
    return f"{len(present)} of {len(rows)} rows{partial} for {method_name(mean.method)}"


def _bold_note(entries: list[Entry], has_groups: bool) -> list[str]:
    if not any(entry.best for entry in entries):
        return []
    fewer = any(entry.mark == "†" for entry in entries)
    groups = "; methods of both kinds taken together" * has_groups
    return [BOLD + groups + ("; no mean over fewer rows than another method's." if fewer else ".")]


def what_it_sees(results: Results, method: str) -> str:
    """What a method's score of a face depends on."""
    return POOL if results.states(method, "sees_pool") else ONE_FACE


def _sees(results: Results, methods: list[str]) -> dict[str, str]:
    return {method: what_it_sees(results, method) for method in methods}


def _marks(results: Results, dataset: str, methods: list[str]) -> dict[str, str]:
    return {method: mark for method in methods if (mark := heading_mark(results, dataset, method))}


def _sees_note(results: Results, methods: list[str]) -> list[str]:
    """Which methods need the pool as a whole."""
    pool = [method_name(method) for method in methods if results.states(method, "sees_pool")]
    if not pool:
        return []
    return [f"{', '.join(pool)} see{'s' * (len(pool) == 1)} the pool: a face's score depends on the other test faces."]


# -- closed faces with a shift -----------------------------------------------------------------------------------------


def _shift_table(results: Results, dataset: str, cells: pd.DataFrame) -> Table:
    """Whether methods take closed faces with a shift for unknown: no open face is there, and nothing is best."""
    groups, rows = group_cells(cells), _protocols(cells)
    methods = results.in_blocks(method_order(cells["method"]))
    blocks = []
    for metric in (SHIFT_AUROC, SHIFT_ACCEPTED):
        entries = {opened: [seed_mean(groups, (family, opened, m), metric) for m in methods] for family, opened in rows}
        blocks.append(Block(metric.heading, [Row(opened, of) for opened, of in entries.items()], metric.short))
    notes = [SHIFT_NOTE, *_sees_note(results, methods), *limit_notes(methods)]
    laboratory = _warnings(results, dataset, methods)
    return Table(
        f"shift_{slug(dataset)}",
        "closed faces with a shift, no open ones",
        "",
        state(cells) + demonstration(results, dataset),
        dataset,
        "faces",
        methods,
        blocks,
        notes + laboratory,
        laboratory,
        sees=_sees(results, methods),
    )


# -- side measurements -------------------------------------------------------------------------------------------------


def _side_table(results: Results, dataset: str, family: str, groups: Groups, methods: list[str]) -> Table:
    cells = results.of(dataset)
    cells = cells[cells["protocol"] == family]
    metrics = [m for m in SIDE_METRICS if m.name in cells and cells[m.name].notna().any()]
    metrics = metrics or [m for m in SIDE_METRICS if m.name == "oscr"]
    blocks: list[Block] = []
    marks = _marks(results, dataset, methods)
    for _, open_classes in _protocols(cells):
        places = [place for m in methods if (place := (family, open_classes, m)) in groups]
        rows = [
            Row(
                method_name(place[2]) + marks.get(place[2], ""),
                [seed_mean(groups, place, metric) for metric in metrics],
            )
            for place in places
        ]
        blocks.append(Block(open_classes, rows, open_classes))
    footnotes = [
        SIDE_NOTE,
        *_sees_note(results, methods),
        *limit_notes(methods),
        *control_notes(results, dataset, methods),
    ]
    footnotes += _left_out(results, dataset)
    entries = [entry for block in blocks for row in block.rows for entry in row.entries]
    for entry in entries:
        entry.mark, entry.show_std = "‡" if entry.status == PARTIAL else "", False
    if any(entry.mark for entry in entries):
        footnotes.append("‡ fewer seeds than planned.")
    if any(entry.status == NOT_MEASURED for entry in entries):
        footnotes.append(f"{TEXTS[NOT_MEASURED]}: the method has no such measurement.")
    laboratory = _warnings(results, dataset, methods)
    return Table(
        f"side_{slug(dataset)}_{slug(family)}{_suffix(results)}",
        f"side measurements, family {family}{_regime(results)}",
        "",
        state(cells, "Mean") + demonstration(results, dataset),
        dataset,
        "method",
        [metric.title for metric in metrics],
        blocks,
        footnotes + laboratory,
        laboratory,
        "right",
        is_side=True,
        marks=marks,
        sees=_sees(results, methods),
    )


# -- what captions and notes say ---------------------------------------------------------------------------------------


def _warnings(results: Results, dataset: str, methods: list[str]) -> list[str]:
    return [f"Warning: {warn.about(methods)}" for warn in results.warnings_for(dataset, methods)]


def state(cells: pd.DataFrame, over_seeds: str = "Mean ± standard deviation") -> str:
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
    """The sentences that every caption on a demonstration data set or on other labels than own ends with, else nothing."""
    said = f" {REGIMES[results.labels][1]}." if results.labels in REGIMES else ""
    return said + (f" {DEMONSTRATION[0].upper()}{DEMONSTRATION[1:]}." if dataset in results.demonstrations else "")


def _metrics(results: Results) -> tuple[Metric, ...]:
    """The main metrics; AUROC is named for what it is of in a control."""
    if results.labels not in CONTROLS:
        return MAIN_METRICS
    return tuple(replace(m, title=f"control {m.title}") if m == AUROC else m for m in MAIN_METRICS)


def _regime(results: Results) -> str:
    """What a title says of the label regime."""
    return f", {REGIMES[results.labels][0]}" if results.labels in REGIMES else ""


def _suffix(results: Results) -> str:
    """What a table's name has of the label regime."""
    return f"_{results.labels}" if results.labels in REGIMES else ""


def _left_out(results: Results, dataset: str) -> list[str]:
    """Which methods the label regime leaves out."""
    methods = results.left_out.get(dataset)
    if not methods:
        return []
    return [
        f"Left out: {', '.join(map(method_name, methods))}: their scores do not use the labels that these cells change."
    ]


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
