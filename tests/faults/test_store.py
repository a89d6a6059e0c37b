"""The MLflow store of a home under kills, full disks, damage, read-only folders and moves."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from tests.benchmark.storage.test_tracking import log_cell

pytestmark = pytest.mark.usefixtures("local_store")

KILLED_IN_CREATION = """
import os, signal, sys, time
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store, alembic.command
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
def begin(home):
    if (child := os.fork()) == 0:
        try:
            Tracker(Path(home), "made")
        finally:
            os._exit(0)
    return child
base = Path(sys.argv[1])
start = time.monotonic()
os.waitpid(begin(base / "whole"), 0)
seconds = time.monotonic() - start
for number in range(4):
    child = begin(base / str(number))
    time.sleep(seconds * (number + 0.5) / 4)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def python(code: str, *args: str, before: tuple[str, ...] = (), limit: Callable[[], None] | None = None) -> str:
    done = subprocess.run(
        [*before, sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=200, preexec_fn=limit
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def usable(home: Path) -> None:
    tracker = Tracker(home, "made")
    parent = tracker.start_benchmark([], "", "osfer run")
    tracker.end(parent, "FINISHED")
    assert [run.info.status for run in tracker._search("")] == ["FINISHED"]


@pytest.mark.slow
def test_killed_while_the_store_is_made(tmp_path):
    python(KILLED_IN_CREATION, str(tmp_path))
    homes = [tmp_path / str(number) for number in range(4)]
    partial = f".{store.DATABASE}.partial"
    assert any((home / partial).exists() for home in homes)  # else no kill fell into the creation
    for home in homes:
        if home.exists() and (home / partial).exists():
            assert not (home / store.DATABASE).exists()
        usable(home)
        assert not list(home.glob(f"*{partial}*"))


def half_made(home: Path) -> Path:
    """What MLflow leaves when it is killed after its first step."""
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    home.mkdir()
    database = home / store.DATABASE
    engine = create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return database


def test_a_half_made_store_is_set_aside_when_it_holds_no_run(tmp_path, caplog):
    caplog.set_level("INFO", logger="open_set_fer")
    for name in ("tables", "empty"):
        home = tmp_path / name
        database = half_made(home)
        if name == "empty":
            database.write_bytes(b"")
        usable(home)
        assert (home / "mlflow.db.half-made").exists()
        assert f"making the MLflow store {home.resolve()}/mlflow.db, once" in caplog.text


def test_a_store_of_another_mlflow_is_named_and_kept(tmp_path):
    database = half_made(tmp_path / "home")
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("INSERT INTO runs (run_uuid) VALUES ('a')")
    before = database.read_bytes()
    with pytest.raises(SuiteError, match=r"mlflow\.db holds 1 runs of another MLflow version"):
        Tracker(tmp_path / "home", "made")
    assert database.read_bytes() == before


def test_full_disk_then_room(tmp_path):
    import resource

    code = (
        "import sys; from pathlib import Path; from open_set_fer.benchmark.storage.mlflow_writer import Tracker\n"
        "from open_set_fer.errors import SuiteError\n"
        "try: Tracker(Path(sys.argv[1]), 'made')\n"
        "except SuiteError as error: print(error)"
    )
    said = python(
        code, str(tmp_path / "home"), limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    )
    assert "mlflow.db could not be made" in said
    assert "see that the disk has room" in said
    assert not list((tmp_path / "home").glob("*mlflow*"))
    usable(tmp_path / "home")


@pytest.mark.parametrize("how", ["random", "cut", "overwritten"])
def test_a_damaged_store_is_named_in_one_sentence(tmp_path, home, how):
    log_cell(Tracker(home, "made"), tmp_path)
    database = home / store.DATABASE
    whole = database.read_bytes()
    noise = os.urandom(len(whole))
    damaged = {"random": noise, "cut": whole[: len(whole) // 3], "overwritten": whole[:4096] + noise[4096:]}[how]
    home = tmp_path / "again"  # MLflow keeps connections to a path that it knows
    home.mkdir()
    (home / store.DATABASE).write_bytes(damaged)
    with pytest.raises(SuiteError, match=r"again/mlflow\.db cannot be read: .*\n  fix: put back a copy") as raised:
        Tracker(home, "made").cells()
    assert len(str(raised.value).splitlines()) == 2
    assert (home / store.DATABASE).read_bytes() == damaged


def test_a_disk_that_fills_up_is_one_sentence_and_the_run_is_closed_by_the_next(place, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("mlflow.MlflowClient.set_terminated", full)
        outcome = place.run()
    assert (outcome.computed, len(outcome.failed)) == (2, 2)
    assert "this run cannot be closed in MLflow, the next one does it" in caplog.text
    assert place.run().logged_from_disk == 2
    assert place.statuses() == ["FINISHED"] * 2
    assert place.statuses("benchmark") == ["FINISHED", "KILLED"]
    monkeypatch.setattr("mlflow.MlflowClient.log_text", full)
    with pytest.raises(SuiteError, match=r"home cannot be written: No space left on device\n  fix: make room"):
        place.tracker.start_benchmark([], "", "osfer run")


def test_mlflow_prints_no_traceback_of_its_own(home):
    Tracker(home, "made")
    logger = logging.getLogger("mlflow.store.db.utils")
    assert not logger.isEnabledFor(logging.ERROR)  # what it logs it raises, too
    assert logger.isEnabledFor(logging.CRITICAL)


def test_damage_found_while_reading_is_named_too(tmp_path, home):
    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path)
    with closing(sqlite3.connect(home / store.DATABASE)) as db:
        page, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'latest_metrics'").fetchone()
    assert root <= page
    with (home / store.DATABASE).open("rb+") as file:
        file.seek((root - 1) * size)
        file.write(os.urandom(size))
    copy = tmp_path / "again"
    shutil.copytree(home, copy)
    with pytest.raises(SuiteError, match=r"again/mlflow\.db cannot be read"):
        Tracker(copy, "made").cells()


def test_a_home_that_cannot_be_written_is_read(tmp_path, home):
    drop: tuple[str, ...] = ()
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root may write everywhere, and setpriv is not there to forbid it")
        drop = (setpriv, "--bounding-set=-dac_override,-dac_read_search")
    log_cell(Tracker(home, "made"), tmp_path)
    home = home.rename(tmp_path / "archive")  # moved, too
    before = (home / store.DATABASE).read_bytes()
    code = (
        "import sys; from pathlib import Path; from open_set_fer.benchmark.storage.mlflow_writer import Tracker\n"
        "from open_set_fer.errors import SuiteError\n"
        "home = Path(sys.argv[1])\n"
        "tracker = Tracker(home, 'made', create=False)\n"
        "run = tracker.cells()[0].info.run_id\n"
        "print(len(tracker.read_scores(run)), len(tracker.planned()), Tracker(home, 'other', create=False).cells())\n"
        "try: tracker.start_benchmark([], '', '')\n"
        "except SuiteError as error: print(error)\n"
        "try: Tracker(home / 'new', 'made')\n"
        "except SuiteError as error: print(error)"
    )
    folders = [home, *(path for path in home.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    (home / store.DATABASE).chmod(0o444)
    try:
        said = python(code, str(home), before=drop)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    first, *others = said.splitlines()
    assert first == "3 1 []"
    assert f"{home} cannot be written" in others
    assert f"{home / 'new'} cannot be written and holds no MLflow store" in others
    assert (home / store.DATABASE).read_bytes() == before


def contents(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["mv", "cp"])
def test_a_moved_or_copied_home_is_on_its_own(tmp_path, home, how):
    old, new = home, tmp_path / "H2"
    tracker = Tracker(old, "made")
    log_cell(tracker, tmp_path)
    tracker.client._tracking_client.store._dispose_engine()
    before = contents(old)
    subprocess.run([*(["mv"] if how == "mv" else ["cp", "-r"]), str(old), str(new)], check=True)
    moved = Tracker(new, "made")
    (run,) = moved.cells()
    assert run.info.artifact_uri == f"{store.artifact_root(new)}/{run.info.run_id}/artifacts"
    assert list(moved.read_scores(run.info.run_id)["id"]) == ["a", "b", "c"]
    assert [cell["seed"] for cell in moved.planned()] == [0]
    log_cell(moved, tmp_path, seed=1)
    assert len(moved.cells()) == 2
    assert len(list((new / "artifacts").glob("*/artifacts/scores.parquet"))) == 2
    assert (contents(old) == before) if how == "cp" else not old.exists()


def test_a_home_known_by_two_paths_keeps_its_artifacts_together(tmp_path, home):
    """A container and its host, say: each writes where it knows the home to be, at the same time."""
    here = Tracker(home, "made")
    log_cell(here, tmp_path)
    with closing(sqlite3.connect(home / store.DATABASE)) as db, db:  # what the other one has just set
        db.execute("UPDATE experiments SET artifact_location = 'file:///elsewhere/artifacts' WHERE experiment_id = 1")
        db.execute("UPDATE runs SET artifact_uri = 'file:///elsewhere/artifacts/' || run_uuid || '/artifacts'")
    log_cell(here, tmp_path, seed=1)
    assert not Path("/elsewhere").exists()
    assert [len(here.read_scores(run.info.run_id)) for run in here.cells()] == [3, 3]


ODD_NAMES = ["a b", "a#b", "ünï", "a%20b", "a?b=c", "a'b"]


@pytest.mark.parametrize("name", [*ODD_NAMES, " ".join(ODD_NAMES)])
def test_homes_with_odd_names(tmp_path, empty_store, name):
    home = tmp_path / "in" / name
    home.mkdir(parents=True)
    if name in ODD_NAMES:  # for the last one, which has every character, the store is made
        shutil.copyfile(empty_store, home / store.DATABASE)
    tracker = Tracker(home, "made")
    log_cell(tracker, tmp_path)
    (run,) = Tracker(home, "made").cells()
    assert len(tracker.read_scores(run.info.run_id)) == 3
    assert (home / store.DATABASE).exists()
    assert list((tmp_path / "in").iterdir()) == [home]  # nothing beside it


@pytest.mark.slow
def test_the_ui_shows_artifacts_of_a_moved_home_and_ends_whole(tmp_path, home):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log_cell(Tracker(home, "made"), tmp_path)
    home = home.rename(tmp_path / "a?b")
    code = "from open_set_fer.cli.main import main; main()"
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-c", code, "ui", "--home", str(home), "--port", str(port)],
        stdout=log,
        stderr=log,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "60"},
    )
    try:
        run = Tracker(home, "made", create=False).cells()[0].info.run_id
        url = f"http://127.0.0.1:{port}/get-artifact?path=profile.toml&run_uuid={run}"
        text, deadline = None, time.monotonic() + 120
        while text is None and server.poll() is None and time.monotonic() < deadline:
            try:
                text = urllib.request.urlopen(url, timeout=5).read().decode()
            except OSError:
                time.sleep(0.3)
        said = (tmp_path / "log").read_text("utf-8")
        assert text == "seeds = [0]\n", said
        assert f"made: http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning" in said
        group = subprocess.run(["ps", "-o", "pid=", "-g", str(server.pid)], capture_output=True, text=True).stdout
        assert len(group.split()) == 2  # the command and one worker
        environment = Path(f"/proc/{server.pid}/environ").read_text("utf-8").split("\0")
        assert "MLFLOW_DISABLE_TELEMETRY=true" in environment
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.slow
def test_a_store_that_another_program_holds(place):
    """One sentence, and the same command goes on once the other program has ended."""
    assert place.tracker.experiment_id
    with closing(sqlite3.connect(place.home / store.DATABASE)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SuiteError, match=r"another program holds .*mlflow\.db\n  fix: end it, then repeat"):
            place.run()
    outcome = place.run()
    assert (outcome.computed + outcome.logged_from_disk, outcome.failed) == (2, [])
    assert place.statuses() == ["FINISHED"] * 2
