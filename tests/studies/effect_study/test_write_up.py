"""The effect study: its dissection on scores whose answer is known, and its tables against what was logged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.studies.effect_study.write_up import _means, dissect, write
from open_set_fer.studies.writing import number


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
        [
            ("anger", "ours", 0, 0.5),
            ("fear", "ours", 0, 0.7),
            ("anger", "ours", 1, 0.6),
            ("fear", "ours", 1, 1.0),
            ("anger", "ours", 2, 0.1),
            ("fear", "baseline", 0, 0.4),
        ],
        columns=["open_classes", "method", "seed", "auroc"],
    )
    baseline, ours = _means(rows)
    assert (ours["method"], ours["seeds"], ours["begun"]) == ("ours", 2, 3)
    assert ours["mean"] == pytest.approx(0.7)
    assert ours["std"] == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert (baseline["seeds"], baseline["begun"]) == (0, 1)
    assert number(baseline["mean"], baseline["std"]) == "—"


def test_the_write_up_repeats_what_was_logged_and_nothing_that_does_not_belong(tmp_path):
    with pytest.raises(SuiteError, match="effect-study"):
        write(tmp_path, tmp_path / "out")
    rng = np.random.default_rng(0)
    logged = {}
    for profile, family, opened, methods, seeds in [
        ("effect-study", "contempt", "contempt", ["baseline", "ours", "ours-balanced"], 2),
        ("effect-study", "single", "fear", ["ours-plus"], 1),
        ("effect-study-pool", "single", "happiness (600 images, 30% open)", ["ours"], 1),
        ("ferplus-cpu", "single", "fear", ["baseline", "ours", "entropy"], 2),
        ("ferplus-cpu", "single", "anger", ["baseline"], 1),  # a run stopped inside a class
        ("ferplus-cpu", "single", "fear (labels as released)", ["ours"], 1),
        ("ferplus-cpu", "contempt", "contempt", ["baseline"], 1),
        ("ferplus-cpu-tuning", "contempt", "contempt", ["ours"], 2),
        ("ferplus-cpu-tuning", "single", "fear", ["ours"], 1),
    ]:
        for method in methods:
            for seed in range(seeds):
                for trial in range(3 if "tuning" in profile else 1):
                    found = log(tmp_path, profile, family, opened, method, seed, trial, rng.uniform(size=40))
                    logged.setdefault((profile, opened, method, trial), []).append(found)
    text = write(tmp_path, tmp_path / "out").read_text("utf-8")
    assert (tmp_path / "out" / "effect_study.png").stat().st_size > 5000
    factors = section(text, "One factor")
    assert [line.split(" | ")[0] for line in factors] == ["| baseline", "| ours", "| ours-balanced"]
    for line in factors:
        values = logged["effect-study", "contempt", line.split(" | ")[0].strip("| "), 0]
        assert f"| 2 | {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} |" in line
    fear, anger = section(text, "The reported classes")[:2]  # the paper's order; contempt is no reported class
    assert fear.startswith("| fear |")
    assert anger.startswith("| anger |")
    values = logged["ferplus-cpu", "fear", "ours", 0]
    assert f"| {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} |" in fear
    assert anger.count("—") == 5
    assert "as released" not in text  # the page is on own labels
    [search] = section(text, "Where the defaults")
    trials = [np.mean(logged["ferplus-cpu-tuning", "contempt", "ours", trial]) for trial in range(3)]
    assert search.startswith(f"| ours | 3 | 2 | {trials[0]:.3f} | {max(trials):.3f} |")
    assert f"learning_rate {0.001 * (1 + int(np.argmax(trials))):.3g}" in search
    assert "uncommitted changes" in text  # the reports' own warnings come along


def section(text, heading):
    """The rows of the tables under a heading, without their heads."""
    part = text[text.index(f"## {heading}") :].split("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")]
    return [row for row, after in zip(rows, [*rows[1:], ""], strict=True) if "---" not in row + after]


def log(home, profile, family, opened, method, seed, trial, unknown_score):
    """One finished cell with the AUROC of its scores, which is returned."""
    tracker = Tracker(home, profile)
    is_open = np.arange(40) % 4 == 0
    table = pd.DataFrame({"is_open": is_open, "unknown_score": unknown_score})
    if method.startswith("ours"):
        table["pseudo_label"] = np.arange(40) % 3
    folder = home / "cell"
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / "scores.parquet")
    (folder / "profile.toml").write_text("", "utf-8")
    auroc = float(roc_auc_score(is_open, unknown_score))
    result = CellResult(
        tags={
            "dataset": "ferplus",
            "protocol": family,
            "open_classes": opened,
            "method": method,
            "seed": str(seed),
            "cell_key": f"{profile}{opened}{method}{seed}{trial}",
            "settings_key": f"{method}{trial}",
            "git_commit": "abc-dirty",
        },
        params={"method.learning_rate": str(0.001 * (trial + 1)), "method.epochs": "3"},
        metrics={"auroc": auroc, "closed_set_accuracy": 0.7, "seconds.total": 1.0, "pseudo_label_entropy_open": 0.5},
        curves={},
        data=DataUsed("ferplus", "f", {}),
    )
    parent = tracker.start_benchmark([], "", "")
    tracker.log_cell(parent, result, folder, {})
    tracker.end(parent, "FINISHED")
    return auroc
