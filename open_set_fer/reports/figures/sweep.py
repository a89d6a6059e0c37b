"""The paper's Figure 5: AUROC over a setting and the number of epochs, one training read off while it goes on.

Drawn where a profile keeps scores after several epochs (`read_at`) and has cells that differ in that setting alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure
from open_set_fer.reports.tables.build import slug

SWEPT = {"consistency_weight": "λ", "cycle_length": "cycle length"}
"""Settings with their names on an axis."""
DARK = "#010101"
"""Text on light colours: not quite black, which the page turns into its own text colour."""


def sweep_figures(results: Results) -> Iterator[ReportFigure]:
    """A figure for each data set, choice of open classes and swept setting that has two values at least."""
    cells = _readings(results)
    if cells.empty:
        return
    for setting in SWEPT:
        swept = _swept(cells, setting)
        for (dataset, opened), rows in swept.groupby(["dataset", "open_classes"], sort=False):
            yield _figure(str(dataset), str(opened), setting, rows, bool(rows["demonstration"].any()))


def _readings(results: Results) -> pd.DataFrame:
    """One row a finished cell and epoch: coordinates, network, settings of the method, epochs, auroc."""
    done = results.cells[results.cells["status"] == FINISHED]
    epochs = {int(found[1]): name for name in done if (found := re.fullmatch(r"auroc\.epoch_(\d+)", str(name)))}
    rows: list[dict[str, Any]] = []
    for cell in done.to_dict("records"):
        params = results.params[cell["run_id"]]
        own = "own_backbone" if "own_backbone.name" in params else "backbone"
        name, width = params.get(f"{own}.name", ""), params.get(f"{own}.width", "")
        network = {"resnet18": "ResNet-18", "resnet50": "ResNet-50"}.get(name, f"{name} network, width {width}")
        settings = {key.removeprefix("method."): text for key, text in params.items() if key.startswith("method.")}
        for epoch, column in epochs.items():
            if np.isfinite(cell[column]):
                rows.append(
                    {
                        "dataset": cell["dataset"],
                        "open_classes": cell["open_classes"],
                        "seed": cell["seed"],
                        "demonstration": cell["demonstration"],
                        "network": network,
                        "settings": settings,
                        "epochs": epoch,
                        "auroc": cell[column],
                    }
                )
    names = ("dataset", "open_classes", "seed", "demonstration", "network", "settings", "epochs", "auroc")
    return pd.DataFrame(rows, columns=list(names))


def _swept(cells: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The rows of cells that differ in `setting` alone, with its `value`; of several such groups of a network the largest."""
    has = cells["settings"].map(lambda settings: setting in settings)
    rows = cells[has].copy()
    if rows.empty:
        return rows
    rows["value"] = [float(settings[setting]) for settings in rows["settings"]]
    rows["others"] = [str(sorted((k, v) for k, v in s.items() if k != setting)) for s in rows["settings"]]
    places = ["dataset", "open_classes", "network"]
    values = rows.groupby([*places, "others"], sort=False)["value"].nunique().reset_index(name="count")
    largest = values[values["count"] > 1].sort_values("count", ascending=False, kind="stable").drop_duplicates(places)
    return rows.merge(largest[[*places, "others"]], on=[*places, "others"])


def _figure(dataset: str, opened: str, setting: str, rows: pd.DataFrame, demonstration: bool) -> ReportFigure:
    networks = list(dict.fromkeys(rows["network"]))
    seeds = rows["seed"].nunique()
    grids = [
        rows[rows["network"] == network].pivot_table(index="epochs", columns="value", values="auroc", aggfunc="mean")
        for network in networks
    ]
    means = rows.groupby(["network", "value", "epochs"], as_index=False)["auroc"].mean()
    low, high = float(means["auroc"].min()), float(means["auroc"].max())
    figure = Figure(figsize=(PAGE_WIDTH, 4.6), layout="constrained")
    axes = figure.subplots(2, len(networks), squeeze=False, sharey="row")
    name, mesh = SWEPT[setting], None
    colours = matplotlib.colormaps["viridis"]
    counts = sorted({int(epoch) for grid in grids for epoch in grid.index})
    for column, (network, grid) in enumerate(zip(networks, grids, strict=True)):
        top, bottom = axes[0, column], axes[1, column]
        for place, epoch in enumerate(counts):
            if epoch in grid.index:
                line = grid.loc[epoch].dropna()
                shade = colours(0.9 * (1 - place / max(len(counts) - 1, 1)))
                top.plot(line.index, line, marker="os^Dv<>"[place % 7], markersize=3, color=shade, label=f"{epoch}")
        top.set_title(network, fontsize=8)
        mesh = bottom.pcolormesh(np.ma.masked_invalid(grid.to_numpy()), cmap=colours, vmin=low, vmax=high)
        for y, x in np.argwhere(np.isfinite(grid.to_numpy())):
            value = float(grid.iat[y, x])
            light = high > low and (value - low) / (high - low) > 0.55
            text = f"{value:.2f}".removeprefix("0")
            bottom.text(
                x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=7, color=DARK if light else "#fefefe"
            )
        bottom.set_xticks(np.arange(grid.shape[1]) + 0.5, [f"{value:g}" for value in grid.columns], fontsize=7)
        bottom.set_yticks(np.arange(grid.shape[0]) + 0.5, [f"{epoch}" for epoch in grid.index], fontsize=7)
        top.set_xticks(list(grid.columns), [f"{value:g}" for value in grid.columns], fontsize=7)
        for ax in (top, bottom):
            ax.set_xlabel(name, fontsize=8)
            ax.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("AUROC", fontsize=8)
    axes[1, 0].set_ylabel("epochs", fontsize=8)
    axes[0, -1].legend(
        title="epochs", fontsize=7, title_fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False
    )
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=axes[1, :].tolist())
        bar.set_label("AUROC", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    best = means.iloc[int(means["auroc"].to_numpy().argmax())]
    said = (
        f"{dataset_name(dataset)}, {opened} open: AUROC of ours over {name} and epochs, "
        f"{'one seed' if seeds == 1 else f'mean over {seeds} seeds'}. One training each, read off while it goes on: its "
        "learning rate is set back in cycles and does not depend on how long it goes on, so after 20 epochs it is what a training of "
        "20 epochs is; it is read off at the ends of cycles alone."
    )
    said += " Rendered faces: a demonstration." * demonstration
    span = f"from {low:.2f} to {high:.2f}, the highest with {name} {best['value']:g} after {best['epochs']} epochs ({best['network']})"
    return ReportFigure(
        f"sweep_{slug(dataset)}_{slug(opened)}_{setting}",
        f"{name} and epochs (the paper's Figure 5): {dataset_name(dataset)}",
        said,
        f"AUROC over {name} and epochs for {', '.join(networks)}: {span}.",
        figure,
    )
