"""What the published numbers rest on: docs/replication.md, from two small files, the paper's tables and MLflow.

The first half needs no run: the released label file and the printed tables (`pairing.py`). The second half is what this
suite measured under the label regimes (`benchmark/labels.py`); what has not been measured is said to be missing.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.paper import paper_value
from open_set_fer.reports.data.results import FINISHED, Results, load, method_order, protocol_order
from open_set_fer.reports.tables.controls import Control, control_notes, controls_of
from open_set_fer.studies.effect_study.write_up import number
from open_set_fer.studies.replication import pairing

PROFILE = "ferplus-cpu"
PRINTED = ("rafdb", "ferplus")
"""Data sets of the paper's Tables 1 and 2."""


def write_replication(home: Path, out: Path, profile: str = PROFILE) -> Path:
    """Write out/replication.md and its figures; cells of `profile` are read from the MLflow store of `home`.

    Nothing is typed in: what the store does not hold is shown as missing, with the command that computes it.
    """
    out.mkdir(parents=True, exist_ok=True)
    cells, results = measured_cells(home, profile)
    done = cells[cells["status"] == FINISHED]
    datasets = list(dict.fromkeys(cells["dataset"]))
    methods = method_order(done["method"])
    _printed_figure().savefig(out / "replication_printed.png", dpi=130)
    curve = share_curve(cells)
    if len(curve):
        _share_figure(curve).savefig(out / "replication_share.png", dpi=130)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("open_set_fer.studies.replication", "."),
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "dataset": dataset_name, "method": method_name}
    text = environment.get_template("page.md.jinja").render(
        profile=profile,
        released={group: pairing.released_labels(group) for group in ("open test", "open train", "closed test")},
        expected=pairing.expected_labels(),
        random=asdict(pairing.fits_random_images()),
        open_faces=asdict(pairing.fits_open_test_faces()),
        correlations={name: pairing.correlations(name).to_dict("records") for name in PRINTED},
        regimes=regime_rows(cells),
        unmeasured=[name for name in BASIC if name not in set(done["open"])],
        controls=[row for name in datasets if results for row in control_rows(results, name)],
        control_notes=[note for name in datasets if results for note in control_notes(results, name, methods)],
        curve=curve.to_dict("records"),
        seeds=sorted(map(int, set(done["seed"]))),
        warnings=[warn.about(methods) for name in datasets if results for warn in results.warnings_for(name, methods)],
    )
    path = out / "replication.md"
    path.write_text(text, "utf-8")
    return path


def measured_cells(home: Path, profile: str) -> tuple[pd.DataFrame, Results | None]:
    """Planned cells of the family 'single' as `Results.cells` has them, with open (class), labels (regime) and share.

    Under another regime than own labels cells whose method did not read the labels are left out: their numbers are those
    of own labels. With them the results that they are from; None where nothing has been measured.
    """
    empty = pd.DataFrame(columns=["dataset", "open", "labels", "share", "method", "seed", "status", AUROC.name])
    try:
        results = load(Tracker(home, profile, create=False))
    except SuiteError:  # nothing measured yet
        return empty, None
    cells = results.cells[results.cells["protocol"] == "single"]
    if not len(cells):
        return empty, None
    cells = cells.assign(open=cells["choice"], share=cells["label_share"])
    return cells[(cells["labels"] == "own") | (cells["reads_labels"] != "false")], results


