"""Jobs that do as they are told, for processes and executors."""

from __future__ import annotations

import os
import sys

import pytest

JOB = """
import json, os, random, signal, subprocess, sys, threading, time, warnings
from dataclasses import dataclass
from pathlib import Path
import numpy as np
import torch
from open_set_fer.benchmark.execution.job import JobResult
from open_set_fer.console import log

@dataclass
class Job:
    act: str
    place: str = ""
    ballast: bytes = b""
    threads: int | None = 1
    listens: bool = False

    def run(self, talk):
        self.talk = talk
        return getattr(self, self.act)()

    def done(self):
        log.warning("careful")
        log.info("not kept")
        return JobResult("done", metrics={"auroc": 0.5, "length": float(len(self.ballast))})

    def environment(self):
        return JobResult("done", text=" ".join(os.environ.get(name, "-") for name in self.place.split()))

    def at_start(self):
        return JobResult("done", text=Path("/proc/self/environ").read_bytes().decode().replace(chr(0), " "))

    def inherited(self):
        return JobResult("done", text=json.dumps({
            "threads": threading.active_count(),
            "cuda": torch.cuda.is_initialized(),
            "random": [random.random(), float(np.random.rand()), float(torch.rand(1))],
            "filters": [str(entry) for entry in warnings.filters if entry[0] == "error"],
            "environment": os.environ.get("OSFER_INHERITED"),
            "folder": os.getcwd(),
            "dtype": str(torch.get_default_dtype()),
            "grad": torch.is_grad_enabled(),
            "main": getattr(sys.modules["__main__"], "MINE", None),
            "group": os.getpgrp() == os.getpid(),
        }))

    def epochs(self):
        return JobResult("done", text=str([self.talk.is_to_stop(epoch, 0.5) for epoch in range(3)]))

    def steps(self):
        return JobResult("done", text=str(sum(self.talk.progress(range(5), "counting"))))

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
def job(tmp_path, monkeypatch):
    """The class of jobs, in a module that processes can import, those of a Ray cluster too."""
    (tmp_path / "a_job.py").write_text(JOB, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.getcwd()]))
    monkeypatch.delitem(sys.modules, "a_job", raising=False)
    from a_job import Job

    return Job
