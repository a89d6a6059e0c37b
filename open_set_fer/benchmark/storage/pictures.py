"""Pictures of one cell: the histogram of its unknown scores, also a panel of the report's Figure 4, and a sheet of faces."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from open_set_fer.datasets.checks import GAP, MARGIN, TILE, TITLE, face_tile
from open_set_fer.datasets.faceset import FaceSet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from open_set_fer.benchmark.evaluation.result import CellResult

CLOSED_COLOUR, OPEN_COLOUR = "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion: told apart with every common colour blindness."""

FACES = 8
"""Faces in a row of the sheet."""
PICTURE = 640, 400
"""Width and height of a histogram, px."""

Scores = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]


def score_range(closed: Scores, opened: Scores, bins: int) -> tuple[float, float]:
    """Axis limits: from the lower of both groups' 1st percentiles to the higher of their 99th ones.

    Taken by group, so that few open faces are not cut off by many closed ones. Widened where scores are constant.
    """
    groups = [group for group in (closed, opened) if len(group)]
    if not groups:
        return 0.0, 1.0
    lows, highs = zip(*(np.percentile(group, [1, 99]) for group in groups), strict=True)
    low, high = float(min(lows)), float(max(highs))
    if high <= low:
        low, high = min(float(g.min()) for g in groups), max(float(g.max()) for g in groups)
    magnitude = max(abs(low), abs(high))
    if high - low <= 2 * bins * float(np.spacing(magnitude)):  # no room for distinct bin edges
        padding = max(0.5, 1e-3 * magnitude)
        low, high = low - padding, high + padding
    return low, high


def group_names(is_control: bool, is_shift: bool = False) -> tuple[str, str]:
    """What the faces to accept and those to find are: closed and open ones, in a control labels as given and flipped."""
    if is_shift:
        return "unshifted", "shifted"
    return ("label as it was", "label flipped") if is_control else ("closed", "open")


NAMES = group_names(False)


def names_of(result: CellResult) -> tuple[str, str]:
    """What they are in this cell."""
    return group_names(result.is_control, result.is_shift)


def score_shares(closed: Scores, opened: Scores, bins: int) -> tuple[Floats, list[Floats], int]:
    """Edges of common bins, each group's share in them, and how many faces lie beyond: these count in the outermost bins."""
    closed, opened = np.asarray(closed, dtype=np.float64), np.asarray(opened, dtype=np.float64)
    low, high = score_range(closed, opened, bins)
    edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(np.clip(x, low, high), edges)[0] / max(len(x), 1) for x in (closed, opened)]
    return edges, shares, sum(int(np.sum((x < low) | (x > high))) for x in (closed, opened))


def draw_histogram(axes: Axes, closed: Scores, opened: Scores, bins: int = 40, names: tuple[str, str] = NAMES) -> int:
    """Draw both groups' shares in common bins; scores beyond the axis count in the outermost bins.

    names: of the groups. Returns how many faces lie beyond the axis.
    """
    edges, shares, beyond = score_shares(closed, opened, bins)
    for share, count, colour, style, name in zip(
        shares, (len(closed), len(opened)), (CLOSED_COLOUR, OPEN_COLOUR), ("-", "--"), names, strict=True
    ):
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(share, edges, color=colour, linewidth=1.2, linestyle=style, label=f"{name} ({count} faces)")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    return beyond


