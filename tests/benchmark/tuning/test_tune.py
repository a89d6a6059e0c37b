"""Studies: no face of the test split, own settings first, kept in Optuna's storage, and cells in MLflow."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.pending import Outcome
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.protocol import FAMILIES, enumerate_protocols
from open_set_fer.benchmark.protocols.pseudo_labels import OWN
from open_set_fer.benchmark.protocols.task import split_faces
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.tuning import storage as storages
from open_set_fer.benchmark.tuning import tune as tuning
from open_set_fer.benchmark.tuning.plan import StudyPlan, reported_study, study_protocols, validation_faces
from open_set_fer.benchmark.tuning.storage import Storage
from open_set_fer.benchmark.tuning.study import STAMP, Study, Trial, Verdict, choice
from open_set_fer.benchmark.tuning.trials import Trials
from open_set_fer.benchmark.tuning.tune import Search, grid_of, sampler_of, trials_to_begin, tune, work
from open_set_fer.cli.main import app
from open_set_fer.cli.tune import _as_json, _dashboard, _print_study
from open_set_fer.console import log
from open_set_fer.datasets.faceset import BASIC, CONTEMPT, UNUSED
from open_set_fer.errors import SuiteError
from open_set_fer.reports.study import StudyReport, _text
from tests.conftest import face_set, without_controls

SEARCH = """
[search.ours]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
epochs = { low = 1, high = 2 }
consistency_weight = [5.0, 1.0]
"closed_set.erase_probability" = [0.0, 0.25, 0.5]
"""


@pytest.fixture(autouse=True)
def made_store(home):
    """MLflow's tables are not made anew for every test."""


def write(tmp_path, search):
    path = tmp_path / "own.toml"
    path.write_text(load_profile("smoke").text + search, "utf-8")
    return str(path)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 7]), st.sampled_from(["train", "valid", "test"])), min_size=40))
