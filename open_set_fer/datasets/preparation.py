"""Decode once, in parallel, into a memory-mapped cache; everything after reads arrays.

A cache entry is a folder named by a key over content listing and settings. It is written beside its final name with a
count of the images already safe, so that a killed preparation goes on where it stopped, and it is renamed only when
complete: a half-written entry is never read. A lock lets one process prepare while others wait.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from open_set_fer.console import log, track
from open_set_fer.datasets.faceset import FaceSet, block_fingerprint
from open_set_fer.errors import SuiteError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

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


def listing_key(name: str, settings: Any, paths: Iterable[str]) -> str:
    """Key of a cache entry: settings and every file's path, size and time of change."""
    digest = hashlib.sha256(f"{name}/{settings!r}".encode())
    by_folder: dict[str, dict[str, os.stat_result]] = {}
    for path in paths:
        folder, _, file = path.rpartition("/")
        if folder not in by_folder:
            by_folder[folder] = {}
            if os.path.isdir(folder):
                with os.scandir(folder) as entries:
                    by_folder[folder] = {entry.name: entry.stat() for entry in entries if entry.is_file()}
        stat = by_folder[folder].get(file)
        if stat is None:
            raise SuiteError(f"{name}: no file {path}", "complete the data set")
        digest.update(f"{path}/{stat.st_size}/{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def cached_face_set(
    cache: Path,
    name: str,
    key: str,
    classes: tuple[str, ...],
    table: Table,
    shape: tuple[int, int, int],
    chunks: Callable[[int], Iterator[NDArray[np.uint8]]],
    demonstration: bool = False,
    notes: dict[str, dict[str, int]] | None = None,
) -> FaceSet:
    """The FaceSet of cache entry `key` (of files and settings; the table is added here), made by `chunks` if not there.

    shape: (C, H, W). notes: counts by split that `osfer data check` prints. chunks(start): yields uint8 (n, C, H, W) from image `start` on.
    """
    digest = hashlib.sha256(key.encode())
    for column in (table.labels, table.split, table.ids):
        digest.update(f"{column.dtype}/{len(column)}/".encode() + np.ascontiguousarray(column).tobytes())
    folder = cache / f"{name}-{digest.hexdigest()[:20]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if not folder.is_dir():  # another process may have prepared it while this one waited
                _prepare(folder, name, table, shape, chunks)
    try:
        fingerprint = str(json.loads((folder / "meta.json").read_text("utf-8"))["fingerprint"])
        images = np.load(folder / "images.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise SuiteError(f"{name}: cache entry {folder} is damaged: {error}", "delete it; it is made again") from error
    return FaceSet(name, images, table.labels, classes, table.split, table.ids, fingerprint, demonstration, notes or {})


def _prepare(
    folder: Path,
    name: str,
    table: Table,
    shape: tuple[int, int, int],
    chunks: Callable[[int], Iterator[NDArray[np.uint8]]],
) -> None:
    partial = Path(f"{folder}.partial")
    marker, array = partial / "done", partial / "images.npy"
    count, bytes_each = len(table.labels), int(np.prod(shape))
    done = 0
    try:
        partial.mkdir(exist_ok=True)
        done = _images_safe(marker) if array.exists() else 0
        if not done:
            with array.open("wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                )
        log.info("preparing %s: %d images into %s", name, count - done, folder)
        # Written as a file, not through a memory map: a map's pages count as this process's memory, and a full disk
        # kills a process that writes to one.
        with array.open("r+b") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            file.truncate(start + done * bytes_each)
            file.seek(0, os.SEEK_END)
            steps = -(-(count - done) // chunk_length(bytes_each))
            for piece in track(chunks(done), f"preparing {name}", total=steps):
                file.write(np.ascontiguousarray(piece).data)
                file.flush()
                os.fsync(file.fileno())
                done += len(piece)
                _write_atomically(marker, str(done))
            if done != count:
                raise SuiteError(f"{name}: {done} images made where {count} were announced", "report this: it is a bug")
            file.seek(start)
            blocks = iter(lambda: file.read(CHUNK_BYTES), b"")
            fingerprint = block_fingerprint((count, *shape), blocks, table.labels, table.split, table.ids)
        _write_atomically(partial / "meta.json", json.dumps({"fingerprint": fingerprint, "images": count}))
        marker.unlink()
        os.replace(partial, folder)
    except OSError as error:
        raise SuiteError(
            f"{name}: cannot write {partial} after {done} of {count} images: {error}",
            f"all of them take {count * bytes_each / 1e9:.1f} GB; the same command goes on where this one stopped",
        ) from error


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


def _images_safe(marker: Path) -> int:
    try:
        return int(marker.read_text())
    except (OSError, ValueError):
        return 0


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
    """One image file as uint8 (C, size, size): turned as its EXIF says, 16-bit scaled to 8, grey or RGB, antialiased.

    Raises SuiteError naming a file that is missing, cut short, no image, or of more than MAX_PIXELS.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SuiteError(
                    f"{path} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}", "crop it to the face"
                )
            image.load()
            if box is not None and not (0 <= box[0] < box[2] <= image.width and 0 <= box[1] < box[3] <= image.height):
                raise SuiteError(
                    f"{path}: face box {box} does not lie in its {image.width}x{image.height} pixels",
                    "mend the manifest",
                )
            return _to_array(image if box is None else image.crop(box), size, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SuiteError(f"cannot decode image {path}: {error}", "replace the file by an undamaged copy") from error


def _to_array(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):  # 16-bit grey; PIL's own conversion clips at 255
        turned = Image.fromarray((np.asarray(turned).astype(np.uint32) >> 8).astype(np.uint8))
    turned = turned.convert("L" if channels == 1 else "RGB")
    if turned.size != (size, size):
        turned = turned.resize((size, size), Image.Resampling.BILINEAR)  # antialiased when it shrinks
    array = np.asarray(turned, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file, whatever its line ends; raises SuiteError when it is missing or not UTF-8."""
    try:
        return path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise SuiteError(f"no file {path}", "complete the data set") from error
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path} is not UTF-8 text: {error}", "restore the published file") from error


def all_inside(root: Path, relatives: Iterable[str], name: str) -> list[str]:
    """root/relative of each name; raises SuiteError where one leads out of the folder, by `..` or a link.

    The root itself may be a link. A folder is resolved once, so that 287 k files cost a second and not half a minute.
    """
    top = os.path.realpath(root)
    folders: dict[str, bool] = {}
    paths = []
    for relative in relatives:
        path = os.path.join(root, relative)
        folder, _, file = path.rpartition("/")
        if folder not in folders:
            folders[folder] = _below(os.path.realpath(folder), top)
        if (
            not folders[folder]
            or file in ("", ".", "..")
            or (os.path.islink(path) and not _below(os.path.realpath(path), top))
        ):
            raise SuiteError(f"{name}: {relative!r} leads out of {root}", "use paths below the data set's folder")
        paths.append(path)
    return paths


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")
