"""What a method returns is checked before it is written; what is written is whole or not there."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.evaluation.scores import COLUMNS, checked_curves, checked_extras, checked_notes, score_table
from open_set_fer.benchmark.storage.results_dir import Record, read_result, relabel, write_result
from open_set_fer.errors import SuiteError, summary
from open_set_fer.methods.contract import Detection


def test_numbers_of_any_kind_are_a_curve():
    found = checked_curves(
        {
            "loss": [np.float32(0.5), 1],
            "a/b c:d": np.arange(2),
            "nan": [float("nan"), float("inf")],
            "empty": [],
            "tensor": torch.tensor([1.5]),
        }
    )
    assert found["loss"] == [0.5, 1.0]
    assert found["a/b c:d"] == [0.0, 1.0]
    assert found["tensor"] == [1.5]
    assert all(type(value) is float for values in found.values() for value in values)


@pytest.mark.parametrize(
    "curves",
    [
        {"x<>": [1.0]},
        {"a/../b": [1.0]},
        {"": [1.0]},
        {3: [1.0]},
        {"x": ["a"]},
        {"x": ["1.5"]},
        {"x": 1.0},
        {"x": [[1.0], [2.0]]},
        {"x": [[1.0], [2.0, 3.0]]},
        {"x": [None]},
        {"x": "abc"},
        {"n" * 300: [1.0]},
    ],
)
def test_a_curve_that_mlflow_refuses_is_named(curves):
    with pytest.raises(SuiteError, match=f"curve {next(iter(curves))!r}"):
        checked_curves(curves)


def test_mlflow_takes_what_passes(tmp_path):
    from mlflow.utils.validation import _validate_metric_name

    for name in checked_curves({name: [] for name in ("loss", "a/b c:d", "n" * 240, "é", ".x", "a.b")}):
        _validate_metric_name(f"curve.{name}")


@pytest.mark.parametrize(
    "extras",
    [
        {"unknown_score": np.zeros(3)},
        {"is_open": np.zeros(3)},
        {"x": np.zeros(2)},
        {"x": np.zeros((3, 2))},
        {"x": np.array([{}, {}, {}])},
        {"": np.zeros(3)},
        {"x": [[1], [2, 3], []]},
    ],
)
def test_an_extra_that_is_no_column_of_its_own_is_named(extras):
    with pytest.raises(SuiteError, match=f"extra {next(iter(extras))!r}"):
        checked_extras(extras, 3)
    truth = np.array([0, -1, 1])
    with pytest.raises(SuiteError, match="extra"):
        score_table(
            dict.fromkeys(("id", "true_class", "origin", "twin", "has_twin"), truth),
            truth,
            ("a", "b"),
            Detection(np.zeros(3), np.zeros(3, int), extras=extras),
            np.zeros(3, int),
            np.zeros(3, int),
        )


def test_notes_are_text():
    assert checked_notes([np.int64(3), "x"]) == ["3", "x"]
    assert checked_notes("one note") == ["one note"]


TAGS = {"dataset": "made", "protocol": "single", "open_classes": "fear", "method": "x", "seed": "0", "cell_key": "k"}
RECORD = Record(TAGS, {"method.name": "x"}, DataUsed("made", "f" * 64, {}), "{}", "seeds = [0]")
LABELLED = CellResult({"auroc": 1.0}, {}, TAGS, params=RECORD.params, data=RECORD.data)
SCORES = pd.DataFrame({"is_open": [False, True], "unknown_score": [0.0, 1.0]})


def test_files_and_folder_are_synced_before_the_rename(tmp_path, monkeypatch):
    done = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), real_sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"rename to {b}"), real_replace(a, b)))
    write_result(tmp_path / "key", CellResult({"auroc": 1.0}, {}, TAGS), SCORES, RECORD)
    partial, names = tmp_path / "key.partial", {path.name for path in (tmp_path / "key").iterdir()}
    assert names == {"scores.parquet", "result.json", "key.json", "profile.toml", "histogram.png"}
    last = done.index(f"rename to {tmp_path / 'key'}")
    assert {str(partial / name) for name in names} | {str(partial)} <= set(done[:last])
    assert done[last + 1 :] == [str(tmp_path)]


def test_a_result_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_result(tmp_path / "key", CellResult({"auroc": np.float32(1)}, {}, TAGS), SCORES, RECORD)
    assert list(tmp_path.iterdir()) == []


def test_a_result_takes_the_record_of_the_plan_that_wants_it(tmp_path):
    scores = SCORES.assign(**{name: ["a", "b"] for name in COLUMNS if name not in SCORES})
    write_result(tmp_path / "key", replace(LABELLED, tags={"host": "here"} | TAGS), scores, RECORD)
    written = (tmp_path / "key" / "result.json").stat().st_mtime_ns
    assert relabel(tmp_path / "key", RECORD).params == RECORD.params
    assert (tmp_path / "key" / "result.json").stat().st_mtime_ns == written, "nothing to change"
    other = replace(RECORD, tags=TAGS | {"method": "mine"}, profile="seeds = [1]")
    assert relabel(tmp_path / "key", other).tags == {"host": "here"} | TAGS | {"method": "mine"}
    result, _ = read_result(tmp_path / "key")
    assert (result.tags["method"], result.params) == ("mine", RECORD.params)
    assert (tmp_path / "key" / "profile.toml").read_text("utf-8") == "seeds = [1]"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SuiteError("1 of 180 scores are NaN", "fix the method"), "1 of 180 scores are NaN (fix: fix the method)"),
        (ValueError("\n\nsecond\nthird"), "ValueError: second"),
        (RuntimeError(), "RuntimeError (no message)"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_an_exception_in_one_line(error, line):
    assert summary(error) == line
