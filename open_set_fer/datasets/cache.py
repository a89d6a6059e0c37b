"""Memory-mapped cache of decoded images: decoding runs once, in parallel.

A cache entry is a folder named by a key over files, settings and rows. It is written under a temporary name with a
count of the images safely written, so that a killed preparation resumes, and renamed only when complete: a partial
entry is never read. A lock lets one process prepare while others wait. The entry's size, modification time and
fingerprint are its stamp; if one differs, the pixels are hashed again, so that a changed entry is not read.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import numpy as np
from numpy.typing import NDArray

from open_set_fer.console import log, track
from open_set_fer.datasets.faceset import FaceSet, Outline, block_fingerprint, content_fingerprint, twin_indices
from open_set_fer.datasets.listing import CHUNK_BYTES, Listing, Rows, chunk_length
from open_set_fer.errors import SuiteError
from open_set_fer.files import write_whole


class PreparedDataSet:
    """Base of data sets that are listed first and then decoded once into the cache.

    classes: of its FaceSet if known without its files, so that `osfer plan` works without them.
    """

    classes: tuple[str, ...] = ()

    def listing(self, cache: Path) -> Listing:
        """Everything but the pixels, with `cache` for what is slow to read; SuiteError names a damaged file."""
        raise NotImplementedError

    def load(self, cache: Path) -> FaceSet:
        """The data set as a FaceSet; raises SuiteError naming a fault of its files."""
        return cached_face_set(cache, self.listing(cache))

    def outline(self, cache: Path) -> Outline:
        """Classes, and the cache's fingerprint if it is prepared; decodes and writes nothing.

        Raises SuiteError as `load` does if the classes are unknown without the files.
        """
        try:
            listing = self.quick_listing(cache)
            if isinstance(listing, Outline):
                return listing
            count = len(listing.rows.labels)
            size = count * int(np.prod(listing.pixels.shape))
            return Outline(listing.classes, _fingerprint(listing.entry(cache)), count, size)
        except SuiteError as error:
            if not self.classes:
                raise
            return Outline(self.classes, missing=str(error))

    def quick_listing(self, cache: Path) -> Listing | Outline:
        """Listing, or an outline if making the listing would write to the cache."""
        return self.listing(cache)


def cached_face_set(cache: Path, listing: Listing) -> FaceSet:
    """FaceSet of a listing, decoded into `cache` if necessary.

    Raises SuiteError naming a damaged or changed entry, or the space that decoding needs and the disk lacks.
    """
    folder = listing.entry(cache)
    if not folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{folder}.lock"):
                if not folder.is_dir():  # another process may have prepared it while this one waited
                    prepare(folder, listing)
        except OSError as error:
            raise SuiteError(f"cannot write to {cache}: {error.strerror}", "name another home with --home") from error
    rows = listing.rows
    fingerprint = _fingerprint(folder)
    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        _verify(folder, images, rows, fingerprint)
        twins = _twins(folder, images)
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(folder, error) from error
    content = listing.name, images, rows.labels, listing.classes, rows.split, rows.ids, fingerprint
    return FaceSet(*content, listing.demonstration, listing.notes, rows.votes, twins)


def cached_array(path: Path, compute: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Load the array in `path`; if missing, write `compute()` there in one rename."""
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False))
    numbers = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        np.save(file, numbers)
    os.replace(file.name, path)
    return numbers


def _twins(folder: Path, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """`FaceSet.twins` of an entry, from its file, or found in its pixels and kept there."""
    path = folder / "twins.npy"
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False))
    each = track(_one_by_one(folder / "images.npy", images.shape), "finding repeated images", total=len(images))
    twins, file = twin_indices(each), io.BytesIO()
    np.save(file, twins)
    with contextlib.suppress(OSError), filelock.FileLock(f"{folder}.lock"):
        write_whole(path, file.getvalue())  # fails in a read-only cache, where they are found every time
    return twins


