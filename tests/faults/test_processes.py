"""Processes that share a home, die in a cell, or are told to stop: real ones."""

from __future__ import annotations

import io
import os
import re
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import safetensors
import torch

from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.methods.shared.unfinished import DIGEST

pytestmark = pytest.mark.slow


def harmful(what, only="", numbers=1):
    """Entries of the profile for the plugin's method, and the list that runs them before `baseline`."""
    labels = [f"harmful{number}" for number in range(numbers)]
    entries = "".join(
        f'[methods.{label}]\nmethod = "harmful"\nwhat = "{what}"\nonly = "{only}"\nnumber = {number}\n'
        for number, label in enumerate(labels)
    )
    return entries, 'default_methods = ["baseline"]', f"default_methods = {[*labels, 'baseline']}".replace("'", '"')


def wait_until(happened, seconds=500):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def computed(text):
    return int(re.search(r"(\d+) computed", text).group(1))


def results(place):
    return len(list((place.home / "results").glob("*/result.json")))


@pytest.mark.parametrize(("options", "alone", "together"), [((), 2, 6), (("--jobs", "2", "--threads", "1"), 6, 8)])
def test_two_processes_share_the_cells(place, options, alone, together):
    """The first is held up in each of two cells that wait for the test; the second computes what it can besides."""
    place.write(*harmful("gate", numbers=4))
    gate = place.root / "gate"
    first = place.start("run", *options, OSFER_GATE=str(gate))
    wait_until(lambda: results(place) == alone and list((place.home / "results").glob("*.started")))
    second = place.start("run", *options, OSFER_GATE=str(gate))
    wait_until(lambda: results(place) == together)
    gate.touch()
    texts = [process.communicate(timeout=600)[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], texts
    shares = [computed(text) for text in texts]
    assert sum(shares) == 10  # each cell once
    assert shares[0] >= alone, texts
    assert shares[1] >= together - alone, texts
    assert place.statuses() == ["FINISHED"] * 10
    assert place.statuses("benchmark") == ["FINISHED"] * 2


@pytest.mark.parametrize("what", ["exit", "segfault"])
def test_a_cell_that_ends_its_process_fails_alone(place, what):
    place.write(*harmful(what, only="fear"))  # harmless where fear is open
    code, text = place.osfer("run")
    assert (code, computed(text)) == (1, 3), text
    assert place.statuses() == ["FAILED", "FINISHED", "FINISHED", "FINISHED"]
    code, text = place.osfer("run", OSFER_HARMLESS="1")
    assert (code, computed(text)) == (0, 1), text
    assert place.statuses() == ["FINISHED"] * 4
    assert place.statuses("benchmark") == ["FAILED", "FINISHED"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_cell_in_which_the_whole_run_dies_is_logged_and_tried_last(place):
    place.write(*harmful("machine", only="fear"))  # harmless where fear is open
    code, text = place.osfer("run")
    assert code == -signal.SIGKILL, text
    code, text = place.osfer("run")
    assert code == -signal.SIGKILL, text  # tried again, after all others
    assert "the process died while computing this cell" in text
    assert place.statuses() == ["FAILED", "FINISHED", "FINISHED", "FINISHED"]
    assert "the process died while computing this cell (process " in place.errors()[0]
    code, text = place.osfer("run", OSFER_HARMLESS="1")
    assert (code, computed(text)) == (0, 1), text
    assert place.statuses() == ["FINISHED"] * 4
    assert place.statuses("benchmark") == ["FINISHED", "KILLED", "KILLED"]
    assert not list((place.home / "results").glob("*.started"))


@pytest.mark.parametrize(
    ("signals", "code"), [([signal.SIGTERM], 143), ([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGHUP], 129)]
)
def test_a_stopped_run_is_closed_as_killed_and_goes_on(place, signals, code):
    place.write(*harmful("sleep60", only="fear"))
    process = place.start("run")
    wait_until(lambda: list((place.home / "results").glob("*.started")))
    time.sleep(3)  # into the method's sleep
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == code, text
    assert "the same command goes on from there" in text
    assert "Traceback" not in text
    assert place.statuses("benchmark") == ["KILLED"]
    assert not list((place.home / "results").glob("*.started"))
    code, text = place.osfer("run", OSFER_HARMLESS="1")
    assert code == 0, text
    assert place.statuses() == ["FINISHED"] * 4


def test_a_store_that_another_program_holds_in_mid_run(place):
    """What is computed meanwhile stays in the home, and the same command logs it."""
    place.write(*harmful("gate", numbers=3))
    gate = place.root / "gate"
    process = place.start("run", OSFER_GATE=str(gate))
    wait_until(lambda: results(place) >= 2)  # the third waits for the gate
    with closing(sqlite3.connect(place.home / store.DATABASE, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        gate.touch()
        text, _ = process.communicate(timeout=300)
    assert process.returncode == 3, text
    assert re.search(r"the store sqlite:\S+/mlflow\.db does not answer; the run goes on without it", text), text
    assert "wait on disk, because the store does not answer; when it does, the same command logs them" in text
    assert "Traceback" not in text
    before = computed(text)
    code, text = place.osfer("run")
    assert (code, before + computed(text)) == (0, 8), text
    assert place.statuses() == ["FINISHED"] * 8


def test_a_truncated_store_is_named_and_put_back_or_made_anew(place):
    code, text = place.osfer("run")
    assert (code, computed(text)) == (0, 2), text
    database = place.home / store.DATABASE
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 3])
    code, text = place.osfer("run")
    assert code == 2, text
    assert re.search(r"mlflow\.db cannot be read: .*\n  fix: put back a copy", text), text
    database.write_bytes(whole)
    code, text = place.osfer("run")
    assert (code, computed(text)) == (0, 0), text
    database.unlink()
    code, text = place.osfer("run")
    assert (code, computed(text)) == (0, 0), text
    assert "2 logged from an earlier computation" in text
    assert place.statuses() == ["FINISHED"] * 2


def unfinished(place):
    return list((place.home / "closed_set").glob("*.unfinished"))


def epochs_kept(place):
    (path,) = unfinished(place)
    return len(torch.load(io.BytesIO(path.read_bytes()[DIGEST:]), weights_only=True)["curves"]["loss"])


def trained(place):
    """The digest of the closed-set model's weights and curves."""
    (path,) = (place.home / "closed_set").glob("*.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        return path, file.metadata()["sha256"]


def suspend_cells(process):
    """Stop the processes of a run that compute: each leads a group of its own."""
    children = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children")]  # a line a thread
    for number in " ".join(children).split():
        if os.getpgid(int(number)) == int(number):
            os.kill(int(number), signal.SIGSTOP)
        suspend_cells(number)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_closed_set_training_that_is_stopped_in_its_middle_goes_on_to_the_same_numbers(place):
    labels = [f'[methods.{label}]\nmethod = "harmful"\nnumber = {n}\n' for n, label in enumerate(("first", "second"))]
    place.write("".join(labels), "epochs = 1\n", "epochs = 400\n")
    chosen = "run", "--open", "surprise", "-m"
    run = place.start(*chosen, "first")
    wait_until(lambda: unfinished(place))
    run.kill()
    run.communicate(timeout=600)
    killed_at = epochs_kept(place)
    run = place.start(*chosen, "first")
    wait_until(lambda: not unfinished(place) or epochs_kept(place) > killed_at)
    suspend_cells(run.pid)
    run.terminate()
    text, _ = run.communicate(timeout=600)
    assert "a closed-set model in training up to its last kept epoch" in text
    assert killed_at < epochs_kept(place) < 400
    code, text = place.osfer(*chosen, "first")
    assert code == 0, text
    assert not unfinished(place)
    model, resumed = trained(place)
    model.unlink()
    code, text = place.osfer(*chosen, "second")  # trains the same model without a stop
    assert (code, computed(text)) == (0, 1), text
    assert trained(place) == (model, resumed)
