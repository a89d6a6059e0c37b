"""Result of each data set: mean AUROC by method and family, a sentence on it, and a note on numbers below 0.5."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, FPR_AT_TPR95, Metric
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import FAMILY_ORDER, FINISHED, Results
from open_set_fer.reports.tables.build import demonstration, setting_of
from open_set_fer.reports.tables.marks import BLIND, CLOSED_ACCURACY, accuracy_reading, heading_mark, is_no_detector
from open_set_fer.reports.tables.means import Entry, group_cells, mark_best, row_mean, seed_mean
from open_set_fer.reports.tables.readings import reading


@dataclass(frozen=True)
class Mean:
    """Mean of a method over choices of open classes (of the means over seeds), and the entry of each choice."""

    entry: Entry
    choices: list[Entry]

    @property
    def values(self) -> list[float]:
        return [choice.value for choice in self.choices if choice.value is not None]

    @property
    def is_comparable(self) -> bool:
        """Whether every choice has a finished cell."""
        return len(self.values) == len(self.choices)

    @property
    def notes(self) -> list[str]:
        """Lines below the mean: the range over choices, and what is missing."""
        values, notes = self.values, []
        if len(values) > 1:
            notes.append(f"{min(values):.3f} to {max(values):.3f}")
        if not self.is_comparable:
            notes.append(f"{len(values)} of {len(self.choices)} choices")
        elif self.entry.status != FINISHED:
            notes.append("fewer seeds than planned")
        return notes


@dataclass(frozen=True)
class SummaryRow:
    """One method: its means by column of the summary.

    setting: inductive or transductive. mark: behind its title. reading: how to read its numbers, in a sentence.
    """

    method: str
    means: list[Mean]
    setting: str
    mark: str
    reading: str
    title: str

    @property
    def name(self) -> str:
        return self.title + self.mark


@dataclass(frozen=True)
class Summary:
    """The result of one data set: rows from the best mean down, incomplete ones last.

    below: explanation of AUROCs below 0.5; below_names: the methods with such a cell; '' without any.
    """

    dataset: str
    columns: list[str]
    standings: list[SummaryRow]
    finding: str
    basis: str
    below_names: str
    below: str


def summaries(results: Results) -> list[Summary]:
    """A summary of each data set with a finished cell."""
    return [_summary(results, name) for name in results.datasets if (results.of(name)["status"] == FINISHED).any()]


def _summary(results: Results, dataset: str) -> Summary:
    cells = results.of(dataset)
    methods = results.methods(dataset)
    columns = _columns(cells, methods)
    marks = {method: heading_mark(results, dataset, method) for method in methods}
    reads = {method: _reading(results, dataset, method) for method in methods}
    means = {method: [column[method] for column in columns.values()] for method in methods}
    rows = [SummaryRow(m, means[m], setting_of(results, m), marks[m], reads[m], results.title(m)) for m in methods]
    values = {row.method: row.means[0].entry.value for row in rows}  # means over fewer choices and missing ones last
    rows.sort(key=lambda row: (values[row.method] is None, not row.means[0].is_comparable, -(values[row.method] or 0)))
    low = ", ".join(map(results.title, dict.fromkeys(cells.loc[cells[AUROC.name] < 0.5, "method"])))
    basis = _basis(rows) + demonstration(results, dataset)
    return Summary(dataset, list(columns), rows, _finding(rows, dataset), basis, low, _below(results, cells))


def _columns(cells: pd.DataFrame, methods: list[str]) -> dict[str, dict[str, Mean]]:
    """Means by heading and method: AUROC over all families if there are several, over each; others over all.

    Closed accuracy, where it is measured, and FPR@TPR95.
    """
    rank = {family: place for place, family in enumerate(FAMILY_ORDER)}
    families = sorted(set(cells["protocol"]), key=lambda family: (rank.get(family, len(rank)), family))
    parts = {f"{AUROC.title}, {family}": (AUROC, cells[cells["protocol"] == family]) for family in families}
    others = [FPR_AT_TPR95]
    if CLOSED_ACCURACY.name in cells and cells[CLOSED_ACCURACY.name].notna().any():
        others.insert(0, CLOSED_ACCURACY)
    several = ", all" * (len(families) > 1)
    heads = ({f"{AUROC.title}, all": (AUROC, cells)} if several else {}) | parts
    heads |= {f"{metric.title}{several}": (metric, cells) for metric in others}
    return {head: _column(metric, part, methods) for head, (metric, part) in heads.items()}


def _column(metric: Metric, cells: pd.DataFrame, methods: list[str]) -> dict[str, Mean]:
    groups = group_cells(cells)
    places = dict.fromkeys((family, open_classes) for family, open_classes, _ in groups)
    choices = {method: [seed_mean(groups, (*place, method), metric) for place in places] for method in methods}
    column = {method: Mean(row_mean(entries), entries) for method, entries in choices.items()}
    if metric != CLOSED_ACCURACY:  # most methods share the model
        mark_best([mean.entry for mean in column.values()])
    return column


def _reading(results: Results, dataset: str, method: str) -> str:
    """One sentence on how to read a method's numbers: the gravest reason for care, or that there is none."""
    if text := reading(results, dataset, method) or accuracy_reading(results, dataset, method):
        return text
    cells = results.of(dataset)
    groups = group_cells(cells[(cells["method"] == method) & (cells["status"] == FINISHED)])
    low, name = [place[1] for place, own in groups.items() if is_no_detector(own)], results.title(method)
    if low:
        return f"{name}: no detector where {', '.join(low)} is open: the interval of AUROC lies below 0.5."
    if results.states(method, "sees_pool"):
        return f"{name}: compare it with other transductive methods: it has seen the other test faces."
    return ""


