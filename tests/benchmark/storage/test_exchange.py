"""Results of other people: what was computed there is logged here, and a folder that is not what it says is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import filelock
import pandas as pd
import pytest
from typer.testing import CliRunner

from open_set_fer.benchmark.protocols.pseudo_labels import Regime
from open_set_fer.benchmark.storage import exchange, pictures
from open_set_fer.benchmark.storage.exchange import read_cell, sync_folder
from open_set_fer.benchmark.storage.mlflow_reader import plan_entry
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.storage.pictures import group_names
from open_set_fer.benchmark.storage.reevaluate import measured
from open_set_fer.benchmark.storage.results_dir import read_result
from open_set_fer.cli.main import app
from open_set_fer.errors import SuiteError
from tests.complete import finished_cells, run_smoke

pytestmark = pytest.mark.usefixtures("local_store")


def sync(home, folder, name="Ada"):
    return sync_folder(home, folder, name, "osfer sync")


def cells_of(folder):
    return sorted(path for path in (folder / "results").iterdir() if path.is_dir())


def change_json(path, change):
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values), "utf-8")


def compute_otherwise(cell, shift=0.5):
    """Other scores with metrics that fit them: this cannot be told from another computation."""
    lower_score(cell / "scores.parquet", shift)
    result = measured(*read_result(cell))
    (cell / "result.json").write_text(replace(result, tags=result.tags | {"host": "far"}).to_json())
    return result.metrics["auroc"]


def test_what_is_synced_is_what_was_computed_and_only_once(ran, ada, home):
    done = sync(home, ada)
    assert (len(done.new), vars(replace(done, new=[]))) == (2, vars(exchange.Synced()))
    tracker, there = Tracker(home, "smoke"), Tracker(ran, "smoke", create=False)
    theirs = {run.data.tags["cell_key"]: run for run in there.cells()}
    mine = {run.data.tags["cell_key"]: run for run in tracker.cells()}
    assert mine.keys() == theirs.keys()
    for key, run in mine.items():
        assert run.data.metrics == theirs[key].data.metrics
        assert run.data.params == theirs[key].data.params
        assert run.data.tags["imported_from"] == "Ada"
        assert run.data.tags["host"] == theirs[key].data.tags["host"]
        pd.testing.assert_frame_equal(
            tracker.read_scores(run.info.run_id), there.read_scores(theirs[key].info.run_id), check_exact=True
        )
        assert tracker.read_json(run.info.run_id, "key.json") == there.read_json(theirs[key].info.run_id, "key.json")
    for folder in (ada, ada / "results", cells_of(ada)[0]):
        again = sync(home, folder)
        assert (again.new, len(again.same)) == ([], 1 if folder == cells_of(ada)[0] else 2)
    assert (len(tracker.cells()), tracker.replicates()) == (2, [])
    # and a run of the same cells finds nothing to do
    assert run_smoke(home, ran, methods=("baseline",), seeds=(0, 1)).already_done == 2


def test_a_copy_of_one_computation_is_no_second_one(ada, home, tmp_path):
    sync(home, ada)
    bob = Path(shutil.copytree(ada, tmp_path / "bob"))
    for cell in cells_of(bob):
        change_json(cell / "result.json", lambda values: values["tags"].update(imported_from="Ada"))
    assert len(sync(home, bob, "Bob").same) == 2
    assert Tracker(home, "smoke").replicates() == []
    assert len(sync(tmp_path / "other", bob, "Bob").new) == 2
    sources = {run.data.tags["imported_from"] for run in Tracker(tmp_path / "other", "smoke").cells()}
    assert sources == {"Bob (who had it from Ada)"}


def test_whose_results_they_are_is_the_name_of_their_home(ada):
    names = {exchange.owner_of(folder) for folder in (ada, ada / "results", cells_of(ada)[0])}
    assert names == {"ada"}


def test_a_synced_controls_histogram_is_of_flipped_labels(ran, home, tmp_path, monkeypatch):
    source = Path(shutil.copytree(ran, tmp_path / "control"))
    run_smoke(source, source, methods=("label-loss",), regime=Regime("flipped-true", 0.2))
    drawn = {}
    draw = pictures.score_histogram
    monkeypatch.setattr(
        pictures, "score_histogram", lambda scores, title, names: drawn.update({title: names}) or draw(scores, title)
    )
    sync(home, source)
    assert {"control AUROC" in title: names for title, names in drawn.items()} == {
        is_control: group_names(is_control) for is_control in (True, False)
    }


def test_a_sync_that_was_killed_before_it_logged_goes_on(ada, home):
    sync(home, ada)
    tracker = Tracker(home, "smoke")
    for run in tracker.cells():
        tracker.client.delete_run(run.info.run_id)
    assert len(sync(home, ada).new) == 2


def test_a_result_of_this_home_that_waits_to_be_logged_stays_its_own(ada, home, ran):
    shutil.copytree(ran / "results", home / "results")
    done = sync(home, ada)
    assert (len(done.new), len(done.waiting)) == (0, 2)


def test_a_cell_that_this_home_is_computing_is_left_to_it(ada, home):
    (home / "results").mkdir()
    with filelock.FileLock(home / "results" / f"{cells_of(ada)[0].name}.lock"):
        done = sync(home, ada)
    assert (len(done.new), len(done.waiting)) == (1, 1)


def test_own_settings_stay_in_the_reports_where_synced_ones_differ(ada, home):
    tracker = Tracker(home, "smoke")
    place = plan_entry(read_cell(cells_of(ada)[0].resolve()).result.tags)
    tracker.end(tracker.start_benchmark([place | {"cell_key": "other settings"}], "", "osfer run"), "FINISHED")
    done = sync(home, ada)
    assert (len(done.new), len(done.hidden)) == (1, 1)
    planned = {cell["seed"]: cell["cell_key"] for cell in tracker.planned()}
    assert planned[place["seed"]] == "other settings"
    assert len(tracker.cells()) == 2


def test_cells_of_studies_are_left_out(ada, home):
    for cell in cells_of(ada):
        change_json(cell / "result.json", lambda values: values["tags"].update(profile="smoke-tuning"))
    assert vars(sync(home, ada)) == vars(exchange.Synced())
    assert Tracker(home, "smoke-tuning", create=False).cells() == []


def lower_score(path, shift=0.5):
    scores = pd.read_parquet(path)
    attrs = scores.attrs
    scores.loc[scores["is_open"], "unknown_score"] += shift
    scores.attrs = attrs
    scores.to_parquet(path, index=False)


def forge(part, **values):
    def change(cell):
        return change_json(cell / "result.json", lambda result: (result[part] if part else result).update(values))

    return change


FORGERIES = {
    "a metric": (forge("metrics", auroc=0.99), "its auroc is 0.99"),
    "a metric that there is none of": (forge("metrics", better=1.0), "its better is 1.0"),
    "the scores": (lambda cell: lower_score(cell / "scores.parquet"), "its scores give"),
    "a setting in the key": (
        lambda cell: change_json(cell / "key.json", lambda v: v["closed_set"]["closed_set"].update(epochs=99)),
        "not the digest of its settings",
    ),
    "a setting": (forge("params", **{"closed_set.epochs": "99"}), "its setting closed_set.epochs is '99'"),
    "the seed": (forge("tags", seed="7"), "its tag seed is '7'"),
    "the open class": (forge("tags", open_classes="fear"), "its tag open_classes is 'fear'"),
    "the data set": (forge("data", fingerprint="0" * 64), "fingerprint"),
    "a later evaluation": (forge("", evaluation=99), "evaluation 99 measured it"),
    "a name with escape codes": (forge("tags", method="\x1b[2J"), "control characters"),
    "another cell's folder": (forge("tags", cell_key="0" * 64), "name of its folder"),
    "a folder as data set": (forge("tags", dataset="../../x"), "names no cell"),
    "a folder as profile": (forge("tags", profile="../../x"), "names no profile"),
    "a pickle for the scores": (
        lambda cell: (cell / "scores.parquet").write_bytes(pickle.dumps(Path("x"))),
        "scores.parquet is damaged",
    ),
    "no result": (lambda cell: (cell / "result.json").write_text("[]"), "result.json is damaged"),
    "no scores": (lambda cell: (cell / "scores.parquet").unlink(), "lacks scores.parquet"),
    "no key": (lambda cell: (cell / "key.json").unlink(), "lacks key.json"),
    "a flood": (lambda cell: (cell / "key.json").write_bytes(bytes(exchange.SMALL + 1)), "has more than"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_cell_is_refused_and_the_other_taken(ada, home, what):
    forgery, reason = FORGERIES[what]
    cell, other = cells_of(ada)
    forgery(cell)
    if what != "a metric":
        with pytest.raises(Exception, match=reason):
            read_cell(cell.resolve())
        return
    done = CliRunner().invoke(app, ["sync", str(ada), "--as", "Ada", "--home", str(home)])
    assert done.exit_code == 1
    assert "1 cell(s) logged" in done.output
    assert "1 refused" in done.output
    assert reason in done.output
    assert set(finished_cells(Tracker(home, "smoke", create=False))) == {other.name}


def test_a_link_is_not_followed(ada, home, tmp_path):
    cell, other = cells_of(ada)
    secret = tmp_path / "secret.toml"
    secret.write_bytes((cell / "profile.toml").read_bytes())
    (cell / "profile.toml").unlink()
    (cell / "profile.toml").symlink_to(secret)
    moved = other.rename(tmp_path / other.name)
    other.symlink_to(moved)
    refused = sync(home, ada).refused
    assert list(refused) == [cell.name, other.name]
    assert all("no plain file" in reason for reason in refused.values())


def test_nothing_but_the_files_of_cells_is_read(ada, home):
    cell = cells_of(ada)[0]
    for name in ("model.pkl", "features.npz", "model/detector.json", "histogram.png"):
        (cell / name).parent.mkdir(exist_ok=True)
        (cell / name).write_bytes(pickle.dumps(Path("x")))
    shutil.copytree(cell, ada / "results" / "run.sh")
    assert len(sync(home, ada).new) == 2
    names = {path.name for path in (home / "artifacts").rglob("*") if path.is_file()}
    assert names == {"plan.json", *exchange.FILES, "histogram.png"} - {"result.json"}
    for path in (home / "artifacts").rglob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["", "results/x", "notes.txt"])
def test_a_folder_without_cells_is_one_clear_error(tmp_path, home, name):
    (tmp_path / "eve" / name).mkdir(parents=True)
    with pytest.raises(SuiteError, match="holds no results"):
        sync(home, tmp_path / "eve")


def test_other_numbers_of_a_finished_cell_are_kept_beside_and_do_not_take_its_place(ada, home):
    sync(home, ada)
    cell = cells_of(ada)[0]
    before = finished_cells(Tracker(home, "smoke"))[cell.name]["auroc"]
    lower_score(cell / "scores.parquet")
    assert "auroc" in sync(home, ada, "Eve").refused[cell.name]
    theirs = compute_otherwise(cell)
    for _ in range(2):
        done = CliRunner().invoke(app, ["sync", str(ada), "--as", "Eve", "--home", str(home)])
        assert done.exit_code == 1
        assert "OTHER numbers" in done.output
    tracker = Tracker(home, "smoke")
    assert finished_cells(tracker)[cell.name]["auroc"] == before
    assert len(tracker.cells()) == 2
    (replicate,) = tracker.replicates()  # logged once
    assert replicate.data.tags["imported_from"] == "Eve"
    assert replicate.data.metrics["auroc"] == theirs != before
