"""Listings: data sets without their pixels, and tools to make one from a folder of files."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from open_set_fer.console import log
from open_set_fer.errors import SuiteError, some

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
NOT_READ = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".raw", ".dng", ".cr2", ".nef", ".arw", ".tga", ".psd")
"""Endings of pictures in formats that are not decoded."""
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
"""First bytes of pictures, by which one is known under another ending."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
"""Decoded formats, whatever the file's name. Pillow supports more: PostScript, by an external program."""

CHUNK = 512
CHUNK_BYTES = 8 << 20
"""Largest chunk of decoded images, so that memory stays bounded at 224 px on many cores."""


@dataclass(frozen=True)
class Rows:
    """Labels, splits and ids (N,) of all images, and votes (N, classes) if any."""

    labels: NDArray[np.int64]
    split: NDArray[np.str_]
    ids: NDArray[np.str_]
    votes: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, labels: ArrayLike, split: ArrayLike, ids: ArrayLike) -> Rows:
        """Rows from lists or arrays."""
        return cls(np.asarray(labels, dtype=np.int64), np.asarray(split, dtype=np.str_), np.asarray(ids, dtype=np.str_))

    @property
    def columns(self) -> list[NDArray[Any]]:
        """Columns of the fingerprint: all that are not None."""
        return [self.labels, self.split, self.ids, *([] if self.votes is None else [self.votes])]


class Pixels(Protocol):
    """Source of a listing's images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        ...

    def chunks(self, start: int) -> Iterator[NDArray[np.uint8]]:
        """Chunks uint8 (n, C, H, W) of any length, from image `start` on, in the rows' order."""
        ...


@dataclass(frozen=True)
class Parts:
    """Images as `read` gives them, uint8 (n, C, H, W) for a slice of the `count` rows."""

    shape: tuple[int, int, int]
    count: int
    read: Callable[[slice], NDArray[np.uint8]]

    def chunks(self, start: int) -> Iterator[NDArray[np.uint8]]:
        """Chunks of CHUNK images from image `start` on."""
        return (self.read(slice(at, at + CHUNK)) for at in range(start, self.count, CHUNK))


@dataclass(frozen=True)
class Listing:
    """A data set without its pixels.

    key: changes whenever the pixels may: settings, and files by `file_key`. notes: counts by split for `osfer data
    check`. demonstration: as in FaceSet.
    """

    name: str
    classes: tuple[str, ...]
    rows: Rows
    pixels: Pixels
    key: str
    notes: dict[str, dict[str, int]] = field(default_factory=dict)
    demonstration: bool = False

    def entry(self, cache: Path) -> Path:
        """Cache entry of these files, settings and rows."""
        digest = hashlib.sha256(self.key.encode())
        for column in self.rows.columns:
            digest.update(f"{column.dtype}/{len(column)}/".encode() + np.ascontiguousarray(column).tobytes())
        return cache / f"{self.name}-{digest.hexdigest()[:20]}"


