"""The positive control beside a label-based method: how well it finds labels that are known to be wrong.

A control needs no open face. It compares a method with `label-loss`, which trains nothing, on the same cells: the same open
classes left out, the same seeds, the same flipped labels. Tables, the summary and docs/replication.md take it from here.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, Metric
from open_set_fer.benchmark.protocols.pseudo_labels import (
    CONTROLS,
    REFERENCE,
    SHARES,
    Labels,
    Regime,
)
from open_set_fer.reports.data.names import method_name
from open_set_fer.reports.data.results import FAILED, FINISHED, MISSING, Results
from open_set_fer.reports.tables.entries import NOT_ASKED, NOT_RUN, Block, Entry, Row

MARK = "§"
"""Behind the name of a method whose control says that it is not informative."""
CONTROL_AUROC = Metric("control_auroc", f"control {AUROC.title}", higher_is_better=True)
OF_REFERENCE = Metric("control_auroc_label_loss", f"label-loss's control {AUROC.title}", higher_is_better=True)
HOW_TO_READ = (
    "Control AUROC: closed faces alone, a share of their labels flipped at random; how well a method that learns from labels "
    "finds these. Below label-loss, which trains nothing, on the same cells, the method is not informative: it does not find what "
    "the closed-set model sees by itself. Where the model's answers are flipped label-loss is near 1 by construction; where true "
    "labels are, the model's own errors stand in between and a method may be better: the fairer comparison. The mark goes by the "
    "former where it was run."
)


@dataclass(frozen=True)
class Control:
    """A method's control AUROC on one data set: means over cells.

    regime: of the control. value: None where no cell has finished. reference: label-loss's, None where no cell has both;
    where some have, both means are over these. cells: what `value` averages; planned: the method's cells under the regime.
    by_seed: `value` of each seed. status: missing or failed without a value.
    """

    method: str
    regime: Regime
    value: float | None
    reference: float | None
    cells: int
    planned: int
    by_seed: dict[int, float] = field(default_factory=dict)
    status: str = FINISHED

    @property
    def std(self) -> float | None:
        """Deviation of the seeds' means; None for fewer than two seeds."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def is_informative(self) -> bool | None:
        """Whether the displayed value reaches label-loss's; None where either is not known."""
        if self.value is None or self.reference is None:
            return None
        return round(self.value, AUROC.decimals) >= round(self.reference, AUROC.decimals)

    @property
    def what(self) -> str:
        """What is flipped: `20% of labels flipped`."""
        return self.regime.suffix.strip(" ()")

    @property
    def counted(self) -> str:
        """How many cells it rests on."""
        few = f"{self.cells} of {self.planned}" if self.cells < self.planned else str(self.cells)
        return f"{few} cell{'s' if self.planned != 1 else ''}"


def controls_of(results: Results, dataset: str, method: str) -> list[Control]:
    """The controls that are planned of a label-based method, by regime; none for any other method."""
    if not results.states(method, "label_based"):
        return []
    cells = results.every_cell
    return controls_among(cells[cells["dataset"] == dataset], method)


def controls_among(cells: pd.DataFrame, method: str) -> list[Control]:
    """The controls of a method among the cells of one data set.

    cells: protocol, open_classes, method, seed, status and auroc of every cell. Of several shares of one regime the usual
    one counts, else the one with the most cells.
    """
    found = []
    for labels in CONTROLS:
        own = cells[(cells["method"] == method) & (cells["labels"] == labels)]
        if len(own):
            shares = own["label_share"]
            usual = SHARES[labels]
            share = usual if (shares == usual).any() else float(shares.mode().iloc[0])
            found.append(_control(method, Regime(labels, share), own[shares == share], cells))
    return found


def _control(method: str, regime: Regime, own: pd.DataFrame, cells: pd.DataFrame) -> Control:
    """The control of the method's planned cells `own` of one regime and share."""
    place = ["protocol", "open_classes", "seed"]
    by_place = [
        frame[frame["status"] == FINISHED].set_index(place)[AUROC.name].dropna()
        for frame in (own, cells[cells["method"] == REFERENCE])
    ]
    values, references = by_place
    shared = values.index.intersection(references.index)
    if len(shared):
        values, references = values.loc[shared], references.loc[shared]
    if not len(values):
        status = FAILED if (own["status"] == FAILED).any() else MISSING
        return Control(method, regime, None, None, 0, len(own), status=status)
    by_seed = {int(str(seed)): float(of.mean()) for seed, of in values.groupby(level="seed")}
    reference = float(references.mean()) if len(shared) else None
    return Control(method, regime, float(values.mean()), reference, len(values), len(own), by_seed)