def _one_by_one(path: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """Images of an entry, read as a file: the pages of a memory map would count as this process's memory."""
    bytes_each = int(np.prod(shape[1:]))
    size = bytes_each * chunk_length(bytes_each)
    with path.open("rb") as file:
        file.seek(len(_header(shape)))
        for block in iter(lambda: file.read(size), b""):
            yield from np.frombuffer(block, dtype=np.uint8).reshape(-1, *shape[1:])


def _fingerprint(folder: Path) -> str:
    """Fingerprint of a cache entry, '' if there is none."""
    if not folder.is_dir():
        return ""
    try:
        return str(json.loads((folder / "meta.json").read_text("utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error


def _verify(folder: Path, images: NDArray[np.uint8], rows: Rows, fingerprint: str) -> None:
    """Raise ValueError if the entry's pixels have changed; they are hashed only if size or time differ."""
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    stamp = _stamp(folder / "images.npy", fingerprint)
    if meta["stamp"] == stamp:
        return
    log.info("%s was copied or changed since it was made: comparing its pixels with its fingerprint", folder)
    if content_fingerprint(images, *rows.columns) != fingerprint:
        raise ValueError("its pixels are not those it was made with")
    with contextlib.suppress(OSError):  # a read-only cache is compared every time
        write_whole(folder / "meta.json", json.dumps(meta | {"stamp": stamp}).encode())


def _stamp(path: Path, fingerprint: str) -> list[int | str]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, fingerprint]


def _damaged(folder: Path, error: Exception) -> SuiteError:
    return SuiteError(f"cache entry {folder} is damaged: {error}", "delete that folder; it is made again")


def prepare(folder: Path, listing: Listing) -> None:
    """Decode a listing into a cache entry, resuming an earlier attempt."""
    name, rows, shape = listing.name, listing.rows, listing.pixels.shape
    partial = Path(f"{folder}.partial")
    marker, array = partial / "done", partial / "images.npy"
    count, bytes_each = len(rows.labels), int(np.prod(shape))
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
            for piece in track(listing.pixels.chunks(done), f"preparing {name}", total=steps):
                file.write(np.ascontiguousarray(piece).data)
                file.flush()
                os.fsync(file.fileno())
                done += len(piece)
                write_whole(marker, str(done).encode())
            if done != count:
                raise SuiteError(f"{name}: {done} images came where {count} were announced", "report this: it is a bug")
            file.seek(len(header))
            blocks = iter(lambda: file.read(CHUNK_BYTES), b"")
            fingerprint = block_fingerprint((count, *shape), blocks, *rows.columns)
        meta = {"fingerprint": fingerprint, "images": count, "stamp": _stamp(array, fingerprint)}
        write_whole(partial / "meta.json", json.dumps(meta).encode())
        marker.unlink(missing_ok=True)  # missing if there are no images
        os.replace(partial, folder)
    except KeyboardInterrupt:
        log.info("stopped after %d of %d images of %s; the same command resumes there", done, count, name)
        raise
    except OSError as error:
        fix = f"all of them take {in_words(count * bytes_each)}; the same command resumes where this one stopped"
        raise SuiteError(f"{name}: cannot write {partial} after {done} of {count} images: {error}", fix) from error


def _check_space(name: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SuiteError(
            f"{name}: decoding takes {in_words(needed)} ({needed} bytes) more, but only "
            f"{in_words(free)} ({free} bytes) are free at {folder.parent}",
            "free some space, name a folder on another disk with --home, or set a smaller image_size in the profile",
        )


def in_words(count: int) -> str:
    """Format a number of bytes: '77 MB', '4.8 GB'."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{-(-count // 10**6)} MB"


def _header(shape: tuple[int, ...]) -> bytes:
    """Header of a .npy file of uint8 pixels of this shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _images_safe(marker: Path, array: Path, header: bytes, count: int, bytes_each: int) -> int:
    """Images safely written by an earlier attempt; 0 if its files contradict its marker."""
    try:
        done = int(marker.read_text())
        with array.open("rb") as file:
            same = file.read(len(header)) == header
            there = file.seek(0, os.SEEK_END)
    except (FileNotFoundError, ValueError):
        return 0
    return done if same and 0 <= done <= count and len(header) + done * bytes_each <= there else 0
