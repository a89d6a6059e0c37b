"""Pictures of a cell: which faces the sheet shows, and that faces of real people stay here unless allowed."""

from __future__ import annotations

import re
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.task import split_faces
from open_set_fer.benchmark.storage.pictures import (
    FACES,
    PICTURE,
    draw,
    face_sheet,
    group_names,
    score_histogram,
    sheet_rows,
)
from open_set_fer.benchmark.storage.results_dir import Record, write_result
from open_set_fer.datasets.checks import GAP, MARGIN, TILE, TITLE
from open_set_fer.datasets.faceset import BASIC
from tests.conftest import face_set


def pool_scores(is_open: np.ndarray, scores: np.ndarray, true_class: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"is_open": is_open, "unknown_score": scores, "true_class": true_class})


def test_rows_hold_the_ends_of_both_groups():
    is_open = np.arange(40) % 2 == 0
    rows = sheet_rows(pool_scores(is_open, np.arange(40) / 7, np.repeat("fear", 40)))
    assert [list(places) for _, places in rows] == [
        [38, 36, 34, 32, 30, 28, 26, 24],
        [0, 2, 4, 6, 8, 10, 12, 14],
        [39, 37, 35, 33, 31, 29, 27, 25],
        [1, 3, 5, 7, 9, 11, 13, 15],
    ]
    assert [name.rpartition(" ")[2] for name, _ in rows] == ["found", "missed", "alarms", "accepted"]
    few = sheet_rows(pool_scores(is_open[:5], np.zeros(5), np.repeat("fear", 5)))
    assert [len(places) for _, places in few] == [3, 3, 2, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_the_faces_of_its_rows(channels):
    labels = np.arange(120) % 7
    faces = face_set(labels, np.repeat("test", 120), BASIC)
    grey = np.arange(120, dtype=np.uint8) * 2
    faces = replace(faces, images=np.broadcast_to(grey[:, None, None, None], (120, channels, 6, 6)))
    rng = np.random.default_rng(1)
    pool = rng.permutation(120)[:90]  # not in the face set's order
    scores = pool_scores(labels[pool] == 0, rng.normal(size=90), np.array(BASIC)[labels[pool]])
    sheet = np.asarray(face_sheet(faces, pool, scores, "a cell").convert("RGB"))
    height = (len(sheet) - TITLE - GAP) // 4
    for row, (_, places) in enumerate(sheet_rows(scores)):
        assert len(places) == FACES
        y = TITLE + row * height + height // 2
        shown = [int(sheet[y, MARGIN + column * (TILE + GAP) + TILE // 2, 0]) for column in range(FACES)]
        assert shown == grey[pool[places]].tolist()


def test_faces_of_real_people_are_logged_only_when_allowed(tmp_path, monkeypatch):
    """Three results on disk, logged by processes that differ in the data set and in the flag."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    profile = load_profile("smoke")
    cells, face_sets = make_plan(profile, Selection(methods=("baseline",), seeds=(0, 1, 2)), tmp_path / "cache")
    rendered = face_sets["synthetic"]
    real = replace(rendered, name="ferplus", demonstration=False)
    logged = []
    for cell, faces, allowed in zip(cells, (rendered, real, real), (False, False, True), strict=True):
        folder = tmp_path / "results" / cell.key
        split = split_faces(rendered, cell.protocol, cell.seed)
        scores = pool_scores(
            split.truth < 0, np.linspace(0, 1, len(split.test)), np.array(rendered.classes)[rendered.labels[split.test]]
        )
        classes = dict.fromkeys(("predicted_class", "closed_set_class", "given_class"), "fear")
        scores = scores.assign(id=rendered.ids[split.test], truth=scores["true_class"], origin="test", **classes)
        record = Record.of(cell, profile, faces)
        result = CellResult({"auroc": 0.5}, {}, record.tags, params=record.params, data=record.data)
        write_result(folder, result, scores, record)
        runner = Runner(tmp_path, profile, RunOptions(allow_face_artifacts=allowed))
        assert runner.run([cell], {"synthetic": faces}, "osfer run").logged_from_disk == 1
        (run,) = (run for run in runner.connection.tracker.cells() if run.data.tags["cell_key"] == cell.key)
        paths = {item.path for item in runner.connection.tracker.client.list_artifacts(run.info.run_id)}
        assert {"histogram.png", "scores.parquet"} <= paths
        logged.append("faces.png" in paths)
    assert logged == [True, False, True]


def legend(histogram: Figure) -> list[str]:
    return [text.get_text() for text in histogram.axes[0].get_legend().get_texts()]


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(50),
        np.full(50, 1e9),
        1e9 + np.arange(50) * 1e-7,
        np.r_[np.zeros(49), 1.0],
        np.exp(np.linspace(-30, 30, 50)),
        np.linspace(-1, 1, 50),
    ],
    ids=["constant", "large constant", "nearly constant", "one off", "heavy tail", "even"],
)
@pytest.mark.parametrize("n_open", [0, 1, 20, 50])
def test_histogram_of_any_scores(scores: np.ndarray, n_open: int) -> None:
    frame = pd.DataFrame({"is_open": np.arange(50) < n_open, "unknown_score": scores})
    histogram = score_histogram(frame, "a title")
    # Both groups' shares add up to one: nothing is lost by clipping the axis.
    shares = [patch.get_data().values for patch in histogram.axes[0].patches]
    expected = [1, 1 if n_open else 0] if n_open < 50 else [0, 1]
    assert [share.sum() for share in shares] == pytest.approx(np.repeat(expected, 2))  # areas and outlines
    assert legend(histogram) == [f"closed ({50 - n_open} faces)", f"open ({n_open} faces)"]
    picture = np.asarray(draw(histogram))
    assert picture.shape == (PICTURE[1], PICTURE[0], 3)
    assert len(np.unique(picture[60:300, 80:600].reshape(-1, 3), axis=0)) >= 3  # bars are there


def test_bars_are_as_high_as_their_shares() -> None:
    opened = np.repeat([False, True], [40, 10])
    frame = pd.DataFrame({"is_open": opened, "unknown_score": np.repeat([0.0, 1.0, 4.0], [30, 10, 10])})
    picture = np.asarray(draw(score_histogram(frame, "t"))).astype(int)
    blue, orange, white = (0, 114, 178), (213, 94, 0), (255, 255, 255)

    def height(colour: tuple[int, int, int], columns: slice) -> int:
        mixed = np.round(0.3 * np.array(colour) + 0.7 * np.array(white))
        return int((abs(picture[:, columns] - mixed).sum(axis=2) <= 3).sum(axis=0).max())

    width = picture.shape[1]
    highest = height(orange, slice(width // 2, None))  # a share of 1
    assert height(blue, slice(0, 95)) == pytest.approx(0.75 * highest, abs=3)
    assert height(blue, slice(100, width // 2)) == pytest.approx(0.25 * highest, abs=3)
    assert height(orange, slice(0, width // 2)) == 0


def ticks(low: float, high: float) -> tuple[list[str], list[float]]:
    """What the axis of a histogram of scores from `low` to `high` says, as text and as numbers."""
    axis = score_histogram(pool_scores(np.arange(500) < 9, np.linspace(low, high, 500), np.repeat("fear", 500)), "t")
    draw(axis)
    x = axis.axes[0].xaxis
    texts = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in x.get_ticklabels()]
    offset = re.fullmatch(r"(1e[+-]?\d+)?([+-].+)?", x.get_offset_text().get_text().replace("\N{MINUS SIGN}", "-"))
    assert offset, x.get_offset_text()
    values = [float(text) * float(offset[1] or 1) + float(offset[2] or 0) for text in texts]
    assert values == pytest.approx(list(x.get_ticklocs()), rel=1e-12, abs=1e-9 * (high - low))
    return texts, values


def test_ticks_are_round_and_told_apart() -> None:
    assert [float(text) for text in ticks(0, 1)[0][1:-1]] == [0.2, 0.4, 0.6, 0.8]
    inside = [value for value in ticks(-0.45, 0.45)[1] if abs(value) < 0.45]
    assert inside == [-0.4, -0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4]
    for low, high in ((1e9, 1e9 + 1), (-3e-11, 1e-12), (123456.5, 123457.5), (-1e12, 8e12)):
        texts, values = ticks(low, high)
        assert len(set(texts)) == len(texts) >= 3
        assert np.diff(values) == pytest.approx(np.repeat(values[1] - values[0], len(values) - 1), rel=1e-5)


def test_names_are_written_as_they_are(recwarn: pytest.WarningsRecorder) -> None:
    frame = pool_scores(np.arange(50) < 10, np.linspace(-1, 1, 50), np.repeat("fear", 50))
    with matplotlib.rc_context({"text.usetex": True, "font.sans-serif": ["no such font"]}):
        found = score_histogram(frame, "$\\frac$ and $x_1$ 中 <b>")
        written = np.asarray(draw(found))
    assert found.axes[0].get_title() == "$\\frac$ and $x_1$ 中 <b>"
    assert (written != np.asarray(draw(score_histogram(frame, "and 中 <b>")))).any()
    assert not recwarn.list


def test_histogram_says_when_the_axis_is_clipped() -> None:
    scores = np.r_[np.linspace(0, 1, 999), 1e6]
    found = score_histogram(pd.DataFrame({"is_open": np.arange(1000) % 2 == 0, "unknown_score": scores}), "t")
    assert "99th percentile; 20 faces beyond" in found.axes[0].get_xlabel()
    assert found.axes[0].get_xlim()[1] < 2


def test_a_control_tells_flipped_labels_from_others() -> None:
    frame = pool_scores(np.arange(50) < 10, np.linspace(-1, 1, 50), np.repeat("fear", 50))
    found = score_histogram(frame, "t", group_names(True))
    assert legend(found) == ["label as it was (40 faces)", "label flipped (10 faces)"]
    assert found.axes[0].get_xlabel().startswith("unknown score (higher = more likely label flipped)")
    assert not any("open" in name or "closed" in name for name, _ in sheet_rows(frame, group_names(True)))
    tags = {"labels": "flipped-true"}
    assert CellResult({"auroc": 0.5}, {}, tags).is_control
    assert not CellResult({"auroc": 0.5}, {}, {"labels": "released"}).is_control
