"""Pictures of a cell: the histogram of its unknown scores (in reports a panel of Figure 4) and a sheet of faces."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from open_set_fer.datasets.checks import GAP, MARGIN, TILE, TITLE, face_tile
from open_set_fer.datasets.faceset import FaceSet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from open_set_fer.benchmark.evaluation.result import CellResult

CLOSED_COLOUR, OPEN_COLOUR = "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion: told apart with every common colour blindness."""

FACES = 8
"""Faces in a row of the sheet."""
PICTURE = 640, 400
"""Width and height of a histogram, px."""
Scores = NDArray[np.floating[Any]]


@contextmanager
def plain_style(settings: Mapping[Any, Any]) -> Iterator[None]:
    """matplotlib's defaults with these settings, whatever a user's matplotlibrc says; class names are no formulas."""
    import matplotlib

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "text.parse_math": False, **settings}):
        yield


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
    """Names of the faces to accept and of those to find, in legends and on the sheet."""
    if is_shift:
        return "unshifted", "shifted"
    return ("label as it was", "label flipped") if is_control else ("closed", "open")


NAMES = group_names(False)


def names_of(result: CellResult) -> tuple[str, str]:
    """Names of a cell's two groups."""
    return group_names(result.is_control, result.is_shift)


def draw_histogram(axes: Axes, closed: Scores, opened: Scores, bins: int = 40, names: tuple[str, str] = NAMES) -> int:
    """Draw both groups' shares in common bins; scores beyond the axis count in the outermost bins.

    names: of the groups. Returns how many faces lie beyond the axis.
    """
    groups = closed, opened = np.asarray(closed, dtype=np.float64), np.asarray(opened, dtype=np.float64)
    low, high = score_range(closed, opened, bins)
    edges = np.linspace(low, high, bins + 1)
    for scores, colour, style, name in zip(groups, (CLOSED_COLOUR, OPEN_COLOUR), ("-", "--"), names, strict=True):
        share = np.histogram(np.clip(scores, low, high), edges)[0] / max(len(scores), 1)
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(share, edges, color=colour, linewidth=1.2, linestyle=style, label=f"{name} ({len(scores)} faces)")
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    return sum(int(np.sum((scores < low) | (scores > high))) for scores in groups)


def histogram_of(result: CellResult, scores: pd.DataFrame) -> Image.Image:
    """The histogram of a result's scores under its title."""
    return draw(score_histogram(scores, result.title(), names_of(result)))


def draw(figure: Figure) -> Image.Image:
    """A histogram's picture, drawn without pyplot: in any process and thread."""
    pixels = BytesIO()
    with plain_style({}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # drawn as a box
        figure.savefig(pixels, format="rgba")
    return Image.frombytes("RGBA", PICTURE, pixels.getvalue()).convert("RGB")


def score_histogram(scores: pd.DataFrame, title: str, names: tuple[str, str] = NAMES) -> Figure:
    """Histogram of one cell's scores (columns is_open, unknown_score), closed against open faces.

    names: of the groups in this cell (`group_names`).
    """
    from matplotlib.figure import Figure

    is_open = scores["is_open"].to_numpy(dtype=bool)
    values = scores["unknown_score"].to_numpy(dtype=np.float64)
    with plain_style({"font.size": 9, "xtick.labelsize": 8, "ytick.labelsize": 8}):
        figure = Figure(figsize=(PICTURE[0] / 100, PICTURE[1] / 100), dpi=100)
        axes = figure.add_axes((0.12, 0.17, 0.82, 0.71))
        beyond = draw_histogram(axes, values[~is_open], values[is_open], names=names)
        note = f"\naxis: 1st to 99th percentile; {beyond} faces beyond it are in the outermost bins"
        axes.set_xlabel(f"unknown score (higher = more likely {names[1]}){note if beyond else ''}")
        axes.set_ylabel("share of the group's faces")
        axes.set_title("\n".join(textwrap.wrap(title, 76)[:2]), fontsize=10)
        axes.legend(edgecolor="none")
    return figure


def sheet_rows(scores: pd.DataFrame, names: tuple[str, str] = NAMES) -> list[tuple[str, NDArray[np.int64]]]:
    """Heading and up to FACES rows of `scores`, the most extreme first, for each row of the sheet."""
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
    names: of the groups in this cell (`group_names`).
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


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's font, which has more letters than Pillow's."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


@lru_cache(256)
def _written(text: str, size: int) -> Image.Image:
    """A text as a mask; kept, as the same ones are on each cell's sheet and Pillow is slow at them."""
    _, _, right, bottom = _font(size).getbbox(text)
    mask = Image.new("L", (max(1, math.ceil(right)), max(1, math.ceil(bottom))))
    ImageDraw.Draw(mask).text((0, 0), text, 255, _font(size))
    return mask
