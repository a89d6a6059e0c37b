"""Studies: never a face of the test split, the profile's own settings first, the same trials again from MLflow."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from open_set_fer.benchmark.labels import OWN
from open_set_fer.benchmark.plan import Selection, make_plan
from open_set_fer.benchmark.profiles import load_profile
from open_set_fer.benchmark.protocols import FAMILIES, enumerate_protocols, split_faces
from open_set_fer.benchmark.runner import Runner
from open_set_fer.benchmark.tuning import Study, study_protocols, tune, validation_faces
from open_set_fer.cli import app
from open_set_fer.datasets.faceset import BASIC, CONTEMPT
from open_set_fer.errors import SuiteError
from tests.conftest import face_set, without_controls

SEARCH = """
[search.ours]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
epochs = { low = 1, high = 2 }
consistency_weight = [5.0, 1.0]
"closed_set.erase_probability" = [0.0, 0.25, 0.5]
"""


def write(tmp_path, search):
    path = tmp_path / "own.toml"
    path.write_text(load_profile("smoke")[2] + search, "utf-8")
    return str(path)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 7]), st.sampled_from(["train", "valid", "test"])), min_size=40))
def test_a_study_uses_no_face_of_the_test_split(rows):
    labels, split = (np.array(column) for column in zip(*rows, strict=True))
    faces = face_set(labels, split, (*BASIC, CONTEMPT))
    seen = validation_faces(faces)
    assert not np.any(seen.split[faces.split == "test"] != "valid")
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
        assert not np.isin(np.flatnonzero(faces.split == "test"), np.r_[found.train, found.test]).any()


def test_unreported_classes_by_default_and_a_reported_one_is_said_to_be(every_class):
    profile = load_profile("ferplus-cpu")[1]
    chosen, words = study_protocols(every_class, profile, ())
    assert [p.family for p in chosen] == ["compound", "contempt"]
    assert "reported" not in words
    chosen, words = study_protocols(every_class, profile, ("surprise",))
    assert [p.label for p in chosen] == ["surprise"]
    assert "surprise: open in the tables as well" in words
    assert "(fear, surprise: open in the tables" in study_protocols(every_class, profile, ("surprise+fear",))[1]
    with pytest.raises(SuiteError, match="name one with --open"):
        study_protocols(every_class, load_profile("demo")[1], ())


def test_best_is_the_earliest_highest_and_never_a_failed_trial():
    trials = [({"a": 1}, 0.5), ({"a": 2}, None), ({"a": 3}, 0.7), ({"a": 4}, 0.7)]
    assert Study("ours", trials, "").best() == {"a": 3}


def test_a_study_starts_from_the_profile_and_goes_on_from_mlflow(tmp_path):
    import torch

    name, profile, text = load_profile(write(tmp_path, SEARCH))

    def study(trials):
        return tune(profile, name, text, "ours", trials, "synthetic", (CONTEMPT,), (0,), tmp_path / "home",
                    torch.device("cpu"), "osfer tune")  # fmt: skip

    two = study(2)
    own = profile.method("ours")
    assert two.trials[0][0] == {
        "learning_rate": own.learning_rate, "epochs": own.epochs, "consistency_weight": own.consistency_weight,
        "closed_set.erase_probability": profile.closed_set_settings().erase_probability,
    }  # fmt: skip
    assert two.trials[1][0] != two.trials[0][0]
    results = sorted((tmp_path / "home" / "results").glob("*/result.json"))
    written = [path.stat().st_mtime_ns for path in results]
    three = study(3)
    assert three.trials[:2] == two.trials
    assert [path.stat().st_mtime_ns for path in results] == written
    assert 1e-4 <= three.trials[2][0]["learning_rate"] <= 1e-2
    assert three.trials[2][0]["epochs"] in (1, 2)


def control(tmp_path, label, search, opened=()):
    import torch

    name, profile, text = load_profile(write(tmp_path, search))
    return tune(profile, name, text, label, 1, "synthetic", opened, (0,), tmp_path / "home", torch.device("cpu"),
                "osfer tune", "control")  # fmt: skip


def test_the_control_is_tuned_without_an_open_face_and_outside_the_test_split(tmp_path):
    study = control(tmp_path, "ours", "[search.ours]\nepochs = { low = 1, high = 2 }\n")
    assert study.selection == (
        "chosen by the positive control (20% of the labels flipped at random, the AUROC of finding them) without any open "
        "face, on faces outside the test split, 1 trials"
    )
    (folder,) = (tmp_path / "home" / "results").glob("*/")
    scores = pd.read_parquet(folder / "scores.parquet")
    assert study.trials[0][1] == json.loads((folder / "result.json").read_text())["metrics"]["auroc"]
    assert scores["is_open"].mean() == pytest.approx(0.2, abs=0.01)
    assert set(scores["true_class"]) == set(BASIC), "every class is closed, none left out"
    assert np.array_equal(scores["closed_set_class"] != scores["given_class"], scores["is_open"])
    faces = load_profile("smoke")[1].dataset("synthetic").load(tmp_path / "home" / "cache")
    assert set(faces.split[np.isin(faces.ids, scores["id"])]) == {"train"}, "no split valid: held-out training images"


def test_what_the_control_cannot_tune_is_said(tmp_path):
    with pytest.raises(SuiteError, match="the control opens no class, --open names contempt"):
        control(tmp_path, "ours", SEARCH, (CONTEMPT,))
    search = "[search.proser]\nepochs = [1, 2]\n"
    with pytest.raises(SuiteError, match=r"proser reads no label.*\n.*--objective auroc"):
        control(tmp_path, "proser", search)
    path, last = tmp_path / "flipped.toml", 'open_classes = ["surprise"]'
    path.write_text(
        (without_controls(load_profile("smoke")[2]) + SEARCH).replace(last, f'{last}\nlabels = "flipped"'), "utf-8"
    )
    name, profile, text = load_profile(str(path))
    with pytest.raises(SuiteError, match="tune with --objective control"):
        tune(profile, name, text, "ours", 1, "synthetic", (CONTEMPT,), (0,), tmp_path / "home", None, "osfer tune")


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
    _, profile, _ = load_profile(write(tmp_path, '[methods.ours-short]\nlike = "ours"\nepochs = 1\n'))
    own, like = profile.method("ours"), profile.method("ours-short")
    assert like.epochs == 1
    assert (like.cycle_length, like.learning_rate) == (own.cycle_length, own.learning_rate)
    chain = (
        '[methods.ours-short]\nlike = "ours"\nepochs = 1\n[methods.ours-x]\nlike = "ours-short"\nattention = false\n'
    )
    last = load_profile(write(tmp_path, chain))[1].method("ours-x")
    assert (last.epochs, last.attention) == (1, False)
    with pytest.raises(SuiteError, match=r"methods\.ours-x\.like: 'ours-shrt' is no label, did you mean 'ours-short'"):
        load_profile(write(tmp_path, chain.replace('"ours-short"', '"ours-shrt"')))
    with pytest.raises(SuiteError, match=r"like: 'ours-short' is like itself in the end"):
        load_profile(write(tmp_path, chain.replace('"ours"', '"ours-x"')))


def test_a_closed_set_recipe_of_its_own_counts_for_that_label_alone(tmp_path):
    _, profile, _ = load_profile(write(tmp_path, '[methods.weak]\nlike = "ours"\nclosed_set = { epochs = 7 }\n'))
    assert profile.closed_set_settings("weak").epochs == 7
    assert profile.closed_set_settings("ours") == profile.closed_set_settings()
    cells, _ = make_plan(profile, Selection(methods=("ours", "weak"), regime=OWN), tmp_path / "cache")
    assert len({cell.group() for cell in cells}) == 2
    with pytest.raises(SuiteError, match=r"methods\.weak\.closed_set\.epoch, did you mean 'epochs'"):
        load_profile(write(tmp_path, '[methods.weak]\nlike = "ours"\nclosed_set = { epoch = 7 }\n'))


def test_a_run_with_two_closed_set_recipes_trains_two_models(tmp_path):
    import torch

    text = '[methods.weak]\nlike = "baseline"\nclosed_set = { epochs = 1 }\n'
    name, profile, toml = load_profile(write(tmp_path, text))
    cells, face_sets = make_plan(profile, Selection(methods=("baseline", "weak")), tmp_path / "cache")
    home = tmp_path / "home"
    outcome = Runner(home, name, profile, toml, torch.device("cpu")).run(cells, face_sets, "osfer run")
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
    refused = CliRunner().invoke(app, [*command, "--dataset", "synthetic,digits"])
    assert "one data set" in str(refused.exception)


def test_the_retry_command_of_a_pooled_protocol_can_be_run(tmp_path, monkeypatch):
    pool = "[[protocols.pools]]\nsize = 60\nopen_share = 0.5\n"
    path, home = write(tmp_path, pool), ["--home", str(tmp_path / "home")]
    with monkeypatch.context() as broken:
        broken.setattr("open_set_fer.methods.baseline.Baseline.detect", lambda *_: 1 / 0)
        failed = CliRunner().invoke(app, ["run", "-p", path, "-m", "baseline", *home])
    assert failed.exit_code == 1
    retry = shlex.split(failed.output.split("retry only these with: ")[1].splitlines()[0])
    assert "surprise" in retry
    again = CliRunner().invoke(app, retry[1:])
    assert again.exit_code == 0, again.output
