"""Results between people: what goes out comes in the same, and a folder that is not what it says is seen."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.keys import digest
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.pseudo_labels import Regime
from open_set_fer.benchmark.storage import exchange
from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.benchmark.storage.pictures import group_names
from open_set_fer.benchmark.storage.tracking import Tracker
from open_set_fer.cli.main import app
from open_set_fer.errors import SuiteError


@pytest.fixture(autouse=True)
def local_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, empty_store):
    """A home with the smoke profile's baseline computed with two seeds."""
    home = tmp_path_factory.mktemp("ran")
    shutil.copyfile(empty_store, home / store.DATABASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        profile = load_profile("smoke")
        cells, faces = make_plan(profile, Selection(methods=("baseline",), seeds=(0, 1)), home / "cache")
        Runner(home, profile).run(cells, faces, "osfer run")
    return home


@pytest.fixture(scope="module")
def exported(ran, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "ada"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert exchange.export(Tracker(ran, "smoke", create=False), out, "Ada", ran / "cache") == (2, {})
    return out


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the export to tamper with."""
    return Path(shutil.copytree(exported, tmp_path / "ada"))


def sum_again(folder):
    """What a forger does: SHA256SUMS of what is there now."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names if n != exchange.SUMS]
    (folder / exchange.SUMS).write_text("".join(lines))


def first_cell(folder):
    return sorted((folder / "cells").iterdir())[0]


def change_json(path, change):
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values), "utf-8")


def test_an_export_stands_for_itself_and_repeats_byte_for_byte(exported, ran, tmp_path):
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    keys = {path.name for path in (exported / "cells").iterdir()}
    assert len(keys) == 2
    expected = {f"cells/{key}/{name}" for key in keys for name in exchange.FILES}
    assert files == expected | {"export.json", "cells.parquet", "SHA256SUMS"}  # and no picture
    for line in (exported / "SHA256SUMS").read_text().splitlines():
        value, name = line.split("  ")
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == value
    overview = pd.read_parquet(exported / "cells.parquet").set_index("cell_key")
    finished = Tracker(ran, "smoke", create=False).finished_cells()
    assert set(overview.index) == set(finished)
    for key, metrics in finished.items():
        assert overview.loc[key, "auroc"] == metrics["auroc"]
        assert digest(json.loads((exported / "cells" / key / "key.json").read_text())) == key
    again = tmp_path / "again"
    for _ in range(2):  # the second time it takes the place of the first
        exchange.export(Tracker(ran, "smoke", create=False), again, "Ada", ran / "cache")
    assert all((again / name).read_bytes() == (exported / name).read_bytes() for name in files)


def test_an_export_replaces_nothing_but_an_export(ran, folder):
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(SuiteError, match=r"thesis.tex, which no export wrote"):
        exchange.export(Tracker(ran, "smoke", create=False), folder, "Ada", ran / "cache")
    assert (folder / "thesis.tex").read_text() == "mine"


def test_a_key_that_an_older_suite_did_not_keep_is_worked_out_again(ran, tmp_path):
    home = Path(shutil.copytree(ran, tmp_path / "old"))
    for path in home.rglob("key.json"):
        path.unlink()
    tracker = Tracker(home, "smoke")
    exchange.export(tracker, tmp_path / "with-data", "Ada", home / "cache")
    assert all(cell.content for cell in exchange.read_export(tmp_path / "with-data").cells)
    exchange.export(tracker, tmp_path / "without", "Ada", tmp_path / "nothing")
    cells = exchange.read_export(tmp_path / "without").cells
    assert [cell.content for cell in cells] == [None, None]


def test_what_is_imported_is_what_was_exported_and_only_once(ran, exported, home):
    tracker = Tracker(home, "smoke")
    shared = exchange.read_export(exported)
    assert shared.refused == {}
    first = exchange.import_export(tracker, home / "results", shared, "osfer import")
    assert (len(first.new), first.known, first.differing, first.hidden, first.waiting) == (2, [], [], [], [])
    theirs = {run.data.tags["cell_key"]: run for run in Tracker(ran, "smoke", create=False).cells()}
    mine = {run.data.tags["cell_key"]: run for run in tracker.cells()}
    assert mine.keys() == theirs.keys()
    for key, run in mine.items():
        assert run.data.metrics == theirs[key].data.metrics
        assert run.data.params == theirs[key].data.params
        assert run.data.tags["imported_from"] == "Ada"
        assert run.data.tags["imported_key"] == "checked"
        assert run.data.tags["host"] == theirs[key].data.tags["host"]
        pd.testing.assert_frame_equal(
            tracker.read_scores(run.info.run_id),
            Tracker(ran, "smoke", create=False).read_scores(theirs[key].info.run_id),
            check_exact=True,
        )
    second = exchange.import_export(tracker, home / "results", exchange.read_export(exported), "osfer import")
    assert (second.new, len(second.known)) == ([], 2)
    assert len(tracker.cells()) == 2
    # and a run of the same cells finds nothing to do
    profile = load_profile("smoke")
    cells, faces = make_plan(profile, Selection(methods=("baseline",), seeds=(0, 1)), ran / "cache")
    assert Runner(home, profile).run(cells, faces, "osfer run").already_done == 2


