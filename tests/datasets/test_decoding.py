"""Decoding: depth, colour, orientation and boxes; the decoders wait for a slow disk."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from open_set_fer.datasets import decoding, listing
from open_set_fer.datasets.checks import odd_files
from open_set_fer.datasets.decoding import ImageFiles, decode
from open_set_fer.datasets.rafdb import RafDb
from open_set_fer.errors import SuiteError
from tests.datasets.trees import rafdb_tree


def test_a_slow_disk_holds_the_decoders_back(tmp_path, monkeypatch):
    """Chunks that nobody has taken yet would otherwise pile up in memory."""
    root = rafdb_tree(tmp_path / "tree", 16)
    paths = sorted(map(str, (root / "Image" / "aligned").iterdir()))
    monkeypatch.setattr(listing, "CHUNK", 1)
    submitted = []

    class Recorder(ThreadPoolExecutor):
        def submit(self, work, *arguments):
            submitted.append(arguments)
            return super().submit(work, *arguments)

    monkeypatch.setattr("joblib.externals.loky.get_reusable_executor", lambda max_workers: Recorder(max_workers))
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    chunks = ImageFiles(paths, 20, 1).chunks(0)
    first = next(chunks)
    time.sleep(0.5)
    assert len(submitted) == 5  # two for each worker, and the one just taken
    assert len(first) + sum(map(len, chunks)) == len(paths)


def test_colour_depth_and_orientation(tmp_path):
    levels = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray((levels.astype(np.uint16) << 8) + 7).save(tmp_path / "deep.png")
    assert (decode(str(tmp_path / "deep.png"), 8, 1)[0] == levels).all()
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "print.jpg")
    assert decode(str(tmp_path / "print.jpg"), 8, 3).max() < 5
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(levels).save(tmp_path / "turned.png", exif=exif)
    assert (decode(str(tmp_path / "turned.png"), 8, 1)[0] == levels[::-1, ::-1]).all()


def test_an_entry_of_an_earlier_decoder_is_not_read(tmp_path, monkeypatch):
    dataset = RafDb(str(rafdb_tree(tmp_path / "basic", 7)), image_size=16)
    monkeypatch.setattr(decoding, "VERSION", 1)
    dataset.load(tmp_path / "cache")
    monkeypatch.undo()
    dataset.load(tmp_path / "cache")
    assert len(list(tmp_path.glob("cache/*/images.npy"))) == 2


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
    assert decode(str(tmp_path / "deep.tif"), 2, 1)[0].tolist() == expected


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
        SuiteError, match=rf"deep\.tif has {message}.*: what is white in it is not clear\n  fix: save it"
    ):
        decode(str(path), 2, 1)
    (line,) = odd_files(ImageFiles([str(path)], 8, 1), None)
    assert line.startswith(f"{path}: has {message}")


def test_a_box_lies_in_the_picture_as_a_viewer_shows_it(tmp_path):
    stored = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a viewer turns it clockwise
    path = str(tmp_path / "upright.png")
    Image.fromarray(stored).save(path, exif=exif)
    shown = np.rot90(stored, -1)
    assert (decode(path, 4, 1, (0, 10, 4, 14))[0] == shown[10:14, 0:4]).all()
    with pytest.raises(SuiteError, match="does not lie in its 8x16 pixels"):
        decode(path, 4, 1, (10, 0, 14, 4))


@pytest.mark.slow
def test_cells_are_spread_over_processes_after_a_data_set_was_decoded(tmp_path):
    import joblib

    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "face.png")
    assert len(list(ImageFiles([str(tmp_path / "face.png")], 4, 1).chunks(0))) == 1
    spread = joblib.Parallel(n_jobs=joblib.cpu_count(), return_as="generator_unordered")
    assert sorted(spread(joblib.delayed(abs)(number) for number in (-1, -2))) == [1, 2]
