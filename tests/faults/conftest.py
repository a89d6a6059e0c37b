"""A tiny profile, data rendered once, and a plugin whose method does harm on demand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from open_set_fer import plugins
from open_set_fer.benchmark.execution.pending import Outcome
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.methods.contract import Detection

PROFILE = """
description = "faults"
selection = "nothing was selected"
seeds = [0]
default_methods = ["baseline"]
[datasets.synthetic]
train_per_class = 12
test_per_class = 6
compound_per_class = 1
[protocols]
families = ["single"]
open_classes = ["surprise", "fear"]
[backbone]
width = 4
[closed_set]
epochs = 1
batch_size = 32
[methods.baseline]
method = "harmful"
what = "act"
only = "fear"
"""
PLUGIN = '''
import ctypes, os, resource, signal, subprocess, time
from dataclasses import dataclass
from pathlib import Path
import cloudpickle
import numpy as np
from open_set_fer.methods.contract import Detection

@dataclass(frozen=True)
class Harmful:
    """Does `what` where `only` is among the closed classes, unless OSFER_HARMLESS is set."""
    name = "harmful"
    version = 1

    what: str = ""
    only: str = ""
    number: int = 0

    def detect(self, task, context):
        model = context.closed_set_model(task)
        what = self.what
        if self.only in ("", *task.closed_classes) and "OSFER_HARMLESS" not in os.environ:
            if what == "act" and "OSFER_ACT" in os.environ:
                detection = Detection(-model.test_logits.max(axis=1), model.pseudo_labels)
                return cloudpickle.loads(Path(os.environ["OSFER_ACT"]).read_bytes())(detection)
            if what == "machine":  # as where the whole machine dies: the cell and its run, in this order
                run = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
                os.kill(int(run), signal.SIGSTOP)
                subprocess.Popen(["sh", "-c", f"kill -9 {os.getpid()}; kill -9 {run}"], start_new_session=True)
                time.sleep(300)
            if what == "exit":
                os._exit(7)
            if what == "segfault":
                ctypes.string_at(0)
            if what == "kill":  # as the kernel does where memory ends
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "memory":
                resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
                bytearray(1 << 31)
            if what == "gate":  # the third cell waits for the test
                while self.number == 2 and not Path(os.environ["OSFER_GATE"]).exists():
                    time.sleep(0.1)
            if what.startswith("sleep"):
                time.sleep(float(os.environ.get("OSFER_SLEEP", what.removeprefix("sleep"))))
            if what == "raises":
                raise ValueError("a fault of the method")
            if what == "nan":
                return Detection(np.full(len(model.pseudo_labels), np.nan), model.pseudo_labels)
            if what == "length":
                return Detection(np.zeros(3), model.pseudo_labels)
        return Detection(-model.test_logits.max(axis=1), model.pseudo_labels)
'''


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """The rendered faces of PROFILE, for every home."""
    return tmp_path_factory.mktemp("cache")


class Place:
    """A home, a profile and what was logged there."""

    def __init__(self, root: Path, cache: Path, empty_store: Path) -> None:
        self.root, self.home, self.cache = root, root / "home", cache
        self.profile = root / "own.toml"
        self.home.mkdir()
        (self.home / "cache").symlink_to(cache)
        shutil.copy(empty_store, self.home / "mlflow.db")
        self.write("")
        plugin = root / "plugin"
        (plugin / "harmful-1.dist-info").mkdir(parents=True)
        (plugin / "harmful.py").write_text(PLUGIN, "utf-8")
        (plugin / "harmful-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: harmful\nVersion: 1\n")
        points = "[open_set_fer.methods]\nharmful = harmful:Harmful\n"
        (plugin / "harmful-1.dist-info" / "entry_points.txt").write_text(points)

    def let(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[Detection], Any]) -> None:
        """Let `act(detection)` change or replace what `baseline` returns where `fear` is closed, until it is undone.

        The other cell is left alone.
        """
        path = self.root / "act.pickle"
        path.write_bytes(cloudpickle.dumps(act))
        monkeypatch.setenv("OSFER_ACT", str(path))

    def write(self, more: str, old: str = "", new: str = "") -> None:
        """The profile with `old` replaced by `new` and `more` at its end."""
        self.profile.write_text(PROFILE.replace(old, new) + more, "utf-8")

    def run(self) -> Outcome:
        """Run the profile from this process."""
        profile = load_profile(str(self.profile))
        cells, faces = make_plan(profile, Selection(), self.cache)
        return Runner(self.home, profile).run(cells, faces, "osfer run")

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start `osfer ARGS` on the profile in a process of its own, with the plugin installed."""
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "250", "PYTHONPATH": str(self.root / "plugin"), **env}
        command = [sys.executable, "-c", "from open_set_fer.cli.main import main; main()", *args]
        command += ["--profile", str(self.profile), "--home", str(self.home)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def osfer(self, *args: str, **env: str) -> tuple[int, str]:
        """Exit code and output of `osfer ARGS`."""
        process = self.start(*args, **env)
        text, _ = process.communicate(timeout=300)
        return process.returncode, text

    @property
    def tracker(self) -> Tracker:
        return Tracker(self.home, "own")

    def statuses(self, kind: str = "cell") -> list[str]:
        """The status of every run of a kind."""
        return sorted(run.info.status for run in self.tracker._search(f"tags.`osfer.kind` = '{kind}'"))

    def errors(self) -> list[str]:
        """The error tag of every failed cell."""
        return [run.data.tags["error"] for run in self.tracker.cells() if run.info.status == "FAILED"]


@pytest.fixture
def place(tmp_path, cache, empty_store, monkeypatch) -> Iterator[Place]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Place(tmp_path, cache, empty_store)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path / "plugin"))
        patch.delitem(sys.modules, "harmful", raising=False)
        plugins._registered.cache_clear()
        yield made
    plugins._registered.cache_clear()
