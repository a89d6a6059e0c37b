"""A tracking server that is away, dies in mid-run and comes back: results wait on disk and are logged."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from open_set_fer.benchmark.storage.connection import brief_requests, public_address, tracking_wait
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.storage.sync import Connection
from open_set_fer.errors import SuiteError, TrackingAway
from tests.faults.test_processes import computed, harmful, wait_until
from tests.security.test_secrets import Refusing


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


class Server:
    """A real `mlflow server` on a store in the test's folder."""

    def __init__(self, folder, address):
        self.folder, self.address, self.process = folder, address, None

    def start(self):
        port = self.address.rpartition(":")[2]
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination",
            str(self.folder / "server-artifacts"),
        ]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(self.answers)

    def answers(self):
        try:
            return urllib.request.urlopen(f"{self.address}/health", timeout=2).status == 200
        except OSError:
            return False

    def freeze(self):
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self):
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path, address):
    made = Server(tmp_path, address)
    yield made
    made.kill()


def test_a_dead_port_costs_the_wait_and_results_are_logged_later(place, address, monkeypatch):
    monkeypatch.setenv("OSFER_TRACKING_WAIT", "0.5")
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", address)
        start = time.monotonic()
        with pytest.raises(TrackingAway, match=r"does not answer \(waited 0\.5 s\)"):
            Tracker(place.home, "own")
        assert time.monotonic() - start < 5
        outcome = place.run()
        assert (outcome.computed, len(outcome.waiting), outcome.failed) == (2, 2, [])
        assert len(place.run().waiting) == 2  # not computed again
    later = place.run()
    assert (later.computed, later.logged_from_disk, later.waiting) == (0, 2, [])
    assert place.statuses() == ["FINISHED"] * 2


def test_a_server_that_comes_back_without_its_store_is_still_away(place, address, monkeypatch):
    """It answered nothing at the start; then it refuses: the run goes on, and what it computed waits."""
    monkeypatch.setenv("OSFER_TRACKING_WAIT", "0.5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    connection = Connection(place.home, "own")
    assert connection.away
    handler = type("Handler", (Refusing,), {"status": 500})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(address.rpartition(":")[2])), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        connection.ask(lambda tracker: tracker.ping(), None, now=True)
        assert connection.away
        assert connection.ask(lambda tracker: "told", "kept") == "kept"
        outcome = place.run()
        assert (outcome.computed, len(outcome.waiting), outcome.failed) == (2, 2, [])
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_wait_that_is_no_number_of_seconds(monkeypatch, text):
    monkeypatch.setenv("OSFER_TRACKING_WAIT", text)
    with pytest.raises(SuiteError, match="OSFER_TRACKING_WAIT"):
        tracking_wait()


def test_no_password_is_printed_and_the_environment_is_put_back(monkeypatch):
    assert public_address("https://me:secret@host:1/x@y") == "https://host:1/x@y"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with brief_requests():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


@pytest.mark.slow
def test_a_server_killed_in_mid_run(place, server, monkeypatch):
    """It comes back in the first run, which logs what waited; it dies in the second, which says what waits."""
    place.write(*harmful("gate", only="fear", numbers=3))
    server.start()
    gate = place.root / "gate"
    env = {"MLFLOW_TRACKING_URI": server.address, "OSFER_TRACKING_WAIT": "2", "OSFER_GATE": str(gate)}

    def results():
        return len(list((place.home / "results").glob("*/result.json")))

    process = place.start("run", **env)
    wait_until(lambda: results() >= 1)
    server.kill()
    wait_until(lambda: results() >= 2)
    server.start()
    gate.touch()
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    assert "the run goes on without it" in text
    assert "the tracking server answers again" in text
    assert computed(text) == 8
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    assert place.statuses() == ["FINISHED"] * 8

    place.write(*harmful("sleep2.1", numbers=3))
    process = place.start("run", **env)
    wait_until(lambda: results() >= 9)
    server.kill()
    start = time.monotonic()
    text, _ = process.communicate(timeout=200)
    assert time.monotonic() - start < 60
    assert process.returncode == 3, text
    assert "wait on disk, because the tracking server does not answer" in text
    assert "the same command logs them: osfer run" in text
    assert "Traceback" not in text
    assert computed(text) == 6
    for command in ("report", "plan"):
        code, text = place.osfer(command, **env)
        assert code == 2, text
        assert "does not answer (waited 2 s)" in text
        assert "Traceback" not in text
    server.start()
    code, text = place.osfer("run", **env)
    assert (code, computed(text)) == (0, 0), text
    assert place.statuses() == ["FINISHED"] * 14


@pytest.mark.slow
@pytest.mark.parametrize("how", ["frozen", "gone"])
def test_a_server_away_for_a_minute(place, server, monkeypatch, how):
    """Frozen, it takes connections and answers none; the run waits for each request once, briefly, and computes on."""
    place.write(*harmful("gate", numbers=3))
    server.start()
    gate = place.root / "gate"
    env = {"MLFLOW_TRACKING_URI": server.address, "OSFER_TRACKING_WAIT": "2", "OSFER_GATE": str(gate)}
    env |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}

    def results():
        return len(list((place.home / "results").glob("*/result.json")))

    process = place.start("run", **env)
    wait_until(lambda: results() >= 1)
    server.freeze() if how == "frozen" else server.kill()
    start = time.monotonic()
    wait_until(lambda: results() >= 2)  # the third method waits for the gate: the run goes on until there
    time.sleep(max(0.0, 60 - (time.monotonic() - start)))
    assert process.poll() is None
    server.thaw() if how == "frozen" else server.start()
    gate.touch()
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    assert "the run goes on without it" in text
    assert "the tracking server answers again" in text
    assert "Traceback" not in text
    assert computed(text) == 8
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    assert place.statuses() == ["FINISHED"] * 8
    assert place.statuses("benchmark") == ["FINISHED"]