def test_a_study_uses_no_face_of_the_test_split(rows):
    labels, split = (np.array(column) for column in zip(*rows, strict=True))
    faces = face_set(labels, split, (*BASIC, CONTEMPT))
    seen = validation_faces(faces)
    assert set(seen.split[faces.split == "test"]) <= {UNUSED}
    assert seen.fingerprint != faces.fingerprint
    assert np.array_equal(seen.labels, faces.labels)
    assert seen.images is faces.images
    if np.any(faces.split == "valid"):
        assert np.array_equal(seen.split == "test", faces.split == "valid")
    else:
        for label in np.unique(labels):
            own = seen.split[(faces.split == "train") & (labels == label)]
            assert np.sum(own == "test") == -(-len(own) // 5)
    for protocol in enumerate_protocols(seen.classes, FAMILIES):
        try:
            found = split_faces(seen, protocol, 0)
        except SuiteError:  # a class without an image
            continue
        used = np.concatenate([found.train, found.test, *(() if found.held_out is None else (found.held_out,))])
        assert "test" not in faces.split[used]


def test_unreported_classes_by_default_and_a_reported_one_is_said_to_be(every_class):
    profile = load_profile("ferplus-cpu")
    chosen, words = study_protocols(every_class, profile, ())
    assert [p.family for p in chosen] == ["compound", "contempt"]
    assert "reported" not in words
    chosen, words = study_protocols(every_class, profile, ("surprise",))
    assert [p.label for p in chosen] == ["surprise"]
    assert "surprise: open in the tables as well" in words
    assert "(fear, surprise: open in the tables" in study_protocols(every_class, profile, ("surprise+fear",))[1]
    with pytest.raises(SuiteError, match="those that it has are open in the profile's tables"):
        study_protocols(every_class, load_profile("demo"), ())


def test_a_study_knows_what_the_tables_open(tmp_path, every_class):
    """A data set of the seven basic classes, and a profile that opens one of them."""
    path = tmp_path / "own.toml"
    text = 'base = "ferplus-cpu"\ndescription = "d"\nselection = "s"\n[protocols]\nopen_classes = ["surprise"]\n'
    path.write_text(text, "utf-8")
    profile, seven = load_profile(str(path)), np.isin(every_class.labels, range(len(BASIC)))
    columns = {name: getattr(every_class, name)[seven] for name in ("images", "labels", "split", "ids", "twins")}
    faces = dataclasses.replace(every_class, classes=BASIC, **columns)
    with pytest.raises(SuiteError) as fault:
        study_protocols(faces, profile, ())
    assert "contempt or the compound expressions, and it has none of them" in str(fault.value)
    assert "those that the tables do not open: fear, disgust, happiness, sadness, anger, neutral" in str(fault.value)
    words = study_protocols(faces, profile, ("fear",))[1]
    assert words == "chosen with fear open, on faces outside the test split"
    assert "(surprise: open in the tables" in study_protocols(faces, profile, ("surprise",))[1]
    assert [p.label for p in reported_study(faces, profile, ())[0]] == ["surprise"]
    with pytest.raises(SuiteError, match="no protocol opens 'fear'"):  # they are not the tables' faces
        reported_study(faces, profile, ("fear",))


def trial(number, *aurocs, state="finished", values=None, interval=None):
    cells = [{"protocol": "fear", "seed": seed, "value": auroc} for seed, auroc in enumerate(aurocs)]
    if interval:
        cells[0] |= {"low": interval[0], "high": interval[1]}
    value = float(np.mean(aurocs)) if state == "finished" else None
    return Trial(number, values or {"a": number}, state, value, cells)


def study_of(*trials):
    return Study("s", "own", "ours", "auroc", {"a": 0}, "chosen", "", list(trials))


def test_best_is_the_earliest_highest_and_never_a_failed_trial():
    study = study_of(trial(0, 0.5), trial(1, 0.9, state="failed"), trial(2, 0.7), trial(3, 0.7))
    assert study.best().number == 2
    assert study.selection == "chosen, 3 trials"
    with pytest.raises(SuiteError, match="no trial of ours has finished"):
        study_of(trial(1, 0.9, state="pruned")).best()


def test_best_values_are_taken_where_they_are_better_than_seeds_and_protocols_differ():
    # By hand: differences 0.04, 0.06, 0.05: mean 0.05, sd 0.01. Then 0.3, -0.1, 0.1: mean 0.1, sd 0.2.
    own = trial(0, 0.5, 0.6, 0.7)
    clear, noisy = Verdict.of(trial(1, 0.54, 0.66, 0.75), own), Verdict.of(trial(2, 0.8, 0.5, 0.8), own)
    assert (clear.keep, noisy.keep) == (False, True)
    assert (clear.gain, clear.spread) == pytest.approx((0.05, 0.01))
    assert (noisy.gain, noisy.spread) == pytest.approx((0.1, 0.2))
    assert noisy.words.startswith("keep yours: the best is +0.100 from it, within 0.200")
    assert Verdict.of(own, own).words == "keep yours: no trial was better"
    # Of a single cell: half of [0.5, 0.6].
    one = trial(1, 0.55, interval=(0.5, 0.6))
    assert Verdict.of(one, trial(0, 0.51)).keep
    assert not Verdict.of(one, trial(0, 0.49)).keep
    assert "nothing to compare with" in Verdict.of(one, None).words
    assert study_of(trial(0, 0.5, 0.6), trial(1, 0.7, 0.8)).verdict().keep is False


def test_a_study_whose_trials_all_lie_at_or_below_chance_chooses_nothing():
    """Review fidelity.md, B6: the best of six AUROCs below 0.5 moved the paper's λ."""
    study = study_of(trial(0, 0.394), trial(1, 0.406), trial(2, 0.5), trial(3, 0.9, state="failed"))
    assert not study.chooses
    verdict = study.verdict()
    assert (verdict.keep, verdict.gain) == (True, None)
    assert verdict.words == "nothing chosen: no trial lies above chance (0.5); keep yours"
    assert study.selection == "chosen, 3 trials, nothing chosen: none above chance"
    better = study_of(trial(0, 0.394), trial(1, 0.501, interval=(0.4, 0.6)))
    assert better.chooses
    assert "nothing" not in better.selection + better.verdict().words


def test_no_best_values_are_printed_or_written_where_nothing_is_chosen(capsys):
    for study, is_written in (
        (study_of(trial(0, 0.3), trial(1, 0.4)), False),
        (study_of(trial(0, 0.3, 0.4), trial(1, 0.8, 0.9)), True),
    ):
        _print_study(study)
        assert ("best values of ours" in capsys.readouterr().out) == is_written
        assert (_as_json(StudyReport(study, Path(), [], {}))["best"] is not None) == is_written
        assert ("| setting | best |" in _text(study, {}, {})) == is_written


@pytest.mark.parametrize(
    ("text", "address", "is_file"),
    [
        ("", "sqlite:///home/studies.db", True),
        ("other/s.db", "sqlite:///other/s.db", True),
        ("sqlite:////abs/s.db", "sqlite:////abs/s.db", True),
        ("journal:shared/j", "shared/j", True),
        ("j.log", "j.log", True),
        ("postgresql://me@host/x", "postgresql://me@host/x", False),
    ],
)
def test_a_storage_is_named_as_optuna_names_it(text, address, is_file):
    place = Storage.of(text, Path("home"))
    assert (place.address, place.is_file) == (address, is_file)


def test_a_place_that_is_no_storage_is_named(tmp_path):
    with pytest.raises(SuiteError, match=r"--storage 'nowhere' is no place.*\n.*journal:PATH"):
        Storage.of("nowhere", tmp_path)
    with pytest.raises(SuiteError, match=r"no studies in .*studies\.db"):
        Storage.of("", tmp_path).open(create=False)
    with pytest.raises(SuiteError, match="cannot be used"):
        Storage.of("nosuchbase://host/x", tmp_path).open()
    with pytest.raises(SuiteError, match="begins with postgresql://"):
        Storage.of("postgres://host/x", tmp_path).open()
    (tmp_path / "s.db").write_text("no database" * 100)
    with pytest.raises(SuiteError, match="cannot be used"):
        Storage.of(str(tmp_path / "s.db"), tmp_path).open()


def test_a_grid_has_every_listed_value_and_short_ranges_of_whole_numbers():
    low_high = load_profile("ferplus-cpu").search["ours"]["learning_rate"]
    whole = low_high.model_copy(update={"low": 2, "high": 4, "log": False})
    assert grid_of({"a": [1, [4, 5]], "b": whole}) == {"a": [1, "[4, 5]"], "b": [2, 3, 4]}
    assert choice({"x": 1}) == '{"x": 1}'
    with pytest.raises(SuiteError, match="a grid cannot have the range of c"):
        grid_of({"c": low_high})


def tuned(
    tmp_path,
    trials,
    search=SEARCH,
    label="ours",
    objective="auroc",
    opened=(CONTEMPT,),
    profile="",
    storage=None,
    **more,
):
    loaded = load_profile(profile or write(tmp_path, search))
    selection, home = Selection(("synthetic",), seeds=(0,), open_classes=opened), tmp_path / "home"
    plan = StudyPlan.of(loaded, label, selection, home / "cache", objective)
    return tune(plan, Search(trials, **more), home, RunOptions(), "osfer tune", storage)


def test_a_study_starts_from_the_profile_goes_on_and_is_optunas(tmp_path):
    import optuna

    two = tuned(tmp_path, 2)
    profile = load_profile(str(tmp_path / "own.toml"))
    own = profile.method("ours")
    assert two.trials[0].values == {
        "learning_rate": own.learning_rate,
        "epochs": own.epochs,
        "consistency_weight": own.consistency_weight,
        "closed_set.erase_probability": profile.closed_set_settings().erase_probability,
    }
    assert two.trials[1].values != two.trials[0].values
    results = sorted((tmp_path / "home" / "results").glob("*/result.json"))
    written = [path.stat().st_mtime_ns for path in results]
    three = tuned(tmp_path, 3)
    assert three.trials[:2] == two.trials
    assert [path.stat().st_mtime_ns for path in results] == written
    assert 1e-4 <= three.trials[2].values["learning_rate"] <= 1e-2
    assert three.trials[2].values["epochs"] in (1, 2)
    # The same in Optuna's own eyes, and linked both ways with MLflow.
    study = optuna.load_study(study_name=three.name, storage=f"sqlite:///{tmp_path / 'home' / 'studies.db'}")
    assert study.best_value == three.best().value
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    tracker = Tracker(tmp_path / "home", "own-tuning")
    cells = {run.info.run_id: run for run in tracker.cells()}
    (parent,) = tracker._search("tags.`osfer.kind` = 'study'")
    assert (parent.data.tags["study"], parent.info.status) == (three.name, "FINISHED")
    history = tracker.client.get_metric_history(parent.info.run_id, "objective")
    assert [(point.step, point.value) for point in history] == [(t.number, t.value) for t in study.trials]
    for found in study.trials:
        (link,) = found.user_attrs["cells"]
        cell = cells[link["run_id"]]
        assert cell.data.tags["cell_key"] == link["cell_key"]
        assert (cell.data.tags["study"], str(found.number) in cell.data.tags["trial"].split(", ")) == (three.name, True)
        assert cell.data.metrics["auroc"] == found.value
        run = tracker.client.get_run(found.user_attrs["run_id"])
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.data.tags["trial"], run.data.metrics["objective"]) == (str(found.number), found.value)
    # `osfer tune show` says the same, and its figures are the study's in MLflow.
    shown = CliRunner().invoke(
        app, ["tune", "show", "-p", str(tmp_path / "own.toml"), "--home", str(tmp_path / "home"), "--json"]
    )
    assert shown.exit_code == 0, shown.output
    (said,) = json.loads(shown.stdout)["studies"]
    assert (said["name"], said["best"]["number"], said["best"]["value"]) == (
        study.study_name,
        study.best_trial.number,
        study.best_value,
    )
    assert [(t["number"], t["value"]) for t in said["trials"]] == [(t.number, t.value) for t in study.trials]
    kept = {artifact.path for artifact in tracker.client.list_artifacts(parent.info.run_id, "study")}
    assert {"study/study.md", "study/history.png", "study/slice.png", "study/contour.svg"} <= kept