def verdict(controls: list[Control]) -> bool | None:
    """Whether a method is informative, by the first control that says so or not; None where none does."""
    return next((control.is_informative for control in controls if control.is_informative is not None), None)


def heading_mark(results: Results, dataset: str, method: str) -> str:
    """What stands behind a method's name: the mark of one that its control finds not informative, else nothing."""
    return MARK if verdict(controls_of(results, dataset, method)) is False else ""


def control_blocks(results: Results, dataset: str, methods: list[str]) -> list[Block]:
    """A block a control: the AUROC of a table's methods, above label-loss's on the same cells; none without a label-based one."""
    if not any(results.states(method, "label_based") for method in methods):
        return []
    of = {method: controls_of(results, dataset, method) for method in methods}
    regimes = [
        control.regime
        for labels in CONTROLS
        for controls in of.values()
        for control in controls
        if control.regime.labels == labels
    ]
    if not regimes:
        entries = [_entries(results, method, None, "control")[0] for method in methods]
        return [Block("Positive control (higher is better)", [Row("the method", entries)], "positive control ↑")]
    blocks = []
    for regime in dict.fromkeys(regimes):
        found = [next((c for c in of[method] if c.regime == regime), None) for method in methods]
        what = regime.suffix.strip(" ()")
        pairs = [_entries(results, method, control, what) for method, control in zip(methods, found, strict=True)]
        rows = [Row("the method", [own for own, _ in pairs]), Row("label loss", [other for _, other in pairs])]
        short, note = f"control: {what.partition('% of ')[2]} ↑", f"Control: AUROC of finding flipped labels, {what}."
        blocks.append(Block(f"Positive control, {what}: AUROC (higher is better)", rows, short, note))
    return blocks


def _entries(results: Results, method: str, control: Control | None, what: str) -> tuple[Entry, Entry]:
    """A method's control and label-loss's as entries of a table."""
    own, reference = (Entry("control", what, method, metric, NOT_ASKED) for metric in (CONTROL_AUROC, OF_REFERENCE))
    if control is None:
        own.status = NOT_RUN if results.states(method, "label_based") else NOT_ASKED
        return own, reference
    own.status, own.value, own.std, own.by_seed = control.status, control.value, control.std, control.by_seed
    reference.status, reference.value = FINISHED if control.reference is not None else NOT_RUN, control.reference
    for entry in (own, reference):
        entry.n_cells, entry.n_planned = control.cells, control.planned
    own.mark = MARK if control.is_informative is False else ""
    return own, reference


def control_notes(results: Results, dataset: str, methods: Iterable[str]) -> list[str]:
    """What a table or page with these methods says of their controls; empty where none is label-based."""
    of = {method: controls_of(results, dataset, method) for method in methods if results.states(method, "label_based")}
    if not of:
        return []
    notes = [HOW_TO_READ] if any(control.value is not None for controls in of.values() for control in controls) else []
    below = [
        f"{method_name(method)} ({'; '.join(_compared(c) for c in controls if c.is_informative is not None)})"
        for method, controls in of.items()
        if verdict(controls) is False
    ]
    if below:
        notes.append(f"{MARK} Not informative, below label-loss in the control: {'; '.join(below)}.")
    lacking = [method for method, controls in of.items() if verdict(controls) is None]
    if lacking:
        notes.append(
            f"Control not run: {', '.join(map(method_name, lacking))}; it comes from `{control_command(results, dataset, lacking)}`."
        )
    return notes


def _compared(control: Control) -> str:
    return f"{control.value:.3f} against {control.reference:.3f}, {control.what}, {control.counted}"


def control_command(results: Results, dataset: str, methods: list[str], labels: Labels = CONTROLS[0]) -> str:
    """The command that computes the control of these methods, on the first open classes that the data set's cells have."""
    cells = results.of(dataset)
    first = cells[cells["labels"] == "own"].head(1)
    chosen = ["--open", str(first["choice"].iloc[0])] if (first["choice"] == first["open_classes"]).any() else []
    labelled = list(dict.fromkeys([*methods, REFERENCE]))
    return shlex.join(
        [
            "osfer",
            "run",
            "--profile",
            results.profile,
            "--dataset",
            dataset,
            *chosen,
            "--method",
            ",".join(labelled),
            "--labels",
            labels,
        ]
    )
