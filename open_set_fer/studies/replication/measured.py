"""Measured part of the replication page: own and released labels, controls, and the curve between the two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.benchmark.protocols.pseudo_labels import REFERENCE
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.paper import paper_value
from open_set_fer.reports.data.results import FINISHED, Results, load, method_order
from open_set_fer.reports.tables.controls import Measured, controls_of, information_of, interval_text

METHODS = (
    *("baseline", "energy", "max-logit", "eow", "proser", "dias", "ours", "ours-scratch"),
    *("label-loss", "small-loss", "label-frequency", "ours-plus", "two-sample"),
)
"""The labels of the page, in its order."""
ACCURACY = "closed_accuracy"
COLUMNS = ["dataset", "open", "labels", "share", "method", "seed", "status", "label_based", AUROC.name, ACCURACY]


def measured_cells(home: Path, profile: str) -> tuple[pd.DataFrame, Results | None]:
    """Planned cells of family 'single' on the whole pool of the first data set, and the results that they are from.

    Columns COLUMNS and those of `Results.cells`: open (class), labels (pseudo-label setting), share (noise rate). Cells
    of other settings than own labels are left out if their method did not read the labels. Without a finished cell:
    empty, None.
    """
    try:
        results = load(Tracker(home, profile, create=False))
    except SuiteError:
        results = None
    if results is None or not (results.cells["protocol"] == "single").any():
        return pd.DataFrame(columns=COLUMNS), None
    cells = results.cells[(results.cells["protocol"] == "single") & (results.cells["pool"] == "")]
    cells = cells[(cells["open_from"] == "both") & (cells["dataset"] == results.datasets[0])]
    cells = cells.assign(open=cells["choice"], share=cells["label_share"])
    cells = cells[(cells["labels"] == "own") | (cells["reads_labels"] != "false")]
    return cells.reindex(columns=list(dict.fromkeys([*COLUMNS, *cells.columns]))), results


def of_labels(cells: pd.DataFrame, labels: str) -> pd.DataFrame:
    """Cells of 'own' labels, of 'released' ones at the whole share, or of a control."""
    return cells[(cells["labels"] == labels) & ((labels != "released") | (cells["share"] == 1))]


def class_table(cells: pd.DataFrame, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Mean AUROC over seeds of each open class: `open`, and `values` by method, None without a finished cell."""
    done = cells[cells["status"] == FINISHED]
    means = done.groupby(["open", "method"])[AUROC.name].mean().to_dict()
    return [
        {"open": name, "values": {method: means.get((name, method)) for method in methods}}
        for name in BASIC
        if name in set(cells["open"])
    ]


def summary_rows(cells: pd.DataFrame, results: Results | None = None) -> list[dict[str, Any]]:
    """A row a method of METHODS, of numbers or None, and of texts as in the reports.

    own, released, accuracy: mean, std (over seeds) and counted (text) over the open classes; sensitivity, on (its
    control and cells), verdict, added, beyond (I less that of the closed-set model's own loss).
    """
    dataset = str(cells["dataset"].iloc[0]) if len(cells) else ""
    opens = [name for name in BASIC if name in set(cells["open"])]
    rows = []
    for method in METHODS:
        of_method = cells[cells["method"] == method]
        own, released = of_labels(of_method, "own"), of_labels(of_method, "released")
        control = next(iter(controls_of(results, dataset, method)), None) if results else None
        added = information_of(results, dataset, method) if results and results.states(method, "label_based") else None
        rows.append(
            {
                "method": method,
                "own": _over_classes(own, AUROC.name, opens),
                "released": _over_classes(released, AUROC.name, opens),
                "published": paper_value(dataset, "single", "mean", method, AUROC.name),
                "accuracy": _over_classes(own, ACCURACY, opens),
                "sensitivity": _text(control),
                "on": f"{control.labels}, {control.counted}" if control and control.value is not None else "",
                "verdict": "ceiling" if method == REFERENCE else (control and control.verdict) or "",
                "added": _text(added),
                "beyond": f"{added.gap.value:+.3f} {interval_text(added.gap)}" if added and added.gap else "—",
            }
        )
    return rows


def rate_curve(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean AUROC over seeds by method and fraction of wrongly paired labels; empty below three fractions.

    Columns method, share, mean, std, seeds, cells. Only open classes and seeds that have every fraction count: others
    would move the curve at the fractions that they have.
    """
    done = cells[cells["labels"].isin(["own", "released"]) & (cells["status"] == FINISHED)]
    rows = []
    for method in method_order(done["method"]):
        values = done[done["method"] == method].pivot_table(index=["open", "seed"], columns="share", values=AUROC.name)
        values = values.loc[:, values.notna().sum() > 0]
        most = values.notna().sum(axis=1).max() if len(values) else 0
        values = values[values.notna().sum(axis=1) == most].dropna(axis="columns")
        if values.shape[1] > 2:
            by_seed = values.groupby(level="seed").mean()
            curve = pd.DataFrame({"mean": by_seed.mean(), "std": by_seed.std()}).reset_index()
            rows.append(curve.assign(method=method, seeds=len(by_seed), cells=len(values)))
    columns = ["method", "share", "mean", "std", "seeds", "cells"]
    return pd.concat(rows)[columns] if rows else pd.DataFrame(columns=columns)


def _over_classes(cells: pd.DataFrame, metric: str, opens: Sequence[str]) -> dict[str, Any]:
    """Mean over open classes of the means over seeds, deviation of the seeds that have every class, and their number.

    Without a cell of every class mean is None: a mean over some of the classes is not to be read beside the others.
    counted: as text, such as '3', '1 to 3' or '3, 5 of 7 classes'; '' without a finished cell.
    """
    done = cells[(cells["status"] == FINISHED) & cells[metric].notna()]
    if done.empty:
        return {"mean": None, "std": None, "counted": ""}
    by_seed = done.groupby("seed")[metric].agg(["mean", "size"])
    whole = by_seed.loc[by_seed["size"] == len(opens), "mean"]
    seeds = done.groupby("open")["seed"].nunique()
    few, many = seeds.min(), seeds.max()
    counted = f"{few}" if few == many else f"{few} to {many}"
    counted += f", {len(seeds)} of {len(opens)} classes" if len(seeds) < len(opens) else ""
    mean = float(done.groupby("open")[metric].mean().mean()) if len(seeds) == len(opens) else None
    return {"mean": mean, "std": float(whole.std()) if len(whole) > 1 else None, "counted": counted}


def _text(measured: Measured | None) -> str:
    """A mean and its interval as displayed; a dash without a value."""
    if measured is None or measured.value is None:
        return "—"
    return f"{measured.value:.3f} {measured.spread}".strip()
