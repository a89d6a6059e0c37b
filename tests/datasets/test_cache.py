"""The cache: killed, raced, out of space or damaged, the outcome is the same bytes or one clear error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from open_set_fer.datasets import cache as store
from open_set_fer.datasets import listing
from open_set_fer.datasets.cache import cached_face_set
from open_set_fer.datasets.faceset import content_fingerprint
from open_set_fer.datasets.listing import Listing, Rows, chunk_length
from open_set_fer.datasets.rafdb import RafDb
from open_set_fer.errors import SuiteError
from tests.datasets.trees import face

PEAK = """
def peak():
    # KiB. Not ru_maxrss: that starts from the memory of the process which started this one, the test's.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

"""
CHILD = (
    PEAK
    + """
import sys
from pathlib import Path
from open_set_fer.datasets import cache as store, listing
from open_set_fer.datasets.rafdb import RafDb

root, cache, size, chunk_bytes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
listing.CHUNK_BYTES = chunk_bytes
prepare = store.prepare
store.prepare = lambda *a: (print("prepares", flush=True), prepare(*a))
faces = RafDb(root, image_size=size).load(cache)
print(faces.fingerprint, peak())
"""
)


def tree(root: Path, count: int, size: int = 20) -> Path:
    """A RAF-DB tree of `count` train images: eight different ones, over and over."""
    aligned = root / "Image" / "aligned"
    for number in range(8):
        face(aligned / f"{number}.jpg", size)
    made = [(aligned / f"{number}.jpg").read_bytes() for number in range(8)]
    for number in range(count):
        (aligned / f"train_{number:05d}_aligned.jpg").write_bytes(made[number % 8])
    (root / "EmoLabel").mkdir()
    lines = [f"train_{number:05d}.jpg {number % 7 + 1}\n" for number in range(count)]
    (root / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines))
    return root


def child(root: Path, cache: Path, size: int = 16, chunk_bytes: int = 4 * 16 * 16 * 3) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(root), str(cache), str(size), str(chunk_bytes)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=Path(__file__).parents[2]
    )


@pytest.mark.slow
def test_killed_while_preparing_then_again(tmp_path):
    root = tree(tmp_path / "basic", 400)
    cache = tmp_path / "cache"
    process = child(root, cache)
    deadline = time.monotonic() + 120
    while not list(cache.glob("*.partial/done")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)  # its decoding workers too
    process.communicate()
    (marker,) = cache.glob("*.partial/done")
    assert 0 < int(marker.read_text()) < 400
    with (marker.parent / "images.npy").open("ab") as file:
        file.write(b"torn")  # a chunk written in part
    again = RafDb(str(root), image_size=16).load(cache)
    undisturbed = RafDb(str(root), image_size=16).load(tmp_path / "other")
    assert again.fingerprint == undisturbed.fingerprint
    assert (again.images == undisturbed.images).all()
    assert not list(cache.glob("*.partial"))


@pytest.mark.slow
def test_two_processes_at_once_prepare_once(tmp_path):
    root = tree(tmp_path / "basic", 200)
    both = [child(root, tmp_path / "cache") for _ in range(2)]
    printed = [process.communicate(timeout=120)[0].split() for process in both]
    assert sum("prepares" in words for words in printed) == 1
    assert printed[0][-2] == printed[1][-2]


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path):
    root = tree(tmp_path / "basic", 3000, 96)
    process = child(root, tmp_path / "cache", 96, listing.CHUNK_BYTES)
    kib = int(process.communicate(timeout=300)[0].split()[-1])
    assert process.returncode == 0
    assert kib < 1 << 20
    assert chunk_length(224 * 224 * 3) * 224 * 224 * 3 <= listing.CHUNK_BYTES


MEASURED = (
    PEAK
    + """
import resource, sys, time
from pathlib import Path
from joblib.externals.loky import get_reusable_executor
from open_set_fer.datasets.affectnet import AffectNet

