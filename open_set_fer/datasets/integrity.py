"""What `osfer data check` reports: counts beside the published ones, and images that are there more than once."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from open_set_fer.console import track
from open_set_fer.datasets.decoding import eight_bit
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, FaceSet, Facts
from open_set_fer.datasets.listing import FORMATS, IMAGE_ENDINGS
from open_set_fer.datasets.preview import as_picture
from open_set_fer.errors import SuiteError

NEAR = 2


@dataclass(frozen=True)
class DataCheck:
    """counts: images by split and class. published: by split; published_classes: by split and class, without those
    not known. notes: what loading left out, by split. duplicates: groups of ids with the same pixels, as
    'split/class/id'; across: how many of these groups span splits, conflicting: how many span classes. near: pairs
    whose perceptual hashes (pHash, 64 bits) differ in at most NEAR bits though their pixels differ; near_across: how
    many of these pairs span splits. Near pairs are for a look, not proof. vocabulary: classes that no protocol of
    expressions knows, or that have no image."""

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


def check(faces: FaceSet, known: Facts) -> DataCheck:
    """Examine a prepared data set beside what is known of it; every image of it has been decoded, or preparing it would have failed."""
    digests = [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in faces.images]
    labels = np.array(faces.classes)[faces.labels]
    table = pd.DataFrame({"digest": digests, "split": faces.split, "label": labels, "id": faces.ids})
    repeated = table[table.duplicated("digest", keep=False)].groupby("digest", sort=False)
    spans = repeated.agg(splits=("split", "nunique"), labels=("label", "nunique"))
    groups = [(group["split"] + "/" + group["label"] + "/" + group["id"]).tolist() for _, group in repeated]
    near = near_pairs(faces)
    near = near[[digests[a] != digests[b] for a, b in near]] if len(near) else near
    name = (table["split"] + "/" + table["label"] + "/" + table["id"]).tolist()
    return DataCheck(
        faces.name,
        faces.fingerprint,
        faces.counts(),
        known.published,
        known.published_classes,
        faces.notes,
        groups,
        int((spans["splits"] > 1).sum()),
        int((spans["labels"] > 1).sum()),
        [[name[a], name[b]] for a, b in near],
        int((faces.split[near[:, 0]] != faces.split[near[:, 1]]).sum()),
        vocabulary_faults(faces),
    )


def near_pairs(faces: FaceSet) -> NDArray[np.int64]:
    """(P, 2) pairs of image indices whose perceptual hashes differ in at most NEAR bits."""
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
    """What the class names keep from running: words that are no expression among expressions, and empty classes."""
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
    for split, counts in faces.counts().items():
        empty = [name for name, count in counts.items() if not count]
        if empty:
            faults.append(f"no {split} image of {', '.join(empty)}")
    return faults


def odd_files(root: Path, side: int | None) -> list[str]:
    """Every image file below `root` that does not decode, or is not `side` x `side` pixels, as 'path: what is wrong'.

    Preparing stops at the first such file that the data set names; this lists all of them. side None: any size will do.
    """
    paths = sorted(
        os.path.join(folder, file)
        for folder, _, files in os.walk(root)
        for file in files
        if file.lower().endswith(IMAGE_ENDINGS)
    )

    def fault(path: str) -> str:
        try:
            with Image.open(path, formats=FORMATS) as image:
                if side is not None and image.size != (side, side):
                    return f"{image.width}x{image.height} pixels instead of {side}x{side}"
                image.load()
                eight_bit(path, image)
        except SuiteError as error:
            return str(error).partition("\n")[0].removeprefix(f"{path} ")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return str(error).replace(path, "the file")
        return ""

    with ThreadPoolExecutor() as pool:
        faults = list(track(pool.map(fault, paths, chunksize=64), f"opening the files of {root}", total=len(paths)))
    return [f"{path}: {what}" for path, what in zip(paths, faults, strict=True) if what]