def test_an_imported_controls_histogram_is_of_flipped_labels(ran, home, tmp_path, monkeypatch):
    source = Path(shutil.copytree(ran, tmp_path / "control"))
    profile = load_profile("smoke")
    chosen = Selection(methods=("label-loss",), regime=Regime("flipped", 0.2))
    cells, faces = make_plan(profile, chosen, source / "cache")
    Runner(source, profile).run(cells, faces, "osfer run")
    exchange.export(Tracker(source, "smoke", create=False), tmp_path / "ada", "Ada", source / "cache")
    drawn = {}
    draw = exchange.score_histogram
    monkeypatch.setattr(
        exchange,
        "score_histogram",
        lambda scores, title, names: drawn.update({title: names}) or draw(scores, title),
    )
    exchange.import_export(
        Tracker(home, "smoke"), home / "results", exchange.read_export(tmp_path / "ada"), "osfer import"
    )
    assert {"control AUROC" in title: names for title, names in drawn.items()} == {
        is_control: group_names(is_control) for is_control in (True, False)
    }


def test_an_import_that_was_killed_before_it_logged_goes_on(exported, home):
    shared = exchange.read_export(exported)
    tracker = Tracker(home, "smoke")
    exchange.import_export(tracker, home / "results", shared, "osfer import")
    for run in tracker.cells():
        tracker.client.delete_run(run.info.run_id)
    assert len(exchange.import_export(tracker, home / "results", shared, "osfer import").new) == 2


def test_a_result_of_this_home_that_waits_to_be_logged_stays_its_own(exported, home, ran):
    shutil.copytree(ran / "results", home / "results")
    done = exchange.import_export(Tracker(home, "smoke"), home / "results", exchange.read_export(exported), "")
    assert (done.new, len(done.waiting)) == ([], 2)


def test_own_settings_stay_in_the_reports_where_imported_ones_differ(exported, home):
    tracker = Tracker(home, "smoke")
    shared = exchange.read_export(exported)
    place = exchange._coordinates(shared.cells[0])
    tracker.end(tracker.start_benchmark([place | {"cell_key": "other settings"}], "", "osfer run"), "FINISHED")
    done = exchange.import_export(tracker, home / "results", shared, "osfer import")
    assert (len(done.new), len(done.hidden)) == (1, 1)
    planned = {cell["seed"]: cell["cell_key"] for cell in tracker.planned()}
    assert planned[place["seed"]] == "other settings"
    assert len(tracker.cells()) == 2


def lower_score(path):
    scores = pd.read_parquet(path)
    attrs = scores.attrs
    scores.loc[scores["is_open"], "unknown_score"] += 0.5
    scores.attrs = attrs
    scores.to_parquet(path, index=False)


