"""What the published numbers rest on: docs/replication.md, from two small files, the paper's tables and MLflow.

The first half needs no run: the released label file and the printed tables (`pairing.py`). The second half is what this
suite measured under the label regimes (`benchmark/labels.py`); what has not been measured is said to be missing.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from open_set_fer.benchmark.labels import labels_of
from open_set_fer.benchmark.metrics import AUROC
from open_set_fer.benchmark.tracking import Tracker
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError
from open_set_fer.reports import pairing
from open_set_fer.reports.effect_study import number
from open_set_fer.reports.names import dataset_name, method_name
from open_set_fer.reports.paper import paper_value
from open_set_fer.reports.query import FINISHED, load, method_order, protocol_order

PROFILE = "ferplus-cpu"
PRINTED = ("rafdb", "ferplus")
"""Data sets of the paper's Tables 1 and 2."""


def write_replication(home: Path, out: Path, profile: str = PROFILE) -> Path:
    """Write out/replication.md and its figures; cells of `profile` are read from the MLflow store of `home`.

    Nothing is typed in: what the store does not hold is shown as missing, with the command that computes it.
    """
    out.mkdir(parents=True, exist_ok=True)
    cells, warnings = measured_cells(home, profile)
    _printed_figure().savefig(out / "replication_printed.png", dpi=130)
    curve = share_curve(cells)
    if len(curve):
        _share_figure(curve).savefig(out / "replication_share.png", dpi=130)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("open_set_fer.reports", "."), trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"number": number, "dataset": dataset_name, "method": method_name}
    text = environment.get_template("replication.md.jinja").render(
        profile=profile,
        released={group: pairing.released_labels(group) for group in ("open test", "open train", "closed test")},
        expected=pairing.expected_labels(),
        random=asdict(pairing.fits_random_images()),
        open_faces=asdict(pairing.fits_open_test_faces()),
        correlations={name: pairing.correlations(name).to_dict("records") for name in PRINTED},
        regimes=regime_rows(cells),
        unmeasured=[name for name in BASIC if name not in set(cells["open"])],
        controls=control_rows(cells),
        has_curve=len(curve) > 0,
        seeds=sorted(map(int, set(cells["seed"]))),
        warnings=warnings,
    )
    path = out / "replication.md"
    path.write_text(text, "utf-8")
    return path


def measured_cells(home: Path, profile: str) -> tuple[pd.DataFrame, list[str]]:
    """Finished cells of the family 'single': columns open (class), labels (regime), share, method, seed, auroc, dataset.

    Under another regime than own labels only cells whose method read the labels are there: the others' numbers are
    those of own labels. With them what a reader must know of their runs.
    """
    empty = pd.DataFrame(columns=["dataset", "open", "labels", "share", "method", "seed", "auroc"])
    try:
        results = load(Tracker(home, profile, create=False))
    except SuiteError:  # nothing measured yet
        return empty, []
    cells = results.cells[(results.cells["status"] == FINISHED) & (results.cells["protocol"] == "single")]
    if not len(cells):
        return empty, []
    labels = cells["open_classes"].map(labels_of)
    cells = cells.assign(
        open=cells["open_classes"].map(lambda text: text.partition(" (")[0]),
        labels=labels,
        share=cells["open_classes"].map(_share),
    )
    reads = (cells["labels"] == "own") | (cells["reads_labels"] == "true")
    shown = cells.loc[reads, list(empty.columns)]
    methods = method_order(shown["method"])
    warnings = [warn.about(methods) for name in set(shown["dataset"]) for warn in results.warnings_for(name, methods)]
    return shown, warnings


def _share(open_classes: str) -> float:
    """Share of labels that the regime named behind the open classes changes."""
    found = re.search(r"\((\S+)% of ", open_classes)
    return float(found[1]) / 100 if found else float(labels_of(open_classes) != "own")


def regime_rows(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """For each open class and method the mean AUROC over seeds under own and released labels, and the printed one."""
    whole = cells[((cells["labels"] == "own") | ((cells["labels"] == "released") & (cells["share"] == 1)))]
    paired = whole.groupby("method")["labels"].nunique() > 1
    whole = whole[whole["method"].map(paired).astype(bool)]
    rows = []
    for _, opened in protocol_order(dict.fromkeys(("single", name) for name in whole["open"])):
        for method in method_order(whole["method"]):
            of = whole[(whole["open"] == opened) & (whole["method"] == method)]
            if len(of):
                dataset = str(of["dataset"].iloc[0])
                rows.append({"open": opened, "method": method} | {
                    labels: _mean(of[of["labels"] == labels]) for labels in ("own", "released")
                } | {"printed": paper_value(dataset, "single", opened, method, AUROC.name)})  # fmt: skip
    return rows


def control_rows(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """For each control and method the mean control AUROC over open classes and seeds, and whether it is informative."""
    rows = []
    for labels in ("flipped", "flipped-true"):
        of = cells[cells["labels"] == labels]
        reference = of.loc[of["method"] == "label-loss", "auroc"].mean()
        for method in method_order(of["method"]):
            value = _mean(of[of["method"] == method])
            rows.append({
                "labels": labels, "method": method, **value, "share": of["share"].iloc[0],
                "informative": None if pd.isna(reference) else value["mean"] >= reference,
            })  # fmt: skip
    return rows


def share_curve(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean AUROC by share of wrongly paired labels (rows) and method (columns); empty below three shares."""
    of = cells[cells["labels"].isin(["own", "released"])]
    curve = of.pivot_table(index="share", columns="method", values="auroc").dropna(axis="columns", thresh=3)
    return curve if len(curve) > 2 else curve.iloc[:0]


def _mean(cells: pd.DataFrame) -> dict[str, Any]:
    return {"mean": cells["auroc"].mean(), "std": cells.groupby("seed")["auroc"].mean().std(), "cells": len(cells)}


def _printed_figure() -> Figure:
    """The printed AUROC of every method against the share of truly open faces, RAF-DB and FERPlus side by side."""
    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    markers = {"baseline": "o", "ours": "s", "eow": "+", "proser": "x", "dias": "1"}
    colours = {"baseline": "#0072B2", "ours": "#D55E00"}
    for axes, dataset in zip(figure.subplots(1, len(PRINTED), sharey=True), PRINTED, strict=True):
        for method, rows in pairing.printed_auroc(dataset).groupby("method", sort=False):
            axes.scatter(
                100 * rows["truly_open"], rows["value"], s=22, label=method_name(str(method)),
                marker=markers[str(method)], color=colours.get(str(method), "0.5"),
            )  # fmt: skip
        axes.axhline(0.5, color="0.7", linewidth=1, zorder=0)
        axes.set_title(dataset_name(dataset))
    figure.axes[0].set_ylabel("printed AUROC")
    figure.supxlabel("truly open among the faces scored as open (%)", fontsize="medium")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=8
    )
    return figure


def _share_figure(curve: pd.DataFrame) -> Figure:
    """AUROC against the share of wrongly paired labels."""
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for method in method_order(curve.columns):
        axes.plot(curve.index, curve[method], marker="o", markersize=4, label=method_name(method))
    axes.axhline(0.5, color="0.7", linewidth=1, zorder=0)
    axes.set(xlabel="share of open training-split faces with another image's output", ylabel="AUROC")
    axes.legend(frameon=False, fontsize=8)
    return figure
