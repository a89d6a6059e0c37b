"""The positive control of label-based methods: how well a method finds labels that are known to be wrong.

It compares a method with `label-loss`, which trains nothing, on the same open classes, seeds and flipped labels.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, Metric
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS, REFERENCE, SHARES, Regime
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.tables.means import NOT_ASKED, NOT_RUN, Block, Entry, Row, seed_mean

MARK = "§"  # behind the name of a method whose control says that it is not informative
CONTROL_AUROC = Metric("control_auroc", f"control {AUROC.title}", higher_is_better=True)
OF_REFERENCE = Metric("control_auroc_label_loss", f"label-loss's control {AUROC.title}", higher_is_better=True)
HOW_TO_READ = (
    "Control AUROC: closed faces alone, a share of their labels flipped at random; how well a method that learns from "
    "labels finds these. Below label-loss, which trains nothing, on the same cells, the method is not informative: it "
    "does not find what the closed-set model sees by itself. With the model's predictions flipped, label-loss is near "
    "1 by construction; with true labels flipped, the model's own errors interfere and a method may be better: the "
    "fairer comparison. The mark goes by the former if it was run."
)


@dataclass(kw_only=True)
class Control(Entry):
    """A method's control AUROC on one data set, a mean over cells; open_classes: such as `20% of labels flipped`.

    reference: label-loss's AUROC, None without a common cell; with some, both means are over these.
    """

    regime: Regime
    reference: float | None = None

    @property
    def is_informative(self) -> bool | None:
        """Whether the displayed value reaches label-loss's; None if either is missing."""
        if self.value is None or self.reference is None:
            return None
        return round(self.value, AUROC.decimals) >= round(self.reference, AUROC.decimals)

    @property
    def counted(self) -> str:
        few = f"{self.n_cells} of {self.n_planned}" if self.n_cells < self.n_planned else str(self.n_cells)
        return f"{few} cell{'s' if self.n_planned != 1 else ''}"


def controls_of(results: Results, dataset: str, method: str) -> list[Control]:
    """The planned controls of a label-based method, by regime; none for any other method.

    Of several shares of one regime the usual one counts, else the one with the most cells.
    """
    cells, found = results.every_cell[results.every_cell["dataset"] == dataset], []
    for labels in CONTROLS if results.states(method, "label_based") else ():
        own = cells[(cells["method"] == method) & (cells["labels"] == labels)]
        if len(own):
            shares, usual = own["label_share"], SHARES[labels]
            share = usual if (shares == usual).any() else float(shares.mode().iloc[0])
            found.append(_control(method, Regime(labels, share), own[shares == share], cells))
    return found


def _control(method: str, regime: Regime, own: pd.DataFrame, cells: pd.DataFrame) -> Control:
    index = ["protocol", "open_classes", "seed"]
    values, references = (
        frame[(frame["status"] == FINISHED) & frame[AUROC.name].notna()].set_index(index)
        for frame in (own, cells[cells["method"] == REFERENCE])
    )
    shared = values.index.intersection(references.index)
    averaged = values.loc[shared] if len(shared) else values if len(values) else own.set_index(index)
    place = ("control", regime.suffix.strip(" ()"), method)
    mean, reference = (
        seed_mean({place: frame.reset_index().to_dict("records")}, place, AUROC)
        for frame in (averaged, references.loc[shared])
    )
    mean.metric, mean.n_planned = CONTROL_AUROC, len(own)
    control = Control(**vars(mean), regime=regime, reference=reference.value)
    return replace(control, mark=MARK * (control.is_informative is False))


def verdict(controls: list[Control]) -> bool | None:
    """Whether a method is informative by its first control that compares; None without one."""
    return next((control.is_informative for control in controls if control.is_informative is not None), None)


def heading_mark(results: Results, dataset: str, method: str) -> str:
    """The mark behind the name of a method that is not informative, else nothing."""
    return MARK if verdict(controls_of(results, dataset, method)) is False else ""


def control_blocks(results: Results, dataset: str, methods: list[str]) -> list[Block]:
    """A block a control, if a method is label-based: AUROC of the methods above label-loss's on the same cells."""
    is_based = {method: results.states(method, "label_based") for method in methods}
    if not any(is_based.values()):
        return []
    controls = {method: controls_of(results, dataset, method) for method in methods}
    regimes = dict.fromkeys(control.regime for each in controls.values() for control in each)
    status = {method: NOT_RUN if is_based[method] else NOT_ASKED for method in methods}
    lacking = {m: Entry("control", "control", m, CONTROL_AUROC, status[m]) for m in methods}
    if not regimes:
        rows = [Row("the method", list(lacking.values()))]
        return [Block("Positive control (higher is better)", rows, "positive control ↑")]
    blocks = []
    for regime in sorted(regimes, key=lambda regime: CONTROLS.index(regime.labels)):
        what = regime.suffix.strip(" ()")
        run = {control.method: control for each in controls.values() for control in each if control.regime == regime}
        own = [run.get(method) or replace(lacking[method], open_classes=what) for method in methods]
        rows = [Row("the method", own), Row("label loss", [_reference(entry) for entry in own])]
        short, note = f"control: {what.partition('% of ')[2]} ↑", f"Control: AUROC of finding flipped labels, {what}."
        blocks.append(Block(f"Positive control, {what}: AUROC (higher is better)", rows, short, note))
    return blocks


def _reference(entry: Entry) -> Entry:
    reference = Entry("control", entry.open_classes, entry.method, OF_REFERENCE, NOT_ASKED)
    if isinstance(entry, Control):
        reference.value, reference.status = entry.reference, NOT_RUN if entry.reference is None else FINISHED
        reference.n_cells, reference.n_planned = entry.n_cells, entry.n_planned
    return reference


def control_notes(results: Results, dataset: str, methods: Iterable[str]) -> list[str]:
    """Notes on the methods' controls; none without a label-based method."""
    by_method = {m: controls_of(results, dataset, m) for m in methods if results.states(m, "label_based")}
    if not by_method:
        return []
    has_values = any(control.value is not None for controls in by_method.values() for control in controls)
    notes = [HOW_TO_READ] if has_values else []
    below = [
        f"{results.title(method)} ({'; '.join(_compared(c) for c in controls if c.is_informative is not None)})"
        for method, controls in by_method.items()
        if verdict(controls) is False
    ]
    if below:
        notes.append(f"{MARK} Not informative, below label-loss in the control: {'; '.join(below)}.")
    if lacking := [method for method, controls in by_method.items() if verdict(controls) is None]:
        names, command = ", ".join(map(results.title, lacking)), _command(results, dataset, lacking)
        notes.append(f"Control not run: {names}; it comes from `{command}`.")
    return notes


def _compared(control: Control) -> str:
    return f"{control.value:.3f} against {control.reference:.3f}, {control.open_classes}, {control.counted}"


def _command(results: Results, dataset: str, methods: list[str]) -> str:
    """The command that computes the control of these methods, on the first open classes of the data set's cells."""
    cells = results.of(dataset)
    first = cells[cells["labels"] == "own"].head(1)
    chosen = ["--open", str(first["choice"].iloc[0])] if (first["choice"] == first["open_classes"]).any() else []
    labelled = ",".join(dict.fromkeys([*methods, REFERENCE]))
    command = ["osfer", "run", "--profile", results.profile, "--dataset", dataset, *chosen]
    return shlex.join([*command, "--method", labelled, "--labels", CONTROLS[0]])