def chunk_length(bytes_each: int) -> int:
    """Images in a chunk: CHUNK, or fewer to stay within CHUNK_BYTES."""
    return max(1, min(CHUNK, CHUNK_BYTES // bytes_each))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's and no part of a data set: `.DS_Store`, `._a.png`, `__MACOSX`."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


def find_images(root: Path, name: str, refuse: bool = True) -> list[tuple[str, ...]]:
    """Parts of the paths below a folder, however deep, of all images.

    Hidden files and those that are no images are passed over, which a log line says with their number. Pictures in a
    format that is not read raise SuiteError, or are passed over too without `refuse`.
    """
    found: list[tuple[str, ...]] = []
    passed: list[str] = []
    hidden = 0
    for folder, folders, files in os.walk(root):
        hidden += sum(map(is_hidden, [*folders, *files]))
        folders[:] = sorted(folder for folder in folders if not is_hidden(folder))
        parts = Path(folder).relative_to(root).parts
        for file in sorted(file for file in files if not is_hidden(file)):
            if file.lower().endswith(IMAGE_ENDINGS):
                found.append((*parts, file))
            else:
                passed.append("/".join((*parts, file)))
    if refuse and (unread := [file for file in passed if file.lower().endswith(NOT_READ) or _is_picture(root / file)]):
        fault = f"{name}: {root} has pictures of a format or name that is not read: {by_ending(unread)}"
        fix = "save them as PNG or JPEG and let their names end so, or move them elsewhere"
        raise SuiteError(f"{fault} ({some(unread)})", fix)
    if passed or hidden:
        others = [f"{by_ending(passed)} ({some(passed)})"] if passed else []
        log.warning(
            "%s: passed over in %s: %s", name, root, ", ".join([*others, *[f"{hidden} hidden files"] * bool(hidden)])
        )
    return found


def _is_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(SIGNATURES)
    except OSError:
        return False


def by_ending(files: Iterable[str]) -> str:
    """Number of files by ending: '3 files: .txt 2, no ending 1'."""
    counts = Counter(os.path.splitext(file)[1].lower() or "no ending" for file in files)
    return f"{sum(counts.values())} files: " + ", ".join(f"{end} {count}" for end, count in counts.most_common())


def file_key(name: str, paths: Iterable[str]) -> str:
    """Hex SHA-256 of every file's path, size and modification time; SuiteError if any is missing, with their number."""
    digest = hashlib.sha256()
    by_folder: dict[str, dict[str, os.DirEntry[str]]] = {}
    missing: list[str] = []
    count = 0
    for path in paths:
        count += 1
        folder, file = os.path.split(path)
        folder = folder or "."
        if folder not in by_folder:
            by_folder[folder] = {}
            if os.path.isdir(folder):
                with os.scandir(folder) as entries:
                    by_folder[folder] = {entry.name: entry for entry in entries}
        entry = by_folder[folder].get(file)
        try:
            stat = entry.stat() if entry is not None and entry.is_file() else None
        except OSError as error:  # for example a link to itself
            raise SuiteError(
                f"{name}: cannot read {path}: {error.strerror}", "replace it by the file itself"
            ) from error
        if stat is None:
            missing.append(path)
        else:
            digest.update(f"{path}/{stat.st_size}/{stat.st_mtime_ns}\n".encode())
    if missing:
        raise lacking(name, missing, count)
    return digest.hexdigest()


def lacking(name: str, missing: list[str], count: int) -> SuiteError:
    """Error for missing files, of `count` that a data set names."""
    several = f" ({len(missing):,} of {count:,} files are missing)" if len(missing) > 1 else ""
    fix = "complete the data set"
    if len(missing) == count > 1:
        fix = "none of its files is there: look whether the paths start from another folder"
    return SuiteError(f"{name}: no file {some(missing)}{several}", fix)


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file; raises SuiteError if it cannot be read."""
    try:
        return path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise SuiteError(f"no file {path}", "complete the data set") from error
    except OSError as error:
        raise SuiteError(f"cannot read {path}: {error.strerror}", "name a text file") from error
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path} is not UTF-8 text: {error}", "restore the published file") from error


def paths_inside(root: Path, relatives: Iterable[str], name: str) -> list[str]:
    """Join root and relative paths; raises SuiteError for a path outside the folder.

    It may lead out by `..` or a link. Two names of one file, as `x.png` and `./x.png`, raise it too: they could train
    on a face and test with it. Links between files are followed; `osfer data check` finds their equal pixels. The
    root itself may be a link. A folder is resolved once, so that 287 k files take a second and not half a minute.
    """
    top = os.path.realpath(root)
    folders: dict[str, str] = {}
    seen: dict[str, str] = {}
    paths, outside, same = [], [], []
    for relative in relatives:
        path = os.path.join(root, relative)
        folder, _, file = path.rpartition("/")
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        place = f"{folders[folder]}/{file}"
        if (
            file in ("", ".", "..")
            or not _below(folders[folder], top)
            or (os.path.islink(path) and not _below(os.path.realpath(path), top))
        ):
            outside.append(repr(relative))
        if seen.setdefault(place, relative) != relative:
            same.append(f"{relative!r} and {seen[place]!r}")
        paths.append(path)
    if outside:
        lead = "leads" if len(outside) == 1 else "lead"
        raise SuiteError(f"{name}: {some(outside)} {lead} out of {root}", "use paths below the data set's folder")
    if same:
        raise SuiteError(f"{name}: {some(same)} are one file", "keep one of them")
    return paths


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")
