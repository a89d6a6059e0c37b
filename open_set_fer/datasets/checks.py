"""Checks of a data set: published counts, duplicates, odd files, and a contact sheet."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from open_set_fer.console import track
from open_set_fer.datasets.decoding import Box, ImageFiles, box_inside, opened
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, FaceSet, Facts
from open_set_fer.errors import SuiteError

NEAR = 2
"""Bits in which the perceptual hashes (pHash, 64 bits) of near duplicates differ at most."""
TILE, GAP, MARGIN, NAMES, TITLE = 96, 4, 16, 210, 44


@dataclass(frozen=True)
class DataCheck:
    """Result of `osfer data check`.

    counts: images by split and class. published: by split; published_classes: by split and class, as far as published.
    notes: images that loading left out, by split. duplicates: groups of ids with the same or mirrored pixels, as
    'split/class/id'; across, conflicting: how many groups span splits, or classes. near: pairs of near duplicates;
    near_across: how many of these pairs span splits. vocabulary: classes that are no expression, or have no image.
    """

    name: str
    fingerprint: str
    counts: dict[str, dict[str, int]]
    published: Mapping[str, int]
    published_classes: Mapping[str, Mapping[str, int]]
    notes: dict[str, dict[str, int]]
    duplicates: list[list[str]]
    across: int
    conflicting: int
    near: list[list[str]]
    near_across: int
    vocabulary: list[str] = field(default_factory=list)


def check(faces: FaceSet, facts: Facts) -> DataCheck:
    """Compare a prepared data set, whose images all decode, with its published facts; search it for duplicates."""
    labels = np.array(faces.classes)[faces.labels]
    table = pd.DataFrame({"twin": faces.twins, "split": faces.split, "label": labels, "id": faces.ids})
    table["name"] = table["split"] + "/" + table["label"] + "/" + table["id"]
    repeated = table[table.duplicated("twin", keep=False)].groupby("twin", sort=False)
    spans = repeated.agg(splits=("split", "nunique"), labels=("label", "nunique"))
    near = near_pairs(faces)
    near = near[faces.twins[near[:, 0]] != faces.twins[near[:, 1]]]
    return DataCheck(
        name=faces.name,
        fingerprint=faces.fingerprint,
        counts=faces.counts(),
        published=facts.published,
        published_classes=facts.published_classes,
        notes=faces.notes,
        duplicates=[group["name"].tolist() for _, group in repeated],
        across=int((spans["splits"] > 1).sum()),
        conflicting=int((spans["labels"] > 1).sum()),
        near=[table["name"].iloc[pair].tolist() for pair in near],
        near_across=int((faces.split[near[:, 0]] != faces.split[near[:, 1]]).sum()),
        vocabulary=vocabulary_faults(faces),
    )


def near_pairs(faces: FaceSet) -> NDArray[np.int64]:
    """Pairs (P, 2) of image indices whose perceptual hashes differ in at most NEAR bits."""
    import imagehash

    hashes = np.zeros(len(faces.images), dtype=np.uint64)
    for row in track(range(len(faces.images)), f"perceptual hashes of {faces.name}"):
        bits = imagehash.phash(as_picture(faces.images[row])).hash
        hashes[row] = np.packbits(bits).view(np.uint64)[0]
    pairs = []
    for start in track(range(0, len(hashes), 256), "comparing"):
        apart = np.bitwise_count(hashes[start : start + 256, None] ^ hashes[None, start:])
        first, second = np.nonzero(apart <= NEAR)
        pairs.append(np.stack([first, second], axis=1)[second > first] + start)
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64)


def vocabulary_faults(faces: FaceSet) -> list[str]:
    """Faults of the class names: non-expressions among expressions, and classes without images."""
    expressions = (*BASIC, *COMPOUND, CONTEMPT)
    faults = []
    if set(faces.classes) & set(expressions):
        for name in faces.classes:
            if name not in expressions:
                close = difflib.get_close_matches(name, expressions, n=1)
                faults.append(f"{name!r} is no expression" + (f", did you mean {close[0]!r}?" if close else ""))
        missing = [name for name in BASIC if name not in faces.classes]
        if missing:
            faults.append(f"no class {', '.join(missing)}")
    faults += [f"no split {split}" for split in ("train", "test") if not np.any(faces.split == split)]
    for split, counts in faces.counts().items():
        empty = [name for name, count in counts.items() if not count]
        if empty:
            faults.append(f"no {split} image of {', '.join(empty)}")
    return faults


def odd_files(files: ImageFiles, side: int | None) -> list[str]:
    """List image files with a fault, as 'path: fault': not decodable, not `side` pixels square, face box outside.

    side None: any size.
    """

    def fault(place: tuple[str, Box | None]) -> str:
        path, box = place
        try:
            picture = opened(path)
            if side is not None and picture.size != (side, side):
                return f"{picture.width}x{picture.height} pixels instead of {side}x{side}"
            if box is not None:
                box_inside(path, picture, box, files.clip)
        except SuiteError as error:
            return error.message.removeprefix(f"cannot decode image {path}: ").removeprefix(f"{path} ")
        return ""

    places = list(zip(files.paths, files.boxes or [None] * len(files.paths), strict=True))
    with ThreadPoolExecutor() as pool:
        faults = list(track(pool.map(fault, places, chunksize=64), "opening the files", total=len(places)))
    return [f"{path}: {text}" for (path, _), text in zip(places, faults, strict=True) if text]


def contact_sheet(faces: FaceSet, path: Path, per_class: int = 8) -> None:
    """Write a PNG with the first `per_class` faces of each class; SuiteError if `path` cannot be written."""
    rows = [(name, np.flatnonzero(faces.labels == index)[:per_class]) for index, name in enumerate(faces.classes)]
    width = 2 * MARGIN + NAMES + per_class * (TILE + GAP)
    sheet = Image.new("RGB", (width, TITLE + MARGIN + len(rows) * (TILE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    title = ": rendered faces, demonstration only" if faces.demonstration else f", {len(faces.images)} images"
    draw.text((MARGIN, 12), faces.name + title, "black", ImageFont.load_default(20))
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
    """Raise SuiteError for a folder, a path below a file, or an unknown picture format."""
    if path.is_dir():
        raise SuiteError(f"{path} is a folder", f"name a file in it: --out {path / 'faces.png'}")
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise SuiteError(
            f"cannot write a picture as {path}: its ending is no known picture format", "end its name with .png"
        )
    parent = next(parent for parent in path.parents if parent.exists())
    if not parent.is_dir():
        raise SuiteError(f"cannot write {path}: {parent} is a file", "name a file in a folder with --out")


def as_picture(image: NDArray[np.uint8]) -> Image.Image:
    """Convert a face, uint8 (C, H, W), grey or in colour, to a Pillow image."""
    pixels = image.transpose(1, 2, 0)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def face_tile(image: NDArray[np.uint8]) -> Image.Image:
    """Scale a face, uint8 (C, H, W), to a tile of TILE px a side."""
    return as_picture(image).resize((TILE, TILE), Image.Resampling.BICUBIC)