@pytest.mark.slow
def test_other_values_of_the_profile_are_tried_in_the_same_study_and_another_space_is_another(tmp_path):
    search = '[search.baseline]\n"closed_set.epochs" = [1, 2]\n'
    first = tuned(tmp_path, 1, search, "baseline")
    changed = write(tmp_path, search)
    Path(changed).write_text(
        Path(changed)
        .read_text()
        .replace(
            "epochs = 2\nbatch_size = 64\n\n[methods.baseline]", "epochs = 1\nbatch_size = 64\n\n[methods.baseline]"
        )
    )
    second = tuned(tmp_path, 2, label="baseline", profile=changed)
    assert second.name == first.name
    assert [trial.values["closed_set.epochs"] for trial in second.trials] == [2, 1]
    assert second.own_trial().number == 1
    other = tuned(tmp_path, 1, search.replace("[1, 2]", "[1, 2, 3]"), "baseline")
    assert other.name != first.name


@pytest.mark.slow
def test_a_grid_is_done_whole_and_once(tmp_path):
    search = '[search.baseline]\n"closed_set.epochs" = [1, 2]\n"closed_set.batch_size" = [32, 64]\n'
    study = tuned(tmp_path, None, search, "baseline", sampler="grid")
    tried = [tuple(trial.values.values()) for trial in study.trials]
    assert sorted(tried) == [(1, 32), (1, 64), (2, 32), (2, 64)]
    assert study.own_trial() is not None
    assert tuned(tmp_path, None, search, "baseline", sampler="grid").trials == study.trials


