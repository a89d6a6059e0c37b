"""Marks behind methods' names and numbers that are to be read with care, and their footnotes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import INTERVAL, SIDE_METRICS
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.tables.controls import verdict
from open_set_fer.reports.tables.means import Block, Entry, Groups

BLIND, LOW_ACCURACY, NO_DETECTOR = "§", "¶", "×"
CLOSED_ACCURACY = next(metric for metric in SIDE_METRICS if metric.name == "closed_accuracy")
TOLERANCE = 0.05
"""How far a method's closed accuracy may lie below the shared model's, in the mean, without a mark."""


def accuracies(results: Results, dataset: str, method: str) -> tuple[float, float] | None:
    """Mean closed accuracy of a method and of the shared closed-set model, over the open cells that have both."""
    cells = results.of(dataset)
    names = [CLOSED_ACCURACY.name, "closed_set_accuracy"]
    if not set(names) <= set(cells):
        return None
    cells = cells[(cells["method"] == method) & (cells["status"] == FINISHED) & ~cells["labels"].isin(CONTROLS)]
    cells = cells[cells["protocol"] != "shift"].dropna(subset=names)
    return None if cells.empty else (float(cells[names[0]].mean()), float(cells[names[1]].mean()))


def is_inaccurate(results: Results, dataset: str, method: str) -> bool:
    """Whether a method's closed accuracy lies more than TOLERANCE below the shared model's."""
    both = accuracies(results, dataset, method)
    return both is not None and round(both[1] - both[0], CLOSED_ACCURACY.decimals) > TOLERANCE


def heading_mark(results: Results, dataset: str, method: str) -> str:
    """The marks behind a method's name: blind by its control, less accurate than the shared model."""
    is_blind = verdict(results, dataset, method) == "blind"
    return BLIND * is_blind + LOW_ACCURACY * is_inaccurate(results, dataset, method)


def is_no_detector(cells: Iterable[Mapping[Hashable, Any]]) -> bool:
    """Whether the upper end of AUROC's interval, in the mean over the cells of a place, lies below 0.5."""
    ends = pd.Series([cell.get(INTERVAL[1].name) for cell in cells], dtype="float64").dropna()
    return len(ends) > 0 and bool(ends.mean() < 0.5)


def mark_no_detectors(block: Block, groups: Groups) -> None:
    """Mark the numbers of a block of AUROCs whose interval lies below 0.5; means are not marked."""
    for entry in (entry for row in block.rows if not row.is_mean for entry in row.entries):
        cells = groups.get((entry.protocol, entry.open_classes, entry.method), [])
        if entry.value is not None and is_no_detector(cells):
            entry.mark += NO_DETECTOR


def mark_notes(results: Results, dataset: str, methods: list[str], entries: Iterable[Entry] = ()) -> list[str]:
    """The footnotes of the marks that are in use."""
    blind = [results.title(m) for m in methods if verdict(results, dataset, m) == "blind"]
    notes = [f"{BLIND} Blind by the control, does not find wrong labels: {', '.join(blind)}."] * bool(blind)
    low = []
    for method in methods:
        both = accuracies(results, dataset, method)
        if both and is_inaccurate(results, dataset, method):
            low.append(f"{results.title(method)} ({both[0]:.3f}, shared model {both[1]:.3f})")
    if low:
        text = "its AUROC compares closed-set models as much as detectors"
        notes.append(f"{LOW_ACCURACY} Closed accuracy more than {TOLERANCE} below the shared model's, so {text}: ")
        notes[-1] += f"{'; '.join(low)}."
    if any(NO_DETECTOR in entry.mark for entry in entries):
        notes.append(f"{NO_DETECTOR} No detector in that cell: the interval of AUROC lies below 0.5.")
    return notes


def accuracy_reading(results: Results, dataset: str, method: str) -> str:
    """One sentence on a method with an inaccurate network; '' for any other."""
    both = accuracies(results, dataset, method)
    if both is None or not is_inaccurate(results, dataset, method):
        return ""
    return (
        f"{results.title(method)}: its own network is less accurate ({both[0]:.3f}, shared model {both[1]:.3f}), so "
        "its AUROC compares closed-set models as much as detectors."
    )
