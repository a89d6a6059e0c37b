"""Foundations of the published numbers: replication.md, of which only the second half needs runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.console import out as standard_output
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.tables.readings import readings
from open_set_fer.studies.provenance import versions_of
from open_set_fer.studies.replication import pairing
from open_set_fer.studies.replication.measured import (
    METHODS,
    class_table,
    measured_cells,
    of_labels,
    rate_curve,
    summary_rows,
)
from open_set_fer.studies.replication.recomputation import Recomputed, recompute
from open_set_fer.studies.writing import write_page

PROFILE = "ferplus-cpu"
DATASETS = ("rafdb", "ferplus")  # data sets of the paper's Tables 1 and 2
GROUPS = ("open test", "open train", "closed test")
NEXT = 4  # further offsets in the page's table


def write(home: Path, out: Path, profile: str = PROFILE, files: tuple[Path, Path] | None = None) -> Path:
    """Write out/replication.md and its figures; cells of `profile` are read from the MLflow store of `home`.

    files: RAF-DB's list and the released label file, from which the pairing is recomputed; its counts are written to
    out/replication_pairing.csv. Without them the page has the counts kept in pairing.csv.
    """
    recomputed = Recomputed.kept()
    if files is not None:
        recomputed = recompute(*files)
        out.mkdir(parents=True, exist_ok=True)
        recomputed.save(out / "replication_pairing.csv")
        standard_output.print(_outcome(recomputed), highlight=False, soft_wrap=True)
    cells, results = measured_cells(home, profile)
    shown = cells[cells["method"].isin(METHODS)]
    curve = rate_curve(shown)
    figures = {"replication_printed.png": _published_figure()}
    if len(curve):
        figures["replication_share.png"] = _rate_figure(curve, results.title if results else method_name)
    content = _evidence(recomputed, files is not None) | _measurements(shown, results)
    content |= {"profile": profile, "curve": curve.to_dict("records")}
    versions = versions_of(results, shown) if results else {}
    return write_page("replication", out / "replication.md", content, figures, versions)


def _evidence(recomputed: Recomputed, is_new: bool) -> dict[str, Any]:
    """What the page says without a run."""
    ranked = recomputed.counts.assign(share=recomputed.shares).reset_index().sort_values("share", ascending=False)
    others = recomputed.shares.drop(recomputed.best)
    released = {group: pairing.released_labels(group) for group in GROUPS}
    return {
        "recomputed": recomputed,
        "is_new": is_new,
        "ranked": ranked.head(1 + NEXT).to_dict("records"),
        "others": {"n": len(others), "most": others.max(), "median": others.median()},
        "sources": asdict(pairing.fits_open_test_faces(recomputed.open_sources)),
        "released": released,
        "of_open": released["open test"] + released["open train"],
        "expected": pairing.expected_labels(),
        "random": asdict(pairing.fits_random_images()),
        "open_faces": asdict(pairing.fits_open_test_faces(released["open train"])),
        "fits": {name: pairing.mixture_fits(name).to_dict("records") for name in DATASETS},
        "size": {name: pairing.fraction_follows_size(name) for name in DATASETS},
    }


def _measurements(cells: pd.DataFrame, results: Results | None) -> dict[str, Any]:
    """What the page says of the cells of METHODS."""
    done, methods = cells[cells["status"] == FINISHED], set(of_labels(cells, "released")["method"])
    datasets = list(dict.fromkeys(cells["dataset"]))
    return {
        "methods": METHODS,
        "title": results.title if results else method_name,
        "released_methods": [method for method in METHODS if method in methods],
        "is_measured": len(done) > 0,
        "own_classes": class_table(of_labels(cells, "own"), METHODS),
        "released_classes": class_table(of_labels(cells, "released"), METHODS),
        "summary": summary_rows(cells, results),
        "readings": [text for name in datasets if results for text in readings(results, name, METHODS)],
        "datasets": datasets,
        "seeds": sorted(map(int, set(done["seed"]))),
        "warnings": [
            w.about(list(METHODS)) for name in datasets if results for w in results.warnings_for(name, METHODS)
        ],
    }


def _outcome(recomputed: Recomputed) -> str:
    best, others = recomputed.counts.loc[recomputed.best], recomputed.shares.drop(recomputed.best)
    return (
        f"offset {recomputed.best}: {best['agreeing']} of {best['compared']} pseudo labels agree; "
        f"the other {len(others)} offsets: at most {others.max():.1%}"
    )


def _published_figure() -> Figure:
    figure = Figure(figsize=(7.0, 3.5), layout="constrained")
    markers = {"baseline": "o", "ours": "s", "eow": "+", "proser": "x", "dias": "1"}
    colours = {"baseline": "#0072B2", "ours": "#D55E00"}
    for axes, dataset in zip(figure.subplots(1, len(DATASETS), sharey=True), DATASETS, strict=True):
        for method, rows in pairing.published_auroc(dataset).groupby("method", sort=False):
            style: dict[str, Any] = {"marker": markers[str(method)], "color": colours.get(str(method), "0.5"), "s": 22}
            axes.scatter(100 * rows["truly_open"], rows["value"], label=method_name(str(method)), **style)
        fit = pairing.mixture_fits(dataset).set_index("method").loc["baseline"]
        ends = np.array(axes.get_xlim())
        axes.plot(ends, fit["c0"] + fit["c1"] * ends / 100, color=colours["baseline"], linewidth=1)
        axes.axhline(0.5, color="0.7", linewidth=1, zorder=0)
        axes.set_title(dataset_name(dataset))
    figure.axes[0].set_ylabel("published AUROC")
    figure.supxlabel("truly open among the faces scored as open (%)", fontsize="medium")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def _rate_figure(curve: pd.DataFrame, title: Callable[[str], str]) -> Figure:
    """AUROC against the fraction of wrongly paired labels; title: display name of a method's label."""
    figure = Figure(figsize=(5.0, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for method, rows in curve.groupby("method", sort=False):
        style: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 2, "label": title(str(method))}
        axes.errorbar(rows["share"], rows["mean"], rows["std"] if rows["std"].notna().all() else None, **style)
    axes.axhline(0.5, color="0.7", linewidth=1, zorder=0)
    axes.set(xlabel="fraction of open training-split faces with another image's output", ylabel=AUROC.title)
    axes.legend(frameon=False, fontsize=8)
    return figure