@pytest.mark.slow
def test_the_test_split_is_stamped_on_every_output(tmp_path):
    import optuna

    search = '[search.baseline]\n"closed_set.epochs" = [1, 2]\n'
    study = tuned(tmp_path, 1, search, "baseline", "test", ())
    assert study.selection.startswith(STAMP)
    assert study.trials[0].cells[0]["protocol"] == "surprise"
    tracker = Tracker(tmp_path / "home", "own-tuning")
    (parent,) = tracker._search("tags.`osfer.kind` = 'study'")
    (run,) = tracker._search("tags.`osfer.kind` = 'benchmark'")
    (cell,) = tracker.cells()
    assert (parent.data.tags["stamp"], run.data.tags["stamp"]) == (STAMP, STAMP)
    assert parent.data.tags["mlflow.note.content"].startswith(f"**{STAMP}.** Settings of `")
    stored = optuna.load_study(study_name=study.name, storage=f"sqlite:///{tmp_path / 'home' / 'studies.db'}")
    assert stored.user_attrs["stamp"] == STAMP
    assert cell.data.tags["selection"].startswith(STAMP)


@pytest.mark.parametrize(("driver", "package"), [("psycopg", r"psycopg\[binary\]"), ("psycopg2", "psycopg2-binary")])
def test_a_database_driver_that_lacks_is_named(tmp_path, monkeypatch, driver, package):
    monkeypatch.setitem(sys.modules, driver, None)  # as if not installed
    server = Storage.of(f"postgresql+{driver}://me:secret@127.0.0.1:1/x", tmp_path)
    with pytest.raises(
        SuiteError, match=rf"\*\*\*@127.*needs the Python package {driver},.*\n.*pip install '{package}'"
    ):
        server.open()


def test_two_workers_may_make_the_tables_of_a_server_at_once(tmp_path, monkeypatch):
    import optuna
    from sqlalchemy.exc import IntegrityError

    made, real = [], optuna.storages.RDBStorage

    def storage(*args, **kwargs):
        made.append(args)
        if len(made) == 1:
            raise IntegrityError("CREATE TABLE studies", {}, Exception("duplicate key"))
        return real(*args, **kwargs)

    monkeypatch.setattr(optuna.storages, "RDBStorage", storage)
    monkeypatch.setattr(storages.time, "sleep", lambda seconds: None)
    Storage(f"sqlite+pysqlite:///{tmp_path / 'server.db'}").open()
    assert len(made) == 2


def test_the_commands_that_are_printed_have_no_password(tmp_path):
    server = Storage.of("postgresql://me:secret@host/x", tmp_path)
    assert _dashboard(server).startswith("optuna-dashboard 'postgresql://***@host/x' ")


@pytest.fixture
def backend(request, tmp_path):
    """Optuna's storage in a file; an SQLite file where a test asks for no other."""
    return Storage.of(str(tmp_path / getattr(request, "param", "quick.db")), tmp_path).open()


