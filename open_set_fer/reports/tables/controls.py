"""Sensitivity and added information of label-based methods: do they find wrong labels, and does that add anything?

Sensitivity S: on a control, where labels are known to be wrong, AUROC of wrong over right labels among faces of one
assigned label. Added information I: on the open cells, AUROC of open over closed faces among faces of one assigned
label and decile of the closed-set model's own loss. Both are 0.5 for a score that is the histogram of labels alone.
Deciles are coarse: the model's own loss has an I above 0.5, so what a method adds is its I less that of the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
from scipy.stats import norm

from open_set_fer.benchmark.evaluation.delong import Estimate
from open_set_fer.benchmark.evaluation.metrics import ADDED_INFORMATION, WITHIN_LABEL, Metric
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS, PLAIN, REFERENCE, SHARES
from open_set_fer.benchmark.protocols.pseudo_labels import Control as Setting
from open_set_fer.reports.data.names import STAGES
from open_set_fer.reports.data.paired import cell_areas, mean_area, mean_gap
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.tables.means import NOT_ASKED, NOT_RUN, Block, Entry, Row, group_cells, row_mean, seed_mean

Verdict = Literal["blind", "weak", "sensitive"]
MARGIN = 0.02
"""How far below small-loss the sensitivity of a weak method lies at least."""
SENSITIVITY = Metric("sensitivity", "sensitivity S", higher_is_better=True)
OF_PLAIN = Metric("sensitivity_small_loss", "sensitivity S of small-loss")
OF_REFERENCE = Metric("sensitivity_label_loss", "sensitivity S of label-loss")
INFORMATION = Metric("added_information_mean", "added information I", higher_is_better=True)
INDEX = ["open_classes", "seed"]


@dataclass(kw_only=True)
class Measured(Entry):
    """A mean over cells with its 95 % interval in the place of a deviation; error: standard error of the mean."""

    error: float | None = None

    @property
    def spread(self) -> str:
        return "" if self.value is None or self.error is None else interval_text(Estimate(self.value, self.error))


@dataclass(kw_only=True)
class Control(Measured):
    """The sensitivity of a method on one control; open_classes: such as `20% of true labels flipped`.

    gap: S less that of small-loss on the cells that both have, if the networks of both start alike. others: S of
    small-loss and label-loss there.
    """

    labels: Setting
    gap: Estimate | None = None
    others: dict[str, Entry] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict | None:
        """None without a measurement, and of label-loss, which is a ceiling without a pass mark."""
        if self.value is None or self.error is None or math.isnan(self.error) or self.method == REFERENCE:
            return None
        if not Estimate(self.value, self.error).lower() > 0.5:
            return "blind"
        is_weak = self.gap is not None and self.gap.value < -MARGIN and self.gap.interval()[1] < 0
        return "weak" if is_weak else "sensitive"

    @property
    def counted(self) -> str:
        few = f"{self.n_cells} of {self.n_planned}" if self.n_cells < self.n_planned else str(self.n_cells)
        return f"{few} cell{'s' if self.n_planned != 1 else ''}"


def controls_of(results: Results, dataset: str, method: str) -> list[Control]:
    """The planned controls of a label-based method, that of the verdict first; else none.

    Of several shares of one control the usual one counts, else the one with the most cells.
    """
    cells, found = results.every_cell[results.every_cell["dataset"] == dataset], []
    for labels in CONTROLS if results.states(method, "label_based") else ():
        of_control = cells[cells["labels"] == labels]
        own = of_control[of_control["method"] == method]
        if len(own):
            shares, usual = own["label_share"], SHARES[labels]
            share = usual if (shares == usual).any() else float(shares.mode().iloc[0])
            of_control = of_control[of_control["label_share"] == share]
            found.append(_control(results, labels, own[shares == share], of_control))
    return found


def _control(results: Results, labels: Setting, own: pd.DataFrame, cells: pd.DataFrame) -> Control:
    label = str(own["open_classes"].iloc[0])
    what = label.removeprefix(str(own["choice"].iloc[0])).strip(" ()") or labels
    mean = _mean(own, WITHIN_LABEL)
    mean.metric, mean.open_classes = SENSITIVITY, what
    control = Control(**vars(mean), labels=labels, error=_error_of_columns(own, WITHIN_LABEL))
    areas = cell_areas(results, own, "label")
    if control.value is not None and len(areas) == control.n_cells:
        control.error = mean_area(areas.values()).error
    for other, metric in ((PLAIN, OF_PLAIN), (REFERENCE, OF_REFERENCE)):
        theirs = cells[cells["method"] == other]
        on_same = theirs.set_index(INDEX).index.isin(own.set_index(INDEX).index)
        entry = _mean(theirs[on_same], WITHIN_LABEL)
        entry.metric, entry.open_classes, entry.method, entry.show_std = metric, what, control.method, False
        entry.status = NOT_RUN if theirs[on_same].empty else entry.status
        control.others[other] = entry
        if other == PLAIN != control.method and start_alike(results, control.method, PLAIN):
            control.gap = mean_gap(areas, cell_areas(results, theirs, "label"))
    return control


def _mean(cells: pd.DataFrame, metric: Metric) -> Entry:
    """Mean of a metric over cells of a method, whatever their choices of open classes."""
    groups = group_cells(cells)
    if not groups:
        return Entry("control", "control", "", metric, NOT_RUN)
    mean = row_mean([seed_mean(groups, place, metric) for place in groups])
    mean.protocol, mean.std = "control", None
    values = cells.reindex(columns=[metric.name]).loc[cells["status"] == FINISHED, metric.name].dropna()
    mean.value = float(values.mean()) if len(values) else None
    return mean


def _error_of_columns(cells: pd.DataFrame, metric: Metric) -> float | None:
    """The cells' mean standard error: that of their mean if all had the same errors, so too large rather than small."""
    ends = [f"{metric.name}_low", f"{metric.name}_high"]
    if not set(ends) <= set(cells):
        return None
    low, high = (cells.loc[cells["status"] == FINISHED, end] for end in ends)
    widths = (high - low).dropna()
    return float(widths.mean() / (2 * norm.ppf(0.975))) if len(widths) else None


