"""Figures 1 and 2 (faces beside a data set with large inter-class distance), Figure 4, and mean AUROC by method."""

from __future__ import annotations

import base64
import io
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from open_set_fer.benchmark.metrics import auroc
from open_set_fer.benchmark.pictures import CLOSED_COLOUR, OPEN_COLOUR, draw_histogram
from open_set_fer.datasets.contrast import Cifar10, Digits
from open_set_fer.reports.query import FAILED, FAMILY_ORDER, FINISHED, Results, method_order, protocol_order
from open_set_fer.reports.tables import demonstration, slug

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from open_set_fer.benchmark.tracking import Tracker

METHODS_PER_FIGURE, ROWS_PER_FIGURE = 6, 8
CONTRAST = (Digits.name, Cifar10.name)
"""Data sets with large inter-class distance; every other one is taken for faces."""
CONTRAST_METHODS = 3
LETTER_SHARE = 0.016
"""Part of Figure 2's whole bar that a letter of its labels takes."""
FAMILY_STYLES = {
    "single": ("o", "#0072B2"), "pairs": ("s", "#E69F00"), "triples": ("^", "#009E73"),
    "compound": ("D", "#CC79A7"), "contempt": ("v", "#D55E00"),
}  # fmt: skip


@dataclass
class Picture:
    """A drawn figure: file stem, caption, what a reader who cannot see it should know, PNG bytes as base64."""

    name: str
    caption: str
    alternative: str
    figure: Figure
    png: str = ""

    @property
    def width(self) -> int:
        """CSS pixels on the page: the same scale, and so the same font size, for every figure."""
        return round(96 * float(self.figure.get_figwidth()))

    def save(self, folder: Path) -> None:
        """Write PNG (150 dpi) and PDF, and keep the PNG for the page."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=150)
        (folder / f"{self.name}.png").write_bytes(buffer.getvalue())
        self.figure.savefig(folder / f"{self.name}.pdf", metadata={"CreationDate": None})
        self.png = base64.b64encode(buffer.getvalue()).decode("ascii")


def all_figures(results: Results, tracker: Tracker) -> Iterator[Picture]:
    """The figures of pairs of data sets, then those of every data set, one at a time."""
    for contrast in (name for name in results.datasets if name in CONTRAST):
        for faces in (name for name in results.datasets if name not in CONTRAST):
            yield from _contrast_figures(results, tracker, contrast, faces)
    for dataset in results.datasets:
        if (results.of(dataset)["status"] == FINISHED).any():
            yield _auroc_by_method(results, dataset)
            yield from _histograms(results, tracker, dataset)


def _contrast_figures(results: Results, tracker: Tracker, contrast: str, faces: str) -> Iterator[Picture]:
    """Figures 1 and 2 on the first family, and its lowest seed, that has finished cells of both data sets."""
    pair = (contrast, faces)
    cells = results.cells[results.cells["dataset"].isin(pair)]
    done = cells[cells["status"] == FINISHED]
    parts = [set(zip(own["protocol"], own["seed"], strict=True)) for own in (done[done["dataset"] == d] for d in pair)]
    common = sorted(parts[0] & parts[1], key=lambda part: (FAMILY_ORDER.index(part[0]), part[1]))
    if not common:
        return
    family, seed = common[0]
    both = cells[(cells["protocol"] == family) & (cells["seed"] == seed)]
    columns = {name: both[both["dataset"] == name] for name in pair}
    ran = [set(own.loc[own["status"] == FINISHED, "method"]) for own in columns.values()]
    methods = [m for m in method_order(both["method"]) if m in ran[0] & ran[1]][:CONTRAST_METHODS]
    about = f"family {family}, seed {seed}"
    if methods:
        yield _score_contrast(columns, tracker, methods, about, demonstration(results, faces))
    if "baseline" in methods:
        own = {name: cells[cells["method"] == "baseline"] for name, cells in columns.items()}
        yield _label_contrast(own, tracker, about, demonstration(results, faces))


def _score_contrast(
    columns: dict[str, pd.DataFrame], tracker: Tracker, methods: list[str], about: str, note: str
) -> Picture:
    """Figure 1. columns: cells of the contrast data set, then of the faces, each by its name."""
    figure = Figure(figsize=(7.6, 1.1 + 1.75 * len(methods)), layout="constrained")
    grid = figure.subplots(len(methods), 2, squeeze=False)
    sentences = []
    for line, method in zip(grid, methods, strict=True):
        line[0].set_ylabel(method, fontsize=10, fontweight="bold")
        for axes, (name, cells) in zip(line, columns.items(), strict=True):
            sentences.append(f"{method} on {name} {_pooled_panel(axes, cells[cells['method'] == method], tracker)}")
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(f"{name}\n", fontsize=10.5, fontweight="bold", loc="left")
    figure.legend(handles=_group_handles(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.supxlabel("unknown score (higher = more likely open)", fontsize=9)
    contrast, faces = columns
    caption = (
        f"{contrast} (large inter-class distance) beside {faces} (small): unknown scores of closed and open images, "
        f"{about} (the paper's Figure 1). A panel pools the test images of the n finished choices of open classes, "
        "each with a model of its own; over it the AUROC of the pooled scores, which is what is drawn, and the mean of "
        f"the tables' n AUROCs. Shares and axes as in Figure 4.{note}"
    )
    alternative = f"Histograms of the unknown score, AUROC: {'; '.join(sentences)}."
    return Picture(f"figure1_{slug(faces)}_{slug(contrast)}", caption, alternative, figure)


def _pooled_panel(axes: Axes, cells: pd.DataFrame, tracker: Tracker) -> str:
    """Draw the finished cells' scores together; returns what the title says of their AUROC."""
    done = cells[cells["status"] == FINISHED].to_dict("records")
    read = [(float(cell["auroc"]), found) for cell in done if (found := _scores(tracker, str(cell["run_id"])))]
    axes.set_yticks([])
    if not read:
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.text(0.5, 0.5, "scores not found", ha="center", va="center", fontsize=9, color="0.4",
                  transform=axes.transAxes)  # fmt: skip
        return "scores not found"
    closed, opened = (np.concatenate([scores[group] for _, scores in read]) for group in (0, 1))
    draw_histogram(axes, closed, opened)
    pooled = auroc(np.repeat([False, True], [len(closed), len(opened)]), np.concatenate([closed, opened]))
    count = f"{len(read)}" if len(read) == len(cells) else f"{len(read)} of {len(cells)}"
    text = f"pooled {pooled:.3f}, mean {statistics.fmean(value for value, _ in read):.3f} (n = {count})"
    axes.set_title(f"AUROC {text}", fontsize=9, pad=3)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="x", labelsize=8, length=2, pad=1.5)
    return text


