"""osfer ui: where the runs can be looked at."""

from __future__ import annotations

import json
import shutil
import socket
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.cli.main import app
from open_set_fer.errors import SuiteError
from tests.benchmark.storage.test_tracking import log_cell


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

    monkeypatch.setattr("open_set_fer.benchmark.storage.mlflow_writer.Tracker", Fake)
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
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "said")])
    assert done.exit_code == 0, done.output
    said = (tmp_path / "said" / "compare.md").read_text("utf-8")
    assert "| pairs | Ours | 0.500 | 0.750 | +0.250 | 1/0/0 | 1.00 | 1 |" in said
    assert str(tmp_path / "other") in said.replace("\\", "")
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["differences"]
    assert [(row["metric"], row["difference"]) for row in found if row["metric"] == "auroc"] == [("auroc", 0.25)]
    elsewhere = f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    for first, second, difference in ((str(home), str(tmp_path / "other"), 0.25), (elsewhere, str(home), -0.25)):
        done = CliRunner().invoke(app, ["report", "-p", "smoke", "--compare", first, second, "--json"])
        assert done.exit_code == 0, done.output
        rows = json.loads(done.stdout)["differences"]
        assert [row["difference"] for row in rows if row["metric"] == "auroc"] == [difference]
    done = CliRunner().invoke(app, [*command, "--watch"])
    assert "--compare writes no page" in str(done.exception)


def watch(monkeypatch, home, rendering, meanwhile):
    """`osfer report --watch`; in each of its pauses the next of `meanwhile` happens, then Ctrl-C."""
    pauses = iter(meanwhile)

    def pause(_):
        try:
            next(pauses)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("open_set_fer.reports.render.render", rendering)
    # Not time.sleep itself: other threads sleep as well.
    monkeypatch.setattr("open_set_fer.cli.report.time", SimpleNamespace(sleep=pause, strftime=time.strftime))
    return CliRunner().invoke(app, ["report", "-p", "smoke", "--home", str(home), "--watch"])


def test_watch_renders_when_cells_were_logged_until_it_is_stopped(tmp_path, home, monkeypatch):
    rendered = []
    tracker = Tracker(home, "smoke")

    def rendering(*_):
        rendered.append(len(tracker.cells()))
        return tmp_path / "index.html"

    meanwhile = [lambda: log_cell(tracker, tmp_path), lambda: None, lambda: log_cell(tracker, tmp_path, seed=1)]
    done = watch(monkeypatch, home, rendering, meanwhile)
    assert done.exit_code == 0, done.output
    assert rendered == [1, 2]
    assert [line.split(" ", 1)[1].split(" of ")[0] for line in done.stdout.splitlines()] == ["1", "2"]


def test_watch_sees_what_is_logged_to_a_home_that_it_cannot_write(tmp_path, home, monkeypatch):
    rendered, writer = [], Tracker(home, "smoke")
    log_cell(writer, tmp_path)
    monkeypatch.setattr(store, "is_writable", lambda _: False)

    def rendering(tracker, *_):
        rendered.append(len(tracker.cells()))
        return tmp_path / "index.html"

    meanwhile = [lambda: None, lambda: log_cell(writer, tmp_path, seed=1), lambda: None]
    done = watch(monkeypatch, home, rendering, meanwhile)
    assert done.exit_code == 0, done.output
    assert rendered == [1, 2]


def test_watch_begins_on_an_empty_home_and_outlives_what_cannot_be_rendered(tmp_path, empty_store, monkeypatch):
    home, pages = tmp_path / "later", []

    def run(seed):
        """What `osfer run` does meanwhile."""
        home.mkdir(exist_ok=True)
        if not (home / empty_store.name).exists():
            shutil.copyfile(empty_store, home / empty_store.name)
        log_cell(Tracker(home, "smoke"), tmp_path, seed=seed)

    def rendering(tracker, *_):
        pages.append(len(tracker.cells()))
        if len(pages) < 3:
            raise SuiteError("none of the 1 finished cells has the settings")
        return tmp_path / "index.html"

    done = watch(monkeypatch, home, rendering, [lambda: None, lambda: run(0), lambda: None, lambda: run(1)])
    assert done.exit_code == 0, done.output
    assert done.output.count("no finished cell yet; waiting") == 1
    assert pages == [1, 1, 2]
    assert done.output.count("no page yet: none of the 1 finished cells has the settings") == 1
    assert done.stdout.count("2 of 2 cells finished") == 1
