"""Preparation: killed, raced, out of space or damaged, the outcome is the same bytes or one clear error."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open_set_fer.datasets import preparation
from open_set_fer.datasets.faceset import content_fingerprint
from open_set_fer.datasets.integrity import odd_files
from open_set_fer.datasets.preparation import Listing, Table, all_inside, cached_face_set, chunk_length
from open_set_fer.datasets.rafdb import RafDb
from open_set_fer.errors import SuiteError
from tests.datasets.test_published import face

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
from open_set_fer.datasets import preparation
from open_set_fer.datasets.rafdb import RafDb

root, cache, size, chunk_bytes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
preparation.CHUNK_BYTES = chunk_bytes
prepare = preparation._prepare
preparation._prepare = lambda *a: (print("prepares", flush=True), prepare(*a))
faces = RafDb(RafDb.Settings(root, image_size=size)).load(cache)
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
    settings = RafDb.Settings(str(root), image_size=16)
    again = RafDb(settings).load(cache)
    undisturbed = RafDb(settings).load(tmp_path / "other")
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
    process = child(root, tmp_path / "cache", 96, preparation.CHUNK_BYTES)
    kib = int(process.communicate(timeout=300)[0].split()[-1])
    assert process.returncode == 0
    assert kib < 1 << 20
    assert chunk_length(224 * 224 * 3) * 224 * 224 * 3 <= preparation.CHUNK_BYTES


MEASURED = (
    PEAK
    + """
import resource, sys, time
from pathlib import Path
from joblib.externals.loky import get_reusable_executor
from open_set_fer.datasets.affectnet import AffectNet

start = time.perf_counter()
faces = AffectNet(AffectNet.Settings(sys.argv[1], image_size=224, channels=3)).load(Path(sys.argv[2]))
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


def test_a_slow_disk_holds_the_decoders_back(tmp_path, monkeypatch):
    """Chunks that nobody has taken yet would otherwise pile up in memory."""
    root = tree(tmp_path / "tree", 60)
    paths = sorted(map(str, (root / "Image" / "aligned").iterdir()))
    monkeypatch.setattr(preparation, "CHUNK", 1)
    submitted = []

    class Recorder(ThreadPoolExecutor):
        def submit(self, work, *arguments):
            submitted.append(arguments)
            return super().submit(work, *arguments)

    monkeypatch.setattr("joblib.externals.loky.get_reusable_executor", lambda max_workers: Recorder(max_workers))
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    chunks = preparation.decode_files(paths, 20, 1, 0)
    first = next(chunks)
    time.sleep(0.5)
    assert len(submitted) == 5  # two for each worker, and the one just taken
    assert len(first) + sum(map(len, chunks)) == len(paths)


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
                [sys.executable, "-c", MEASURED, str(root), str(cache)], cwd=Path(__file__).parents[2],
                env=environment, stdout=subprocess.PIPE, text=True, timeout=500, check=True,
            )  # fmt: skip
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


def table(n: int, train: int) -> Table:
    split = np.array(["train"] * train + ["test"] * (n - train))
    return Table(np.arange(n) % 3, split, np.array([f"face-{i}" for i in range(n)]))


def prepare(cache: Path, train: int = 6, n: int = 10):
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 4, 4), dtype=np.uint8)

    def chunks(start: int):
        for at in range(start, n, 2):
            yield images[at : at + 2]

    return cached_face_set(cache, Listing("made", "key", ("a", "b", "c"), table(n, train), (1, 4, 4), chunks))


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    faces = prepare(tmp_path)
    assert faces.fingerprint == content_fingerprint(faces.images, faces.labels, faces.split, faces.ids)
    assert isinstance(faces.images, np.memmap)


def test_images_that_change_their_split_are_another_data_set(tmp_path):
    assert prepare(tmp_path, train=6).fingerprint != prepare(tmp_path, train=7).fingerprint


def test_a_full_disk_is_one_error_and_the_next_try_goes_on(tmp_path, monkeypatch):
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preparation.os, "fsync", full)
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


def test_names_that_lead_out_of_the_folder(tmp_path):
    root = tmp_path / "set"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.jpg").touch()
    (tmp_path / "out.jpg").touch()
    (root / "in" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (root / "in" / "near.jpg").symlink_to(root / "in" / "a.jpg")
    (root / "away").symlink_to(tmp_path)
    for good in ("in/a.jpg", "in/near.jpg", "in/../in/a.jpg", str(root / "in" / "a.jpg"), "not-there.jpg"):
        assert all_inside(root, [good], "made") == [os.path.join(root, good)]
    for bad in ("../out.jpg", "in/link.jpg", "away/out.jpg", str(tmp_path / "out.jpg"), "in/..", "..", "/"):
        with pytest.raises(SuiteError, match="leads out of"):
            all_inside(root, [bad], "made")
    (tmp_path / "linked").symlink_to(root)
    assert all_inside(tmp_path / "linked", ["in/a.jpg"], "made")


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
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: free)
    with pytest.raises(SuiteError, match=r"decoding takes .*\(160 bytes\) more, but only .*\(159 bytes\) are free"):
        prepare(tmp_path)
    assert not list(tmp_path.rglob("images.npy"))
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: free._replace(free=160))
    prepare(tmp_path)


def test_only_what_is_still_to_be_decoded_must_fit(tmp_path, monkeypatch):
    left_by_a_killed_try(tmp_path, "4", 4)
    free = shutil.disk_usage(tmp_path)._replace(free=96)
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: free)
    assert len(prepare(tmp_path).images) == 10