def _label_contrast(columns: dict[str, pd.DataFrame], tracker: Tracker, about: str, note: str) -> Picture:
    """Figure 2. columns: baseline's cells of the contrast data set, then of the faces, each by its name."""
    rows = max(map(len, columns.values()))
    figure = Figure(figsize=(10.0, 1.2 + 0.3 * rows), layout="constrained")
    sentences, accuracies = [], []
    for axes, (name, cells) in zip(figure.subplots(1, 2), columns.items(), strict=True):
        order = [label for _, label in protocol_order(zip(cells["protocol"], cells["open_classes"], strict=True))]
        by_label = {str(cell["open_classes"]): cell for cell in cells.to_dict("records")}
        told = [f"{label} {_share_bar(axes, place, by_label[label], tracker)}" for place, label in enumerate(order)]
        sentences.append(f"{name}: {', '.join(told)}")
        accuracies.append(f"{cells['closed_set_accuracy'].mean():.3f} ({name})")
        axes.set_title(name, fontsize=10.5, fontweight="bold", loc="left")
        axes.set_title(f"entropy, mean {cells['pseudo_label_entropy_open'].mean():.2f}", fontsize=9, loc="right")
        axes.set_yticks(range(len(order)), [label.replace("+", " +\n") for label in order], fontsize=9)
        axes.set_ylim(max(len(order), 0.6 * rows) - 0.5, -0.5)  # few bars do not grow thick
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8, length=2)
    figure.supxlabel(
        "share of the open images that get the closed class's label; dashed: an even spread's share of each class",
        fontsize=9,
    )
    contrast, faces = columns
    caption = (
        f"{contrast} (large inter-class distance) beside {faces} (small): what the closed-set model takes open images "
        f"for, {about} (the paper's Figure 2). A bar is one choice of open classes; its segments are the closed "
        "classes, the most frequent first, each named where there is room. Beside it the entropy of these pseudo "
        "labels: 0 when all are one class, 1 when spread evenly like symmetric label noise. A model that is often "
        f"wrong on closed images scatters labels too: its mean accuracy on them is {' and '.join(accuracies)}.{note}"
    )
    alternative = (
        "Shares of the open images' pseudo labels over the closed classes; for each open class the most frequent "
        f"label, its share and the entropy. {'. '.join(sentences)}."
    )
    return Picture(f"figure2_{slug(faces)}_{slug(contrast)}", caption, alternative, figure)


