"""Figures 1 and 2 (faces beside a data set with large inter-class distance), Figure 4, and mean AUROC by method."""

from __future__ import annotations

import base64
import io
import math
import re
import statistics
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from open_set_fer.benchmark.metrics import auroc
from open_set_fer.benchmark.pictures import CLOSED_COLOUR, OPEN_COLOUR, draw_histogram
from open_set_fer.datasets.cifar10 import Cifar10
from open_set_fer.datasets.digits import Digits
from open_set_fer.reports.names import dataset_name, method_name
from open_set_fer.reports.query import FAILED, FAMILY_ORDER, FINISHED, Results, method_order, protocol_order
from open_set_fer.reports.tables import demonstration, slug

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from open_set_fer.benchmark.tracking import Tracker

COLUMN_WIDTH, PAGE_WIDTH = 239 / 72.27, 504 / 72.27
"""Inches: a column and a page of the paper's format, so that no font is scaled in print. None is below 7 pt."""
FILES: dict[Any, Any] = {
    "pdf.fonttype": 42, "ps.fonttype": 42,  # publishers refuse Type 3 fonts
    "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"],
}  # fmt: skip
METHODS_PER_FIGURE, ROWS_PER_FIGURE = 6, 8
CONTRAST = (Digits.name, Cifar10.name)
"""Data sets with large inter-class distance; every other one is taken for faces."""
CONTRAST_METHODS = 3
SOFT = 0.65
"""Opacity of black for what matters less: a grey on white and on a dark page."""
LETTER_SHARE = 0.0115
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

    def save(self, folder: Path) -> list[Path]:
        """Write PNG (150 dpi), PDF and SVG, and keep the PNG for the page; returns what was written."""
        png, pdf, svg = (folder / f"{self.name}.{suffix}" for suffix in ("png", "pdf", "svg"))
        with matplotlib.rc_context(FILES):
            buffer = io.BytesIO()
            self.figure.savefig(buffer, format="png", dpi=150)
            png.write_bytes(buffer.getvalue())
            self.figure.savefig(pdf, metadata={"CreationDate": None})
        svg.write_text(self.svg().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1), "utf-8")
        self.png = base64.b64encode(buffer.getvalue()).decode("ascii")
        return [png, pdf, svg]

    def svg(self) -> str:
        """An <svg> element to stand in an HTML page: ids of its own, text and axes in the page's text colour.

        The ground is transparent; white lines between areas take the page's `--page` colour where it has one.
        """
        buffer = io.BytesIO()
        with matplotlib.rc_context(FILES | {"svg.hashsalt": self.name}):
            self.figure.savefig(
                buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
            )
        root = ET.fromstring(buffer.getvalue())
        for parent in list(root.iter()):
            for child in [c for c in parent if _local(c.tag) in ("metadata", "style")]:
                parent.remove(child)
        for element in root.iter():
            element.tag = _local(element.tag)
            element.attrib = {_local(name): self._themed(_local(name), text) for name, text in element.attrib.items()}
        titles = {"title": re.split(r"[:;.] ", self.alternative)[0], "desc": self.alternative}
        for place, (tag, text) in enumerate(titles.items()):
            made = ET.Element(tag, {"id": f"{self.name}-{tag}"})
            made.text = text
            root.insert(place, made)
        root.attrib = {
            "viewBox": root.attrib["viewBox"], "width": str(self.width), "style": "max-width: 100%; height: auto",
            "role": "img", "aria-labelledby": f"{self.name}-title {self.name}-desc",
            "fill": "currentColor", "stroke-linejoin": "round", "stroke-linecap": "butt",
        }  # fmt: skip
        return ET.tostring(root, encoding="unicode")

    def _themed(self, name: str, text: str) -> str:
        if name == "id":
            return f"{self.name}-{text}"
        text = re.sub(r"(^|url\()#", rf"\1#{self.name}-", text) if name in ("href", "clip-path") else text
        return text.replace("#000000", "currentColor").replace("stroke: #ffffff", "stroke: var(--page, #ffffff)")


