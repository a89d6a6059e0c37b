"""One cell that fails, is damaged or cannot be logged takes no other cell with it."""

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
from mlflow.exceptions import MlflowException

from open_set_fer.benchmark.execution import signals
from open_set_fer.benchmark.storage.mlflow_reader import KIND
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import Stopped
from open_set_fer.methods.contract import Detection


def damage(how, folder):
    name, _, cut = how.partition(" ")
    if cut == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[: int(cut)])


def test_damaged_results_are_named_set_aside_and_computed_again(place, caplog):
    assert place.run().computed == 2
    for how in (
        "result.json 100",
        "result.json 0",
        "result.json missing",
        "scores.parquet 200",
        "scores.parquet missing",
    ):
        for run in place.tracker.cells():
            place.tracker.client.delete_run(run.info.run_id)
        first = min(path for path in (place.home / "results").iterdir() if len(path.name) == 64 and path.is_dir())
        damage(how, first)
        caplog.clear()
        outcome = place.run()
        assert (outcome.computed, outcome.logged_from_disk, outcome.failed) == (1, 1, []), how
        assert f"{first / how.split()[0]} is damaged" in caplog.text
        assert first.with_suffix(".damaged").is_dir()
        assert place.statuses() == ["FINISHED"] * 2
        shutil.rmtree(first.with_suffix(".damaged"))
        result = json.loads((first / "result.json").read_text("utf-8"))
        assert result["started"] <= result["ended"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"curves": {"x<>": [1.0]}}, "curve 'x<>' has a name that MLflow refuses"),
        ({"curves": {"x": ["a"]}}, "curve 'x' is no list of numbers"),
        ({"extras": {"unknown_score": np.zeros(36)}}, "extra 'unknown_score' cannot be a column"),
        ({"extras": {"x": np.zeros(3)}}, "extra 'x' has shape (3,)"),
    ],
)
def test_a_method_that_returns_what_cannot_be_kept_fails_its_cell_by_name(place, monkeypatch, change, said):
    place.let(monkeypatch, lambda found: Detection(found.unknown_score, found.predicted_class, **change))
    outcome = place.run()
    assert (outcome.computed, len(outcome.failed)) == (1, 1)
    assert said in outcome.failed[0][1]
    assert said in place.errors()[0]
    assert not list((place.home / "results").glob("*.partial"))


def test_numpy_numbers_are_kept_and_logged(place, monkeypatch):
    change = {"curves": {"x": [np.float32(0.5)]}, "notes": [np.int64(3)], "extras": {"mine": np.arange(100)}}

    def act(found):
        extras = {"mine": np.arange(len(found.unknown_score))}
        return Detection(found.unknown_score, found.predicted_class, **(change | {"extras": extras}))

    place.let(monkeypatch, act)
    assert (place.run().computed, place.statuses()) == (2, ["FINISHED"] * 2)
    assert sorted(run.data.metrics.get("curve.x", 0) for run in place.tracker.cells()) == [0, 0.5]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (BaseException("odd"), "BaseException: odd"),
        (ValueError("\n\nsecond"), "ValueError: second"),
        (RuntimeError(), "RuntimeError (no message)"),
    ],
)
def test_whatever_a_method_raises_is_its_cell_s_failure(place, monkeypatch, error, said):
    def act(found):
        raise error

    place.let(monkeypatch, act)
    outcome = place.run()
    assert (outcome.computed, [text for _, text in outcome.failed]) == (1, [said])
    assert place.errors() == [said]
    assert place.run().failed  # tried again
    assert place.statuses() == ["FAILED", "FINISHED"]  # one run a cell
    assert place.statuses("benchmark") == ["FAILED"] * 2
    monkeypatch.undo()
    assert place.run().computed == 1
    assert place.statuses() == ["FINISHED"] * 2


def test_the_error_tag_says_what_was_wrong(place, monkeypatch):
    place.let(monkeypatch, lambda found: Detection(found.unknown_score * np.nan, found.predicted_class))
    place.run()
    assert "unknown scores are NaN or infinite" in place.errors()[0]


def test_a_keyboard_interrupt_that_a_method_raises_is_its_failure_too(place, monkeypatch):
    """Ctrl-C goes to the run, not to the cell's process."""

    def act(found):
        raise KeyboardInterrupt

    place.let(monkeypatch, act)
    outcome = place.run()
    assert (outcome.computed, [text for _, text in outcome.failed]) == (1, ["KeyboardInterrupt (no message)"])
    assert not list((place.home / "results").glob("*.started"))