def _share_bar(axes: Axes, place: int, cell: dict[Any, Any], tracker: Tracker) -> str:
    """Draw a cell's shares of pseudo labels as a stacked bar; returns what it shows in words."""
    shares = _label_shares(tracker, str(cell["run_id"])) if cell["status"] == FINISHED else None
    if shares is None:
        text = "scores not found" if cell["status"] == FINISHED else str(cell["status"])
        axes.text(0.01, place, text, va="center", fontsize=9, color="0.4",
                  fontweight="bold" if text == FAILED else "normal")  # fmt: skip
        return text
    start, strongest = 0.0, np.array(to_rgb(OPEN_COLOUR))
    for rank, (name, share) in enumerate(shares.items()):
        paler = 0.85 * rank / (len(shares) - 1)  # at least two closed classes
        colour = tuple(strongest * (1 - paler) + paler)
        axes.barh(place, share, left=start, height=0.8, color=colour, edgecolor="white", linewidth=0.8)
        fitting = [text for text in (f"{name}: {share:.0%}", name) if (len(text) + 1) * LETTER_SHARE < share]
        if fitting:  # on a patch of the segment's colour, so that the dashed line does not cross it
            axes.text(start + share / 2, place, fitting[0], ha="center", va="center", fontsize=8, zorder=4,
                      bbox={"facecolor": colour, "edgecolor": "none", "pad": 1})  # fmt: skip
        start += share
    axes.plot([1 / len(shares)] * 2, [place - 0.5, place + 0.5], color="black", linewidth=1.2, linestyle="--")
    entropy = float(cell["pseudo_label_entropy_open"])
    axes.text(1.015, place, f"{entropy:.2f}", va="center", fontsize=9)
    name, share = next(iter(shares.items()))
    return f"mostly {name} ({share:.0%}, entropy {entropy:.2f})"


def _label_shares(tracker: Tracker, run_id: str) -> dict[str, float] | None:
    """Share of the open images by predicted class, largest first, 0 for a class none gets; None without the artifact.

    For the baseline, whose predicted class is the closed-set model's pseudo label.
    """
    frame = _read(tracker, run_id)
    if frame is None:
        return None
    is_open = frame["is_open"].to_numpy(dtype=bool)
    shares = frame.loc[is_open, "predicted_class"].value_counts(normalize=True)
    classes = {*frame.loc[~is_open, "truth"], *frame["predicted_class"]}
    return {str(name): float(share) for name, share in shares.items()} | dict.fromkeys(
        sorted(classes - set(shares.index)), 0.0
    )


