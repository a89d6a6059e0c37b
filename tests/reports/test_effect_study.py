"""The effect study: its dissection on scores whose answer is known, and its tables against what was logged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from open_set_fer.benchmark.tracking import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.reports.effect_study import _means, cell_rows, dissect, number, write_effect_study


def scores(unknown_score: np.ndarray) -> pd.DataFrame:
    """Label 0 is common and holds few open faces, label 1 is rare and holds many."""
    labels = np.repeat([0, 1], [80, 20])
    is_open = np.r_[np.arange(80) % 8 == 0, np.arange(20) % 2 == 0]
    return pd.DataFrame({"pseudo_label": labels, "is_open": is_open, "unknown_score": unknown_score})


def test_a_score_that_is_the_frequency_has_nothing_within():
    labels = np.repeat([0, 1], [80, 20])
    surprisal = -np.log(np.where(labels == 0, 0.8, 0.2))
    found = dissect(scores(surprisal))
    assert found.auroc == found.prior > 0.6
    assert found.correlation == pytest.approx(1.0)
    assert dissect(scores(surprisal)).within == pytest.approx(0.5, abs=0.05)


def test_a_score_that_knows_the_open_faces_within_each_label():
    table = scores(np.zeros(100))
    found = dissect(table.assign(unknown_score=table["is_open"].astype(float) - 5 * table["pseudo_label"]))
    assert found.within > 0.95
    assert found.auroc < 0.9
    assert found.correlation < -0.5


def test_numbers_as_displayed():
    assert number(0.6124, 0.0081) == "0.612 ± 0.008"
    assert number(0.6124) == "0.612"
    assert number(float("nan")) == number(None) == "—"
    assert number(0.6124, float("nan"), digits=2) == "0.61"


def test_a_mean_rests_on_the_seeds_that_have_every_class_and_says_so():
    rows = pd.DataFrame(
        [("anger", "ours", 0, 0.5), ("fear", "ours", 0, 0.7), ("anger", "ours", 1, 0.6), ("fear", "ours", 1, 1.0),
         ("anger", "ours", 2, 0.1), ("fear", "baseline", 0, 0.4)],
        columns=["open", "method", "seed", "auroc"],
    )  # fmt: skip
    baseline, ours = _means(rows)
    assert (ours["method"], ours["seeds"], ours["begun"]) == ("ours", 2, 3)
    assert ours["mean"] == pytest.approx(0.7)
    assert ours["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert (baseline["seeds"], baseline["begun"]) == (0, 1)
    assert number(baseline["mean"], baseline["std"]) == "—"


def test_the_write_up_repeats_what_was_logged(tmp_path):
    """Four experiments written through the tracker, then read back out of the page."""
    trackers = [Tracker(tmp_path, name) for name in ("study", "pools", "reported", "tuning")]
    with pytest.raises(SuiteError, match="effect study has no finished cell"):
        write_effect_study(*trackers, tmp_path / "out")
    rng = np.random.default_rng(0)
    for tracker, opened, methods in zip(
        trackers,
        (["contempt"], ["happiness (600 images, 30% open)"], ["anger", "fear"], ["contempt"]),
        (["baseline", "ours"], ["ours"], ["baseline", "ours", "ours-plus"], ["ours"]),
        strict=True,
    ):
        for name in opened:
            for method in methods:
                for seed in range(2):
                    log(tracker, tmp_path, name, method, seed, rng.uniform(size=40))
    text = write_effect_study(*trackers, tmp_path / "out").read_text("utf-8")
    for tracker in trackers[:3]:
        rows = cell_rows(tracker)
        for (_, _), group in rows.groupby(["open", "method"]):
            shown = number(group["auroc"].mean(), group["auroc"].std())
            assert shown.split(" ±")[0] in text
    assert "| ours | 2 |" in text
    assert "learning_rate" in text  # what the trials of the search differed in
    assert (tmp_path / "out" / "effect_study.png").stat().st_size > 5000


def log(tracker, folder, opened, method, seed, unknown_score):
    """One finished cell whose AUROC is that of its scores."""
    is_open = np.arange(40) % 4 == 0
    table = pd.DataFrame({"is_open": is_open, "unknown_score": unknown_score})
    if method != "baseline":
        table["pseudo_label"] = np.arange(40) % 3
    cell = folder / "cell"
    cell.mkdir(exist_ok=True)
    table.to_parquet(cell / "scores.parquet")
    (cell / "profile.toml").write_text("", "utf-8")
    tags = {"dataset": "ferplus", "protocol": "single", "open_classes": opened, "method": method, "seed": str(seed)}
    metrics = {"auroc": roc_auc_score(is_open, unknown_score), "closed_set_accuracy": 0.7, "seconds.total": 1.0,
               "pseudo_label_entropy_open": 0.5}  # fmt: skip
    result = {
        "tags": {**tags, "cell_key": f"{tracker.profile}{opened}{method}{seed}"},
        "params": {"method.learning_rate": str(0.001 * (seed + 1)), "method.epochs": "3"},
        "metrics": metrics, "curves": {},
        "input": {"name": "ferplus", "fingerprint": "f", "counts": {}},
    }  # fmt: skip
    parent = tracker.start_benchmark([], "", "")
    tracker.log_cell(parent, result, cell, {})
    tracker.end(parent, "FINISHED")
