"""What is kept of a build that is stopped."""

from __future__ import annotations

import signal

from typer.testing import CliRunner

from open_set_fer.cli.main import app
from open_set_fer.photos import build, find


def test_a_stopped_build_says_what_is_kept(monkeypatch, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build_detector", stopped)
    monkeypatch.setattr(find, "finder", lambda: None)
    handler = signal.getsignal(signal.SIGINT)
    command = ["detector", "build", "-p", "smoke", "-m", "baseline", "--home", str(tmp_path)]
    try:
        done = CliRunner().invoke(app, command)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert done.exit_code == 130
    assert "stopped; a closed-set model in training is kept up to its last kept epoch" in done.stderr
