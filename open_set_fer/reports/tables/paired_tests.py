"""Paired tests on the same faces: the best method of a choice of open classes against each other method."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import Metric
from open_set_fer.reports.data.paired import Cell, CellArea, cell_areas, mean_area, mean_gap
from open_set_fer.reports.data.results import FINISHED, MISSING, Results, protocol_order
from open_set_fer.reports.data.statistics import holm
from open_set_fer.reports.tables.means import BEST, NOT_PLANNED, Block, Entry, Row

GAP = Metric("auroc_gap", "AUROC less than the best method's")
P_VALUE = Metric("p_paired", "p")
HOW = (
    "Paired DeLong test of AUROC on the same faces; a face in several seeds or choices, and pixel-identical faces, are "
    "one cluster. Holm's correction over the tests of a row. The best method is chosen by these same faces. The tests "
    "are on these models: they say nothing of another training."
)
Areas = dict[str, dict[Cell, CellArea]]


@dataclass
class PValue(Entry):
    """A p-value, displayed as `< 0.001` where it is smaller."""

    @property
    def number(self) -> str:
        return "< 0.001" if self.value is not None and self.value < 0.001 else super().number


def paired_blocks(results: Results, cells: pd.DataFrame, methods: list[str]) -> list[Block]:
    """Differences to the row's best method and their p-values; none without two methods whose scores are at hand.

    cells: of one data set. The last row is the mean over choices, where there are several.
    """
    areas = {method: cell_areas(results, cells[cells["method"] == method]) for method in methods}
    if sum(bool(own) for own in areas.values()) < 2:
        return []
    places = [(family, [label]) for family, label in protocol_order(cells)]
    if len(places) > 1:
        places.append(("+".join(dict.fromkeys(family for family, _ in places)), [label for _, (label,) in places]))
    gaps, p_values = [], []
    for family, labels in places:
        label, is_mean = (labels[0], False) if len(labels) == 1 else ("mean", True)
        planned = set(cells.loc[cells["open_classes"].isin(labels), "method"])
        status = {method: MISSING if method in planned else NOT_PLANNED for method in methods}
        own = [Entry(family, label, method, GAP, status[method]) for method in methods]
        tests = [PValue(family, label, method, P_VALUE, status[method]) for method in methods]
        _compare(_within(areas, labels), own, tests)
        gaps.append(Row(label, own, is_mean))
        p_values.append(Row(label, [*tests], is_mean))
    return [
        Block("AUROC of the row's best method less that of each", gaps, "AUROC below best"),
        Block("p of the paired test, Holm over the row", p_values, "p (paired, Holm)"),
    ]


def _within(areas: Areas, labels: list[str]) -> Areas:
    """Areas of these choices, of the methods that have all of them."""
    chosen = {method: {cell: own[cell] for cell in own if cell[0] in labels} for method, own in areas.items()}
    return {method: own for method, own in chosen.items() if {label for label, _ in own} == set(labels)}


def _compare(areas: Areas, gaps: list[Entry], tests: list[PValue]) -> None:
    """Fill in the entries of a row."""
    if len(areas) < 2:
        return
    best = max(areas, key=lambda method: mean_area(areas[method].values()).value)
    found = {method: mean_gap(areas[best], own) for method, own in areas.items() if method != best}
    compared = {method: gap for method, gap in found.items() if gap is not None and not math.isnan(gap.error)}
    adjusted = dict(zip(compared, holm([gap.p(0.0) for gap in compared.values()]), strict=True))
    for gap, test in zip(gaps, tests, strict=True):
        if gap.method == best:
            gap.status = test.status = BEST
        elif gap.method in compared:
            gap.value, test.value = compared[gap.method].value, adjusted[gap.method]
            gap.status = test.status = FINISHED
