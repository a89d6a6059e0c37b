"""Figures of a report: files, SVG for the page, style, grids of panels, captions and what several figures draw."""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from open_set_fer.benchmark.storage.pictures import CLOSED_COLOUR, OPEN_COLOUR, group_names, plain_style
from open_set_fer.reports.data.results import FAILED, FINISHED, Results, protocol_order
from open_set_fer.reports.tables.build import demonstration, slug

Row = TypeVar("Row")
Column = TypeVar("Column")
Item = TypeVar("Item")

COLUMN_WIDTH, PAGE_WIDTH = 239 / 72.27, 504 / 72.27
"""Inches: a column and a page of the paper's format, so that no font is scaled in print."""
STYLE = {
    "pdf.fonttype": 42,
    "ps.fonttype": 42,  # publishers refuse Type 3 fonts
    "svg.fonttype": "none",
    "figure.dpi": 200,  # of points drawn as an image
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "figure.labelsize", "legend.fontsize"), 8),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.title_fontsize"), 7),  # the smallest
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
}
styled = plain_style(STYLE)  # decorator of a function that draws a figure
SOFT = 0.65  # opacity of black for what matters less: a grey on white and on a dark page


@dataclass
class ReportFigure:
    """A drawn figure: file stem, title for a list of figures, caption, description for a reader who cannot see it."""

    name: str
    title: str
    caption: str
    alternative: str
    figure: Figure

    def __post_init__(self) -> None:
        """Place what is in the figure once, not again for every file: it takes longer than drawing."""
        with plain_style(STYLE):
            self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")

    @property
    def width(self) -> int:
        """CSS pixels on the page: the same scale, and so the same font size, for every figure."""
        return round(96 * float(self.figure.get_figwidth()))

    def save(self, folder: Path) -> list[Path]:
        """Write PNG (150 dpi), PDF and SVG; returns what was written."""
        png, pdf, svg = (folder / f"{self.name}.{suffix}" for suffix in ("png", "pdf", "svg"))
        with plain_style(STYLE):
            self.figure.savefig(png, dpi=150)
            self.figure.savefig(pdf, metadata={"CreationDate": None})
        svg.write_text(self.svg().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1), "utf-8")
        return [png, pdf, svg]

    def svg(self) -> str:
        """An <svg> element for an HTML page, with unique ids, text and axes in the page's text colour.

        The ground is transparent; white lines between areas take the page's `--page` colour where it has one.
        """
        return self._svg

    @cached_property
    def _svg(self) -> str:  # takes a second; used by the page and the file
        buffer = io.BytesIO()
        with plain_style(STYLE | {"svg.hashsalt": self.name}):
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
            element = ET.Element(tag, {"id": f"{self.name}-{tag}"})
            element.text = text
            root.insert(place, element)
        root.attrib = {
            "viewBox": root.attrib["viewBox"],
            "width": str(self.width),
            "style": "max-width: 100%; height: auto",
            "role": "img",
            "aria-labelledby": f"{self.name}-title {self.name}-desc",
            "fill": "currentColor",
            "stroke-linejoin": "round",
            "stroke-linecap": "butt",
        }
        return ET.tostring(root, encoding="unicode")

    def _themed(self, name: str, text: str) -> str:
        if name == "id":
            return f"{self.name}-{text}"
        text = re.sub(r"(^|url\()#", rf"\1#{self.name}-", text) if name in ("href", "clip-path") else text
        return text.replace("#000000", "currentColor").replace("stroke: #ffffff", "stroke: var(--page, #ffffff)")


def _local(name: str) -> str:
    """An XML name without its name space: HTML knows SVG's names by themselves."""
    return name.rpartition("}")[2]


def captioned(
    results: Results, dataset: str, stem: Sequence[str], title: str, caption: str, alternative: str, figure: Figure
) -> ReportFigure:
    """A figure of a data set; its caption says so where the data are synthetic. stem: parts of the file stem."""
    name = "_".join(slug(part) for part in stem if part)
    return ReportFigure(name, title, caption + demonstration(results, dataset), alternative, figure)