start = time.perf_counter()
faces = AffectNet(sys.argv[1], image_size=224, channels=3).load(Path(sys.argv[2]))
seconds = time.perf_counter() - start
get_reusable_executor().shutdown(wait=True)  # a process that has not ended counts as nobody's child
worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(faces.images.shape[0], faces.fingerprint, seconds, peak(), worker)
"""
)


def affectnet_tree(root: Path, count: int) -> Path:
    """AffectNet's tree of 2021 with `count` train and 8 validation images: 256 different ones, over and over."""
    made = root.with_name("made")
    for number in range(256):
        face(made / f"{number}.jpg", 64)
    for number in range(8):
        np.save(made / f"{number}_exp.npy", np.array(str(number)))
    for folder, images in (("train_set", count), ("val_set", 8)):
        for part in ("images", "annotations"):
            (root / folder / part).mkdir(parents=True)
        for number in range(images):
            os.link(made / f"{number % 256}.jpg", root / folder / "images" / f"{number}.jpg")
            os.link(made / f"{number % 8}_exp.npy", root / folder / "annotations" / f"{number}_exp.npy")
    return root


@pytest.mark.slow
def test_twenty_thousand_faces_of_224_pixels_in_bounded_memory(tmp_path):
    """3 GB of pixels in less than 1 GiB, all processes together; a second start decodes nothing."""
    root, cache = affectnet_tree(tmp_path / "affectnet", 20_000), tmp_path / "cache"
    workers = 2
    environment = {**os.environ, "LOKY_MAX_CPU_COUNT": str(workers), "OMP_NUM_THREADS": "1"}
    found = []
    try:
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", MEASURED, str(root), str(cache)],
                cwd=Path(__file__).parents[2],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                timeout=500,
                check=True,
            )
            images, fingerprint, seconds, own, worker = done.stdout.split()
            assert int(images) == 20_008
            found.append((fingerprint, float(seconds)))
            # Each at its own highest, shared pages counted more than once: more than the processes ever took together.
            assert int(own) + workers * int(worker) < 1 << 20  # KiB
    finally:
        shutil.rmtree(cache, ignore_errors=True)  # pytest keeps the folders of its last runs
    (first, preparing), (again, reading) = found
    assert again == first
    assert reading < preparing / 5


