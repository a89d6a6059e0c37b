"""A job in a process of its own: whatever ends that process becomes the job's answer."""

from __future__ import annotations

import logging
import pickle
import sys
import time

import pytest

from open_set_fer.benchmark.execution.worker import THREADS, in_own_process
from tests.alive import alive

JOB = """
import logging, os, signal, subprocess, sys, time
from dataclasses import dataclass
from pathlib import Path
from open_set_fer.benchmark.execution.worker import Answer
from open_set_fer.console import log

@dataclass
class Job:
    act: str
    place: str = ""
    ballast: bytes = b""

    def run(self):
        return getattr(self, self.act)()

    def done(self):
        log.warning("careful")
        log.info("not kept")
        return Answer("done", metrics={"auroc": 0.5, "length": float(len(self.ballast))})

    def threads(self):
        return Answer("done", text=" ".join(os.environ[name] for name in self.place.split()))

    def raises(self):
        raise ValueError("no such face")

    def exits(self):
        sys.exit(4)

    def leaves(self):
        print("last words", flush=True)
        os._exit(7)

    def killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hangs(self):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        Path(self.place).write_text(f"{os.getpid()} {child.pid}")
        time.sleep(300)
"""


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """`answer(act, ...)`: what the job's process answers."""
    (tmp_path / "a_job.py").write_text(JOB, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "a_job", raising=False)
    from a_job import Job

    def run(act, place="", ballast=b"", timeout=None, threads=1):
        return in_own_process(pickle.dumps(Job(act, place, ballast)), threads, timeout, str(tmp_path))

    return run


def test_the_answer_comes_with_warnings_and_metrics_and_a_job_of_any_size_goes_in(answer):
    found = answer("done", ballast=bytes(3_000_000))  # more than a pipe holds
    assert (found.state, found.metrics) == ("done", {"auroc": 0.5, "length": 3e6})
    assert found.said == [(logging.WARNING, "careful")]


def test_a_folder_that_this_machine_does_not_have_is_gone_without(answer, tmp_path):
    """Of the runner, on another node of a cluster."""
    from a_job import Job

    assert in_own_process(pickle.dumps(Job("done", "", b"")), 1, None, str(tmp_path / "elsewhere")).state == "done"


def test_every_library_is_told_how_many_threads_there_are(answer):
    assert answer("threads", " ".join(THREADS), threads=3).text == " ".join("3" for _ in THREADS)


@pytest.mark.parametrize(
    ("act", "state", "error", "text"),
    [
        ("raises", "failed", "ValueError: no such face", "Traceback"),
        ("exits", "failed", "SystemExit: 4", "Traceback"),
        ("leaves", "ended", "its process ended itself with exit code 7", "last words"),
        ("killed", "ended", "its process was killed by SIGKILL (out of memory?)", "SIGKILL"),
    ],
)
def test_what_ends_the_process_is_the_answer(answer, act, state, error, text):
    found = answer(act)
    assert (found.state, found.error) == (state, error)
    assert text in found.text


def test_a_process_over_its_time_is_ended_with_what_it_started(answer, tmp_path):
    start = time.monotonic()
    found = answer("hangs", str(tmp_path / "pids"), timeout=3)
    assert time.monotonic() - start < 30
    assert (found.state, found.error) == ("ended", "not done after 3 s (--cell-timeout), so its process was ended")
    assert not any(alive(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_no_room_for_a_process_fails_its_job_alone(answer, monkeypatch):
    monkeypatch.setattr("open_set_fer.benchmark.execution.worker.COMMAND", ("/no/such/python",))
    found = answer("done")
    assert found.state == "failed"
    assert found.error.startswith("its process could not be started: FileNotFoundError")