def _local(name: str) -> str:
    """An XML name without its name space: HTML knows SVG's names by themselves."""
    return name.rpartition("}")[2]


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
    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + 1.4 * len(methods)), layout="constrained")
    grid = figure.subplots(len(methods), 2, squeeze=False)
    sentences = []
    for line, method in zip(grid, methods, strict=True):
        line[0].set_ylabel(method_name(method), fontsize=8, fontweight="bold")
        for axes, (name, cells) in zip(line, columns.items(), strict=True):
            about_panel = f"{method_name(method)} on {dataset_name(name)}"
            sentences.append(f"{about_panel} {_pooled_panel(axes, cells[cells['method'] == method], tracker)}")
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(f"{dataset_name(name)}\n", fontsize=9, fontweight="bold", loc="left")
    figure.legend(handles=_group_handles(), loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    figure.supxlabel("unknown score (higher = more likely open)", fontsize=8)
    figure.supylabel("share of images", fontsize=8)
    contrast, faces = columns
    contrast_name, faces_name = map(dataset_name, columns)
    caption = (
        f"{contrast_name} (large inter-class distance) beside {faces_name} (small): unknown scores of closed and open images, "
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
    if not read:
        _say(axes, "scores not found")
        return "scores not found"
    closed, opened = (np.concatenate([scores[group] for _, scores in read]) for group in (0, 1))
    draw_histogram(axes, closed, opened)
    pooled = auroc(np.repeat([False, True], [len(closed), len(opened)]), np.concatenate([closed, opened]))
    count = f"{len(read)}" if len(read) == len(cells) else f"{len(read)} of {len(cells)}"
    text = f"pooled {pooled:.3f}, mean {statistics.fmean(value for value, _ in read):.3f} (n = {count})"
    axes.set_title(f"AUROC {text}", fontsize=8, pad=3)
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelsize=7, length=2, pad=1.5)
    return text


def _say(axes: Axes, text: str) -> None:
    """An empty panel with a word on why it is empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, color="black", alpha=SOFT, transform=axes.transAxes,
              fontweight="bold" if text == FAILED else "normal")  # fmt: skip


def _label_contrast(columns: dict[str, pd.DataFrame], tracker: Tracker, about: str, note: str) -> Picture:
    """Figure 2. columns: baseline's cells of the contrast data set, then of the faces, each by its name."""
    orders = [
        [label for _, label in protocol_order(zip(cells["protocol"], cells["open_classes"], strict=True))]
        for cells in columns.values()
    ]
    rows = [sum(label.count("+") + 1 for label in order) for order in orders]
    figure = Figure(figsize=(PAGE_WIDTH, 1.3 + 0.21 * sum(rows)), layout="constrained")
    panels = figure.subplots(2, 1, height_ratios=rows, sharex=True)
    sentences, accuracies = [], []
    for axes, order, (label, cells) in zip(panels, orders, columns.items(), strict=True):
        name = dataset_name(label)
        by_label = {str(cell["open_classes"]): cell for cell in cells.to_dict("records")}
        told = [f"{label} {_share_bar(axes, place, by_label[label], tracker)}" for place, label in enumerate(order)]
        sentences.append(f"{name}: {', '.join(told)}")
        accuracies.append(f"{cells['closed_set_accuracy'].mean():.3f} ({name})")
        axes.set_title(name, fontsize=9, fontweight="bold", loc="left")
        axes.set_title(f"entropy, mean {cells['pseudo_label_entropy_open'].mean():.2f}", fontsize=8, loc="right")
        axes.set_yticks(range(len(order)), [label.replace("+", " +\n") for label in order], fontsize=8)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=7, length=2, labelbottom=True)
    figure.supxlabel(
        "share of the open images that get the closed class's label; dashed: an even spread's share of each class",
        fontsize=8,
    )
    contrast, faces = columns
    contrast_name, faces_name = map(dataset_name, columns)
    caption = (
        f"{contrast_name} (large inter-class distance) beside {faces_name} (small): what the closed-set model takes open images "
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
        axes.text(0.01, place, text, va="center", fontsize=8, color="black", alpha=SOFT,
                  fontweight="bold" if text == FAILED else "normal")  # fmt: skip
        return text
    start, strongest = 0.0, np.array(to_rgb(OPEN_COLOUR))
    for rank, (name, share) in enumerate(shares.items()):
        paler = 0.85 * rank / (len(shares) - 1)  # at least two closed classes
        colour = tuple(strongest * (1 - paler) + paler)
        axes.barh(place, share, left=start, height=0.8, color=colour, edgecolor="white", linewidth=0.8)
        fitting = [text for text in (f"{name}: {share:.0%}", name) if (len(text) + 1) * LETTER_SHARE < share]
        if fitting:  # on a patch of the segment's colour, so that the dashed line does not cross it
            axes.text(start + share / 2, place, fitting[0], ha="center", va="center", fontsize=7, zorder=4,
                      color="#111111",  # dark on a dark page too: the segments are light
                      bbox={"facecolor": colour, "edgecolor": "none", "pad": 1})  # fmt: skip
        start += share
    axes.plot([1 / len(shares)] * 2, [place - 0.5, place + 0.5], color="black", linewidth=1.2, linestyle="--")
    entropy = float(cell["pseudo_label_entropy_open"])
    axes.text(1.015, place, f"{entropy:.2f}", va="center", fontsize=8)
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
    figure = Figure(figsize=(PAGE_WIDTH, 1.0 + 0.26 * len(methods)), layout="constrained")
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
            axes.plot(x, [place + offset] * len(x), marker, color=colour, markersize=4, alpha=0.9, markeredgewidth=0,
                      label=family if place == 0 else None, zorder=2)  # fmt: skip
        text = "no finished cell"
        if values:
            mean = statistics.fmean(values.values())
            text = f"{mean:.3f} (n = {len(values)}" + (")" if len(values) == len(groups) else f" of {len(groups)})")
            axes.plot([mean, mean], [place - 0.36, place + 0.36], color="black", linewidth=2.2, zorder=3,
                      label="mean" if place == 0 else None)  # fmt: skip
        sentences.append(f"{method_name(method)} {text}")
        axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    low = float(np.nanmin(cells["auroc"]))
    axes.set_xlim(min(0.45, low - 0.03), 1.01)
    axes.axvline(0.5, color="black", alpha=0.5, linewidth=1, linestyle=":", zorder=1)
    axes.annotate("chance", (0.5, 0), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points",
                  fontsize=7, color="black", alpha=SOFT)  # fmt: skip
    axes.set_yticks(range(len(methods)), list(map(method_name, methods)), fontsize=8)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="x", color="black", alpha=0.12)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("AUROC", fontsize=8)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    caption = (
        f"{dataset_name(dataset)}: AUROC by method. A mark is one choice of open classes (mean over seeds), the bar the mean over "
        f"the n choices that are finished.{demonstration(results, dataset)}"
    )
    return Picture(
        f"auroc_{slug(dataset)}", caption, f"Mean AUROC on {dataset_name(dataset)}: {', '.join(sentences)}.", figure
    )


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
                f"{dataset_name(dataset)}, family {family}{part}: unknown scores of closed and open faces, seed {seed} (the "
                "paper's Figure 4). Each panel: share of the group's faces in common bins; the axis runs from the 1st "
                f"to the 99th percentile, faces beyond it are counted in the outermost bins."
                f"{demonstration(results, dataset)}"
            )
            alternative = (
                f"Histograms of the unknown score on {dataset_name(dataset)}: rows {', '.join(some_rows)}; columns "
                f"{', '.join(map(method_name, some_methods))}. The AUROC over each panel is that of the tables."
            )
            suffix = f"_{number}" if len(parts) > 1 else ""
            yield Picture(f"figure4_{slug(dataset)}_{family}{suffix}", caption, alternative, figure)