class Pieces:
    """Images (N, C, H, W), two at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.shape = images, images.shape[1:]

    def chunks(self, start: int):
        for at in range(start, len(self.images), 2):
            yield self.images[at : at + 2]


def prepare(cache: Path, train: int = 6, n: int = 10):
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 4, 4), dtype=np.uint8)
    split = ["train"] * train + ["test"] * (n - train)
    rows = Rows.of(np.arange(n) % 3, split, [f"face-{i}" for i in range(n)])
    return cached_face_set(cache, Listing("made", ("a", "b", "c"), rows, Pieces(images), "key"))


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    faces = prepare(tmp_path)
    assert faces.fingerprint == content_fingerprint(faces.images, faces.labels, faces.split, faces.ids)
    assert isinstance(faces.images, np.memmap)


def test_images_that_change_their_split_are_another_data_set(tmp_path):
    assert prepare(tmp_path, train=6).fingerprint != prepare(tmp_path, train=7).fingerprint


def test_a_full_disk_is_one_error_and_the_next_try_goes_on(tmp_path, monkeypatch):
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(SuiteError, match=r"made: cannot write .*after 0 of 10 images: .*No space left"):
        prepare(tmp_path / "cache")
    monkeypatch.undo()
    assert prepare(tmp_path / "cache").fingerprint == prepare(tmp_path / "other").fingerprint


def test_a_count_that_power_loss_left_empty_starts_over(tmp_path):
    whole = prepare(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    folder.rename(f"{folder}.partial")
    Path(f"{folder}.partial", "done").write_text("")
    assert prepare(tmp_path).fingerprint == whole.fingerprint


@pytest.mark.parametrize("file", ["meta.json", "images.npy"])
def test_a_damaged_cache_entry_names_itself(tmp_path, file):
    prepare(tmp_path)
    (path,) = tmp_path.glob(f"*/{file}")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(SuiteError, match=r"cache entry .*made-\w+ is damaged"):
        prepare(tmp_path)


def left_by_a_killed_try(cache: Path, marker: str, images: int) -> Path:
    """The .partial folder of a preparation with so many of the ten images written, and what it says of them."""
    prepare(cache)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    partial = Path(f"{folder}.partial")
    folder.rename(partial)
    (partial / "meta.json").unlink()
    (partial / "done").write_text(marker)
    with (partial / "images.npy").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - (10 - images) * 16)
    return partial


@pytest.mark.parametrize(
    ("marker", "images", "kept"),
    [("4", 4, 4), ("4", 6, 4), ("10", 10, 10), ("abc", 4, 0), ("", 4, 0), ("-5", 4, 0), ("999999", 4, 0), ("8", 4, 0)],
)
def test_a_count_of_images_is_believed_only_where_the_file_has_them(tmp_path, caplog, marker, images, kept):
    left_by_a_killed_try(tmp_path / "cache", marker, images)
    with caplog.at_level("INFO", "open_set_fer"):
        again = prepare(tmp_path / "cache")
    assert f"decoding {10 - kept} images" in caplog.text
    whole = prepare(tmp_path / "other")
    assert (again.images == whole.images).all()
    assert again.fingerprint == whole.fingerprint


def test_pixels_of_another_shape_are_not_gone_on_from(tmp_path):
    partial = left_by_a_killed_try(tmp_path / "cache", "4", 10)
    np.save(partial / "images.npy", np.zeros((10, 1, 4, 5), dtype=np.uint8))
    assert prepare(tmp_path / "cache").fingerprint == prepare(tmp_path / "other").fingerprint


def test_what_does_not_fit_on_the_disk_is_told_before_it_starts(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=159)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: free)
    with pytest.raises(SuiteError, match=r"decoding takes .*\(160 bytes\) more, but only .*\(159 bytes\) are free"):
        prepare(tmp_path)
    assert not list(tmp_path.rglob("images.npy"))
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: free._replace(free=160))
    prepare(tmp_path)


def test_only_what_is_still_to_be_decoded_must_fit(tmp_path, monkeypatch):
    left_by_a_killed_try(tmp_path, "4", 4)
    free = shutil.disk_usage(tmp_path)._replace(free=96)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: free)
    assert len(prepare(tmp_path).images) == 10


def test_a_home_that_is_a_file(tmp_path):
    (tmp_path / "home").touch()
    with pytest.raises(SuiteError, match=r"cannot write to .*home/cache: Not a directory\n  fix: name another home"):
        prepare(tmp_path / "home" / "cache")


def test_bytes_in_words():
    assert [store.in_words(count) for count in (0, 1, 77_665_536, 999_999_999, 5_074_000_000)] == [
        "0 MB",
        "1 MB",
        "78 MB",
        "1000 MB",
        "5.1 GB",
    ]


def test_ctrl_c_keeps_what_is_decoded(tmp_path, monkeypatch, caplog):
    written = store.write_whole

    def pressed(path: Path, content: bytes) -> None:
        written(path, content)
        if content == b"6":
            raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_whole", pressed)
    with caplog.at_level("INFO", "open_set_fer"), pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "cache")
    assert "stopped after 6 of 10 images of made; the same command resumes there" in caplog.text
    monkeypatch.undo()
    with caplog.at_level("INFO", "open_set_fer"):
        again = prepare(tmp_path / "cache")
    assert "decoding 4 images" in caplog.text
    assert again.fingerprint == prepare(tmp_path / "other").fingerprint


def test_changed_pixels_in_the_cache_are_not_read(tmp_path):
    prepare(tmp_path)
    (path,) = tmp_path.glob("*/images.npy")
    with path.open("r+b") as file:
        file.seek(-16, os.SEEK_END)
        file.write(bytes(16))
    with pytest.raises(SuiteError, match=r"is damaged: its pixels are not those it was made with\n  fix: delete"):
        prepare(tmp_path)


def test_a_fingerprint_edited_by_hand_is_not_believed(tmp_path):
    whole = prepare(tmp_path).fingerprint
    (path,) = tmp_path.glob("*/meta.json")
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {"fingerprint": whole[::-1]}))
    with pytest.raises(SuiteError, match="is damaged: its pixels are not those it was made with"):
        prepare(tmp_path)


def test_a_copied_cache_is_compared_once(tmp_path, monkeypatch):
    first = prepare(tmp_path)
    (path,) = tmp_path.glob("*/images.npy")
    os.utime(path, (1, 1))
    compared = []

    def counted(*arguments):
        compared.append(arguments)
        return content_fingerprint(*arguments)

    monkeypatch.setattr(store, "content_fingerprint", counted)
    assert [prepare(tmp_path).fingerprint for _ in range(2)] == [first.fingerprint] * 2
    assert len(compared) == 1
