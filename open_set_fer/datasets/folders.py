"""Folder trees of images: <root>/<split>/<class>/..., or <root>/<class>/<split>/... ."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from open_set_fer.console import log
from open_set_fer.datasets.listing import find_images
from open_set_fer.datasets.vocabulary import SPLITS, Vocabulary
from open_set_fer.errors import SuiteError, some

Parts = tuple[str, ...]


def read_tree(root: Path, vocabulary: Vocabulary) -> pd.DataFrame:
    """List the images of a tree with label and split, those in folders below a class too.

    Raises SuiteError for images whose class or split is not clear.
    """
    found = find_images(root, "manifest")
    deep = [parts for parts in found if len(parts) >= 3]
    if not deep:
        raise _no_split(root, found, vocabulary)
    first, second = ({parts[level] for parts in deep} for level in (0, 1))
    is_split = [vocabulary.split_of(word) is not None for word in first]
    at = 1 if len(first) > 1 and not any(is_split) and all(vocabulary.split_of(word) for word in second) else 0
    if at == 1:
        log.info("manifest: %s is read as <class>/<split>/<image>", root)
    splits = first if at == 0 else second
    if not any(vocabulary.split_of(word) for word in splits):
        raise _no_split(root, found, vocabulary)
    counts = Counter(parts[at] for parts in deep)
    if unknown := sorted(word for word in splits if vocabulary.split_of(word) is None):
        listed = some([f"{root / word} ({counts[word]:,} images)" for word in unknown])
        fix = f"name it {', '.join(SPLITS)}, say which it is in the vocabulary under [splits], or move it elsewhere"
        raise SuiteError(f"manifest: {listed} is no split", fix)
    if shallow := ["/".join(parts) for parts in found if len(parts) < 3]:
        if inside := [path for path in shallow if path.partition("/")[0] in first]:
            fault = f"manifest: {len(inside):,} images of {root} lie in no class: {some(inside)}"
            raise SuiteError(fault, "move each into the folder of its class, or elsewhere")
        log.warning("manifest: %d images of %s are in no split: %s", len(shallow), root, some(shallow))
    split = {word: vocabulary.split_of(word) or "" for word in splits}
    deep.sort(key=lambda parts: (SPLITS.index(split[parts[at]]), parts))
    if lower := sum(len(parts) > 3 for parts in deep):
        log.info("manifest: %d images of %s are in folders below their class's", lower, root)
    return pd.DataFrame(
        {
            "path": ["/".join(parts) for parts in deep],
            "label": [parts[1 - at] for parts in deep],
            "split": [parts[at] for parts in deep],
        }
    )


def _no_split(root: Path, found: list[Parts], vocabulary: Vocabulary) -> SuiteError:
    """Error for a tree without a folder of a split, with what there is in its place."""
    if not found:
        return SuiteError(f"manifest: no image at {root}/<split>/<class>/", f"splits: {', '.join(SPLITS)}")
    for level in (1, 2, 3):
        above = {parts[:level] for parts in found if len(parts) > level + 1}
        if len(above) == 1 and any(vocabulary.split_of(p[level]) for p in found if len(p) > level + 1):
            place = root.joinpath(*above.pop())
            return SuiteError(f"manifest: {root} has no split, but {place} has", f'set path = "{place}"')
    folders = sorted({parts[0] for parts in found if len(parts) > 1})
    lie = f"{len(found):,} images lie in {some(folders)}" if folders else f"{len(found):,} images lie in no folder"
    fix = f"arrange them as <split>/<class>/<image>; from <class>/<image>: osfer data split {root}"
    return SuiteError(f"manifest: {root} has no folder of a split ({', '.join(SPLITS)}): {lie}", fix)


def read_classes(root: Path) -> pd.DataFrame:
    """List the images of a tree without splits, <root>/<class>/<image>; SuiteError for images in no class."""
    found = find_images(root, "manifest")
    loose = ["/".join(parts) for parts in found if len(parts) < 2]
    if loose or not found:
        fault = f"manifest: {len(loose):,} images of {root} lie in no class: {some(loose)}"
        raise SuiteError(fault if loose else f"manifest: no image below {root}", "arrange them as <class>/<image>")
    rows = [("/".join(parts), parts[0]) for parts in sorted(found)]
    return pd.DataFrame(rows, columns=["path", "label"])