def start_alike(results: Results, *methods: str) -> bool:
    """Whether the networks of all start from the closed-set model's stages, or of none: their titles say so."""
    return len({STAGES in results.title(method) for method in methods}) == 1


@dataclass(kw_only=True)
class Information(Measured):
    """Added information of a method. gap: I less that of the closed-set model's own loss, on the same faces."""

    gap: Estimate | None = None


def information_of(results: Results, dataset: str, method: str) -> Information:
    """Added information on the open cells of own labels."""
    cells = results.every_cell[results.every_cell["dataset"] == dataset]
    cells = cells[(cells["method"] == method) & (cells["labels"] == "own") & (cells["protocol"] != "shift")]
    mean = _mean(cells, ADDED_INFORMATION)
    mean.metric, mean.method, mean.open_classes = INFORMATION, method, "open cells"
    found = Information(**vars(mean), error=_error_of_columns(cells, ADDED_INFORMATION))
    areas = cell_areas(results, cells, "information") if found.value is not None else {}
    if areas and len(areas) == found.n_cells:
        found.error = mean_area(areas.values()).error
        found.gap = mean_gap(areas, cell_areas(results, cells, "information", "closed_set_loss"))
    return found


def verdict(results: Results, dataset: str, method: str) -> Verdict | None:
    """Verdict by the method's first control that has one; None without."""
    verdicts = (control.verdict for control in controls_of(results, dataset, method))
    return next((given for given in verdicts if given), None)


def control_blocks(results: Results, dataset: str, methods: list[str]) -> list[Block]:
    """A block a control, then one of added information, if a method is label-based."""
    is_based = {method: results.states(method, "label_based") for method in methods}
    if not any(is_based.values()):
        return []
    controls = {method: controls_of(results, dataset, method) for method in methods}
    whats = {control.labels: control.open_classes for each in controls.values() for control in each}
    status = {method: NOT_RUN if is_based[method] else NOT_ASKED for method in methods}
    lacking = {m: Entry("control", "control", m, SENSITIVITY, status[m]) for m in methods}
    if not whats:
        rows = [Row("sensitivity S", list(lacking.values()))]
        return [Block("Positive control (higher is better)", rows, "positive control ↑")]
    blocks = []
    for labels in sorted(whats, key=CONTROLS.index):
        run = {control.method: control for each in controls.values() for control in each if control.labels == labels}
        rows = [Row("sensitivity S", [run.get(method, lacking[method]) for method in methods])]
        for other, name in ((PLAIN, "small-loss, same cells"), (REFERENCE, "label-loss (ceiling)")):
            blank = {m: Entry("control", whats[labels], m, OF_REFERENCE, NOT_ASKED) for m in methods}
            rows.append(Row(name, [run[m].others[other] if m in run else blank[m] for m in methods]))
        what = whats[labels]
        heading = f"Positive control, {what}: AUROC of wrong labels within the assigned label"
        blocks.append(Block(heading, rows, f"control: {what.partition('% of ')[2] or what} ↑"))
    information = [information_of(results, dataset, m) for m in methods]
    if any(is_based[entry.method] and entry.value is not None for entry in information):
        shown: list[Entry] = [e if is_based[e.method] else lacking[e.method] for e in information]
        heading = "Open faces within the assigned label and decile of the model's loss: AUROC"
        blocks.append(Block(heading, [Row("added information I", shown)], "open cells ↑"))
    return blocks


def interval_text(estimate: Estimate) -> str:
    """95 % interval, with as many decimals as the value beside it."""
    low, high = estimate.interval()
    return f"[{low:.3f}, {high:.3f}]"
