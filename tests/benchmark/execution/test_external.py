"""Scores of another program: measured, logged and reported as external; a file that does not fit is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from open_set_fer import api
from open_set_fer.benchmark.execution.external import External, read_scores
from open_set_fer.benchmark.storage.exchange import sync_folder
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.storage.results_dir import read_result, update_result
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import OpenSetTask
from open_set_fer.reports.data.results import load
from tests.cli.test_cli import osfer

pytestmark = pytest.mark.usefixtures("local_store")

IDS = np.array([f"face-{index:02d}" for index in range(12)])
CLOSED = ("fear", "anger", "neutral")
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=len(IDS))
CLASSES = RNG.integers(0, 3, len(IDS))
NAMES = np.array(CLOSED)[CLASSES]
LOGITS = RNG.normal(size=(len(IDS), 3))


def good() -> pd.DataFrame:
    return pd.DataFrame({"id": IDS, "unknown_score": SCORES, "predicted_class": NAMES})


def logits(values=LOGITS) -> pd.DataFrame:
    return pd.DataFrame({"id": IDS, **dict(zip(CLOSED, values.T, strict=True))})


def write(path: Path, table: pd.DataFrame) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return path


def read(path: Path, table: pd.DataFrame):
    return read_scores(write(path, table), IDS, CLOSED, ("surprise",))


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".CSV"])
@pytest.mark.parametrize("classes", [NAMES, CLASSES, CLASSES.astype(float), CLASSES.astype(str)])
def test_rows_in_any_order_with_names_or_numbers_of_classes(tmp_path, ending, classes):
    table = good().assign(predicted_class=classes, comment="mine").sample(frac=1, random_state=1)
    method, detection = read(tmp_path / f"mine{ending}", table)
    np.testing.assert_allclose(detection.unknown_score, SCORES, rtol=1e-15)
    assert (detection.predicted_class == CLASSES).all()
    assert method.score == "unknown_score"


def test_logits_are_scored_by_the_maximum_softmax_probability(tmp_path):
    method, detection = read(tmp_path / "mine.parquet", logits().iloc[::-1])
    np.testing.assert_allclose(detection.unknown_score, -softmax(LOGITS, axis=1).max(axis=1))
    assert (detection.predicted_class == LOGITS.argmax(axis=1)).all()
    assert method.score == "logits"


def test_a_score_beside_logits_is_the_score_and_the_logits_give_the_class(tmp_path):
    for values in (LOGITS, softmax(LOGITS, axis=1)):
        method, detection = read(tmp_path / "mine.csv", logits(values).assign(unknown_score=SCORES))
        np.testing.assert_allclose(detection.unknown_score, SCORES, rtol=1e-15)
        assert (detection.predicted_class == LOGITS.argmax(axis=1)).all()
        assert method.score == "unknown_score"


def test_the_ids_are_gone_through_a_few_times_not_once_for_each(tmp_path, monkeypatch):
    path, passes, iterate = write(tmp_path / "mine.csv", good()), [], pd.Series.__iter__
    monkeypatch.setattr(pd.Series, "__iter__", lambda column: passes.append(column.name) or iterate(column))
    read_scores(path, IDS, CLOSED)
    assert passes.count("id") < 6


def test_files_of_other_separators_and_decimals_say_so(tmp_path):
    good().to_csv(tmp_path / "mine.csv", index=False, sep=";")
    with pytest.raises(SuiteError, match=r"separated by semicolons \(';'\): save it with commas"):
        read_scores(tmp_path / "mine.csv", IDS, CLOSED)
    good().to_csv(tmp_path / "mine.csv", index=False, decimal=",")
    with pytest.raises(SuiteError, match=r"12 faces have no finite unknown_score(.|\n)*decimals with a point"):
        read_scores(tmp_path / "mine.csv", IDS, CLOSED)


def test_another_content_is_another_method_and_the_same_content_is_not(tmp_path):
    first, again = (read(tmp_path / name, good())[0] for name in ("a.csv", "b.csv"))
    changed = read(tmp_path / "a.csv", good().assign(unknown_score=SCORES + 1))[0]
    assert first == again != changed


BAD = {
    "half of the faces": (
        good().iloc[:6],
        "of 12 faces in the pool it has no row for 6 (face-06, face-07, face-08 and 3",
    ),
    "no face": (good().iloc[:0], "has no row for 12"),
    "doubled": (pd.concat([good(), good().iloc[:2]]), "has several rows for 2 (face-00, face-01)"),
    "unknown": (
        good().assign(id=[*IDS[:-1], "face-99"]),
        "no row for 1 (face-11); it has rows for faces that the pool does",
    ),
    "numbers as ids": (good().assign(id=range(12)), "has no row for 12"),
    "no ids": (good().rename(columns={"id": "Id"}), "no column id among Id, unknown_score, predicted_class"),
    "NaN": (good().assign(unknown_score=[np.nan, *SCORES[1:]]), "1 faces have no finite unknown_score (face-00)"),
    "infinite": (good().assign(unknown_score=[np.inf, *SCORES[1:]]), "1 faces have no finite unknown_score (face-00)"),
    "words": (good().assign(unknown_score="high"), "12 faces have no finite unknown_score"),
    "NaN logits": (logits(np.where(LOGITS > 1, np.nan, LOGITS)), "have no finite logits"),
    "constant": (good().assign(unknown_score=0.5), "every face has the same unknown_score 0.5"),
    "probabilities": (logits(softmax(LOGITS, axis=1)), "are probabilities, not logits"),
    "percent": (logits(100 * softmax(LOGITS, axis=1)), "are probabilities, not logits"),
    "percent, rounded": (logits((100 * softmax(LOGITS, axis=1)).round()), "are probabilities, not logits"),
    "of more classes": (logits(softmax(np.c_[LOGITS, LOGITS[:, 0]], axis=1)[:, :3]), "are probabilities, not logits"),
    "open class": (logits().assign(surprise=0.0), "a column surprise, which is open: the model must not know it"),
    "other classes": (logits().rename(columns={"fear": "afraid"}), "no column fear"),
    "other case": (logits().rename(columns={"fear": "Fear"}), "no column fear, did you mean 'Fear'?"),
    "no class": (good().drop(columns="predicted_class"), "no column predicted_class"),
    "open predicted": (good().assign(predicted_class="surprise"), "predicted_class surprise is no closed class"),
    "class 3 of 3": (good().assign(predicted_class=3), "predicted_class 3 is no closed class of the protocol"),
    "half a class": (good().assign(predicted_class=0.5), "predicted_class 0.5 is no closed class of the protocol"),
    "empty class": (good().assign(predicted_class=None), "predicted_class (empty) is no closed class"),
}


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("name", BAD)
def test_a_file_that_does_not_fit_is_refused_with_all_of_a_fault_and_the_fix(tmp_path, name, ending):
    table, fault = BAD[name]
    with pytest.raises(SuiteError) as raised:
        read(tmp_path / f"mine{ending}", table)
    assert fault in str(raised.value)
    assert f"mine{ending}" in raised.value.message
    assert raised.value.fix


def test_files_of_another_kind(tmp_path):
    with pytest.raises(SuiteError, match="scores are read from"):
        read(tmp_path / "mine.txt", good())
    with pytest.raises(SuiteError, match="no file "):
        read_scores(tmp_path / "absent.csv", IDS, CLOSED)
    (tmp_path / "mine.parquet").write_bytes(b"no parquet")
    with pytest.raises(SuiteError, match="cannot be read"):
        read_scores(tmp_path / "mine.parquet", IDS, CLOSED)


# -- as a cell ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(ran, tmp_path_factory):
    """A home with the baseline and an external cell; the pool's faces, and their truth."""
    home = tmp_path_factory.mktemp("external") / "home"
    shutil.copytree(ran, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        listed = osfer("plan", "-p", "smoke", "-m", "baseline", "--faces", str(home / "faces.csv"), "--home", str(home))
        assert listed.exit_code == 0, listed.output
        faces = pd.read_csv(home / "faces.csv", keep_default_na=False)
        truth = pd.read_parquet(next((home / "results").glob("*/scores.parquet"))).set_index("id")["is_open"]
        pool = faces.loc[faces["role"] == "pool", ["id"]].reset_index(drop=True)
        scores = np.random.default_rng(1).normal(size=len(pool)) + truth[pool["id"]].to_numpy()
        pool = pool.assign(unknown_score=scores, predicted_class=0)
        done = osfer(*command(home, write(home / "mine.csv", pool)), "--json")
        assert done.exit_code == 0, done.output
    return home, pool, truth[pool["id"]].to_numpy(), json.loads(done.stdout)["metrics"]


def command(home, path, name="my-model") -> list[str]:
    where = ["-d", "synthetic", "--open", "surprise", "-p", "smoke", "--home", str(home)]
    return ["evaluate", "--scores", str(path), "--name", name, *where]


def external_folders(home) -> list[Path]:
    results = [path.parent for path in (home / "results").glob("*/result.json")]
    return [path for path in results if read_result(path)[0].params["method.name"] == "external"]


def test_faces_list_every_face_of_the_protocol_without_the_open_ones_marked(measured):
    home, pool, truth, _ = measured
    faces = pd.read_csv(home / "faces.csv", keep_default_na=False)
    assert list(faces.columns) == ["dataset", "protocol", "open", "seed", "id", "role", "label"]
    assert not faces["id"].duplicated().any()
    assert set(faces["role"]) == {"train", "pool"}
    assert set(faces.loc[faces["role"] == "pool", "label"]) == {""}
    assert not (faces.loc[faces["role"] == "train", "label"] == "surprise").any()
    assert len(pool) == len(truth)
    again = home / "faces.parquet"
    osfer("plan", "-p", "smoke", "-m", "baseline", "--faces", str(again), "--home", str(home))
    pd.testing.assert_frame_equal(pd.read_parquet(again), faces, check_dtype=False)
    wrong = osfer("plan", "-p", "smoke", "--faces", str(home / "faces.txt"), "--home", str(home))
    assert "faces are written as .csv or .parquet" in str(wrong.exception)


def test_an_external_cell_is_measured_and_logged_and_nothing_is_trained(measured):
    home, pool, truth, metrics = measured
    assert metrics["auroc"] == pytest.approx(roc_auc_score(truth, pool["unknown_score"]))
    models = sorted(path.name for path in (home / "closed_set").iterdir())
    row = api.results(home, "smoke").set_index("method").loc["my-model"]
    assert row["title"] == "my-model (external)"
    assert row["auroc"] == metrics["auroc"]
    assert row["notes"] == ("scores of another program, from a file",)
    assert np.isnan(row["closed_set_accuracy"])
    assert not row["sees_pool"]
    again = osfer(*command(home, home / "mine.csv"))
    assert again.exit_code == 0
    assert "my-model (external)" in again.stdout
    assert len(external_folders(home)) == 1
    assert models == sorted(path.name for path in (home / "closed_set").iterdir())


def test_reports_show_it_as_external_and_lack_of_a_closed_set_model_as_a_dash(measured, tmp_path):
    home = measured[0]
    index = api.report("smoke", home, out=tmp_path / "report")
    for name in ("index.html", "tables/table1_synthetic.md"):
        assert "my-model (external)" in (tmp_path / "report" / name).read_text("utf-8")
    tex = (tmp_path / "report/tables/table1_synthetic.tex").read_text("utf-8")
    assert "my-model" in tex
    assert "(external)" in tex  # on two lines of the heading
    side = (tmp_path / "report/tables/side_synthetic_single.md").read_text("utf-8")
    head = next(line for line in side.splitlines() if line.startswith("| method")).split("|")
    line = next(line for line in side.splitlines() if line.startswith("| my-model (external)")).split("|")
    values = dict(zip((name.strip() for name in head), (text.strip() for text in line), strict=True))
    assert values["model accuracy"] in ("—", "n/a")
    assert values["closed accuracy"] != values["model accuracy"]
    assert index.is_file()


def test_another_home_verifies_it(measured, tmp_path, empty_store):
    home, there = measured[0], tmp_path / "there"
    there.mkdir()
    shutil.copyfile(empty_store, there / "mlflow.db")
    done = sync_folder(there, external_folders(home)[0], "Ada", "osfer sync")
    assert (len(done.new), done.refused) == (1, {})
    run = Tracker(there, "smoke", create=False).cells()[0]
    assert run.data.params["method.name"] == "external"
    copy = tmp_path / external_folders(home)[0].name
    shutil.copytree(external_folders(home)[0], copy)
    result, _ = read_result(copy)
    result.metrics["auroc"] += 0.1
    update_result(copy, result)
    refused = sync_folder(there, copy, "Eve", "osfer sync").refused
    assert "its auroc is" in next(iter(refused.values()))


def test_a_changed_file_is_another_cell_and_a_wrong_sign_is_said(measured, tmp_path):
    home, pool, truth, _ = measured
    own = tmp_path / "home"
    shutil.copytree(home, own)
    path = write(tmp_path / "mine.csv", pool.assign(unknown_score=-3.0 * truth + pool["unknown_score"]))
    done = osfer(*command(own, path))
    assert done.exit_code == 0, done.output
    assert len(external_folders(own)) == 2
    notes = {note for folder in external_folders(own) for note in read_result(folder)[0].notes}
    assert any("is the sign wrong? A HIGHER unknown_score must mean unknown" in note for note in notes)


def test_scores_under_a_second_name_leave_the_first_and_another_file_is_said(measured, tmp_path):
    home, pool, _, metrics = measured
    own = tmp_path / "home"
    shutil.copytree(home, own)
    assert osfer(*command(own, own / "mine.csv", "second-name")).exit_code == 0
    named = api.results(own, "smoke").set_index("method")["auroc"]
    assert named["my-model"] == named["second-name"] == metrics["auroc"]
    other = write(
        tmp_path / "other.csv", pool.assign(unknown_score=pool["unknown_score"] + pool["predicted_class"] + 1)
    )
    assert osfer(*command(own, other)).exit_code == 0
    warnings = [warn.text for warn in load(Tracker(own, "smoke", create=False)).warnings if "my-model" in warn.methods]
    assert "also measured from another file; the latest is shown: surprise seed 0." in warnings
    assert not any("other settings" in text for text in warnings)


def test_the_intervals_of_an_external_cell_are_those_of_a_task(measured):
    home, pool, _, _ = measured
    measures = api.evaluate(home / "mine.csv", "my-model", "synthetic", "surprise", profile="smoke", home=home)
    task = api.load_task("synthetic", "surprise", profile="smoke", home=home)
    rows = pool.set_index("id").loc[task.ids]
    own = task.measure(rows["unknown_score"].to_numpy(), rows["predicted_class"].to_numpy())
    pd.testing.assert_frame_equal(measures.loc[own.index, ["low", "high"]], own[["low", "high"]])


def test_a_damaged_result_is_measured_again_from_the_file(measured, tmp_path):
    home, _, _, metrics = measured
    own = tmp_path / "home"
    shutil.copytree(home, own)
    folder = external_folders(own)[0]
    (folder / "scores.parquet").write_bytes(b"")
    models = sorted((own / "closed_set").iterdir())
    again = api.evaluate(own / "mine.csv", "my-model", "synthetic", "surprise", profile="smoke", home=own)
    assert again.loc["auroc", "value"] == metrics["auroc"]
    assert sorted((own / "closed_set").iterdir()) == models
    assert folder.with_suffix(".damaged").is_dir()


@pytest.mark.parametrize("name", ["energy", "a,b", "", " x", "a\nb"])
def test_a_name_that_tables_cannot_have(measured, name):
    home = measured[0]
    done = osfer(*command(home, home / "mine.csv", name))
    assert isinstance(done.exception, SuiteError)
    assert "choose another with --name" in done.exception.fix


def test_the_runner_cannot_compute_it():
    faces = np.zeros((2, 1, 8, 8), dtype=np.uint8)
    with pytest.raises(SuiteError, match="osfer evaluate --scores"):
        External("0" * 64, "logits").detect(OpenSetTask(faces, np.array([0, 1]), faces, ("a", "b"), 0), None)
