"""What a reader wants first: mean AUROC by method and family, a sentence on it, and a word on numbers below 0.5."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, FPR_AT_TPR95, Metric
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FAILED, FAMILY_ORDER, FINISHED, Results
from open_set_fer.reports.tables.build import ONE_FACE, demonstration, what_it_sees
from open_set_fer.reports.tables.controls import MARK, control_notes, controls_of, heading_mark


@dataclass(frozen=True)
class Mean:
    """Mean of a metric over choices of open classes (of the means over seeds), and what it rests on.

    low, high: smallest and largest choice. std: deviation of the seeds' means; None unless two seeds or more have every
    choice. n of n_planned choices have a finished cell; complete: no planned cell lacks a result.
    """

    value: float
    low: float
    high: float
    std: float | None
    seeds: int
    n: int
    n_planned: int
    complete: bool
    best: bool = False
    second: bool = False

    @property
    def text(self) -> str:
        """As displayed."""
        return f"{self.value:.3f}" + (f" ± {self.std:.3f}" if self.std is not None else "")

    @property
    def range(self) -> str:
        """The range over choices of open classes, '' for a single one."""
        return f"{self.low:.3f} to {self.high:.3f}" if self.n > 1 else ""

    @property
    def coverage(self) -> str:
        """What is missing, '' where nothing is."""
        if self.complete:
            return ""
        return f"{self.n} of {self.n_planned} choices" if self.n < self.n_planned else "fewer seeds than planned"


@dataclass(frozen=True)
class Standing:
    """One method: its means by column of the summary, None where the column has no finished cell.

    sees: what its score of a face depends on. mark: behind its name. controls: its control AUROC and
    label-loss's by control; empty where a control asks nothing of it.
    """

    method: str
    means: list[Mean | None]
    status: str
    sees: str = ONE_FACE
    mark: str = ""
    controls: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The method's name as its paper writes it."""
        return method_name(self.method) + self.mark


@dataclass(frozen=True)
class Summary:
    """The result of one data set: rows from the best mean down, incomplete ones last.

    below: why an AUROC may lie below 0.5, below_names: of the methods with such a cell; '' where there is none. controls: what
    the controls say, and of which methods none was run.
    """

    dataset: str
    columns: list[str]
    standings: list[Standing]
    finding: str
    basis: str
    below_names: str
    below: str
    controls: list[str]

    @property
    def name(self) -> str:
        """The data set's proper name."""
        return dataset_name(self.dataset)

    @property
    def has_controls(self) -> bool:
        """Whether a control asks something of one of the methods."""
        return any(row.controls for row in self.standings)


def summaries(results: Results) -> list[Summary]:
    """One for each data set with a finished cell."""
    return [_summary(results, name) for name in results.datasets if (results.of(name)["status"] == FINISHED).any()]


@dataclass(frozen=True)
class Column:
    """A column of the summary: a metric over the planned cells of one family, or of all."""

    head: str
    metric: Metric
    cells: pd.DataFrame


def _summary(results: Results, dataset: str) -> Summary:
    cells = results.of(dataset)
    columns = _columns(cells)
    methods = results.methods(dataset)
    by_column = [_marked([_mean(column, method) for method in methods], column.metric) for column in columns]
    rows = [
        Standing(
            method,
            list(means),
            _state(cells[cells["method"] == method]),
            what_it_sees(results, method),
            heading_mark(results, dataset, method),
            _controls(results, dataset, method),
        )
        for method, *means in zip(methods, *by_column, strict=True)
    ]
    rows.sort(key=lambda row: _rank(row.means[0]))
    heads = [column.head for column in columns]
    low = list(dict.fromkeys(cells.loc[cells[AUROC.name] < 0.5, "method"]))
    return Summary(
        dataset,
        heads,
        rows,
        _finding(rows, dataset),
        _basis(rows) + demonstration(results, dataset),
        ", ".join(map(method_name, low)),
        _below(results, cells),
        control_notes(results, dataset, methods),
    )


def _controls(results: Results, dataset: str, method: str) -> tuple[str, ...]:
    """A method's control AUROC and label-loss's, by control; nothing for a method of which a control asks nothing."""
    if not results.states(method, "label_based"):
        return ()
    texts = []
    for control in controls_of(results, dataset, method):
        value, reference = ("—" if x is None else f"{x:.{AUROC.decimals}f}" for x in (control.value, control.reference))
        texts.append(f"{value} (label-loss {reference}): {control.what}, {control.counted}")
    return tuple(texts) or ("not run",)


def _columns(cells: pd.DataFrame) -> list[Column]:
    """AUROC over all families where there are several, then over each; FPR@TPR95 over all."""
    known = {family: rank for rank, family in enumerate(FAMILY_ORDER)}
    families = sorted(set(cells["protocol"]), key=lambda family: (known.get(family, len(known)), family))
    parts = [Column(f"{AUROC.title}, {family}", AUROC, cells[cells["protocol"] == family]) for family in families]
    if len(families) == 1:
        return [*parts, Column(FPR_AT_TPR95.title, FPR_AT_TPR95, cells)]
    whole, fpr = (Column(f"{metric.title}, all", metric, cells) for metric in (AUROC, FPR_AT_TPR95))
    return [whole, *parts, fpr]


def _rank(mean: Mean | None) -> tuple[int, float]:
    return (2, 0.0) if mean is None else (int(mean.n < mean.n_planned), -mean.value)


def _state(cells: pd.DataFrame) -> str:
    return "failed" if (cells["status"] == FAILED).any() else "missing"


