"""Intermediate scores are kept, measured and obeyed; they change no result and show no truth."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from open_set_fer.benchmark.evaluation.intermediate_scores import Pruned, Reading, epoch_metrics, listened
from open_set_fer.benchmark.evaluation.metrics import auroc
from open_set_fer.benchmark.execution.runner import Runner
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.storage.results_dir import read_result
from open_set_fer.benchmark.storage.verify import faults_of
from open_set_fer.errors import SuiteError
from open_set_fer.methods.noisy_label import NoisyLabel
from open_set_fer.methods.ours import Ours
from open_set_fer.testing.methods import task_and_context
from tests.benchmark.protocols.test_truth import reachable
from tests.computing import compute
from tests.conftest import without_controls

QUICK = {"cycle_length": 2, "batch_size": 32}


class Silent:
    """A context that hears nothing."""

    def __init__(self, inner):
        self.inner = inner

    def report(self, epoch, scores):
        pass

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Ours, {}),
        (Ours, {"score_epochs": "cycles"}),
        (Ours, {"score_augmented": True, "score_batch_norm": "batch"}),
        (Ours, {"cycle_training": False, "cycle_lr": False}),
        (NoisyLabel, {"approach": "o2u"}),
        (NoisyLabel, {"approach": "co_teaching", "cycle_length": 10}),
    ],
)
def test_a_training_read_off_is_the_shorter_training_and_reading_changes_nothing(kind, settings):
    settings = QUICK | settings
    task, context, _ = task_and_context()
    whole = kind(epochs=4, **settings).detect(task, context)
    _, other, _ = task_and_context()
    unread = kind(epochs=4, **settings).detect(task, Silent(other))
    assert np.array_equal(whole.unknown_score, unread.unknown_score)
    assert np.array_equal(context.reported[4], whole.unknown_score)
    _, third, _ = task_and_context()
    half = kind(epochs=2, **settings).detect(task, third)
    assert np.array_equal(context.reported[2], half.unknown_score)
    assert not np.array_equal(context.reported[2], context.reported[4])


def test_ours_reports_nothing_where_it_has_no_score_yet():
    for settings in ({"variant": "online"}, {"score_epochs": "last_cycle"}):
        task, context, _ = task_and_context()
        Ours(epochs=2, **QUICK, **settings).detect(task, context)
        assert context.reported == {}


def test_scores_are_asked_for_only_where_somebody_reads_them_and_faults_are_named():
    reading = Reading(3, (2,))
    reading(1, lambda: 1 / 0)
    reading(2, lambda: [1, 2, 3])
    assert list(reading.kept) == [2]
    for wrong in ([1, 2], [1, 2, np.nan]):
        with pytest.raises(SuiteError, match="after epoch 2 are not 3 finite numbers"):
            reading(2, lambda wrong=wrong: wrong)


def test_a_listener_hears_auroc_and_stops_and_the_truth_is_out_of_reach():
    is_open = np.array([False, True, False, True])

    def value(scores):
        return auroc(is_open, scores)

    heard = []
    reading = Reading(4, asks=True)
    with listened(reading, value, lambda epoch, auroc: heard.append((epoch, auroc)) or epoch == 3):
        assert not any(item is is_open for item in reachable(reading, depth=12))
        reading(1, lambda: [0.0, 1.0, 0.5, 0.4])
        with pytest.raises(Pruned) as stopped:
            reading(3, lambda: [0.0, 1.0, 0.5, 0.6])
    assert heard == [(1, 0.75), (3, 1.0)]
    assert stopped.value.epoch == 3
    assert not isinstance(stopped.value, Exception), "`except Exception` in a method does not swallow it"
    with (
        pytest.raises(ZeroDivisionError),
        listened(again := Reading(4, asks=True), value, lambda epoch, auroc: epoch / 0),
    ):
        again(1, lambda: [0.0, 1.0, 0.5, 0.4])


def profile_with(tmp_path, more):
    path = tmp_path / "own.toml"
    text = without_controls(load_profile("smoke").text).replace("seeds = [0]", f"seeds = [0]\n{more}")
    path.write_text(text, "utf-8")
    return load_profile(str(path))


def test_scores_at_epochs_are_kept_measured_and_checked(tmp_path):
    profile = profile_with(tmp_path, "read_at = [1, 2]")
    (cell,), faces = make_plan(profile, Selection(methods=("ours",)), tmp_path / "cache")
    plain = load_profile("smoke")
    (without, *_), _ = make_plan(plain, Selection(methods=("ours",)), tmp_path / "cache")
    assert cell.key != without.key, "a cell without these scores is not done"
    compute(cell, profile, faces["synthetic"], tmp_path, tmp_path / "result")
    result, scores = read_result(tmp_path / "result")
    assert json.loads((tmp_path / "result" / "result.json").read_text())["metrics"]["auroc.epoch_2"]
    assert result.metrics["auroc.epoch_2"] == result.metrics["auroc"]
    assert result.metrics["auroc.epoch_1"] == roc_auc_score(scores["is_open"], scores["unknown_score.epoch_1"])
    assert result.metrics["auroc.epoch_1"] != result.metrics["auroc"]
    assert faults_of(result, scores, None) == []
    changed = scores.assign(**{"unknown_score.epoch_1": -scores["unknown_score.epoch_1"]})
    assert any("auroc.epoch_1" in fault for fault in faults_of(result, changed, None))
    assert epoch_metrics(pd.DataFrame({"is_open": [True, False]})) == {}


def test_a_pruned_cell_is_marked_ends_its_run_and_is_in_no_table(tmp_path, home):
    profile = profile_with(tmp_path, "")
    cells, faces = make_plan(profile, Selection(methods=("ours", "baseline")), tmp_path / "cache")
    ours, baseline = sorted(cells, key=lambda cell: cell.label != "ours")
    runner = Runner(home, profile, listener=lambda cell: lambda epoch, auroc: epoch == 1)
    outcome = runner.run([ours, baseline], faces, "osfer run")
    assert ([(cell.label, epoch) for cell, epoch in outcome.pruned], outcome.computed, outcome.failed) == (
        [("ours", 1)],
        0,
        [],
    )
    tracker = Tracker(home, profile.name)
    (run,) = tracker._search("tags.`osfer.kind` = 'cell'")
    assert (run.info.status, run.data.tags["pruned"]) == ("KILLED", "epoch 1")
    assert tracker.cells() == []
    assert not list((home / "results").glob("*/")), "nothing of it is kept as a result"
    assert not list((home / "results").glob("*.started"))
