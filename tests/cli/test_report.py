"""osfer ui: where the runs can be looked at."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
from typer.testing import CliRunner

from open_set_fer.benchmark.tracking import Tracker
from open_set_fer.cli import app
from tests.benchmark.test_tracking import log_cell


@pytest.fixture(autouse=True)
def local_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_ui_says_where_a_remote_server_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@tracker.example:5000/ml")
    done = CliRunner().invoke(app, ["ui", "--home", str(tmp_path)])
    assert done.exit_code == 0
    assert "http://tracker.example:5000/ml" in done.output
    assert "secret" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_ui_names_what_is_wrong(tmp_path, home):
    done = CliRunner().invoke(app, ["ui", "--home", str(tmp_path / "none")])
    assert "no MLflow store under" in str(done.exception)
    assert not (tmp_path / "none").exists()
    log_cell(Tracker(home, "made"), tmp_path)
    done = CliRunner().invoke(app, ["ui", "--home", str(home), "-p", "smoke"])
    assert "no run of profile smoke" in str(done.exception)
    assert "it has: made" in str(done.exception)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = CliRunner().invoke(app, ["ui", "--home", str(home), "--port", str(taken.getsockname()[1])])
    assert "is not free" in str(done.exception)
    for port in ("0", "99999", "-5"):
        assert CliRunner().invoke(app, ["ui", "--home", str(home), "--port", port]).exit_code == 2


@pytest.mark.parametrize(
    ("uri", "given", "used"),
    [
        ("sqlite:///x.db", [], ""),
        ("http://me:secret@tracker.example:5000", [], "http://tracker.example:5000"),
        ("http://tracker.example:5000", ["--ui", "http://ui.example"], "http://ui.example"),
    ],
)
def test_the_page_links_to_the_tracking_server_unless_told_otherwise(tmp_path, monkeypatch, uri, given, used):
    links = []

    class Fake:
        def __init__(self, *_, **__):
            self.uri = uri

        def log_report(self, *_):
            pass

    def rendering(tracker, to, ui, *_):
        links.append(ui)
        return tmp_path / "index.html"

    monkeypatch.setattr("open_set_fer.benchmark.tracking.Tracker", Fake)
    monkeypatch.setattr("open_set_fer.reports.render.render", rendering)
    done = CliRunner().invoke(app, ["report", "-p", "smoke", "--home", str(tmp_path), *given])
    assert done.exit_code == 0, done.output
    assert links == [used]


def test_compare_prints_the_difference_between_a_profile_and_a_folder(tmp_path, home, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(home, tmp_path / "other")
    for folder, auroc in ((home, 0.5), (tmp_path / "other", 0.75)):
        log_cell(Tracker(folder, "smoke"), tmp_path, auroc=auroc)
    command = ["report", "-p", "smoke", "--home", str(home), "--compare", "smoke", str(tmp_path / "other")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "+0.250" in done.output
    assert "1/0/0" in done.output
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["differences"]
    assert [(row["metric"], row["difference"]) for row in found if row["metric"] == "auroc"] == [("auroc", 0.25)]
    done = CliRunner().invoke(app, [*command, "--watch"])
    assert "--compare writes no page" in str(done.exception)


def test_watch_renders_when_cells_were_logged_until_it_is_stopped(tmp_path, home, monkeypatch):
    rendered = []
    tracker = Tracker(home, "smoke")

    def rendering(*_):
        rendered.append(len(tracker.cells()))
        return tmp_path / "index.html"

    pauses = iter([lambda: log_cell(tracker, tmp_path), lambda: None, lambda: log_cell(tracker, tmp_path, seed=1)])

    def pause(_):
        try:
            next(pauses)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("open_set_fer.reports.render.render", rendering)
    monkeypatch.setattr("open_set_fer.cli.report.time.sleep", pause)
    done = CliRunner().invoke(app, ["report", "-p", "smoke", "--home", str(home), "--watch"])
    assert done.exit_code == 0, done.output
    assert rendered == [1, 2]
    assert [line.split(" ", 1)[1].split(" of ")[0] for line in done.stdout.splitlines()] == ["1", "2"]