def _auroc_by_method(results: Results, dataset: str) -> Picture:
    cells = results.of(dataset)
    methods = method_order(cells["method"])
    families = [f for f in FAMILY_STYLES if f in set(cells["protocol"])]
    figure = Figure(figsize=(8.0, 1.5 + 0.42 * len(methods)), layout="constrained")
    axes = figure.subplots()
    sentences = []
    for place, method in enumerate(methods):
        own = cells[cells["method"] == method]
        groups = own.groupby(["protocol", "open_classes"], sort=False)["auroc"].mean()
        values = {(str(key[0]), str(key[1])): float(v) for key, v in groups.items() if np.isfinite(v)}  # type: ignore[index]
        for family in families:
            marker, colour = FAMILY_STYLES[family]
            x = [value for (of, _), value in values.items() if of == family]
            offset = 0.12 * (families.index(family) - (len(families) - 1) / 2)
            axes.plot(x, [place + offset] * len(x), marker, color=colour, markersize=5, alpha=0.75, markeredgewidth=0,
                      label=family if place == 0 else None, zorder=2)  # fmt: skip
        text = "no finished cell"
        if values:
            mean = statistics.fmean(values.values())
            text = f"{mean:.3f} (n = {len(values)}" + (")" if len(values) == len(groups) else f" of {len(groups)})")
            axes.plot([mean, mean], [place - 0.36, place + 0.36], color="black", linewidth=2.2, zorder=3,
                      label="mean" if place == 0 else None)  # fmt: skip
        sentences.append(f"{method} {text}")
        axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    low = float(np.nanmin(cells["auroc"]))
    axes.set_xlim(min(0.45, low - 0.03), 1.01)
    axes.axvline(0.5, color="0.5", linewidth=1, linestyle=":", zorder=1)
    axes.annotate("chance", (0.5, 0), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points",
                  fontsize=8, color="0.35")  # fmt: skip
    axes.set_yticks(range(len(methods)), methods, fontsize=10)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("AUROC")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=9)
    caption = (
        f"{dataset}: AUROC by method. A mark is one choice of open classes (mean over seeds), the bar the mean over "
        f"the n choices that are finished.{demonstration(results, dataset)}"
    )
    return Picture(f"auroc_{slug(dataset)}", caption, f"Mean AUROC on {dataset}: {', '.join(sentences)}.", figure)


def _histograms(results: Results, tracker: Tracker, dataset: str) -> Iterator[Picture]:
    cells = results.of(dataset)
    seed = int(cells["seed"].min())
    cells = cells[cells["seed"] == seed]
    rows = protocol_order(zip(cells["protocol"], cells["open_classes"], strict=True))
    for family in dict.fromkeys(family for family, _ in rows):
        opened = [label for of, label in rows if of == family]
        own = cells[cells["protocol"] == family]
        methods = method_order(own["method"])
        planned = set(zip(own["open_classes"], own["method"], strict=True))
        parts = [
            (some_rows, some_methods)
            for some_methods in _chunks(methods, METHODS_PER_FIGURE)
            for some_rows in _chunks(
                [label for label in opened if any((label, method) in planned for method in some_methods)],
                ROWS_PER_FIGURE,
            )
        ]
        for number, (some_rows, some_methods) in enumerate(parts, start=1):
            figure = _grid(own, tracker, some_rows, some_methods)
            part = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
            caption = (
                f"{dataset}, family {family}{part}: unknown scores of closed and open faces, seed {seed} (the "
                "paper's Figure 4). Each panel: share of the group's faces in common bins; the axis runs from the 1st "
                f"to the 99th percentile, faces beyond it are counted in the outermost bins."
                f"{demonstration(results, dataset)}"
            )
            alternative = (
                f"Histograms of the unknown score on {dataset}: rows {', '.join(some_rows)}; columns "
                f"{', '.join(some_methods)}. The AUROC over each panel is that of the tables."
            )
            suffix = f"_{number}" if len(parts) > 1 else ""
            yield Picture(f"figure4_{slug(dataset)}_{family}{suffix}", caption, alternative, figure)