def regime_rows(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """For each open class and method the mean AUROC over seeds under own and released labels, and the printed one.

    Of methods that are planned under both; a regime without a finished cell has no mean.
    """
    whole = cells[((cells["labels"] == "own") | ((cells["labels"] == "released") & (cells["share"] == 1)))]
    paired = whole.groupby("method")["labels"].nunique() > 1
    whole = whole[whole["method"].map(paired).astype(bool)]
    rows = []
    for _, opened in protocol_order(whole.assign(protocol="single", open_classes=whole["open"], choice=whole["open"])):
        for method in method_order(whole["method"]):
            of = whole[(whole["open"] == opened) & (whole["method"] == method)]
            dataset = str(whole["dataset"].iloc[0])
            rows.append(
                {"open": opened, "method": method}
                | {labels: _mean(of[of["labels"] == labels]) for labels in ("own", "released")}
                | {"printed": paper_value(dataset, "single", opened, method, AUROC.name)}
            )
    return rows


def control_rows(results: Results, dataset: str) -> list[Control]:
    """The controls that are planned of label-based methods, by regime, as the tables have them."""
    methods = method_order(results.every_cell["method"])
    return [control for method in methods for control in controls_of(results, dataset, method)]


def share_curve(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean AUROC and its deviation over seeds by method and share of wrongly paired labels; empty below three shares.

    Columns method, share, mean, std, seeds. Of a method only open classes and seeds count that have every share: other
    ones would move the curve at the shares that they have.
    """
    of = cells[cells["labels"].isin(["own", "released"]) & (cells["status"] == FINISHED)]
    rows = []
    for method in method_order(of["method"]):
        values = of[of["method"] == method].pivot_table(index=["open", "seed"], columns="share", values=AUROC.name)
        values = values.loc[:, values.notna().sum() > 0]
        most = values.notna().sum(axis=1).max() if len(values) else 0
        values = values[values.notna().sum(axis=1) == most].dropna(axis="columns")
        if values.shape[1] > 2:
            by_seed = values.groupby(level="seed").mean()
            rows += [
                {
                    "method": method,
                    "share": share,
                    "mean": by_seed[share].mean(),
                    "std": by_seed[share].std(),
                    "seeds": len(by_seed),
                    "cells": len(values),
                }
                for share in values.columns
            ]
    return pd.DataFrame(rows, columns=["method", "share", "mean", "std", "seeds", "cells"])


def _mean(cells: pd.DataFrame) -> dict[str, Any]:
    """Mean over seeds of finished cells, deviation, and how many of the planned cells are finished."""
    done = cells[cells["status"] == FINISHED]
    cells_text = str(len(done)) if len(done) == len(cells) else f"{len(done)} of {len(cells)}"
    return {"mean": done[AUROC.name].mean(), "std": done.groupby("seed")[AUROC.name].mean().std(), "cells": cells_text}


def _printed_figure() -> Figure:
    """The printed AUROC of every method against the share of truly open faces, RAF-DB and FERPlus side by side."""
    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    markers = {"baseline": "o", "ours": "s", "eow": "+", "proser": "x", "dias": "1"}
    colours = {"baseline": "#0072B2", "ours": "#D55E00"}
    for axes, dataset in zip(figure.subplots(1, len(PRINTED), sharey=True), PRINTED, strict=True):
        for method, rows in pairing.printed_auroc(dataset).groupby("method", sort=False):
            axes.scatter(
                100 * rows["truly_open"],
                rows["value"],
                s=22,
                label=method_name(str(method)),
                marker=markers[str(method)],
                color=colours.get(str(method), "0.5"),
            )
        axes.axhline(0.5, color="0.7", linewidth=1, zorder=0)
        axes.set_title(dataset_name(dataset))
    figure.axes[0].set_ylabel("printed AUROC")
    figure.supxlabel("truly open among the faces scored as open (%)", fontsize="medium")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=8
    )
    return figure


def _share_figure(curve: pd.DataFrame) -> Figure:
    """AUROC against the share of wrongly paired labels; bars: deviation over seeds, where there are several."""
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for method, of in curve.groupby("method", sort=False):
        bars = of["std"] if of["std"].notna().all() else None
        axes.errorbar(
            of["share"], of["mean"], yerr=bars, marker="o", markersize=4, capsize=2, label=method_name(str(method))
        )
    axes.axhline(0.5, color="0.7", linewidth=1, zorder=0)
    axes.set(xlabel="share of open training-split faces with another image's output", ylabel=AUROC.title)
    axes.legend(frameon=False, fontsize=8)
    return figure