@dataclass(frozen=True)
class Histogram:
    """A cell's histogram before it is drawn.

    shares: of both groups in the bins between `edges`. names: of the groups, with their faces. axis: what is written below.
    """

    title: str
    edges: Floats
    shares: list[Floats]
    names: list[str]
    axis: str

    def draw(self) -> Image.Image:
        """The picture, in Pillow: every cell has one, and matplotlib takes ten times as long as MLflow for the whole cell."""
        left, top, right, bottom = 78, 48, PICTURE[0] - 36, PICTURE[1] - 70
        highest = max(1.05 * float(np.max(self.shares)), 1e-9)
        places = np.round(left + (right - left) * np.linspace(0, 1, len(self.edges))).astype(int)
        canvas = np.full((PICTURE[1], PICTURE[0], 3), 255, dtype=np.uint8)
        for share, colour, gap in zip(self.shares, (CLOSED_COLOUR, OPEN_COLOUR), (0, 6), strict=True):
            paint = np.array(ImageColor.getrgb(colour))
            tops = np.round(bottom - (bottom - top) * share / highest).astype(int)
            for x, end, y in zip(places, places[1:], tops, strict=False):
                canvas[y:bottom, x:end] = 0.7 * canvas[y:bottom, x:end] + 0.3 * paint
            outline = Image.new("1", PICTURE)
            corners = [
                (left, bottom),
                *((x, y) for n, y in enumerate(tops) for x in places[n : n + 2]),
                (right, bottom),
            ]
            ImageDraw.Draw(outline).line([(int(x), int(y)) for x, y in corners], 1, 2)
            rows, columns = np.nonzero(np.asarray(outline))
            drawn = (rows + columns) % 18 >= gap  # of lines straight up or across: dashes
            canvas[rows[drawn], columns[drawn]] = paint
        picture = Image.fromarray(canvas)
        draw = ImageDraw.Draw(picture)
        draw.line([(left, top), (left, bottom), (right, bottom)], "black", 1)
        for value, text in _ticks(0, highest, 8):
            y = round(bottom - (bottom - top) * value / highest)
            draw.line([(left - 6, y), (left, y)], "black", 1)
            draw.text((left - 10, y), text, "black", _font(11), "rm")
        span = float(self.edges[-1] - self.edges[0])
        for value, text in _ticks(float(self.edges[0]), float(self.edges[-1]), 8):
            x = round(left + (right - left) * (value - float(self.edges[0])) / span)
            draw.line([(x, bottom), (x, bottom + 6)], "black", 1)
            draw.text((x, bottom + 9), text, "black", _font(11), "ma")
        middle = (left + right) // 2
        draw.text(
            (middle, top - 10), "\n".join(textwrap.wrap(self.title, 76)[:2]), "black", _font(13), "md", align="center"
        )
        draw.text((middle, bottom + 27), self.axis, "black", _font(12), "ma", align="center")
        picture.paste(_upright("share of the group's faces", bottom - top), (6, top))
        self._legend(draw, left, right, top)
        return picture

    def _legend(self, draw: ImageDraw.ImageDraw, left: int, right: int, top: int) -> None:
        """Where the bars are lowest: in the right half or the left."""
        half = len(self.edges) // 2
        width = 40 + max(int(draw.textlength(name, _font(12))) for name in self.names)
        is_right = np.max([x[half:] for x in self.shares]) <= np.max([x[:half] for x in self.shares])
        x = right - width if is_right else left + 16
        for row, (name, colour) in enumerate(zip(self.names, (CLOSED_COLOUR, OPEN_COLOUR), strict=True)):
            y = top + 12 + 24 * row
            for start, end in [(0, 28)] if row == 0 else [(0, 11), (17, 28)]:
                draw.line([(x + start, y), (x + end, y)], colour, 3)
            draw.text((x + 36, y), name, "black", _font(12), "lm")


def score_histogram(scores: pd.DataFrame, title: str, names: tuple[str, str] = NAMES) -> Histogram:
    """Histogram of one cell's scores (columns is_open, unknown_score), closed against open faces.

    names: what they are in this cell (`group_names`).
    """
    is_open = scores["is_open"].to_numpy(dtype=bool)
    values = scores["unknown_score"].to_numpy(dtype=np.float64)
    groups = values[~is_open], values[is_open]
    edges, shares, beyond = score_shares(*groups, bins=40)
    axis = f"unknown score (higher = more likely {names[1]})"
    if beyond:
        axis += f"\naxis: 1st to 99th percentile; {beyond} faces beyond it are in the outermost bins"
    counted = [f"{name} ({len(group)} faces)" for name, group in zip(names, groups, strict=True)]
    return Histogram(title, edges, shares, counted, axis)


