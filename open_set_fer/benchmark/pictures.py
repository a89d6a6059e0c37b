"""Pictures of one cell: the histogram of its unknown scores, also a panel of the report's Figure 4, and a sheet of faces."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.datasets.preview import GAP, MARGIN, TILE, TITLE, face_tile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

CLOSED_COLOUR, OPEN_COLOUR = "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion: told apart with every common colour blindness."""

FACES = 8
"""Faces in a row of the sheet."""

Scores = NDArray[np.floating[Any]]


def score_range(closed: Scores, opened: Scores, bins: int) -> tuple[float, float]:
    """Axis limits: from the lower of both groups' 1st percentiles to the higher of their 99th ones.

    Taken by group, so that few open faces are not cut off by many closed ones. Widened where scores are constant.
    """
    groups = [group for group in (closed, opened) if len(group)]
    if not groups:
        return 0.0, 1.0
    low = min(float(np.percentile(group, 1)) for group in groups)
    high = max(float(np.percentile(group, 99)) for group in groups)
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


def draw_histogram(axes: Axes, closed: Scores, opened: Scores, bins: int = 40, names: tuple[str, str] = NAMES) -> int:
    """Draw both groups' shares in common bins; scores beyond the axis count in the outermost bins.

    names: of the groups. Returns how many faces lie beyond the axis.
    """
    closed, opened = np.asarray(closed, dtype=np.float64), np.asarray(opened, dtype=np.float64)
    low, high = score_range(closed, opened, bins)
    edges = np.linspace(low, high, bins + 1)
    for scores, colour, style, name in (
        (closed, CLOSED_COLOUR, "-", names[0]),
        (opened, OPEN_COLOUR, "--", names[1]),
    ):
        share = np.histogram(np.clip(scores, low, high), edges)[0] / max(len(scores), 1)
        label = f"{name} ({len(scores)} faces)"
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(share, edges, color=colour, linewidth=1.2, linestyle=style, label=label)
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    return sum(int(np.sum((scores < low) | (scores > high))) for scores in (closed, opened))


def score_histogram(scores: pd.DataFrame, title: str, names: tuple[str, str] = NAMES) -> Figure:
    """Histogram of one cell's scores (columns is_open, unknown_score), closed against open faces.

    names: what they are in this cell (`group_names`).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    is_open = scores["is_open"].to_numpy(dtype=bool)
    values = scores["unknown_score"].to_numpy(dtype=np.float64)
    beyond = draw_histogram(axes, values[~is_open], values[is_open], names=names)
    axes.set_title(title, fontsize=11)
    axes.set_ylabel("share of the group's faces")
    axes.set_xlabel(
        f"unknown score (higher = more likely {names[1]})"
        + (f"\naxis: 1st to 99th percentile; {beyond} faces beyond it are in the outermost bins" if beyond else "")
    )
    axes.legend(frameon=False)
    return figure


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
    from PIL import Image, ImageDraw, ImageFont

    heading, caption = 24, 50  # px: a row's name above it; two lines of a class and one of a score below each face
    height = heading + TILE + caption
    rows = sheet_rows(scores, names)
    sheet = Image.new("RGB", (2 * MARGIN + FACES * (TILE + GAP) - GAP, TITLE + len(rows) * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    if faces.demonstration:
        title += "\nrendered faces, demonstration only"
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    draw.text((MARGIN, 5), title, "black", small)
    for row, (name, places) in enumerate(rows):
        top = TITLE + row * height
        draw.text((MARGIN, top), name, "black", large)
        for column, place in enumerate(places):
            left = MARGIN + column * (TILE + GAP)
            sheet.paste(face_tile(faces.images[pool[place]]), (left, top + heading))
            true_class, score = scores["true_class"].iloc[place], scores["unknown_score"].iloc[place]
            lines = [*textwrap.wrap(str(true_class), 15)[:2], f"{score:.4g}"]
            draw.text((left, top + heading + TILE + 1), "\n".join(lines), "black", small, spacing=1)
    return sheet
