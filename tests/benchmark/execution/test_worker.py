"""A job in its own process: whatever ends that process becomes the job's result, and it inherits nothing of the run."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch

from open_set_fer.benchmark.execution import worker
from open_set_fer.benchmark.execution.worker import THREADS, in_child
from tests.alive import alive


def test_the_result_comes_with_warnings_and_metrics_and_a_job_of_any_size_goes_in(job):
    result = in_child(job("done", ballast=bytes(3_000_000)))  # more than a pipe holds
    assert (result.state, result.metrics) == ("done", {"auroc": 0.5, "length": 3e6})
    assert result.said == [(logging.WARNING, "careful")]


def test_a_folder_that_this_machine_does_not_have_is_gone_without(job, tmp_path):
    """Of the runner, on another node of a cluster."""
    assert in_child(job("done"), folder=str(tmp_path / "elsewhere")).state == "done"


def test_every_library_is_told_how_many_threads_there_are(job):
    assert in_child(job("environment", " ".join(THREADS), threads=3)).text == " ".join("3" for _ in THREADS)
    for name in THREADS:
        assert in_child(job("environment", name, threads=None)).text == os.environ.get(name, "-")


def test_a_process_inherits_neither_threads_nor_cuda_nor_state_but_environment_and_folder(job, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "MINE", 1, raising=False)
    plain = json.loads(in_child(job("inherited")).text)
    monkeypatch.setenv("OSFER_INHERITED", "as it is now, not as it was when the server of processes started")
    monkeypatch.chdir(tmp_path)
    running = threading.Event()
    thread = threading.Thread(target=running.wait, daemon=True)
    thread.start()
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("error")
            random.seed(1)
            np.random.seed(1)  # noqa: NPY002
            torch.manual_seed(1)
            dirty = json.loads(in_child(job("inherited")).text)
    finally:
        torch.set_default_dtype(torch.float32)
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
        torch.set_rng_state(state[2])
        running.set()
    assert dirty["environment"] == os.environ["OSFER_INHERITED"]
    assert dirty["folder"] == str(tmp_path)
    assert plain["threads"] == dirty["threads"] == 2  # its own, and the one that hears when the starter is gone
    assert not dirty["cuda"]
    assert dirty["filters"] == plain["filters"]
    assert (dirty["dtype"], dirty["grad"], dirty["main"], dirty["group"]) == ("torch.float32", True, None, True)
    random.seed(1)
    assert dirty["random"][0] != random.random()
    random.setstate(state[0])


def test_a_listener_decides_after_each_epoch(job):
    heard = []

    def listener(epoch, auroc):
        heard.append((epoch, auroc))
        return epoch == 1

    assert in_child(job("epochs", listens=True), listener=listener).text == "[False, True, False]"
    assert heard == [(0, 0.5), (1, 0.5), (2, 0.5)]


def test_steps_are_counted_through_the_pipe(job):
    assert in_child(job("steps")).text == "10"


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        ("raises", "ValueError: no such face", "Traceback"),
        ("exits", "SystemExit: 4", "Traceback"),
        ("leaves", "its process ended itself with exit code 7", "last words"),
        ("killed", "its process was killed by SIGKILL (out of memory?)", "SIGKILL"),
    ],
)
def test_what_ends_the_process_is_the_result(job, act, error, text):
    result = in_child(job(act))
    assert (result.state, result.error) == ("failed", error)
    assert text in result.text


def pids(path):
    end = time.monotonic() + 100
    while not path.exists() or len(path.read_text().split()) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    return [int(pid) for pid in path.read_text().split()]


def test_a_process_over_its_time_is_ended_with_what_it_started(job, tmp_path):
    result = in_child(job("hangs", str(tmp_path / "pids")), timeout=5)
    assert (result.state, result.error) == ("failed", "not done after 5 s (--cell-timeout), so its process was ended")
    assert not any(alive(pid, 30) for pid in pids(tmp_path / "pids"))


def test_a_process_is_ended_with_what_it_started_once_the_run_stops(job, tmp_path):
    stopping = threading.Event()
    watcher = threading.Thread(target=in_child, args=(job("hangs", str(tmp_path / "pids")), None, stopping))
    watcher.start()
    started = pids(tmp_path / "pids")
    assert all(alive(pid, 0.2) for pid in started)
    stopping.set()
    watcher.join(60)
    assert not watcher.is_alive()
    assert not any(alive(pid, 30) for pid in started)


def test_no_room_for_a_process_fails_its_job_alone(job, monkeypatch):
    def full(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(worker, "_context", full)
    result = in_child(job("done"))
    assert result.state == "failed"
    assert result.error.startswith("its process could not be started: BlockingIOError")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_threads_that_wait_for_each_other_sleep(job):
    """torch's OpenMP reads it when it is loaded: before the process is forked."""
    assert "OMP_WAIT_POLICY=PASSIVE" in in_child(job("at_start")).text