def _mean(column: Column, method: str) -> Mean | None:
    """A method's mean; the cells of all methods say how many choices there are."""
    planned, metric = column.cells[column.cells["method"] == method], column.metric.name
    if metric not in planned:
        return None
    done = planned[(planned["status"] == FINISHED) & planned[metric].notna()]
    if done.empty:
        return None
    choices = ["protocol", "open_classes"]
    values = done.pivot_table(index=choices, columns="seed", values=metric)
    by_choice = values.mean(axis=1)
    by_seed = values.dropna(axis=1).mean(axis=0)
    n_planned = len(column.cells[choices].drop_duplicates())
    complete = len(done) == len(planned) and len(by_choice) == n_planned
    std = statistics.stdev(by_seed) if complete and len(by_seed) > 1 else None
    return Mean(
        float(by_choice.mean()),
        float(by_choice.min()),
        float(by_choice.max()),
        std,
        len(by_seed),
        len(by_choice),
        n_planned,
        complete,
    )


def _marked(means: list[Mean | None], metric: Metric) -> list[Mean | None]:
    """The means with the best displayed one marked, and the second of three, unless a mean over fewer choices is better."""
    ranked = sorted(
        {round(mean.value, metric.decimals) for mean in means if mean}, reverse=bool(metric.higher_is_better)
    )
    known = sum(mean is not None for mean in means)
    if known < 2:
        return means

    def is_at(mean: Mean, place: int) -> bool:
        whole = mean.n == mean.n_planned
        return whole and [round(mean.value, metric.decimals)] == ranked[place : place + 1]

    has_best = any(mean is not None and is_at(mean, 0) for mean in means)
    return [
        mean and replace(mean, best=is_at(mean, 0), second=known > 2 and has_best and is_at(mean, 1)) for mean in means
    ]


def _finding(rows: list[Standing], dataset: str) -> str:
    """One sentence: the best method, and where the paper's method stands against the baseline."""
    full = [
        (row, row.means[0]) for row in rows if row.means[0] is not None and row.means[0].n == row.means[0].n_planned
    ]
    if not full:
        return f"{dataset_name(dataset)}: no method has finished every choice of open classes, so the means are not comparable."
    first, best = full[0]
    said = f"{dataset_name(dataset)}: {first.name} has the highest mean AUROC, {best.text}"
    if len(full) > 1:
        second, mean = full[1]
        said += f"; the next is {second.name} with {mean.text}"
    by_label = {row.method: mean for row, mean in full}
    ours, baseline = by_label.get("ours"), by_label.get("baseline")
    if ours is None or baseline is None:
        return said + "."
    gap = ours.value - baseline.value
    weak = f"; by its control it is not informative ({MARK})" * any(row.method == "ours" and row.mark for row in rows)
    where = "equal to" if round(gap, 3) == 0 else f"{abs(gap):.3f} {'above' if gap > 0 else 'below'}"
    return f"{said}. {method_name('ours')}, the paper's method, has {ours.text}, {where} {method_name('baseline')} ({baseline.text}){weak}."


def _basis(rows: list[Standing]) -> str:
    """What the means and intervals are."""
    means = [mean for row in rows for mean in row.means if mean is not None]
    seeds = {mean.seeds for mean in means if mean.std is not None}
    choices = max(mean.n_planned for mean in means)
    text = "One choice of open classes, so no range over choices."
    if choices > 1:
        text = f"Mean over the choices of open classes (up to {choices}); below it the range over them."
    if seeds:
        counts = " or ".join(map(str, sorted(seeds)))
        return f"{text} ±: standard deviation of the mean over {counts} seeds."
    return f"{text} No deviation over seeds: no method has every choice in two seeds or more."


def _below(results: Results, cells: pd.DataFrame) -> str:
    """Why a method may lie below 0.5, with the measured entropies of the pseudo labels; '' where none does."""
    done = cells[cells["status"] == FINISHED]
    low = done[done[AUROC.name] < 0.5]
    if low.empty:
        return ""
    by_method = {str(method): rows for method, rows in low.groupby("method", sort=False)}
    counts = [
        f"{method_name(method)} ({len(rows)} of {(done['method'] == method).sum()} cells, lowest {rows[AUROC.name].min():.3f})"
        for method, rows in by_method.items()
    ]
    text = (
        f"Below 0.5: {', '.join(counts)}. An AUROC below 0.5 means that open faces got lower unknown scores than closed ones: "
        "the method ranked them the wrong way round. Close to 0.5 it is chance; far below, the score has the order turned."
    )
    label_based = [method for method in by_method if results.states(method, "label_based")]
    return text + (_why_labels(label_based, done[done["method"].isin(label_based)]) if label_based else "")


def _why_labels(methods: list[str], done: pd.DataFrame) -> str:
    """What methods that score by pseudo labels rest on, with the entropies measured in their cells."""
    text = (
        f" {', '.join(map(method_name, methods))} score{'s' if len(methods) == 1 else ''} a face by how hard its pseudo label, "
        "the closed-set model's own guess, is to learn. This needs guesses on open faces that scatter; where they agree, "
        "or the closed faces' guesses are often wrong, open faces are the easier ones and the order turns."
    )
    names = ["pseudo_label_entropy_open", "pseudo_label_entropy_closed"]
    if set(names) <= set(done) and done[names].notna().all(axis=None):
        on_open, on_closed = done[names].mean()
        text += (
            f" Here the entropy of these guesses (1: all classes alike) is {on_open:.2f} on open and {on_closed:.2f} on closed "
            "faces (mean over the cells)."
        )
    return text + (
        " What was found when this was taken apart: “Why `ours` behaves as it does on a CPU” in the suite's README."
    )
