"""Foundations of the published numbers: replication.md, of which only the second half needs runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.paper import paper_value
from open_set_fer.reports.data.results import FINISHED, Results, load, method_order, protocol_order
from open_set_fer.reports.tables.controls import controls_of, readings
from open_set_fer.studies.replication import pairing
from open_set_fer.studies.writing import write_page

PROFILE = "ferplus-cpu"
DATASETS = ("rafdb", "ferplus")  # data sets of the paper's Tables 1 and 2


def write(home: Path, out: Path, profile: str = PROFILE) -> Path:
    """Write out/replication.md and its figures; cells of `profile` are read from the MLflow store of `home`."""
    cells, results = measured_cells(home, profile)
    done = cells[cells["status"] == FINISHED]
    datasets = list(dict.fromkeys(cells["dataset"]))
    methods = method_order(done["method"])
    everyone = method_order(results.every_cell["method"]) if results else []
    curve = rate_curve(cells)
    figures = {"replication_printed.png": _published_figure()}
    if len(curve):
        figures["replication_share.png"] = _rate_figure(curve)
    content = {
        "profile": profile,
        "released": {group: pairing.released_labels(group) for group in ("open test", "open train", "closed test")},
        "expected": pairing.expected_labels(),
        "random": asdict(pairing.fits_random_images()),
        "open_faces": asdict(pairing.fits_open_test_faces()),
        "correlations": {name: pairing.correlations(name).to_dict("records") for name in DATASETS},
        "regimes": regime_rows(cells),
        "unmeasured": [name for name in BASIC if name not in set(done["open"])],
        "controls": [row for name in datasets if results for m in everyone for row in controls_of(results, name, m)],
        "control_notes": [note for name in datasets if results for note in readings(results, name, methods)],
        "curve": curve.to_dict("records"),
        "seeds": sorted(map(int, set(done["seed"]))),
        "warnings": [w.about(methods) for name in datasets if results for w in results.warnings_for(name, methods)],
    }
    return write_page("replication", out / "replication.md", content, figures)


def measured_cells(home: Path, profile: str) -> tuple[pd.DataFrame, Results | None]:
    """Planned cells of the family 'single' with open (class), labels (pseudo-label setting) and share (noise rate).

    Cells of other settings than own labels are left out if their method did not read the labels. Also the results that
    the cells are from; None before the first measurement.
    """
    try:
        results = load(Tracker(home, profile, create=False))
    except SuiteError:
        results = None
    if results is None or not (results.cells["protocol"] == "single").any():
        names = ["dataset", "open", "labels", "share", "method", "seed", "status", AUROC.name]
        return pd.DataFrame(columns=names), None
    cells = results.cells[results.cells["protocol"] == "single"]
    cells = cells.assign(open=cells["choice"], share=cells["label_share"])
    return cells[(cells["labels"] == "own") | (cells["reads_labels"] != "false")], results


def regime_rows(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean AUROC over seeds under own and released labels, and the published one, for each open class and method.

    Rows of methods that are planned under both; a setting without a finished cell has no mean.
    """
    whole = cells[((cells["labels"] == "own") | ((cells["labels"] == "released") & (cells["share"] == 1)))]
    whole = whole[whole.groupby("method")["labels"].transform("nunique") > 1]
    rows = []
    named = whole.assign(protocol="single", open_classes=whole["open"], choice=whole["open"])
    for _, open_class in protocol_order(named):
        for method in method_order(whole["method"]):
            rows_of_method = whole[(whole["open"] == open_class) & (whole["method"] == method)]
            dataset = str(whole["dataset"].iloc[0])
            rows.append(
                {"open": open_class, "method": method}
                | {kind: _mean(rows_of_method[rows_of_method["labels"] == kind]) for kind in ("own", "released")}
                | {"published": paper_value(dataset, "single", open_class, method, AUROC.name)}
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


def _mean(cells: pd.DataFrame) -> dict[str, Any]:
    done = cells[cells["status"] == FINISHED]
    cells_text = str(len(done)) if len(done) == len(cells) else f"{len(done)} of {len(cells)}"
    return {"mean": done[AUROC.name].mean(), "std": done.groupby("seed")[AUROC.name].mean().std(), "cells": cells_text}


def _published_figure() -> Figure:
    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    markers = {"baseline": "o", "ours": "s", "eow": "+", "proser": "x", "dias": "1"}
    colours = {"baseline": "#0072B2", "ours": "#D55E00"}
    for axes, dataset in zip(figure.subplots(1, len(DATASETS), sharey=True), DATASETS, strict=True):
        for method, rows in pairing.published_auroc(dataset).groupby("method", sort=False):
            style: dict[str, Any] = {"marker": markers[str(method)], "color": colours.get(str(method), "0.5"), "s": 22}
            axes.scatter(100 * rows["truly_open"], rows["value"], label=method_name(str(method)), **style)
        axes.axhline(0.5, color="0.7", linewidth=1, zorder=0)
        axes.set_title(dataset_name(dataset))
    figure.axes[0].set_ylabel("published AUROC")
    figure.supxlabel("truly open among the faces scored as open (%)", fontsize="medium")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def _rate_figure(curve: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for method, rows in curve.groupby("method", sort=False):
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 2, "label": method_name(str(method))}
        axes.errorbar(rows["share"], rows["mean"], rows["std"] if rows["std"].notna().all() else None, **style)
    axes.axhline(0.5, color="0.7", linewidth=1, zorder=0)
    axes.set(xlabel="fraction of open training-split faces with another image's output", ylabel=AUROC.title)
    axes.legend(frameon=False, fontsize=8)
    return figure
