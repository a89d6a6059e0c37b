"""A tracking address may hold a password: it reaches no output, no file, no tag and no page."""

from __future__ import annotations

import http.server
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_set_fer.benchmark.storage.connection import public_address
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.cli import options
from open_set_fer.console import console, set_up_logging
from open_set_fer.errors import SuiteError, masked, summary
from tests.security.command import osfer

SECRET = "s3cret-Pa55"


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers every request with its status, and as JSON says the address in full."""

    status, kind = 403, "json"

    def do_GET(self) -> None:
        body = (
            f'{{"error_code": "X", "message": "http://me:{SECRET}@{self.headers["Host"]}{self.path} failed"}}'.encode()
        )
        body = body if self.kind == "json" else b"please log in"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[(403, "json"), (401, "text")])
def refusing(request) -> Iterator[str]:
    status, kind = request.param
    handler = type("Handler", (Refusing,), {"status": status, "kind": kind})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:{SECRET}@127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def osfer_at(uri: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return osfer(*arguments, MLFLOW_TRACKING_URI=uri, OSFER_TRACKING_WAIT="0", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")


def assert_nowhere(done: subprocess.CompletedProcess[str], folder) -> None:
    assert SECRET not in done.stdout + done.stderr
    for path in folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_a_server_that_refuses(refusing, tmp_path):
    done = osfer_at(refusing, "report", "-p", "smoke", "--home", str(tmp_path / "home"))
    assert done.returncode == 2
    assert "127.0.0.1" in done.stderr  # the rest of the address is said
    assert "refuses" in done.stderr
    assert "Traceback" not in done.stderr
    assert_nowhere(done, tmp_path)
    done = osfer_at("", "report", "-p", "smoke", "--compare", refusing, "smoke", "--home", str(tmp_path / "home"))
    assert done.returncode == 2
    # the address is an argument here: what is printed of it is masked
    assert_nowhere(done, tmp_path)


def test_a_database_that_cannot_be_reached(tmp_path):
    for uri in (f"mysql://me:{SECRET}@127.0.0.1/x", f"sqlite+pysqlite://me:{SECRET}@host/x"):
        done = osfer_at(uri, "plan", "-p", "smoke", "--home", str(tmp_path / "home"))
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert_nowhere(done, tmp_path)
    assert "cannot be used" in done.stderr


def test_mlflow_writes_no_address_of_a_run_to_standard_output(home, monkeypatch, tmp_path, capsys):
    """With a server it does unless told otherwise, login included, and so also spoils --json."""
    from mlflow.tracking._tracking_service import client

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    tracker = Tracker(home, "made")
    run = tracker.start_benchmark([], "", "osfer run")
    monkeypatch.setattr(client, "RestStore", object)
    monkeypatch.setattr(client, "get_workspace_url", lambda: f"http://me:{SECRET}@127.0.0.1:5000")
    tracker.client._tracking_client._log_url(run)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")
    tracker.client._tracking_client._log_url(run)
    assert SECRET in capsys.readouterr().out  # so that this test notices when MLflow does it in another way


def test_an_error_that_nobody_caught(tmp_path):
    code = (
        "from open_set_fer.cli import main as cli\n"
        f"def app(): raise OSError('no http://me:{SECRET}@h/x')\ncli.app = app\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "OSError: no http://***@h/x" in done.stderr
    assert "Traceback" in done.stderr
    assert SECRET not in "\n".join(line for line in done.stderr.splitlines() if "def app" not in line)


def test_log_lines_commands_and_errors(monkeypatch):
    set_up_logging()
    with console.capture() as captured:
        try:
            raise OSError(f"postgresql://me:{SECRET}@h/x")
        except OSError as error:
            logging.getLogger("any.library").warning("cannot use %s", f"http://me:{SECRET}@h", exc_info=True)
            in_one_line = summary(error)
    assert in_one_line == "OSError: postgresql://***@h/x"
    assert SECRET not in captured.get()
    assert "***@h" in captured.get()
    assert SECRET not in str(SuiteError(f"http://me:{SECRET}@h", f"http://me:{SECRET}@h"))
    monkeypatch.setattr(sys, "argv", ["osfer", "tune", "--storage", f"postgresql://me:{SECRET}@h/x"])
    assert options.command_line() == "osfer tune --storage 'postgresql://***@h/x'"


def test_a_failure_that_says_an_address_is_logged_without_its_password(home, monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(home, "made")
    tags = {"cell_key": "k", "dataset": "d", "protocol": "single", "open_classes": "o", "method": "m", "seed": "0"}
    parent = tracker.start_benchmark([tags], "", "osfer run")
    tracker.log_failure(parent, tags, f"Traceback\nOSError: http://me:{SECRET}@h/x", f"OSError: http://me:{SECRET}@h/x")
    (run,) = tracker.cells()
    assert run.data.tags["error"] == "OSError: http://***@h/x"
    assert tracker.read_text(run.info.run_id, "traceback.txt") == "Traceback\nOSError: http://***@h/x"


LETTERS = st.text(
    st.characters(codec="ascii", exclude_characters=" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f/@:'\"<>"), min_size=1
)


@given(LETTERS, LETTERS.map(lambda text: f"Zq{text}qZ"))
def test_any_login_is_masked_and_nothing_else(user, password):
    text = f"no http://{user}:{password}@host:5000/a@b now"
    assert masked(text) == "no http://***@host:5000/a@b now"
    assert public_address(f"postgresql+psycopg://{user}:{password}@host/db") == "postgresql+psycopg://host/db"


@given(LETTERS, st.integers(1, 65535))
def test_an_address_without_login_stays_as_it_is(path, port):
    text = f"see http://127.0.0.1:{port}/{path.replace('?', '').replace('&', '')}"
    assert masked(text) == text
