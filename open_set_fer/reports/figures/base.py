"""What every figure of a report is: its files, its SVG for the page, sizes and the parts that several figures draw."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from open_set_fer.benchmark.storage.pictures import CLOSED_COLOUR, OPEN_COLOUR, group_names
from open_set_fer.reports.data.results import FAILED, FINISHED, Results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

COLUMN_WIDTH, PAGE_WIDTH = 239 / 72.27, 504 / 72.27
"""Inches: a column and a page of the paper's format, so that no font is scaled in print. None is below 7 pt."""
FILES: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "ps.fonttype": 42,  # publishers refuse Type 3 fonts
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],
}
SOFT = 0.65
"""Opacity of black for what matters less: a grey on white and on a dark page."""
SCORES_GONE = "scores not found"


@dataclass
class ReportFigure:
    """A drawn figure: file stem, title for a list of figures, caption, what a reader who cannot see it should know."""

    name: str
    title: str
    caption: str
    alternative: str
    figure: Figure
    _svg: str = field(default="", init=False, repr=False)
    _is_laid_out: bool = field(default=False, init=False, repr=False)

    @property
    def width(self) -> int:
        """CSS pixels on the page: the same scale, and so the same font size, for every figure."""
        return round(96 * float(self.figure.get_figwidth()))

    def save(self, folder: Path) -> list[Path]:
        """Write PNG (150 dpi), PDF and SVG; returns what was written."""
        png, pdf, svg = (folder / f"{self.name}.{suffix}" for suffix in ("png", "pdf", "svg"))
        self._lay_out()
        with matplotlib.rc_context(FILES):
            self.figure.savefig(png, dpi=150)
            self.figure.savefig(pdf, metadata={"CreationDate": None})
        svg.write_text(self.svg().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1), "utf-8")
        return [png, pdf, svg]

    def svg(self) -> str:
        """An <svg> element to stand in an HTML page: ids of its own, text and axes in the page's text colour.

        The ground is transparent; white lines between areas take the page's `--page` colour where it has one.
        """
        self._svg = self._svg or self._drawn()  # a second's work, wanted for the page and for the file
        return self._svg

    def _lay_out(self) -> None:
        """Place what is in the figure once, not again for every file: it takes longer than drawing."""
        if not self._is_laid_out:
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")
            self._is_laid_out = True

    def _drawn(self) -> str:
        self._lay_out()
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


def grouped_scores(results: Results, run_id: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Unknown scores of closed and of open faces; None when the artifact is gone."""
    frame = results.scores(run_id)
    if frame is None:
        return None
    is_open = frame["is_open"].to_numpy(dtype=bool)
    values = frame["unknown_score"].to_numpy(dtype=np.float64)
    return values[~is_open], values[is_open]


def why_empty(cell: pd.Series[Any] | None) -> str:
    """Why there is nothing to draw of a cell."""
    if cell is None:
        return "not planned"
    return SCORES_GONE if cell["status"] == FINISHED else str(cell["status"])


def draw_word(axes: Axes, text: str) -> None:
    """An empty panel with a word on why it is empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, **word_style(text))


def word_style(text: str) -> dict[str, Any]:
    """How a word in the place of a number or histogram is set."""
    return {"fontsize": 8, "color": "black", "alpha": SOFT, "fontweight": "bold" if text == FAILED else "normal"}


def group_handles(names: tuple[str, str] = group_names(False)) -> list[Line2D]:
    """The legend of closed and open faces, or of what is told apart in their place."""
    return [
        Line2D([], [], color=CLOSED_COLOUR, linestyle="-", label=names[0]),
        Line2D([], [], color=OPEN_COLOUR, linestyle="--", label=names[1]),
    ]
