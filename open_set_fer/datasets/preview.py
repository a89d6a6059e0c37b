"""A contact sheet of a data set: one row a class, for a look at what a method will see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError

TILE, GAP, MARGIN, NAMES, TITLE = 96, 4, 16, 210, 44


def contact_sheet(faces: FaceSet, path: Path, per_class: int = 8) -> None:
    """Write a PNG with the first `per_class` faces of each class, scaled to 96 px; demonstration sets say so on it.

    Raises SuiteError where `path` cannot be written.
    """
    rows = [(name, np.flatnonzero(faces.labels == index)[:per_class]) for index, name in enumerate(faces.classes)]
    width = 2 * MARGIN + NAMES + per_class * (TILE + GAP)
    sheet = Image.new("RGB", (width, TITLE + MARGIN + len(rows) * (TILE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    title = "rendered faces, demonstration only" if faces.demonstration else f"{faces.name}, {len(faces.images)} images"
    draw.text(
        (MARGIN, 12), f"{faces.name}: {title}" if faces.demonstration else title, "black", ImageFont.load_default(20)
    )
    for row, (name, indices) in enumerate(rows):
        top = TITLE + row * (TILE + GAP)
        draw.text((MARGIN, top + TILE // 2 - 10), name, "black", ImageFont.load_default(17))
        for column, index in enumerate(indices):
            sheet.paste(face_tile(faces.images[index]), (MARGIN + NAMES + column * (TILE + GAP), top))
    check_picture_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise SuiteError(f"cannot write {path}: {error.strerror or error}", "name another file with --out") from error


def check_picture_path(path: Path) -> None:
    """Raise SuiteError for a path that no picture can be written to: a folder, one below a file, an unknown ending."""
    if path.is_dir():
        raise SuiteError(f"{path} is a folder", f"name a file in it: --out {path / 'faces.png'}")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise SuiteError(f"cannot write a picture as {path}: its ending says no known kind", "end its name with .png")
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise SuiteError(f"cannot write {path}: {parent} is a file", "name a file in a folder with --out")
            return


def as_picture(image: NDArray[np.uint8]) -> Image.Image:
    """One face, uint8 (C, H, W), grey or in colour, for Pillow."""
    pixels = image.transpose(1, 2, 0)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def face_tile(image: NDArray[np.uint8]) -> Image.Image:
    """One face, uint8 (C, H, W), scaled to a tile of TILE px a side."""
    return as_picture(image).resize((TILE, TILE), Image.Resampling.BICUBIC)
