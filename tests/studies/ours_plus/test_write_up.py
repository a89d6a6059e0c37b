"""The study of ours-plus: its rows against what was logged, and what is missing is said."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.results import protocol_fields
from open_set_fer.studies.ours_plus.write_up import PROFILE, pool_of, write

NOTE = "held-out pool and training images cannot be told apart"


def log(tracker: Tracker, parent: str, folder, family: str, pool: str, method: str, seed: int, fell_back: bool) -> dict:
    """One finished cell of random scores; returns them."""
    rng = np.random.default_rng([len(pool), len(method), seed])
    is_open = np.arange(40) % 4 == 0
    scores = pd.DataFrame({"is_open": is_open, "unknown_score": rng.normal(size=40), "pool_logit": rng.normal(size=40)})
    folder.mkdir(exist_ok=True)
    scores.to_parquet(folder / "scores.parquet")
    (folder / "profile.toml").write_text("", "utf-8")
    auroc = float(roc_auc_score(is_open, scores["unknown_score"]))
    opened = f"surprise ({pool})"
    tags = {
        "dataset": "ferplus",
        "protocol": family,
        "open_classes": opened,
        "method": method,
        "seed": str(seed),
        "cell_key": f"{opened}{method}{seed}",
        "settings_key": method,
        "git_commit": "abc",
    }
    result = CellResult(
        {"auroc": auroc, "fpr_at_tpr95": 0.9, "seconds.total": 1.0},
        {"held_out_auroc": [0.6 + seed / 10]} if method != "energy" else {},
        tags,
        [NOTE] if fell_back else [],
        params={"method.energy_weight": "0.5"},
        data=DataUsed("ferplus", "f", {}),
    )
    tracker.log_cell(parent, result, folder, {})
    both = scores["pool_logit"] + 0.5 * scores["unknown_score"]
    return {"auroc": auroc, "untested": float(roc_auc_score(is_open, both))}


def test_rows_are_what_was_logged(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SuiteError):
        write(tmp_path, tmp_path / "out")
    tracker = Tracker(tmp_path, PROFILE)
    plan = [
        {
            "dataset": "ferplus",
            "protocol": "single",
            "open_classes": "surprise (9 images, 5% open)",
            "method": method,
            "seed": seed,
            "cell_key": f"surprise (9 images, 5% open){method}{seed}",
        }
        for method in ("energy", "ours-plus")
        for seed in range(3)
    ]
    parent = tracker.start_benchmark(plan, "", "")
    pool, shift = "9 images, 5% open", "8 closed faces, half with blur"
    plus = [
        log(tracker, parent, tmp_path / "cell", "single", pool, "ours-plus", seed, fell_back=seed == 1)
        for seed in (0, 1)
    ]
    energy = log(tracker, parent, tmp_path / "cell", "single", pool, "energy", 0, fell_back=False)
    moved = log(tracker, parent, tmp_path / "cell", "shift", shift, "ours-plus", 0, fell_back=False)
    tracker.end(parent, "FINISHED")
    text = write(tmp_path, tmp_path / "out", [], []).read_text("utf-8")
    inside, outside = [line for line in text.splitlines() if line.startswith(("| 9 images", "| 8 closed"))]
    cells = [cell.strip() for cell in inside.strip("|").split("|")]
    both, untested = [x["auroc"] for x in plus], [plus[0]["auroc"], plus[1]["untested"]]
    assert cells == [
        pool,
        f"{energy['auroc']:.3f}",
        f"{np.mean(both):.3f} ± {np.std(both, ddof=1):.3f}",
        f"{np.mean(untested):.3f} ± {np.std(untested, ddof=1):.3f}",
        "0.650 ± 0.071",
        "1",
        "1 of 3 / 2 of 3",
    ]
    cells = [cell.strip() for cell in outside.strip("|").split("|")]
    assert cells[0] == shift
    assert cells[3:7] == [f"{moved['auroc']:.3f}", "0.100", "0.600", "0"]
    assert "**8 of 12 cells are missing**" in text  # two kinds of pools, two methods, three seeds
    text = write(tmp_path, tmp_path / "out", ["two-sample"], [0, 7]).read_text("utf-8")
    assert "**20 of 24 cells are missing**" in text
    assert "seeds 0, 1, 2, 7" in text
    assert "**14 of 18 cells are missing**" in write(tmp_path, tmp_path / "out").read_text("utf-8")  # the profile's own


def test_the_profile_has_a_shift_that_was_not_looked_at_and_the_page_says_which():
    """The page names every kind of the profile; one of them is none of those in docs/methods.md."""
    page = (files("open_set_fer.studies.ours_plus") / "page.md.jinja").read_text("utf-8")
    kinds = {pool.shift for pool in load_profile(PROFILE).protocols.pools if pool.shift}
    assert kinds == {"blur", "jpeg", "brightness", "equalisation"}
    looked_at, _, not_looked_at = page[page.index("`shift_ratio`") :].partition(", among others")
    assert {kind for kind in kinds if f"*{kind}*" in looked_at} == kinds - {"equalisation"}
    assert "*equalisation*" in not_looked_at


def test_what_a_label_says_of_its_pool():
    texts = {
        "surprise": "the whole pool",
        "surprise (9 images, 0% open, the others scored)": "9 images, 0% open, the others scored",
        "surprise (open faces of the test split) (9 images, 50% open)": (
            "open faces of the test split, 9 images, 50% open"
        ),
    }
    for label, text in texts.items():
        assert pool_of(pd.DataFrame([protocol_fields({"open_classes": label})])) == text
