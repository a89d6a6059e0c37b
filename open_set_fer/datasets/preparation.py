"""Decode once, in parallel, into a memory-mapped cache; everything after reads arrays.

A cache entry is a folder named by a key over content listing and settings. It is written beside its final name with a
count of the images already safe, so that a killed preparation goes on where it stopped, and it is renamed only when
complete: a half-written entry is never read. A lock lets one process prepare while others wait. The entry's size and time
of change are kept beside its fingerprint; where they differ the pixels are hashed again, so a changed entry is not read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from open_set_fer.console import log, track
from open_set_fer.datasets.faceset import FaceSet, Outline, block_fingerprint, content_fingerprint
from open_set_fer.errors import SuiteError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture as viewers show it, turned as its EXIF says."""

DECODING = 2
"""Raised whenever a file decodes to other pixels, so that no entry of an earlier version is read."""

CHUNK = 512
CHUNK_BYTES = 8 << 20
"""A chunk of decoded images has at most so many bytes, so that memory stays bounded at 224 px on many cores."""

MAX_PIXELS = 40_000_000
"""A face of more pixels is refused: it is a wrong file, or one made to exhaust memory."""


@dataclass(frozen=True)
class Table:
    """What is known of each image before any is decoded: label, split and id, (N,) each."""

    labels: NDArray[np.int64]
    split: NDArray[np.str_]
    ids: NDArray[np.str_]


@dataclass(frozen=True)
class Listing:
    """A data set read but for its pixels.

    key: of files and settings, see `listing_key`. shape: (C, H, W). chunks(start): yields uint8 (n, C, H, W) from image
    `start` on. notes: counts by split that `osfer data check` prints.
    """

    name: str
    key: str
    classes: tuple[str, ...]
    table: Table
    shape: tuple[int, int, int]
    chunks: Callable[[int], Iterator[NDArray[np.uint8]]]
    demonstration: bool = False
    notes: dict[str, dict[str, int]] = field(default_factory=dict)

    def entry(self, cache: Path) -> Path:
        """The cache entry of just these files, settings and rows."""
        digest = hashlib.sha256(f"{DECODING}/{self.key}".encode())
        for column in (self.table.labels, self.table.split, self.table.ids):
            digest.update(f"{column.dtype}/{len(column)}/".encode() + np.ascontiguousarray(column).tobytes())
        return cache / f"{self.name}-{digest.hexdigest()[:20]}"