@pytest.fixture
def handlers():
    """Puts the handlers of signals back, which stay after a stop."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("then", ["fails", "sleeps", "goes on"])
def test_a_signal_stops_the_run_whatever_the_cell_does_with_it(place, monkeypatch, handlers, then):
    run = os.getpid()

    def act(found):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.kill(run, signal.SIGTERM)
        if then == "fails":
            raise AttributeError("module 'torch._dynamo' has no attribute 'utils'")
        if then == "sleeps":
            time.sleep(600)
        return found

    place.let(monkeypatch, act)
    with pytest.raises(Stopped):
        place.run()
    assert place.statuses("benchmark") == ["KILLED"]
    assert "FAILED" not in place.statuses()
    assert not list((place.home / "results").glob("*.started"))


def test_a_signal_in_the_midst_of_a_write_waits_for_its_end(place, monkeypatch, handlers):
    whole = Tracker.log_cell

    def log_cell(self, *args):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        whole(self, *args)

    monkeypatch.setattr(Tracker, "log_cell", log_cell)
    with pytest.raises(Stopped):
        place.run()
    assert place.statuses() == ["FINISHED"]
    assert place.statuses("benchmark") == ["KILLED"]


def test_a_signal_that_nothing_has_raised_is_raised_at_the_end(handlers):
    def swallow():
        with signals.stopped_by_signals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            stop.closing = True

    with pytest.raises(Stopped):
        swallow()


def test_a_signal_interrupts_nothing_at_first_and_what_hangs_afterwards(monkeypatch, handlers):
    """So that none is raised where it would only be printed, as in a destructor."""

    def send():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

    with pytest.raises(Stopped) as stopped, signals.stopped_by_signals() as stop:  # noqa: PT012
        with signals.stopped_by_signals() as inner:
            assert inner is stop
        send()
        send()
        with pytest.raises(Stopped):
            stop.check()
        monkeypatch.setattr(signals, "PATIENCE", 0.0)
        with pytest.raises(Stopped):
            send()
        stop.closing = True
        send()
        stop.check()
    assert stopped.value.signal == signal.SIGTERM


def test_one_refusal_of_the_store_is_tried_again_at_the_end(place, monkeypatch):
    whole, refused = Tracker.log_cell, []

    def log_cell(self, *args):
        if not refused:
            refused.append(1)
            raise MlflowException("a moment's trouble")
        whole(self, *args)

    monkeypatch.setattr(Tracker, "log_cell", log_cell)
    outcome = place.run()
    assert (outcome.computed, outcome.failed, outcome.waiting) == (2, [], [])
    assert place.statuses() == ["FINISHED"] * 2


def test_a_result_that_the_store_never_takes_fails_alone_and_is_kept(place, monkeypatch):
    whole, key = Tracker.log_cell, []

    def log_cell(self, parent, result, *args):
        key[:] = key or [result.tags["cell_key"]]
        if result.tags["cell_key"] == key[0]:
            raise MlflowException("no")
        whole(self, parent, result, *args)

    with monkeypatch.context() as broken:
        broken.setattr(Tracker, "log_cell", log_cell)
        outcome = place.run()
    assert outcome.computed == 2
    assert [cell.key for cell, _ in outcome.failed] == key
    assert "computed, but cannot be logged: MlflowException: no" in place.errors()[0]
    again = place.run()
    assert (again.computed, again.logged_from_disk) == (0, 1)
    assert place.statuses() == ["FINISHED"] * 2


def test_a_cell_run_left_without_content_is_removed(place):
    tracker = place.tracker
    parent = tracker.client.create_run(
        tracker.experiment_id, tags={KIND: "benchmark", "host": "elsewhere", "pid": "1"}
    ).info.run_id
    for owner, status in ((parent, "RUNNING"), ("gone", "RUNNING")):
        tags = {KIND: "cell", "mlflow.parentRunId": owner}  # killed before log_batch: not even a cell_key
        tracker.client.create_run(tracker.experiment_id, tags=tags)
        assert status in place.statuses()
    place.run()
    # The one under a parent that still runs on another machine may be being written.
    assert place.statuses() == ["FINISHED", "FINISHED", "RUNNING"]


def test_the_key_is_on_a_cell_run_from_its_first_moment(place, monkeypatch):
    """Killed between create_run and log_batch: the next run finds the leftover by its key."""
    from mlflow import MlflowClient

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", lambda *args, **more: (_ for _ in ()).throw(KeyboardInterrupt()))
        broken.setattr(Tracker, "end", lambda *args, **more: None)  # a killed process removes nothing
        with pytest.raises(KeyboardInterrupt):
            place.run()
    left = place.tracker._search(f"tags.`{KIND}` = 'cell' and attributes.status = 'RUNNING'")
    assert [len(run.data.tags["cell_key"]) for run in left] == [64]
    place.run()
    assert place.statuses() == ["FINISHED"] * 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS does not hold a process to its address space")
def test_a_cell_that_eats_memory_fails_alone(place, monkeypatch):
    import resource

    def act(found):
        before = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
        limit = pages * resource.getpagesize() + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        try:
            eaten = [bytearray(2**24) for _ in range(1000)]
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        return eaten

    place.let(monkeypatch, act)
    outcome = place.run()
    assert (outcome.computed, [text.split()[0] for _, text in outcome.failed]) == (1, ["MemoryError"])
    monkeypatch.undo()
    assert place.run().computed == 1
    assert place.statuses() == ["FINISHED"] * 2


def test_a_small_disk_that_is_full_then_larger(place):
    """A real one, in memory: as root alone."""
    results = place.home / "results"
    results.mkdir()

    def mount(*options):
        return subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(results)], capture_output=True).returncode

    if mount("-o", "size=12k"):
        pytest.skip("mounting a small disk needs root")
    try:
        outcome = place.run()
        assert outcome.failed
        assert {"No space left on device" in text for _, text in outcome.failed} == {True}
        assert mount("-o", "remount,size=10m") == 0
        again = place.run()
        assert again.failed == []
        assert place.statuses() == ["FINISHED"] * 2
        assert len(list(results.glob("*/result.json"))) == 2
    finally:
        subprocess.run(["umount", str(results)], check=True)