both_files = pytest.mark.parametrize("backend", ["quick.db", "quick.log"], indirect=True)


def quick(backend, sampler="random", space=None):
    """A worker's view of a study whose trials cost nothing."""
    import optuna

    study = optuna.create_study(
        storage=backend, study_name="s", sampler=sampler_of(sampler, space or {}), load_if_exists=True
    )
    for key in ("profile", "label", "objective", "own", "chosen"):
        study.set_user_attr(key, key)
    return study


def draw(trial):
    return float(trial.suggest_int("a", 0, 10**6))


def work_on(study, trials, measure=draw, **more):
    work(study, Search(trials, **{"sampler": "random", **more}), measure, SimpleNamespace(closing=False))


def states(study):
    return [trial.state.name for trial in study.get_trials()]


def abandon(study, backend, space=()):
    """Begin a trial as a worker does that is killed in it, an hour ago."""
    from sqlalchemy import text

    trial = study.ask()
    _ = trial.suggest_categorical("a", space) if space else draw(trial)
    backend.record_heartbeat(trial._trial_id)
    with backend.engine.begin() as connection:
        connection.execute(text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"))
    return trial


@both_files
def test_a_stopped_trial_is_queued_once_and_closed(backend):
    def stop(trial):
        draw(trial)
        raise KeyboardInterrupt

    study = quick(backend)
    with pytest.raises(KeyboardInterrupt):
        work_on(study, 2, stop)
    assert states(study) == ["FAIL", "WAITING"]
    assert trials_to_begin(study, Search(2)) == 2, "it is not counted"
    again = quick(backend)
    work_on(again, 2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params
    assert trials_to_begin(again, Search(2)) == 0


def test_a_dead_workers_trial_is_tried_again_and_a_living_ones_is_left_alone(backend):
    study = quick(backend)
    lost = abandon(study, backend)
    living = study.ask()
    backend.record_heartbeat(living._trial_id)
    work_on(study, 1)
    assert states(study) == ["FAIL", "RUNNING", "COMPLETE"]
    assert study.trials[2].params == lost.params
    late = abandon(study, backend)
    backend.record_heartbeat(living._trial_id)
    work_on(quick(backend), 1)  # there are enough trials: it only tries again what was lost
    assert states(study) == ["FAIL", "RUNNING", "COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[4].params == late.params


def test_values_in_which_workers_die_are_given_up(backend):
    study = quick(backend)
    work_on(study, 1)
    for _ in range(3):
        abandon(study, backend)
        trials_to_begin(study, Search(1))  # queues the values again, the last time gives them up
    assert states(study) == ["COMPLETE", "FAIL", "FAIL", "FAIL"], "not queued again"
    work_on(quick(backend), 1)
    last = Study.of(study)
    assert [trial.state for trial in last.trials] == ["finished", "failed"]
    assert last.trials[1].note == "3 workers died in it"
    assert study.trials[3].system_attrs["retry_history"] == [1, 2]


@both_files
def test_a_worker_that_was_taken_for_dead_goes_on(backend, caplog):
    import optuna

    def suspended(trial):
        if trial.number == 0:
            study.tell(0, state=optuna.trial.TrialState.FAIL)
            storages.try_again(study, study.trials[0])
            trial.set_user_attr("cells", [])
        return draw(trial)

    study = quick(backend)
    work_on(study, 2, suspended)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "this one gave no sign of life" in caplog.text


@both_files
@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_neither_a_restart_nor_a_second_worker_draws_the_same_values(backend, sampler, tmp_path):
    def share(trial):
        if trial.number == 0:
            work_on(quick(backend, sampler), 6, sampler=sampler)
        return draw(trial)

    study = quick(backend, sampler)
    work_on(study, 6, share, sampler=sampler)
    work_on(quick(backend, sampler), 9, sampler=sampler)
    values = [trial.params["a"] for trial in study.trials]
    assert len(set(values)) == len(values) == 9
    alone = quick(Storage.of(str(tmp_path / "alone.db"), tmp_path).open(), sampler)
    work_on(alone, 9, sampler=sampler)
    assert [trial.params["a"] for trial in alone.trials] == values, "seeded"


@both_files
def test_workers_together_begin_no_more_than_asked_for_and_one_each(backend):
    def share(trial):
        if trial.number == 0:
            work_on(quick(backend), 4)
        return draw(trial)

    study = quick(backend)
    work_on(study, 4, share)
    assert states(study) == ["COMPLETE"] * 5


@both_files
def test_a_grid_is_done_whole_after_stops(backend):
    def stop(trial):
        trial.suggest_categorical("a", [1, 2, 3])
        if trial.number > 1:
            raise KeyboardInterrupt
        return 0.0

    def finish(trial):
        return float(trial.suggest_categorical("a", [1, 2, 3]))

    study = quick(backend, "grid", {"a": [1, 2, 3]})
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            work_on(study, None, stop, sampler="grid")
    for _ in range(2):
        work_on(quick(backend, "grid", {"a": [1, 2, 3]}), None, finish, sampler="grid")
    assert states(study) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert {trial.params["a"] for trial in study.trials if trial.state.name == "COMPLETE"} == {1, 2, 3}


def test_a_grid_is_done_whole_after_deaths(backend):
    study = quick(backend, "grid", {"a": [1, 2, 3]})
    for _ in range(3):
        abandon(study, backend, (1, 2, 3))
    work_on(study, None, lambda trial: float(trial.suggest_categorical("a", [1, 2, 3])), sampler="grid")
    assert states(study) == ["FAIL"] * 3 + ["COMPLETE"] * 3
    assert sorted(trial.params["a"] for trial in study.trials[3:]) == [1, 2, 3]


def test_a_journal_file_has_no_heartbeat_so_another_trial_is_made(tmp_path):
    study = quick(Storage.of(f"journal:{tmp_path / 'j'}", tmp_path).open(), "grid", {"a": [1, 2]})
    study.ask().suggest_categorical("a", [1, 2])
    work_on(study, None, lambda trial: float(trial.suggest_categorical("a", [1, 2])), sampler="grid")
    assert states(study) == ["RUNNING", "COMPLETE", "COMPLETE"]
    assert {trial.params["a"] for trial in study.trials[1:]} == {1, 2}


def test_no_trial_is_begun_after_the_timeout(backend, caplog):
    study = quick(backend)
    caplog.set_level("INFO", log.name)
    work_on(study, 3, timeout=0.0)
    assert states(study) == []
    assert "the time of --timeout is over" in caplog.text


def test_a_method_that_reports_nothing_is_said_once_to_be_no_matter_for_the_pruner(caplog):
    log_trial = SimpleNamespace(log_trial=lambda *_: None)
    plan, study = SimpleNamespace(label="proser", start={}, objective="auroc"), SimpleNamespace(study_name="s")
    trial = SimpleNamespace(number=0, set_user_attr=lambda *_: None, report=lambda *_: None, should_prune=lambda: False)

    def trials():
        return Trials(plan, "hyperband", study, log_trial, "", Path(), RunOptions(), "osfer tune")

    def finish(worker):
        assert worker._value(trial, {}, Outcome(), [{"value": 0.5}], 1) == 0.5

    worker = trials()
    finish(worker)
    assert "reports no scores" not in caplog.text, "its cells were there: nobody listened"
    for _ in range(2):
        worker._listener(trial, {})
        finish(worker)
    assert caplog.text.count("proser reports no scores while it trains: --pruner hyperband stops none") == 1
    worker = trials()
    worker._listener(trial, {})(1, 0.5)
    finish(worker)
    assert caplog.text.count("reports no scores") == 1


@pytest.mark.slow
def test_a_trial_is_pruned_by_its_first_cell_and_the_profiles_own_is_not(tmp_path, monkeypatch, caplog):
    import optuna

    hyperband = tuning.pruner_of
    monkeypatch.setattr(tuning, "pruner_of", lambda *_: optuna.pruners.ThresholdPruner(lower=2.0))
    search = "[search.ours]\nlearning_rate = [2e-4, 1e-3]\n"
    study = tuned(tmp_path, None, search, "ours", sampler="grid", pruner="hyperband")
    own, pruned = sorted(study.trials, key=lambda trial: trial.state)
    assert (own.state, pruned.state, pruned.value) == ("finished", "pruned", None)
    assert own.values == study.own
    stored = optuna.load_study(study_name=study.name, storage=f"sqlite:///{tmp_path / 'home' / 'studies.db'}")
    reported = stored.trials[own.number].intermediate_values
    assert list(reported) == [1, 2]
    assert reported[2] == own.value
    assert list(stored.trials[pruned.number].intermediate_values) == [1]
    assert stored.trials[pruned.number].user_attrs["pruned"] == 1
    tracker = Tracker(tmp_path / "home", "own-tuning")
    assert len(tracker.cells()) == 1
    assert sorted(run.info.status for run in tracker._search("tags.`osfer.kind` = 'cell'")) == ["FINISHED", "KILLED"]
    assert "reports no scores" not in caplog.text
    monkeypatch.setattr(tuning, "pruner_of", hyperband)
    tuned(tmp_path, 1, "[search.proser]\nepochs = [1, 2]\n", "proser", pruner="hyperband")
    assert caplog.text.count("proser reports no scores while it trains") == 1
    with pytest.raises(SuiteError, match="baseline does not train by epochs"):
        tuned(tmp_path, 1, '[search.baseline]\n"closed_set.epochs" = [1, 2]\n', "baseline", pruner="hyperband")


@pytest.mark.slow
def test_a_trial_whose_cell_fails_is_counted_and_one_that_is_stopped_goes_on(tmp_path, monkeypatch, failing):
    search = f'[search.{failing}]\n"closed_set.epochs" = [1, 2]\n'
    with monkeypatch.context() as stopped:

        def stop(*_):
            raise KeyboardInterrupt

        stopped.setattr(Runner, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            tuned(tmp_path, 2, search, failing)
    with pytest.raises(SuiteError, match="every trial of failing failed"):
        tuned(tmp_path, 1, search, failing)
    monkeypatch.setenv("OSFER_HARMLESS", "1")
    study = tuned(tmp_path, 2, search, failing)
    assert [trial.state for trial in study.trials] == ["failed", "finished"], "the stopped one is not among them"
    assert study.trials[0].values == {"closed_set.epochs": 2}, "what was stopped was taken up"
    assert "ZeroDivisionError" in study.trials[0].note


def control(tmp_path, label, search, opened=()):
    return tuned(tmp_path, 1, search, label, "control", opened)


def test_the_control_is_tuned_without_an_open_face_and_outside_the_test_split(tmp_path):
    study = control(tmp_path, "ours", "[search.ours]\nepochs = { low = 1, high = 2 }\n")
    assert study.selection.removesuffix(", nothing chosen: none above chance") == (
        "chosen by the positive control (20% of the true labels flipped, sensitivity S: the AUROC of finding them "
        "among faces of one label) without any open face, on faces outside the test split, 1 trials"
    )
    (folder,) = (tmp_path / "home" / "results").glob("*/")
    scores = pd.read_parquet(folder / "scores.parquet")
    assert study.trials[0].value == json.loads((folder / "result.json").read_text())["metrics"]["auroc_within_label"]
    assert scores["is_open"].mean() == pytest.approx(0.2, abs=0.01)
    assert set(scores["true_class"]) == set(BASIC), "every class is closed, none left out"
    assert np.array_equal(scores["true_class"] != scores["given_class"], scores["is_open"])
    faces = load_profile("smoke").dataset("synthetic").load(tmp_path / "home" / "cache")
    assert set(faces.split[np.isin(faces.ids, scores["id"])]) == {"valid"}


def test_what_the_control_cannot_tune_is_said(tmp_path):
    with pytest.raises(SuiteError, match="the control opens no class, --open names contempt"):
        control(tmp_path, "ours", SEARCH, (CONTEMPT,))
    search = "[search.proser]\nepochs = [1, 2]\n"
    with pytest.raises(SuiteError, match=r"proser reads no label.*\n.*--objective auroc"):
        control(tmp_path, "proser", search)
    path, last = tmp_path / "flipped.toml", 'open_classes = ["surprise"]'
    path.write_text(
        (without_controls(load_profile("smoke").text) + SEARCH).replace(last, f'{last}\nlabels = "flipped-true"'),
        "utf-8",
    )
    with pytest.raises(SuiteError, match="tune with --objective control"):
        tuned(tmp_path, 1, profile=str(path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate =", "learning_rat =", r"search\.ours\.learning_rat, did you mean 'learning_rate'"),
        ("[5.0, 1.0]", "[2.0, 1.0]", r"search\.ours\.consistency_weight does not hold the profile's own value 5\.0"),
        ("log = true", "logs = true", r"unknown key search\.ours\.learning_rate\.range\.logs, did you mean 'log'"),
        ("low = 1e-4", "low = 0.0", r"search\.ours\.learning_rate\.range: .*above 0 with log"),
        ("low = 1, high = 2", "low = 3, high = 2", r"search\.ours\.epochs\.range: .*low must not be above high"),
        ("epochs =", "variant =", r"search\.ours\.variant does not hold the profile's own value 'offline'"),
        ("[search.ours]", "[search.our]", r"unknown method 'our', did you mean 'ours'"),
        ("high = 2 }", "high = 1_000_000_000 }", r"search\.ours\.epochs: methods\.ours\.epochs: .*less than or equal"),
        ("[0.0, 0.25, 0.5]", "[0.5, 7.0]", r"search\.ours\.closed_set\.erase_probability: .*less than or equal to 1"),
    ],
)
def test_a_wrong_search_entry_names_itself(tmp_path, old, new, message):
    assert old in SEARCH
    with pytest.raises(SuiteError, match=message):
        load_profile(write(tmp_path, SEARCH.replace(old, new)))


def test_like_starts_from_another_entry(tmp_path):
    profile = load_profile(write(tmp_path, '[methods.ours-short]\nlike = "ours"\nepochs = 1\n'))
    own, like = profile.method("ours"), profile.method("ours-short")
    assert like.epochs == 1
    assert (like.cycle_length, like.learning_rate) == (own.cycle_length, own.learning_rate)
    chain = (
        '[methods.ours-short]\nlike = "ours"\nepochs = 1\n[methods.ours-x]\nlike = "ours-short"\nattention = false\n'
    )
    last = load_profile(write(tmp_path, chain)).method("ours-x")
    assert (last.epochs, last.attention) == (1, False)
    with pytest.raises(SuiteError, match=r"methods\.ours-x\.like: 'ours-shrt' is no label, did you mean 'ours-short'"):
        load_profile(write(tmp_path, chain.replace('"ours-short"', '"ours-shrt"')))
    with pytest.raises(SuiteError, match=r"like: 'ours-short' is like itself in the end"):
        load_profile(write(tmp_path, chain.replace('"ours"', '"ours-x"')))


def test_a_closed_set_recipe_of_its_own_counts_for_that_label_alone(tmp_path):
    profile = load_profile(write(tmp_path, '[methods.weak]\nlike = "ours"\nclosed_set = { epochs = 7 }\n'))
    assert profile.closed_set_settings("weak").epochs == 7
    assert profile.closed_set_settings("ours") == profile.closed_set_settings()
    cells, _ = make_plan(profile, Selection(methods=("ours", "weak"), regime=OWN), tmp_path / "cache")
    assert len({cell.closed_set_key for cell in cells}) == 2
    with pytest.raises(SuiteError, match=r"methods\.weak\.closed_set\.epoch, did you mean 'epochs'"):
        load_profile(write(tmp_path, '[methods.weak]\nlike = "ours"\nclosed_set = { epoch = 7 }\n'))


def test_a_run_with_two_closed_set_recipes_trains_two_models(tmp_path):
    text = '[methods.weak]\nlike = "baseline"\nclosed_set = { epochs = 1 }\n'
    profile = load_profile(write(tmp_path, text))
    cells, face_sets = make_plan(profile, Selection(methods=("baseline", "weak")), tmp_path / "cache")
    home = tmp_path / "home"
    outcome = Runner(home, profile).run(cells, face_sets, "osfer run")
    assert outcome.computed == 2
    assert len(list((home / "closed_set").glob("*.safetensors"))) == 2
    scores = [pd.read_parquet(home / "results" / cell.key / "scores.parquet")["unknown_score"] for cell in cells]
    assert (scores[0] != scores[1]).any()


def test_tune_on_the_command_line(tmp_path):
    path, home = write(tmp_path, SEARCH), ["--home", str(tmp_path / "home")]
    command = ["tune", "-p", path, "-m", "ours", "--open", "contempt", "--trials", "1", *home]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "chosen with contempt open, on faces outside the test split" in done.output
    assert 'selection = "chosen' in done.output
    assert "learning_rate = " in done.output
    assert "keep yours: no trial was better" in done.output
    assert "optuna-dashboard sqlite:///" in done.output
    refused = CliRunner().invoke(app, [*command, "--dataset", "synthetic,digits"])
    assert "one data set" in str(refused.exception)


def test_a_label_that_cannot_be_tuned_so_leaves_the_others_their_turn(tmp_path, monkeypatch):
    def tuned(plan, *_):
        if plan.label == "baseline":
            raise SuiteError("baseline reads no label of the closed-set model", "tune it with --objective auroc")
        return study_of(trial(0, 0.6))

    monkeypatch.setattr(tuning, "tune", tuned)
    path = write(tmp_path, '[search.baseline]\n"closed_set.epochs" = [1, 2]\n' + SEARCH)
    command = ["tune", "-p", path, "--objective", "control", "--home", str(tmp_path / "home")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1, done.output
    assert "best values of ours" in done.output
    assert "next: osfer tune show" in done.output
    alone = CliRunner().invoke(app, [*command, "-m", "baseline"])
    assert isinstance(alone.exception, SuiteError)


def test_the_retry_command_of_a_pooled_protocol_can_be_run(tmp_path, monkeypatch, failing):
    pool = "[[protocols.pools]]\nsize = 60\nopen_share = 0.5\n"
    path, home = write(tmp_path, pool), ["--home", str(tmp_path / "home")]
    failed = CliRunner().invoke(app, ["run", "-p", path, "-m", failing, *home])
    assert failed.exit_code == 1
    retry = shlex.split(failed.output.split("retry only these with: ")[1].splitlines()[0])
    assert "surprise" in retry
    monkeypatch.setenv("OSFER_HARMLESS", "1")
    again = CliRunner().invoke(app, retry[1:])
    assert again.exit_code == 0, again.output
