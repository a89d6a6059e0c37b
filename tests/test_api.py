"""The Python interface: tasks whose truth stays sealed, own methods, runs, results, reports and studies."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import open_set_fer as osf
from open_set_fer.benchmark.planning.cells import Selection, dry_plan
from open_set_fer.benchmark.planning.face_list import write_faces
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Detection
from open_set_fer.reports.data.frame import COLUMNS
from tests.datasets.trees import face

pytestmark = pytest.mark.usefixtures("local_store")


@dataclass(frozen=True)
class Margin:
    """Close logits = unknown."""

    name, version = "margin", 1
    weight: float = 1.0

    def detect(self, task, context):
        logits = np.sort(context.closed_set_model(task).test_logits)
        predicted = context.closed_set_model(task).predictions
        return Detection(self.weight * (logits[:, -2] - logits[:, -1]), predicted)


@pytest.fixture(scope="module")
def home(tmp_path_factory, empty_store) -> Path:
    """A home with the cells of baseline and energy, that `osf.run` computed."""
    home = tmp_path_factory.mktemp("api")
    shutil.copyfile(empty_store, home / store.DATABASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        frame = osf.run("smoke", ["baseline", "energy"], open="surprise", home=home)
        frame.to_pickle(home / "ran.pkl")
    return home


@pytest.fixture(scope="module")
def task(home) -> osf.Task:
    return osf.load_task("synthetic", ["surprise"], profile="smoke", home=home)


def test_import_is_quick_and_takes_no_torch():
    code = (
        "import sys; import open_set_fer as osf; "
        "print(sorted(name for name in sys.modules if name.startswith('open_set'))); "
    )
    code += "print([name for name in ('numpy', 'pandas', 'torch') if name in sys.modules]); "
    code += "osf.load_task; print([name for name in ('torch', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['open_set_fer', 'open_set_fer.version']", "[]", "[]"]


def test_every_public_name_is_there_and_others_are_not():
    assert all(callable(getattr(osf, name)) for name in osf.__all__ if name != "__version__")
    assert set(osf.__all__) <= set(dir(osf))
    with pytest.raises(AttributeError, match="no attribute 'lod_task'"):
        _ = osf.lod_task


def test_a_task_is_measured_as_the_run_measures_its_cell(home, task):
    ran = pd.read_pickle(home / "ran.pkl").set_index("method")
    for method in ("baseline", "energy"):
        detection = osf.detect(task, method)
        measured = task.measure(detection.unknown_score, detection.predicted_class)
        logged = ran.loc[method]
        pd.testing.assert_series_equal(
            measured["value"], logged[list(measured.index)].astype(float), check_names=False, rtol=1e-12
        )
        assert measured.loc["auroc", "low"] == pytest.approx(logged["auroc_low"])
        assert measured.loc["auroc", "high"] == pytest.approx(logged["auroc_high"])
    assert measured.loc["auroc", "better"] == "higher"
    assert measured.loc["fpr_at_tpr95", "better"] == "lower"
    assert list(measured.columns) == ["value", "low", "high", "better"]


def test_a_label_takes_settings_and_a_method_object_is_taken_as_it_is(task):
    one, other = osf.detect(task, "knn", knn_k=1), osf.detect(task, "knn", knn_k=20)
    assert not np.array_equal(one.unknown_score, other.unknown_score)
    own, weighted = osf.detect(task, Margin()), osf.detect(task, Margin(), weight=2.0)
    np.testing.assert_allclose(weighted.unknown_score, 2 * own.unknown_score, rtol=1e-6)
    assert own.unknown_score.shape == task.ids.shape
    assert "Network" not in repr(osf.detect(task, "energy")), "its text is short enough for a notebook"


def test_labels_are_the_pseudo_label_setting_of_a_task(home):
    released = osf.load_task("synthetic", "surprise", profile="smoke", labels="released", home=home)
    own = osf.load_task("synthetic", "surprise", profile="smoke", home=home)
    assert np.array_equal(released.ids, own.ids)
    first, second = (osf.detect(each, "label-loss").unknown_score for each in (released, own))
    assert not np.array_equal(first, second)


def test_no_public_attribute_of_a_task_tells_the_truth(task):
    public = {field.name for field in dataclasses.fields(task) if not field.name.startswith("_")}
    assert public == {"name", "closed_classes", "train_images", "train_labels", "images", "ids"}
    assert {name for name in dir(task) if not name.startswith("_")} == public | {"measure"}
    assert "surprise" not in task.closed_classes
    assert len(task.train_labels) == len(task.train_images)
    assert len(task.ids) == len(task.images)
    assert set(task.train_labels) == set(range(len(task.closed_classes)))
    for array in (task.images, task.train_images, task.train_labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    is_open = task._source.split.truth < 0
    places = np.flatnonzero(is_open)
    assert abs(places.mean() / len(is_open) - 0.5) < 0.1, "open faces lie anywhere in the pool"
    numbers = np.array([int(name.rpartition("-")[2]) for name in task.ids])
    assert np.any(np.diff(numbers) < 0), "the order of the pool is not the data set's"
    assert "_source" not in repr(task)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda score, predicted: (score[:5], predicted[:5]), r"\(5,\) scores"),
        (lambda score, predicted: (score * np.nan, predicted), "180 of 180 unknown scores are NaN"),
        (lambda score, predicted: (score, predicted + 6), r"integers in 0..5"),
        (lambda score, predicted: (score, predicted.astype(str)), r"integers in 0..5(.|\n)*the task's closed_classes"),
    ],
)
def test_measure_refuses_what_no_detection_is(task, change, fault):
    with pytest.raises(SuiteError, match=fault):
        task.measure(*change(np.linspace(0, 1, 180), np.zeros(180, dtype=int)))


def test_faults_name_what_is_wrong_and_the_nearest_right_thing(home, task, tmp_path):
    smoke = {"profile": "smoke", "home": home}
    faults = {
        "no protocol opens 'joy'": lambda: osf.load_task("synthetic", "joy", **smoke),
        "unknown dataset 'nix'": lambda: osf.load_task("nix", "surprise", home=home),
        "'enrgy', did you mean 'energy'": lambda: osf.detect(task, "enrgy"),
        "unknown key methods.energy.foo": lambda: osf.detect(task, "energy", foo=1),
        "seeds are 'a'": lambda: osf.load_task("synthetic", "surprise", seed="a", **smoke),
        "seeds are 0.5": lambda: osf.run("smoke", seeds=[0.5], home=home),
        "7 is neither a name nor a list of names": lambda: osf.run("smoke", 7, home=home),
        "the method 3 has no `name`": lambda: osf.detect(task, 3),
        "the method <class 'tests.test_api.Margin'> has no `name`": lambda: osf.detect(task, Margin),
        "margin has no setting foo": lambda: osf.detect(task, Margin(), foo=1),
        "seed -1": lambda: osf.load_task("synthetic", "surprise", seed=-1, **smoke),
        "--labels 'x'": lambda: osf.load_task("synthetic", "surprise", labels="x", **smoke),
        "unknown profile 'nix'": lambda: osf.run("nix", home=home),
        "has no finished cell": lambda: osf.results(tmp_path / "absent", "smoke"),
        "unknown profile 'smok', did you mean": lambda: osf.report("smok", home),
        "nothing to tune": lambda: osf.tune("smoke", "energy", home=home),
        "--ui ftp://x": lambda: osf.report("smoke", home, ui="ftp://x"),
    }
    for text, call in faults.items():
        with pytest.raises(SuiteError) as raised:
            call()
        assert text in str(raised.value)
        assert raised.value.fix
    assert not (tmp_path / "absent").exists()


def test_a_single_seed_is_a_list_of_one(home):
    assert list(osf.run("smoke", "energy", open="surprise", seeds=0, home=home)["seed"]) == [0]


def test_a_data_set_named_alone_has_its_own_profile(monkeypatch):
    class Chosen(Exception):
        pass

    def chosen(profile, *others):
        raise Chosen(profile.name)

    monkeypatch.setattr("open_set_fer.api.run_cells", chosen)
    for datasets, name in (("ferplus", "ferplus-cpu"), (["synthetic"], "demo"), ((), "demo")):
        with pytest.raises(Chosen, match=f"^{name}$"):
            osf.run(datasets=datasets)


def test_a_plan_says_nothing_of_families_that_open_leaves_out(tmp_path, caplog):
    demo = load_profile("demo")
    dry_plan(demo, Selection(("synthetic",), (), ("surprise",)), tmp_path)
    assert "has no protocol of family" not in caplog.text
    dry_plan(demo, Selection(("synthetic",), ("single", "pairs"), ("surprise",)), tmp_path)
    assert "synthetic has no protocol of family pairs among those chosen" in caplog.text


def test_measure_has_an_interval_for_every_metric_but_counts_and_shares(task):
    generator = np.random.default_rng(0)
    measured = task.measure(generator.normal(size=len(task.ids)), generator.integers(0, 6, len(task.ids)))
    assert set(measured.index[measured["low"].isna()]) == {"open_share", "n_open", "n_closed"}
    inside = measured.dropna()
    assert ((inside["low"] <= inside["value"]) & (inside["value"] <= inside["high"])).all()


def test_results_are_one_frame_of_documented_columns(home):
    ran = pd.read_pickle(home / "ran.pkl")
    frame = osf.results(home, "smoke")
    pd.testing.assert_frame_equal(frame, ran)
    assert list(frame.columns)[: len(COLUMNS)] == list(COLUMNS)
    text = (Path(__file__).parents[1] / "docs/mlflow.md").read_text("utf-8")
    described = text.partition("## The frame of `osf.results`")[2]
    assert [name for name in COLUMNS if f"`{name}`" not in described] == []
    again = osf.run("smoke", "energy", open=["surprise"], home=home)
    assert list(again["method"]) == ["energy"]
    assert list(again["status"]) == ["finished"]


def test_the_command_runs_the_same_functions(home):
    from tests.cli.test_cli import osfer

    done = osfer("run", "-p", "smoke", "-m", "energy", "--open", "surprise", "--home", str(home), "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["already_done"] == 1
    frame = osf.results(home, "smoke").set_index("cell_key")
    assert content["results"][0]["auroc"] == frame.loc[content["results"][0]["cell_key"], "auroc"]


def test_faces_are_listed_with_their_files_and_ids_that_name_classes_are_warned_of(tmp_path, caplog):
    for split in ("train", "test"):
        for name in ("fear", "anger", "neutral", "sadness"):
            for number in range(3):
                face(tmp_path / "faces" / split / name / f"{number}.png")
    profile = tmp_path / "own.toml"
    text = 'base = "smoke"\ndescription = "own faces"\nselection = "none"\n[protocols]\nfamilies = ["single"]\n'
    profile.write_text(f'{text}[datasets.manifest]\npath = "{tmp_path}/faces"\nimage_size = 16\n')
    selection = Selection((), (), ("fear",), ("baseline",))
    write_faces(tmp_path / "list.csv", load_profile(str(profile)), selection, tmp_path / "home")
    listed = pd.read_csv(tmp_path / "list.csv", keep_default_na=False)
    assert list(listed.columns) == ["dataset", "protocol", "open", "seed", "id", "file", "role", "label"]
    assert all(Path(path).is_file() and path.endswith(name) for path, name in listed[["file", "id"]].to_numpy())
    assert "manifest: the ids of 24 of 24 faces name their class, and so tell which are open" in caplog.text


def test_a_report_is_rendered_and_attached(home, tmp_path):
    index = osf.report("smoke", home, out=tmp_path / "report")
    assert index == tmp_path / "report" / "index.html"
    assert "Energy" in index.read_text("utf-8")
    assert (tmp_path / "report/tables/table1_synthetic.tex").is_file()


def test_a_study_keeps_its_trials(home, tmp_path):
    path = tmp_path / "own.toml"
    table = '[search.baseline]\n"closed_set.learning_rate" = [1e-3, 5e-3]\n'
    path.write_text(f'base = "smoke"\ndescription = "a study"\nselection = "none"\n{table}')
    study = osf.tune(str(path), "baseline", open="surprise", trials=1, home=home)
    assert len(study.trials) == 1
    assert study.best().values == {"closed_set.learning_rate": 1e-3}