def _finding(rows: list[SummaryRow], dataset: str) -> str:
    full = [(row, row.means[0].entry) for row in rows if row.means[0].is_comparable]
    if not full:
        reason = "no method has finished every choice of open classes"
        return f"{dataset_name(dataset)}: {reason}, so the means are not comparable."
    first, best = full[0]
    text = f"{dataset_name(dataset)}: {first.name} has the highest mean AUROC, {best.text}"
    text += "".join(f"; the next is {second.name} with {mean.text}" for second, mean in full[1:2])
    by_label = {row.method: mean for row, mean in full}
    ours, baseline = by_label.get("ours"), by_label.get("baseline")
    if ours is None or baseline is None or ours.value is None or baseline.value is None:
        return text + "."
    gap = ours.value - baseline.value
    is_blind = any(row.method == "ours" and BLIND in row.mark for row in rows)
    weak = f"; by its control it is blind ({BLIND}), so this is no evidence on the method" * is_blind
    relation = "equal to" if round(gap, 3) == 0 else f"{abs(gap):.3f} {'above' if gap > 0 else 'below'}"
    names = {row.method: row.title for row in rows}
    other = f"{names['baseline']} ({baseline.text})"
    return f"{text}. {names['ours']}, the paper's method, has {ours.text}, {relation} {other}{weak}."


def _basis(rows: list[SummaryRow]) -> str:
    means = [mean for row in rows for mean in row.means]
    seeds = {len(mean.entry.by_seed) for mean in means if mean.entry.std is not None}
    choices = max(len(mean.choices) for mean in means)
    text = "One choice of open classes, so no range over choices."
    if choices > 1:
        text = f"Mean over the choices of open classes (up to {choices}); below it the range over them."
    if seeds:
        counts = " or ".join(map(str, sorted(seeds)))
        return f"{text} ±: standard deviation of the mean over {counts} seeds."
    return f"{text} No deviation over seeds: no method has every choice in two seeds or more."


def _below(results: Results, cells: pd.DataFrame) -> str:
    """Explanation of AUROCs below 0.5, with the measured entropies of the pseudo labels; '' without any."""
    done = cells[cells["status"] == FINISHED]
    low = done[done[AUROC.name] < 0.5]
    if low.empty:
        return ""
    by_method = low.groupby("method", sort=False)[AUROC.name].agg(["size", "min"])
    counts = [
        f"{results.title(method)} ({size:.0f} of {(done['method'] == method).sum()} cells, lowest {lowest:.3f})"
        for method, size, lowest in by_method.itertuples()
    ]
    text = (
        f"Below 0.5: {', '.join(counts)}. An AUROC below 0.5 means that open faces got lower unknown scores than "
        "closed ones: the method ranked them in reverse. Close to 0.5 it is chance; far below, the order is reversed."
    )
    label_based = [str(method) for method in by_method.index if results.states(str(method), "label_based")]
    return text + (_why_labels(results, label_based, done[done["method"].isin(label_based)]) if label_based else "")


def _why_labels(results: Results, methods: list[str], done: pd.DataFrame) -> str:
    text = (
        f" {', '.join(map(results.title, methods))} score{'s' if len(methods) == 1 else ''} a face by how hard its "
        "pseudo label, the closed-set model's prediction, is to learn. This needs predictions on open faces that "
        "scatter; where they agree, or those on closed faces are often wrong, open faces are the easier ones and the "
        "order is reversed."
    )
    names = ["pseudo_label_entropy_open", "pseudo_label_entropy_closed"]
    if set(names) <= set(done) and done[names].notna().all(axis=None):
        on_open, on_closed = done[names].mean()
        text += (
            f" Here the entropy of these predictions (1: all classes alike) is {on_open:.2f} on open and "
            f"{on_closed:.2f} on closed faces (mean over the cells)."
        )
    return text