def _grid(cells: pd.DataFrame, tracker: Tracker, opened: list[str], methods: list[str]) -> Figure:
    by_key = {(row["open_classes"], row["method"]): row for row in cells.to_dict("records")}
    label_lines = max(label.count("+") for label in opened) + 1
    left, right, top, bottom, width, height = 0.3 + 0.16 * label_lines, 0.1, 0.75, 0.5, 1.75, 1.35
    total = (left + right + width * len(methods), top + bottom + height * len(opened))
    figure = Figure(figsize=total)
    grid = figure.subplots(len(opened), len(methods), squeeze=False)
    figure.subplots_adjust(
        left=left / total[0], right=1 - right / total[0], top=1 - top / total[1], bottom=bottom / total[1],
        wspace=0.18, hspace=0.62,
    )  # fmt: skip
    for line, label in zip(grid, opened, strict=True):
        for axes, method in zip(line, methods, strict=True):
            _panel(axes, by_key.get((label, method)), tracker)
        line[0].set_ylabel(label.replace("+", " +\n"), fontsize=9)
    for axes, method in zip(grid[0], methods, strict=True):
        axes.annotate(method, (0.5, 1), xycoords="axes fraction", xytext=(0, 20), textcoords="offset points",
                      ha="center", fontsize=10, fontweight="bold")  # fmt: skip
    figure.legend(handles=_group_handles(), loc="upper left", ncols=2, frameon=False, fontsize=9, borderaxespad=0.1)
    figure.text(0.5, 0.12 / total[1], "unknown score" + (" (higher = more likely open)" if len(methods) > 1 else ""),
                ha="center", fontsize=9)  # fmt: skip
    return figure


def _group_handles() -> list[Line2D]:
    return [
        Line2D([], [], color=CLOSED_COLOUR, linestyle="-", label="closed"),
        Line2D([], [], color=OPEN_COLOUR, linestyle="--", label="open"),
    ]


def _panel(axes: Axes, cell: dict[Any, Any] | None, tracker: Tracker) -> None:
    axes.set_yticks([])
    scores = _scores(tracker, str(cell["run_id"])) if cell is not None and cell["status"] == FINISHED else None
    if cell is None or scores is None:
        status = "not planned" if cell is None else str(cell["status"])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        text = {FINISHED: "scores not found"}.get(status, status)
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color="0.4", transform=axes.transAxes,
                  fontweight="bold" if status == FAILED else "normal")  # fmt: skip
        return
    draw_histogram(axes, *scores, bins=30)
    axes.set_title(f"AUROC {cell['auroc']:.3f}", fontsize=8.5, pad=3)
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(axis="x", labelsize=7.5, length=2, pad=1.5)


def _scores(tracker: Tracker, run_id: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Unknown scores of closed and of open faces; None when the artifact is gone."""
    frame = _read(tracker, run_id)
    if frame is None:
        return None
    is_open = frame["is_open"].to_numpy(dtype=bool)
    values = frame["unknown_score"].to_numpy(dtype=np.float64)
    return values[~is_open], values[is_open]


def _read(tracker: Tracker, run_id: str) -> pd.DataFrame | None:
    from mlflow.exceptions import MlflowException

    try:
        frame: pd.DataFrame = tracker.read_scores(run_id)
    except (MlflowException, OSError):
        return None
    return frame


def _chunks(items: list[str], size: int) -> list[list[str]]:
    """Runs of at most `size` items, of nearly equal length."""
    length = math.ceil(len(items) / math.ceil(len(items) / size))
    return [items[start : start + length] for start in range(0, len(items), length)]