def test_a_home_that_is_a_file(tmp_path):
    (tmp_path / "home").touch()
    with pytest.raises(SuiteError, match=r"cannot write to .*home/cache: Not a directory\n  mend: name another home"):
        prepare(tmp_path / "home" / "cache")


def test_bytes_in_words():
    assert [preparation.in_words(count) for count in (0, 1, 77_665_536, 999_999_999, 5_074_000_000)] == [
        "0 MB", "1 MB", "78 MB", "1000 MB", "5.1 GB",
    ]  # fmt: skip


def test_ctrl_c_keeps_what_is_decoded(tmp_path, monkeypatch, caplog):
    written = preparation._write_atomically

    def pressed(path: Path, text: str) -> None:
        written(path, text)
        if text == "6":
            raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "_write_atomically", pressed)
    with caplog.at_level("INFO", "open_set_fer"), pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "cache")
    assert "stopped after 6 of 10 images of made; the same command goes on from there" in caplog.text
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
    with pytest.raises(SuiteError, match=r"is damaged: its pixels are not those it was made with\n  mend: delete"):
        prepare(tmp_path)


def test_a_copied_cache_is_compared_once(tmp_path, monkeypatch):
    first = prepare(tmp_path)
    (path,) = tmp_path.glob("*/images.npy")
    os.utime(path, (1, 1))
    compared = []

    def counted(*arguments):
        compared.append(arguments)
        return content_fingerprint(*arguments)

    monkeypatch.setattr(preparation, "content_fingerprint", counted)
    assert [prepare(tmp_path).fingerprint for _ in range(2)] == [first.fingerprint] * 2
    assert len(compared) == 1


def test_an_entry_of_an_earlier_decoder_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "DECODING", 1)
    prepare(tmp_path)
    monkeypatch.undo()
    prepare(tmp_path)
    assert len(list(tmp_path.glob("*/images.npy"))) == 2


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.array([[0, 0.25], [0.5, 1]], np.float32), [[0, 64], [128, 255]]),
        (np.array([[0, 256], [32768, 65535]], np.int32), [[0, 1], [128, 255]]),
        (np.array([[0, 256], [32768, 65535]], np.uint16), [[0, 1], [128, 255]]),
        (np.zeros((2, 2), np.int32), [[0, 0], [0, 0]]),
    ],
)
def test_deep_pictures_are_scaled(tmp_path, picture, expected):
    Image.fromarray(picture).save(tmp_path / "deep.tif")
    assert preparation.decode(str(tmp_path / "deep.tif"), 2, 1)[0].tolist() == expected


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.array([[0, 0.5], [1, 255]], np.float32), "floating-point values from 0 to 255 instead of 0 to 1"),
        (np.array([[0, 0.5], [1, np.nan]], np.float32), "floating-point values from nan to nan"),
        (np.array([[-0.5, 0.5], [1, 1]], np.float32), "floating-point values from -0.5 to 1"),
        (np.array([[0, 100], [200, 255]], np.int32), "values from 0 to 255 where 16 bits go from 0 to 65535"),
        (np.array([[0, 100], [200, 255]], np.uint16), "values from 0 to 255 where 16 bits go from 0 to 65535"),
        (np.array([[0, 100], [200, 70000]], np.int32), "values from 0 to 70000"),
        (np.array([[-1, 100], [200, 7000]], np.int32), "values from -1 to 7000"),
    ],
)
def test_pictures_that_do_not_say_what_is_white_are_refused(tmp_path, picture, message):
    path = tmp_path / "deep.tif"
    Image.fromarray(picture).save(path)
    with pytest.raises(
        SuiteError, match=rf"deep\.tif has {message}.*: what is white in it is not clear\n  mend: save it"
    ):
        preparation.decode(str(path), 2, 1)
    (line,) = odd_files(tmp_path, None)
    assert line.startswith(f"{path}: has {message}")


def test_a_box_lies_in_the_picture_as_a_viewer_shows_it(tmp_path):
    stored = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a viewer turns it clockwise
    path = str(tmp_path / "upright.png")
    Image.fromarray(stored).save(path, exif=exif)
    shown = np.rot90(stored, -1)
    assert (preparation.decode(path, 4, 1, (0, 10, 4, 14))[0] == shown[10:14, 0:4]).all()
    with pytest.raises(SuiteError, match="does not lie in its 8x16 pixels"):
        preparation.decode(path, 4, 1, (10, 0, 14, 4))


def test_a_link_that_leads_to_itself(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    preparation.listing_key("made", 0, [f"{tmp_path}/a.png"])
    with pytest.raises(SuiteError, match=r"made: cannot read .*loop\.png: Too many levels of symbolic links"):
        preparation.listing_key("made", 0, [f"{tmp_path}/a.png", f"{tmp_path}/loop.png"])


def test_two_names_of_one_file(tmp_path):
    root = tmp_path / "set"
    (root / "in").mkdir(parents=True)
    (root / "also").symlink_to(root / "in")
    for other in ("./in/a.jpg", "in/../in/a.jpg", "in//a.jpg", "also/a.jpg"):
        with pytest.raises(SuiteError, match=r"and 'in/a\.jpg' are one file"):
            all_inside(root, ["in/a.jpg", "in/b.jpg", other], "made")