def _ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Round numbers from `low` to `high`, with as many digits as tell them apart."""
    from matplotlib.ticker import MaxNLocator

    values = [float(x) for x in MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)]
    step = values[1] - values[0]
    digits = max(1, 1 + math.floor(math.log10(max(map(abs, values)))) - math.floor(math.log10(step) + 1e-9))
    shown = [0.0 if abs(x) < step / 100 else x for x in values if low <= x <= high]
    return [(x, f"{x:.{min(digits + 1, 15)}g}") for x in shown]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own, which has more letters than Pillow's."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


@cache
def _upright(text: str, height: int) -> Image.Image:
    """The text from bottom to top, in the middle of `height`; kept, as each histogram has the same."""
    written = Image.new("RGB", (height, 24), "white")
    ImageDraw.Draw(written).text((height // 2, 0), text, "black", _font(12), "ma")
    return written.rotate(90, expand=True)


def sheet_rows(scores: pd.DataFrame, names: tuple[str, str] = NAMES) -> list[tuple[str, NDArray[np.int64]]]:
    """The sheet's rows: what they show, and up to FACES places in the pool (rows of `scores`), the most extreme first."""
    is_open = scores["is_open"].to_numpy(dtype=bool)
    order = np.argsort(scores["unknown_score"].to_numpy(dtype=np.float64), kind="stable")
    opened, closed = order[is_open[order]], order[~is_open[order]]
    to_accept, to_find = names
    return [
        (f"{to_find}, highest scores: found", opened[::-1][:FACES]),
        (f"{to_find}, lowest scores: missed", opened[:FACES]),
        (f"{to_accept}, highest scores: false alarms", closed[::-1][:FACES]),
        (f"{to_accept}, lowest scores: accepted", closed[:FACES]),
    ]


def face_sheet(
    faces: FaceSet, pool: NDArray[np.int64], scores: pd.DataFrame, title: str, names: tuple[str, str] = NAMES
) -> Image.Image:
    """The faces at both ends of one cell's scores, each with its true class and its score.

    pool: (N,) indices into `faces` in the order of `scores` (N rows: is_open, unknown_score, true_class).
    names: what closed and open faces are in this cell (`group_names`).
    """
    heading, caption = 24, 50  # px: a row's name above it; two lines of a class and one of a score below each face
    height = heading + TILE + caption
    rows = sheet_rows(scores, names)
    mode = "L" if faces.images.shape[1] == 1 else "RGB"
    sheet = Image.new(mode, (2 * MARGIN + FACES * (TILE + GAP) - GAP, TITLE + len(rows) * height + GAP), "white")
    if faces.demonstration:
        title += "\nrendered faces, demonstration only"
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 5), title, "black", _font(11))
    true_class, unknown_score = scores["true_class"].to_numpy(), scores["unknown_score"].to_numpy()
    for row, (name, places) in enumerate(rows):
        top = TITLE + row * height
        draw.bitmap((MARGIN, top), _written(name, 13), "black")
        for column, place in enumerate(places):
            left = MARGIN + column * (TILE + GAP)
            sheet.paste(face_tile(faces.images[pool[place]]), (left, top + heading))
            below = top + heading + TILE + 1
            for line in textwrap.wrap(str(true_class[place]), 15)[:2]:
                draw.bitmap((left, below), _written(line, 11), "black")
                below += 15
            draw.text((left, below), f"{unknown_score[place]:.4g}", "black", _font(11))
    return sheet


@lru_cache(256)
def _written(text: str, size: int) -> Image.Image:
    """A text as a mask; kept, as the same ones are on each cell's sheet and Pillow is slow at them."""
    _, _, right, bottom = _font(size).getbbox(text)
    mask = Image.new("L", (max(1, math.ceil(right)), max(1, math.ceil(bottom))))
    ImageDraw.Draw(mask).text((0, 0), text, 255, _font(size))
    return mask