def _grid(cells: pd.DataFrame, tracker: Tracker, opened: list[str], methods: list[str]) -> Figure:
    by_key = {(row["open_classes"], row["method"]): row for row in cells.to_dict("records")}
    width = PAGE_WIDTH if len(methods) > 2 else COLUMN_WIDTH
    figure = Figure(figsize=(width, 0.9 + 1.05 * len(opened)), layout="constrained")
    grid = figure.subplots(len(opened), len(methods), squeeze=False)
    for line, label in zip(grid, opened, strict=True):
        for axes, method in zip(line, methods, strict=True):
            _panel(axes, by_key.get((label, method)), tracker)
        line[0].set_ylabel(label.replace("+", " +\n"), fontsize=8)
    for axes, method in zip(grid[0], methods, strict=True):
        name = textwrap.fill(method_name(method), 14)
        axes.set_title(f"{name}\n", fontsize=7, fontweight="bold", loc="left")
    figure.legend(handles=_group_handles(), loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    figure.supxlabel("unknown score (higher = more likely open)", fontsize=8)
    figure.supylabel("share of faces", fontsize=8)
    return figure


def _group_handles() -> list[Line2D]:
    return [
        Line2D([], [], color=CLOSED_COLOUR, linestyle="-", label="closed"),
        Line2D([], [], color=OPEN_COLOUR, linestyle="--", label="open"),
    ]


def _panel(axes: Axes, cell: dict[Any, Any] | None, tracker: Tracker) -> None:
    scores = _scores(tracker, str(cell["run_id"])) if cell is not None and cell["status"] == FINISHED else None
    if cell is None or scores is None:
        status = "not planned" if cell is None else str(cell["status"])
        _say(axes, {FINISHED: "scores not found"}.get(status, status))
        return
    draw_histogram(axes, *scores, bins=30)
    axes.set_title(f"AUROC {cell['auroc']:.3f}", fontsize=7.5, pad=3)
    axes.locator_params(axis="x", nbins=3)
    axes.locator_params(axis="y", nbins=2)
    axes.tick_params(labelsize=7, length=2, pad=1.5)


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