def listing_key(name: str, settings: Any, paths: Iterable[str]) -> str:
    """Key of a cache entry: settings and every file's path, size and time of change."""
    digest = hashlib.sha256(f"{name}/{settings!r}".encode())
    by_folder: dict[str, dict[str, os.DirEntry[str]]] = {}
    for path in paths:
        folder, _, file = path.rpartition("/")
        if folder not in by_folder:
            by_folder[folder] = {}
            if os.path.isdir(folder):
                with os.scandir(folder) as entries:
                    by_folder[folder] = {entry.name: entry for entry in entries}
        entry = by_folder[folder].get(file)
        try:
            stat = entry.stat() if entry is not None and entry.is_file() else None
        except OSError as error:  # for one a link that leads to itself
            raise SuiteError(
                f"{name}: cannot read {path}: {error.strerror}", "replace it by the file itself"
            ) from error
        if stat is None:
            raise SuiteError(f"{name}: no file {path}", "complete the data set")
        digest.update(f"{path}/{stat.st_size}/{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def outline_of(cache: Path, classes: tuple[str, ...], listing: Callable[[], Listing | Outline]) -> Outline:
    """The outline of a data set that has these classes whether or not its files are there; nothing is written.

    listing: returns an Outline itself where the listing is still to be made by writing to the cache.
    """
    try:
        found = listing()
        return found if isinstance(found, Outline) else outlined(cache, found)
    except SuiteError as error:
        return Outline(classes, missing=str(error))


def outlined(cache: Path, listing: Listing) -> Outline:
    """The outline of a listing; raises SuiteError where its cache entry is damaged."""
    count = len(listing.table.labels)
    return Outline(listing.classes, _fingerprint(listing.entry(cache)), count, count * int(np.prod(listing.shape)))


def cached_face_set(cache: Path, listing: Listing) -> FaceSet:
    """The FaceSet of a listing, decoded into `cache` if it is not there yet.

    Raises SuiteError naming an entry that is damaged or was changed, or what decoding takes where the disk has less.
    """
    folder = listing.entry(cache)
    if not folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{folder}.lock"):
                if not folder.is_dir():  # another process may have prepared it while this one waited
                    _prepare(folder, listing)
        except OSError as error:
            raise SuiteError(f"cannot write to {cache}: {error.strerror}", "name another home with --home") from error
    table = listing.table
    fingerprint = _fingerprint(folder)
    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        _verify(folder, images, table, fingerprint)
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(folder, error) from error
    return FaceSet(
        listing.name, images, table.labels, listing.classes, table.split, table.ids, fingerprint,
        listing.demonstration, listing.notes,
    )  # fmt: skip


def _fingerprint(folder: Path) -> str:
    """The fingerprint in a cache entry, '' where there is no entry."""
    if not folder.is_dir():
        return ""
    try:
        return str(json.loads((folder / "meta.json").read_text("utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error


def _verify(folder: Path, images: NDArray[np.uint8], table: Table, fingerprint: str) -> None:
    """Raise ValueError where the entry's pixels are no longer those it was made with.

    Size and time of change say so at once; only where they differ, as in a copied cache, the pixels are hashed.
    """
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    stamp = _stamp(folder / "images.npy")
    if meta["stamp"] == stamp:
        return
    log.info("%s was copied or changed since it was made: comparing its pixels with its fingerprint", folder)
    if content_fingerprint(images, table.labels, table.split, table.ids) != fingerprint:
        raise ValueError("its pixels are not those it was made with")
    with contextlib.suppress(OSError):  # a cache that cannot be written to is compared every time
        _write_atomically(folder / "meta.json", json.dumps(meta | {"stamp": stamp}))


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _damaged(folder: Path, error: Exception) -> SuiteError:
    return SuiteError(f"cache entry {folder} is damaged: {error}", "delete that folder; it is made again")


def _prepare(folder: Path, listing: Listing) -> None:
    name, table, shape = listing.name, listing.table, listing.shape
    partial = Path(f"{folder}.partial")
    marker, array = partial / "done", partial / "images.npy"
    count, bytes_each = len(table.labels), int(np.prod(shape))
    header = _header((count, *shape))
    done = 0
    try:
        partial.mkdir(exist_ok=True)
        done = _images_safe(marker, array, header, count, bytes_each)
        _check_space(name, partial, (count - done) * bytes_each)
        if not done:
            array.write_bytes(header)
        size = in_words((count - done) * bytes_each)
        log.info("preparing %s: decoding %d images, %s, into %s", name, count - done, size, folder)
        # Written as a file, not through a memory map: a map's pages count as this process's memory, and a full disk
        # kills a process that writes to one.
        with array.open("r+b") as file:
            file.truncate(len(header) + done * bytes_each)
            file.seek(0, os.SEEK_END)
            steps = -(-(count - done) // chunk_length(bytes_each))
            for piece in track(listing.chunks(done), f"preparing {name}", total=steps):
                file.write(np.ascontiguousarray(piece).data)
                file.flush()
                os.fsync(file.fileno())
                done += len(piece)
                _write_atomically(marker, str(done))
            if done != count:
                raise SuiteError(f"{name}: {done} images made where {count} were announced", "report this: it is a bug")
            file.seek(len(header))
            blocks = iter(lambda: file.read(CHUNK_BYTES), b"")
            fingerprint = block_fingerprint((count, *shape), blocks, table.labels, table.split, table.ids)
        meta = {"fingerprint": fingerprint, "images": count, "stamp": _stamp(array)}
        _write_atomically(partial / "meta.json", json.dumps(meta))
        marker.unlink(missing_ok=True)  # there is none where there was no image
        os.replace(partial, folder)
    except KeyboardInterrupt:
        log.info("stopped after %d of %d images of %s; the same command goes on from there", done, count, name)
        raise
    except OSError as error:
        raise SuiteError(
            f"{name}: cannot write {partial} after {done} of {count} images: {error}",
            f"all of them take {in_words(count * bytes_each)}; the same command goes on where this one stopped",
        ) from error


def _check_space(name: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SuiteError(
            f"{name}: decoding takes {in_words(needed)} ({needed} bytes) more, but only {in_words(free)} ({free} bytes) "
            f"are free at {folder.parent}",
            "free some space, name a folder on another disk with --home, or set a smaller image_size in the profile",
        )


def in_words(count: int) -> str:
    """Bytes as a person reads them: '77 MB', '4.8 GB'."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{-(-count // 10**6)} MB"


def _header(shape: tuple[int, ...]) -> bytes:
    """What a .npy file of uint8 pixels of this shape begins with."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def kept_numbers(path: Path, make: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """The array kept in `path`; where there is none yet, `make()`, written in one rename."""
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False))
    numbers = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        np.save(file, numbers)
    os.replace(file.name, path)
    return numbers


def chunk_length(bytes_each: int) -> int:
    """Images in a chunk: CHUNK, or as many as have CHUNK_BYTES."""
    return max(1, min(CHUNK, CHUNK_BYTES // bytes_each))


def _images_safe(marker: Path, array: Path, header: bytes, count: int, bytes_each: int) -> int:
    """Images that an earlier try left; 0, to start over, where its files do not bear out what its marker says."""
    try:
        done = int(marker.read_text())
        with array.open("rb") as file:
            same = file.read(len(header)) == header
            there = file.seek(0, os.SEEK_END)
    except (FileNotFoundError, ValueError):
        return 0
    return done if same and 0 <= done <= count and len(header) + done * bytes_each <= there else 0


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def decode_files(
    paths: list[str], size: int, channels: int, start: int, boxes: list[Box | None] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """uint8 (n, C, size, size) chunks from image `start` on, in order, decoded on all cores; boxes: where to crop."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    crops = boxes or [None] * len(paths)
    step = chunk_length(size * size * channels)
    workers = joblib.cpu_count()
    executor = get_reusable_executor(max_workers=workers)
    # joblib's own generator goes on decoding however slowly its results are taken: on a slow disk all would pile up here.
    ahead: deque[Future[NDArray[np.uint8]]] = deque()
    try:
        for at in range(start, len(paths), step):
            ahead.append(executor.submit(decode_chunk, paths[at : at + step], size, channels, crops[at : at + step]))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def decode_chunk(paths: list[str], size: int, channels: int, boxes: list[Box | None]) -> NDArray[np.uint8]:
    """uint8 (n, C, size, size) of these files."""
    return np.stack([decode(path, size, channels, box) for path, box in zip(paths, boxes, strict=True)])


def decode(path: str, size: int, channels: int, box: Box | None = None) -> NDArray[np.uint8]:
    """One image file as uint8 (C, size, size): turned as its EXIF says, cropped, scaled to 8 bits, grey or RGB, antialiased.

    Raises SuiteError naming a file that is missing, cut short, no image, of more than MAX_PIXELS, or of pixel values that
    do not say what is white.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SuiteError(
                    f"{path} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}", "crop it to the face"
                )
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            picture = eight_bit(path, image)
            if box is not None and not (0 <= box[0] < box[2] <= image.width and 0 <= box[1] < box[3] <= image.height):
                raise SuiteError(
                    f"{path}: face box {box} does not lie in its {image.width}x{image.height} pixels",
                    "mend the manifest",
                )
            return _to_array(picture if box is None else picture.crop(box), size, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SuiteError(f"cannot decode image {path}: {error}", "replace the file by an undamaged copy") from error


def eight_bit(path: str, image: Image.Image) -> Image.Image:
    """A picture of more than eight bits a pixel scaled to eight; any other as it is.

    Pillow's own conversion clips at 255. White is 65535 in whole numbers and 1 in floating point; raises SuiteError for
    values that are beyond it, or so far below that the picture would be black: what they mean is anyone's guess.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # also where one is not a number
            raise _unclear(path, f"floating-point values from {low:g} to {high:g} instead of 0 to 1")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if low < 0 or high > 65535 or 0 < high < 256:
        raise _unclear(path, f"values from {low} to {high} where 16 bits go from 0 to 65535")
    return Image.fromarray((values.astype(np.uint32) >> 8).astype(np.uint8))


def _unclear(path: str, what: str) -> SuiteError:
    return SuiteError(f"{path} has {what}: what is white in it is not clear", "save it with 8 bits a channel")


def _to_array(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)  # antialiased when it shrinks
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file, whatever its line ends; raises SuiteError when it cannot be read or is not UTF-8."""
    try:
        return path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise SuiteError(f"no file {path}", "complete the data set") from error
    except OSError as error:
        raise SuiteError(f"cannot read {path}: {error.strerror}", "name a text file") from error
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path} is not UTF-8 text: {error}", "restore the published file") from error


def all_inside(root: Path, relatives: Iterable[str], name: str) -> list[str]:
    """root/relative of each name; raises SuiteError where one leads out of the folder, by `..` or a link.

    Or where two name one file, as `x.png` and `./x.png`, which would train on the face that it tests with; links from
    file to file are followed, `osfer data check` finds their equal pixels.
    The root itself may be a link. A folder is resolved once, so that 287 k files cost a second and not half a minute.
    """
    top = os.path.realpath(root)
    folders: dict[str, str] = {}
    seen: dict[str, str] = {}
    paths = []
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
            raise SuiteError(f"{name}: {relative!r} leads out of {root}", "use paths below the data set's folder")
        if seen.setdefault(place, relative) != relative:
            raise SuiteError(f"{name}: {relative!r} and {seen[place]!r} are one file", "keep one of them")
        paths.append(path)
    return paths


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")
