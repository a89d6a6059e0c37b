"""Report of a study: the values to take and why, importance, Optuna's figures, the stamp of the test split."""

from __future__ import annotations

import json

import optuna
import pytest
from PIL import Image

from open_set_fer.benchmark.tuning.storage import Storage
from open_set_fer.benchmark.tuning.study import STAMP, Study, stored_studies
from open_set_fer.errors import SuiteError
from open_set_fer.reports.study import importance_of, study_report

OWN = {"rate": 0.5, "kind": [4, 5]}


@pytest.fixture
def make(tmp_path):
    """A study whose AUROC is known: 0.5 + rate / 10, and nothing of `kind`."""

    def make(objective="auroc", rates=(0.5, 0.6, 0.9, 0.3, 0.1, 0.2)):
        study = optuna.create_study(
            storage=f"sqlite:///{tmp_path / 'studies.db'}", study_name=f"own.ours.{objective}.1", direction="maximize"
        )
        facts = {
            "profile": "own",
            "label": "ours",
            "objective": objective,
            "own": OWN,
            "chosen": "chosen by hand",
            "started": 1.0,
            "choices": {"kind": [[4, 5], [1]]},
        }
        for name, value in facts.items():
            study.set_user_attr(name, value)
        for number, rate in enumerate(rates):
            study.enqueue_trial({"rate": rate, "kind": "[4, 5]" if number % 3 != 1 else "[1]"})
            trial = study.ask()
            trial.suggest_float("rate", 0.0, 1.0)
            trial.suggest_categorical("kind", ["[4, 5]", "[1]"])
            value = 0.5 + rate / 10
            cells = [{"protocol": "fear", "seed": s, "auroc": value + change} for s, change in enumerate((-0.01, 0.01))]
            trial.set_user_attr("cells", cells)
            study.tell(trial, value)
        return study

    return make


@pytest.mark.slow
def test_the_text_says_what_to_take_and_the_figures_are_pictures(make, tmp_path):
    study = make()
    report = study_report(study, tmp_path / "out")
    text = report.files[0].read_text("utf-8")
    assert "Trial 2: AUROC 0.590 ± 0.014. Better than yours by 0.040, beyond 0.000" in text
    assert "| `rate` | 0.9 | 0.5 | " in text
    assert "| `kind` | [4, 5] | [4, 5] | " in text, "lists are read back as lists"
    assert STAMP not in text
    assert report.importance["rate"] > 0.9
    assert importance_of(study) == report.importance, "seeded"
    assert {path.stem for path in report.files} == {"study", "history", "slice", "importance", "contour"}
    for path in report.files:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.width > 500
            assert f"({path.name})" in text
    assert Study.of(study).best().number == study.best_trial.number


def test_few_trials_and_the_test_split(make, tmp_path):
    report = study_report(make("test", (0.5,)), tmp_path / "out")
    text = report.files[0].read_text("utf-8")
    assert text.count(STAMP) == 2
    assert "Keep yours: no trial was better." in text
    assert "not drawn: too few finished trials to tell which setting matters" in text
    assert report.importance == {}


def test_studies_are_found_by_profile_and_label(make, tmp_path):
    make()
    place = Storage.of("", tmp_path)
    assert [study.study_name for study in stored_studies(place, "own", ("ours",))] == ["own.ours.auroc.1"]
    for profile, labels in (("other", ()), ("own", ("baseline",))):
        with pytest.raises(SuiteError, match=f"no study of profile {profile}"):
            stored_studies(place, profile, labels)
    assert json.dumps(Study.of(stored_studies(place, "own")[0]).own) == json.dumps(OWN)
