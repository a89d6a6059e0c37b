"""Intervals beside a task's metrics: against SciPy's bootstrap and DeLong's formula; twins are drawn together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score

from open_set_fer.benchmark.evaluation.delong import area
from open_set_fer.benchmark.evaluation.intervals import further_intervals
from open_set_fer.benchmark.evaluation.metrics import cell_metrics, fpr_at_tpr95, oscr


def table(n: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    is_open = rng.random(n) < 0.4
    return pd.DataFrame(
        {
            "is_open": is_open,
            "unknown_score": rng.normal(size=n) + is_open,
            "truth": np.where(is_open, "open", "fear"),
            "true_class": np.where(is_open, "surprise", "fear"),
            "predicted_class": np.where(rng.random(n) < 0.8, "fear", "anger"),
            "origin": np.where(is_open & (rng.random(n) < 0.5), "train", "test"),
        }
    )


def test_rates_have_scipys_bootstrap_interval():
    scores = table()
    correct = (scores["truth"] == scores["predicted_class"]).to_numpy()
    references = {
        "fpr_at_tpr95": fpr_at_tpr95,
        "fpr_at_tpr95_open": lambda is_open, score: fpr_at_tpr95(~is_open, -score),
        "aupr_open": average_precision_score,
        "aupr_closed": lambda is_open, score: average_precision_score(~is_open, -score),
    }
    is_open, values = scores["is_open"].to_numpy(), scores["unknown_score"].to_numpy()
    statistics = {name: lambda rows, f=f: f(is_open[rows], values[rows]) for name, f in references.items()}
    statistics["oscr"] = lambda rows: oscr(is_open[rows], values[rows], correct[rows])
    statistics["closed_accuracy"] = lambda rows: correct[rows][~is_open[rows]].mean()
    found = further_intervals(scores)
    for name, statistic in statistics.items():
        expected = bootstrap(
            (np.arange(len(scores)),), statistic, n_resamples=400, method="percentile", vectorized=False, rng=1
        )
        low, high = expected.confidence_interval
        width = high - low
        assert found[f"{name}_low"] == pytest.approx(low, abs=0.2 * width)
        assert found[f"{name}_high"] == pytest.approx(high, abs=0.2 * width)
    assert further_intervals(scores) == found


def test_every_metric_of_a_table_but_counts_and_shares_has_an_interval_around_it():
    scores = table()
    metrics = cell_metrics(scores, ["fear", "anger"]) | further_intervals(scores)
    without = {name for name in metrics if not name.endswith(("_low", "_high")) and f"{name}_low" not in metrics}
    assert without == {"open_share", "n_open", "n_closed"}
    for name in metrics:
        if f"{name}_low" in metrics:
            assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"]
    part = scores[scores["is_open"] | (scores["truth"] == scores["predicted_class"])]
    expected = area(part["is_open"].to_numpy(), part["unknown_score"].to_numpy()).interval()
    assert (metrics["auroc_right_low"], metrics["auroc_right_high"]) == pytest.approx(expected)


def test_copies_of_faces_add_nothing_where_they_are_known_as_twins():
    scores = table()
    copies = pd.concat([scores.assign(twin=range(len(scores)))] * 4, ignore_index=True)
    one, copied = further_intervals(scores), further_intervals(copies)
    alone = further_intervals(copies.drop(columns="twin"))

    def width(ends, name):
        return ends[f"{name}_high"] - ends[f"{name}_low"]

    for name in ("closed_accuracy", "oscr", "aupr_open", "auroc_right"):
        assert width(copied, name) == pytest.approx(width(one, name), rel=0.05)
        assert width(alone, name) < 0.7 * width(one, name)


def test_a_pool_too_small_for_an_interval_has_none():
    few = table(4)
    few["is_open"] = few["truth"] == "open"
    two = few.iloc[[0, 1]].assign(is_open=[True, False], truth=["open", "fear"], predicted_class="fear")
    found = further_intervals(two)
    assert not any(name.startswith("auroc") for name in found)
    assert np.isfinite(list(found.values())).all()
