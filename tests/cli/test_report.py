"""osfer ui, report and study: addresses, comparisons, refused folders."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
from typer.testing import CliRunner

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.cli.main import app
from open_set_fer.errors import SuiteError
from tests.benchmark.storage.test_tracking import log_cell

pytestmark = pytest.mark.usefixtures("local_store")


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
    done = CliRunner().invoke(app, [*command, "--ui", "http://127.0.0.1:5000"])
    assert "--compare writes no page" in str(done.exception)


def test_a_folder_of_the_users_is_refused(tmp_path, home):
    log_cell(Tracker(home, "smoke"), tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    done = CliRunner().invoke(app, ["report", "-p", "smoke", "--home", str(home), "--out", str(tmp_path / "mine")])
    assert isinstance(done.exception, SuiteError)
    assert "is not a report" in str(done.exception)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_study_lists_the_studies_and_writes_one(tmp_path, home):
    done = CliRunner().invoke(app, ["study", "--help"])
    for name in ("ours-plus", "replication"):
        assert name in done.output
    assert "What the published numbers rest on" in done.output
    done = CliRunner().invoke(app, ["study", "replicaton", "--home", str(home)])
    assert "did you mean 'replication'" in str(done.exception)
    done = CliRunner().invoke(app, ["study", "replication", "--home", str(home), "--out", str(tmp_path / "docs")])
    assert done.exit_code == 0, done.output
    assert "1146 of 1146" in (tmp_path / "docs" / "replication.md").read_text("utf-8")


def test_the_files_of_the_pairing_belong_to_one_study_and_to_each_other(tmp_path, home):
    command = ["study", "replication", "--home", str(home), "--out", str(tmp_path / "docs"), "--released", "labels.txt"]
    assert "which needs both" in str(CliRunner().invoke(app, command).exception)
    command[1:2] = ["ours-plus", "--rafdb-list", "list.txt"]
    assert "for the study replication" in str(CliRunner().invoke(app, command).exception)
    command[1] = "replication"
    assert "no file list.txt" in str(CliRunner().invoke(app, command).exception)