def panel_grid(
    rows: Mapping[Row, str],
    columns: Mapping[Column, str],
    draw: Callable[[Axes, Row, Column], str],
    size: tuple[float, float],
    *,
    layout: Literal["constrained", "compressed"] = "constrained",
    **subplots: Any,
) -> tuple[Figure, list[str]]:
    """A figure with a panel for each row and column, and what `draw(axes, row, column)` returns of each in words.

    rows, columns: with the label beside each row and the heading over each column.
    """
    figure = Figure(figsize=size, layout=layout)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, **subplots)
    panels = zip(grid.flat, product(rows, columns), strict=True)
    words = [draw(axes, row, column) for axes, (row, column) in panels]
    for axes, label in zip(grid[:, 0], rows.values(), strict=True):
        axes.set_ylabel(label)
    for axes, heading in zip(grid[0], columns.values(), strict=True):
        if heading:
            axes.set_title(f"{heading}\n", fontweight="bold", loc="left")
    return figure, words


def by_family(results: Results, dataset: str) -> Iterator[tuple[str, pd.DataFrame, list[str]]]:
    """Each family of a data set with its cells of the lowest seed and its open classes, in the tables' order."""
    cells = results.of(dataset)
    cells = cells[cells["seed"] == cells["seed"].min()]
    order = protocol_order(cells)
    for family in dict.fromkeys(family for family, _ in order):
        yield family, cells[cells["protocol"] == family], [label for name, label in order if name == family]


def chunks(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    """Runs of at most `most` items, of nearly equal length."""
    count = math.ceil(len(items) / most)
    return [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]


def numbered(parts: Sequence[Item]) -> Iterator[tuple[Item, str, str]]:
    """Each part of a figure with what its title and its file stem say of it: nothing where it is the only one."""
    for number, part in enumerate(parts, start=1):
        yield (part, f", part {number} of {len(parts)}", str(number)) if len(parts) > 1 else (part, "", "")


def cell_scores(results: Results, cells: pd.DataFrame) -> pd.DataFrame | str:
    """Scores of the first of these cells, or why there are none."""
    if cells.empty:
        return "not planned"
    cell = cells.iloc[0]
    if cell["status"] != FINISHED:
        return str(cell["status"])
    scores = results.scores(cell["run_id"])
    return "scores not found" if scores is None else scores


def grouped(scores: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unknown scores of closed and of open faces."""
    is_open = scores["is_open"].to_numpy(dtype=bool)
    values = scores["unknown_score"].to_numpy(dtype=np.float64)
    return values[~is_open], values[is_open]


def placeholder(axes: Axes, text: str) -> str:
    """Write in an empty panel why it is empty; returns that."""
    without_ticks(axes)
    axes.spines[:].set_visible(False)
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, **placeholder_style(text))
    return text


def placeholder_style(text: str) -> dict[str, Any]:
    """How a text in the place of a number or histogram is set."""
    return {"color": "black", "alpha": SOFT, "fontweight": "bold" if text == FAILED else "normal"}


def without_ticks(axes: Axes) -> None:
    """Make a panel a pale frame without numbers."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, alpha=0.3)


def chance_line(axes: Axes) -> None:
    """Mark an AUROC of 0.5."""
    axes.axvline(0.5, color="black", alpha=0.5, linewidth=1, linestyle=":", zorder=1.5)
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (3, 3), "textcoords": "offset points"}
    axes.annotate("chance", (0.5, 0), fontsize=7, color="black", alpha=SOFT, **place)


def group_handles(names: tuple[str, str] = group_names(False)) -> list[Line2D]:
    """The legend of closed and open faces, or of a control's groups."""
    closed = Line2D([], [], color=CLOSED_COLOUR, linestyle="-", label=names[0])
    return [closed, Line2D([], [], color=OPEN_COLOUR, linestyle="--", label=names[1])]
