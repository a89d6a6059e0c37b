"""Cells in processes of their own (`--jobs`, `--backend ray`): what is killed, where, and that nothing else is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.alive import alive
from tests.faults.test_processes import computed, harmful, results, wait_until

pytestmark = pytest.mark.slow
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def scores(place):
    """Score tables by cell key."""
    return {path.parent.name: pd.read_parquet(path) for path in (place.home / "results").glob("*/scores.parquet")}


def processes(word, above):
    """Ids of the processes under `above` whose command line has `word`."""
    parents, lines = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, IndexError):
            continue

    def is_under(pid):
        while pid > 1 and pid != above:
            pid = parents.get(pid, 0)
        return pid == above

    return [pid for pid in lines if word in lines[pid] and pid != above and is_under(pid)]


def started(place, number=1):
    return lambda: len(list((place.home / "results").glob("*.started"))) >= number


def nothing_left(place):
    """No mark, no half result, no cell twice."""
    assert not list((place.home / "results").glob("*.started"))
    assert not list((place.home / "results").glob("*.partial"))
    keys = [run.data.tags["cell_key"] for run in place.tracker.cells()]
    assert len(keys) == len(set(keys))


def test_two_jobs_give_the_numbers_of_one_process_and_a_store_spares_the_training(place, tmp_path):
    place.write(*harmful(""))
    code, text = place.osfer("run", "--threads", "1", "--store", f"file://{tmp_path}/models")
    assert (code, computed(text)) == (0, 4), text
    alone = scores(place)
    models = {path.name: path.read_bytes() for path in (tmp_path / "models").iterdir()}
    assert len(models) == 2

    place.home = tmp_path / "second"
    place.home.mkdir()
    (place.home / "cache").symlink_to(place.cache)
    for path in (tmp_path / "models").iterdir():
        os.utime(path, (1, 1))
    code, text = place.osfer("run", "--jobs", "2", "--threads", "1", "--store", f"file://{tmp_path}/models")
    assert (code, computed(text)) == (0, 4), text
    spread = scores(place)
    assert spread.keys() == alone.keys()
    for key, table in alone.items():
        pd.testing.assert_frame_equal(table, spread[key], check_exact=True)
    assert all(path.stat().st_mtime == 1 for path in (tmp_path / "models").iterdir())  # none was trained again
    assert {path.name for path in place.home.rglob("*.safetensors")} >= models.keys()
    assert place.statuses() == ["FINISHED"] * 4


ENDS = {
    "exit": "its process ended itself with exit code 7",
    "segfault": "its process was killed by SIGSEGV",
    "kill": "its process was killed by SIGKILL (out of memory?)",
    "memory": "MemoryError",
    "raises": "ValueError: a fault of the method",
    "nan": "unknown scores are NaN or infinite",
    "length": "the method returned (3,) scores",
    "sleep300": "not done after 45 s (--cell-timeout), so its process was ended",
}


def test_cells_that_end_their_process_or_hang_take_themselves_alone(place):
    entries = "".join(f'[methods.{what}]\nmethod = "harmful"\nwhat = "{what}"\n' for what in ENDS)
    place.write(entries)
    chosen = ("run", "--open", "surprise", "--method", ",".join([*ENDS, "baseline"]), "--jobs", "2")
    code, text = place.osfer(*chosen, "--cell-timeout", "45")
    assert (code, computed(text)) == (1, 1), text
    assert place.statuses() == ["FAILED"] * len(ENDS) + ["FINISHED"]
    assert all(any(error in told for told in place.errors()) for error in ENDS.values()), place.errors()
    retry = next(line for line in text.splitlines() if line.startswith("retry only these with: "))
    assert "--jobs 2 --cell-timeout 45" in retry
    assert "baseline" not in retry
    nothing_left(place)
    code, text = place.osfer(*chosen, OSFER_HARMLESS="1")
    assert (code, computed(text)) == (0, len(ENDS)), text
    assert place.statuses() == ["FINISHED"] * (len(ENDS) + 1)


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def cells_and_servers(place, process):
    """Ids of the processes that compute cells, and of the servers that they are forked from."""
    forked = processes("multiprocessing.forkserver", process.pid)
    cells = [pid for pid in forked if parent(pid) in forked]
    return cells, {parent(pid) for pid in cells}


def kill_under_two_cells(place, victim, *options):
    """Kill `victim(server)` of a run while two of its cells wait; nothing is lost. Ids of the cells, other servers."""
    place.write(*harmful("gate", numbers=3))
    gate = place.root / "gate"
    process = place.start("run", "--jobs", "2", *options, OSFER_GATE=str(gate))
    wait_until(lambda: results(place) == 5 and started(place, 2)())  # two cells wait for the gate, one for them
    wait_until(lambda: len(cells_and_servers(place, process)[0]) == 2)  # the mark of a cell stays for a moment after it
    cells, (server, *others) = cells_and_servers(place, process)
    os.kill(victim(server), signal.SIGKILL)
    gate.touch()
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 0, text
    assert place.statuses() == ["FINISHED"] * 8
    nothing_left(place)
    return cells, others


@LINUX
def test_a_killed_server_of_processes_loses_nothing(place):
    cells, others = kill_under_two_cells(place, lambda server: server)
    assert not others
    assert not any(alive(pid, 30) for pid in cells)


@LINUX
def test_a_killed_runner_leaves_no_process_and_the_same_command_goes_on(place):
    place.write(*harmful("sleep300", only="fear"))
    process = place.start("run", "--jobs", "2")
    wait_until(lambda: results(place) == 3 and started(place)())
    below = processes("", process.pid)
    process.kill()
    process.communicate(timeout=60)
    assert not any(alive(pid, 30) for pid in below)
    code, text = place.osfer("run", "--jobs", "2", OSFER_HARMLESS="1")
    assert (code, computed(text)) == (0, 1), text  # three were kept, logged or not
    assert place.statuses() == ["FINISHED"] * 4
    nothing_left(place)


@LINUX
@pytest.mark.parametrize(("signals", "code"), [([signal.SIGTERM], 143), ([signal.SIGINT, signal.SIGINT], 130)])
def test_a_stopped_run_ends_its_processes_and_blames_no_cell(place, signals, code):
    place.write(*harmful("sleep300", only="fear"))
    process = place.start("run", "--jobs", "2")
    wait_until(started(place))
    time.sleep(1)
    below = processes("", process.pid)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == code, text
    assert "the same command goes on from there" in text
    assert "Traceback" not in text
    assert not any(alive(pid, 30) for pid in below)
    assert place.statuses("benchmark") == ["KILLED"]
    assert "FAILED" not in place.statuses()
    code, text = place.osfer("run", "--jobs", "2", OSFER_HARMLESS="1")
    assert code == 0, text
    assert place.statuses() == ["FINISHED"] * 4
    nothing_left(place)


@LINUX
def test_a_killed_ray_worker_loses_nothing(place):
    pytest.importorskip("ray")
    kill_under_two_cells(place, parent, "--backend", "ray", "--threads", "1")


@pytest.fixture
def short_folder():
    """Folder of Ray's sockets, whose paths may have 107 characters, and of its mark of a running cluster."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield folder


def test_a_ray_cluster_that_runs_already_computes_the_cells(place, short_folder):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={short_folder}"]
    token = place.root / "token"
    token.write_text("1" * 64, "utf-8")
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    told = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(place.root / "plugin"), **known}
    head = subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for line in head.stdout:
            if b"runtime started" in line:
                break
        code, text = place.osfer(
            "run", "--backend", "ray", "--address", address, "--jobs", "2", "--threads", "1", **known
        )
        assert (code, computed(text)) == (0, 2), text
        assert head.poll() is None  # the cluster is not the run's to end
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.communicate(timeout=60)
    assert place.statuses() == ["FINISHED"] * 2
    nothing_left(place)
