"""A picture that changes under a prepared cache: no number of the old picture passes for one of the new."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from open_set_fer.datasets.faceset import BASIC


def tree(root: Path) -> Path:
    """Pictures of the seven classes, each of its own grey, as <split>/<class>/<number>.png."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for label, name in enumerate(BASIC):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (24, 24), dtype=np.uint8) + np.uint8(25 * label)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def scores(place) -> dict[str, pd.DataFrame]:
    return {path.parent.name: pd.read_parquet(path) for path in (place.home / "results").glob("*/scores.parquet")}


def opened(frame: pd.DataFrame) -> str:
    """The open class of a cell's scores."""
    return str(frame.loc[frame["is_open"], "true_class"].iloc[0])


def test_a_picture_changed_under_a_prepared_cache_is_another_data_set(place):
    faces = tree(place.root / "faces")
    place.write(
        "",
        "[datasets.synthetic]\ntrain_per_class = 12\ntest_per_class = 6\ncompound_per_class = 1\n",
        f'[datasets.manifest]\npath = "{faces}"\nimage_size = 24\nchannels = 1\n',
    )
    assert place.osfer("run")[0] == 0
    before = scores(place)
    assert len(before) == 2
    picture = faces / "test" / "anger" / "0.png"
    whole, stat = picture.read_bytes(), picture.stat()
    Image.fromarray(np.full((24, 24), 255, dtype=np.uint8)).save(picture)

    code, text = place.osfer("plan")
    assert (code, "2 of 2 cells to do" in text) == (0, True), text
    assert place.osfer("run")[0] == 0
    after = scores(place)
    assert len(after) == 4
    assert place.statuses() == ["FINISHED"] * 4
    by_open_class = {opened(frame): frame for key, frame in after.items() if key not in before}
    for frame in before.values():  # same faces, other scores
        again = by_open_class[opened(frame)]
        assert sorted(again["id"]) == sorted(frame["id"])
        assert sorted(again["unknown_score"]) != sorted(frame["unknown_score"])
    for key, frame in before.items():
        pd.testing.assert_frame_equal(frame, after[key])

    picture.write_bytes(whole)
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    code, text = place.osfer("plan")
    assert (code, "nothing to do: all 2 cells are done" in text) == (0, True), text
