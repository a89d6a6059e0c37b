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
from matplotlib.axes import Axes

from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import FINISHED, Results
from open_set_fer.reports.figures.base import PAGE_WIDTH, ReportFigure, captioned, panel_grid, styled

SWEPT = {"consistency_weight": "λ", "cycle_length": "cycle length"}  # settings with their names on an axis
DARK, LIGHT = "#010101", "#fefefe"
"""Text on light and dark colours: not quite black and white, which the page turns into its own colours."""
PREFIX = "auroc.epoch_"


def sweep_figures(results: Results) -> Iterator[ReportFigure]:
    """A figure for each data set, choice of open classes and swept setting that has two values at least."""
    cells = _intermediate(results)
    if cells.empty:
        return
    for setting in SWEPT:
        swept = _swept(cells, setting)
        for (dataset, opened), rows in swept.groupby(["dataset", "open_classes"], sort=False):
            yield _figure(results, str(dataset), str(opened), setting, rows)


def _intermediate(results: Results) -> pd.DataFrame:
    """One row for each finished cell and epoch: coordinates, network, settings of the method, epochs, auroc."""
    done = results.cells[results.cells["status"] == FINISHED]
    epochs = {name: int(name.removeprefix(PREFIX)) for name in map(str, done) if re.fullmatch(PREFIX + r"\d+", name)}
    params = [results.params[run_id] for run_id in done["run_id"]]
    settings = [{k.removeprefix("method."): v for k, v in texts.items() if k.startswith("method.")} for texts in params]
    done = done.assign(network=list(map(_network, params)), settings=pd.Series(settings, done.index, dtype=object))
    names = ["dataset", "open_classes", "seed", "network", "settings"]
    rows = done[[*names, *epochs]].melt(names, list(epochs), var_name="epochs", value_name="auroc", ignore_index=False)
    rows = rows.dropna(subset="auroc").sort_index(kind="stable")
    return rows.assign(epochs=rows["epochs"].map(epochs))


def _network(params: dict[str, str]) -> str:
    part = "own_backbone" if "own_backbone.name" in params else "backbone"
    name, width = params.get(f"{part}.name", ""), params.get(f"{part}.width", "")
    return {"resnet18": "ResNet-18", "resnet50": "ResNet-50"}.get(name, f"{name} network, width {width}")


def _swept(cells: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The rows of cells that differ in `setting` alone, with its `value`; a network's largest group of several."""
    rows = cells[[setting in settings for settings in cells["settings"]]].copy()
    if rows.empty:
        return rows
    rows["value"] = [float(settings[setting]) for settings in rows["settings"]]
    rows["others"] = [str(sorted((k, v) for k, v in s.items() if k != setting)) for s in rows["settings"]]
    places = ["dataset", "open_classes", "network"]
    values = rows.groupby([*places, "others"], sort=False)["value"].nunique().reset_index(name="count")
    largest = values[values["count"] > 1].sort_values("count", ascending=False, kind="stable").drop_duplicates(places)
    return rows.merge(largest[[*places, "others"]], on=[*places, "others"])


@styled
def _figure(results: Results, dataset: str, opened: str, setting: str, rows: pd.DataFrame) -> ReportFigure:
    name, networks = SWEPT[setting], list(dict.fromkeys(rows["network"]))
    means = rows.groupby(["network", "value", "epochs"], as_index=False)["auroc"].mean()
    low, high = float(means["auroc"].min()), float(means["auroc"].max())
    counts = sorted(set(rows["epochs"]))

    def draw(axes: Axes, row: str, network: str) -> str:
        grid = means[means["network"] == network].pivot(index="epochs", columns="value", values="auroc")
        axes.set_xlabel(name)
        if row == "epochs":
            _map(axes, grid, low, high)
        else:
            _curves(axes, grid, counts)
            axes.set_title(network)
        return network

    labels = {"AUROC": "AUROC", "epochs": "epochs"}
    figure, _ = panel_grid(labels, dict.fromkeys(networks, ""), draw, (PAGE_WIDTH, 4.6), sharey="row")
    top, bottom = figure.axes[: len(networks)], figure.axes[len(networks) :]
    top[-1].legend(title="epochs", fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.colorbar(bottom[0].collections[0], ax=bottom).set_label("AUROC")
    seeds, best = rows["seed"].nunique(), means.iloc[int(means["auroc"].to_numpy().argmax())]
    caption = (
        f"{dataset_name(dataset)}, {opened} open: AUROC of ours over {name} and epochs, "
        f"{'one seed' if seeds == 1 else f'mean over {seeds} seeds'}. One training each, read off while it goes on: "
        "its learning rate is set back in cycles and does not depend on how long it goes on, so after 20 epochs it is "
        "what a training of 20 epochs is; it is read off at the ends of cycles alone."
    )
    highest = f"the highest with {name} {best['value']:g} after {best['epochs']} epochs ({best['network']})"
    span = f"from {low:.2f} to {high:.2f}, {highest}"
    alternative = f"AUROC over {name} and epochs for {', '.join(networks)}: {span}."
    title = f"{name} and epochs (the paper's Figure 5): {dataset_name(dataset)}"
    return captioned(results, dataset, ("sweep", dataset, opened, setting), title, caption, alternative, figure)


def _curves(axes: Axes, grid: pd.DataFrame, counts: list[int]) -> None:
    for place, epochs in enumerate(counts):
        if epochs in grid.index:
            line = grid.loc[epochs].dropna()
            colour = matplotlib.colormaps["viridis"](0.9 * (1 - place / max(len(counts) - 1, 1)))
            axes.plot(line.index, line, "-" + "os^Dv<>"[place % 7], markersize=3, color=colour, label=f"{epochs}")
    axes.set_xticks(list(grid.columns), [f"{value:g}" for value in grid.columns])


def _map(axes: Axes, grid: pd.DataFrame, low: float, high: float) -> None:
    values: Any = grid.to_numpy()
    axes.pcolormesh(np.ma.masked_invalid(values), cmap="viridis", vmin=low, vmax=high)
    for y, x in np.argwhere(np.isfinite(values)):
        is_light = high > low and (values[y, x] - low) / (high - low) > 0.55
        text = f"{values[y, x]:.2f}".removeprefix("0")
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "color": DARK if is_light else LIGHT}
        axes.text(x + 0.5, y + 0.5, text, **style)
    axes.set_xticks(np.arange(len(grid.columns)) + 0.5, [f"{value:g}" for value in grid.columns])
    axes.set_yticks(np.arange(len(grid)) + 0.5, [f"{epochs}" for epochs in grid.index])