FORGERIES = {
    "a metric": (
        lambda cell: change_json(cell / "result.json", lambda v: v["metrics"].update(auroc=0.99)),
        "its auroc is 0.99",
    ),
    "a metric that there is none of": (
        lambda cell: change_json(cell / "result.json", lambda v: v["metrics"].update(better=1.0)),
        "its better is 1.0",
    ),
    "the scores": (lambda cell: lower_score(cell / "scores.parquet"), "its scores give"),
    "a setting in the key": (
        lambda cell: change_json(cell / "key.json", lambda v: v["closed_set"]["closed_set"].update(epochs=99)),
        "not the digest of its settings",
    ),
    "a setting": (
        lambda cell: change_json(cell / "result.json", lambda v: v["params"].update({"closed_set.epochs": "99"})),
        "its setting closed_set.epochs is '99'",
    ),
    "the seed": (
        lambda cell: change_json(cell / "result.json", lambda v: v["tags"].update(seed="7")),
        "its tag seed is '7'",
    ),
    "the open class": (
        lambda cell: change_json(cell / "result.json", lambda v: v["tags"].update(open_classes="fear")),
        "its tag open_classes is 'fear'",
    ),
    "the data set": (
        lambda cell: change_json(cell / "result.json", lambda v: v["data"].update(fingerprint="0" * 64)),
        "fingerprint",
    ),
    "a later evaluation": (
        lambda cell: change_json(cell / "result.json", lambda v: v.update(evaluation=99)),
        "evaluation 99 measured it",
    ),
    "a name with escape codes": (
        lambda cell: change_json(cell / "result.json", lambda v: v["tags"].update(method="\x1b[2J")),
        "control characters",
    ),
    "another cell's folder": (
        lambda cell: change_json(cell / "result.json", lambda v: v["tags"].update(cell_key="0" * 64)),
        "name of its folder",
    ),
    "a folder as data set": (
        lambda cell: change_json(cell / "result.json", lambda v: v["tags"].update(dataset="../../x")),
        "names no cell",
    ),
    "a pickle for the scores": (
        lambda cell: (cell / "scores.parquet").write_bytes(pickle.dumps(Path("x"))),
        "scores.parquet is damaged",
    ),
    "no result": (lambda cell: (cell / "result.json").write_text("[]"), "result.json is damaged"),
    "no scores": (lambda cell: (cell / "scores.parquet").unlink(), "lacks scores.parquet"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_cell_is_refused_and_the_other_taken(folder, home, what):
    forge, reason = FORGERIES[what]
    cell = first_cell(folder)
    forge(cell)
    sum_again(folder)
    shared = exchange.read_export(folder)
    assert list(shared.refused) == [cell.name]
    assert reason in shared.refused[cell.name]
    assert len(shared.cells) == 1
    if what == "a metric":
        done = CliRunner().invoke(app, ["import", str(folder), "--home", str(home)])
        assert done.exit_code == 1
        assert "1 cell(s) imported" in done.output
        assert "1 refused" in done.output
        assert cell.name not in Tracker(home, "smoke", create=False).finished_cells()


def test_a_file_that_was_changed_on_the_way_is_refused(folder):
    cell = first_cell(folder)
    change_json(cell / "result.json", lambda values: values["notes"].append("x"))
    shared = exchange.read_export(folder)
    assert "was changed after it was exported" in shared.refused[cell.name]
    change_json(folder / "export.json", lambda values: values.update(name="Eve"))
    with pytest.raises(SuiteError, match=r"export.json was changed"):
        exchange.read_export(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "cells/../../secret",
        "cells/" + "a" * 64 + "/../../../x",
        "cells/x/model.pkl",
        "run.sh",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(folder, name):
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(SuiteError, match="which no export wrote"):
        exchange.read_export(folder)


def test_a_link_is_not_followed(folder, tmp_path):
    cell = first_cell(folder)
    secret = tmp_path / "secret.toml"
    secret.write_bytes((cell / "profile.toml").read_bytes())
    (cell / "profile.toml").unlink()
    (cell / "profile.toml").symlink_to(secret)
    sum_again(folder)
    assert "no plain file" in exchange.read_export(folder).refused[cell.name]
    moved = cell.rename(tmp_path / cell.name)
    cell.symlink_to(moved)
    assert "no plain file" in exchange.read_export(folder).refused[cell.name]


def test_a_profile_name_that_leads_elsewhere_is_refused(folder):
    change_json(folder / "export.json", lambda values: values.update(profile="../../x"))
    sum_again(folder)
    with pytest.raises(SuiteError, match="damaged"):
        exchange.read_export(folder)


def test_other_numbers_of_a_known_cell_are_shown_and_do_not_take_its_place(folder, ran, home):
    """Scores and metrics changed together cannot be told from another computation: both values are shown."""
    exchange.import_export(Tracker(home, "smoke"), home / "results", exchange.read_export(folder), "")
    cell = first_cell(folder)
    before = Tracker(home, "smoke").finished_cells()[cell.name]["auroc"]
    lower_score(cell / "scores.parquet")
    sum_again(folder)
    claims = exchange.read_export(folder).refused[cell.name]
    assert "auroc" in claims
    from open_set_fer.benchmark.storage.reevaluate import measured
    from open_set_fer.benchmark.storage.results_dir import read_result

    again = measured(*read_result(cell))
    (cell / "result.json").write_text(again.to_json())
    sum_again(folder)
    done = CliRunner().invoke(app, ["import", str(folder), "--home", str(home)])
    assert done.exit_code == 1
    assert "OTHER numbers" in done.output
    assert Tracker(home, "smoke").finished_cells()[cell.name]["auroc"] == before
    out = home / "board"
    done = CliRunner().invoke(app, ["leaderboard", f"mine={ran}", f"eve={folder}", "--out", str(out)])
    assert done.exit_code == 0, done.output
    board = json.loads((out / "leaderboard.json").read_text())
    (shared,) = board["shared"]
    assert shared["agreement"] == "differs"
    assert shared["values"] == {"mine": before, "eve": again.metrics["auroc"]}


def test_leaderboard_checks_a_store_when_asked(ran, tmp_path):
    home = Path(shutil.copytree(ran, tmp_path / "home"))
    run = Tracker(home, "smoke").cells()[0]
    path = next(path for path in (home / "artifacts").rglob("scores.parquet") if run.info.run_id in str(path))
    lower_score(path)
    done = CliRunner().invoke(app, ["leaderboard", str(home), "--json"])
    assert json.loads(done.stdout)["left_out"] == []
    done = CliRunner().invoke(app, ["leaderboard", str(home), "--check", "--json"])
    (left,) = json.loads(done.stdout)["left_out"]
    assert "its scores give" in left["reason"]
