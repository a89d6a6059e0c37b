"""The result at the page's head: means, their intervals, the sentence on them, numbers below 0.5."""

from __future__ import annotations

from typing import cast

import pandas as pd
import pytest

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.results import Results, typed_frame
from open_set_fer.reports.page.summary import summaries
from open_set_fer.reports.tables.build import DEMONSTRATION
from tests.reports.made import NoScores

LOSSES = {"pseudo_label_entropy_open": 0.4, "pseudo_label_entropy_closed": 0.9}


def made(values: dict[tuple[str, str, str, int], float | None], methods: dict[str, str] | None = None) -> Results:
    """Results with AUROCs by (family, open classes, label, seed); None: planned without a run."""
    rows = []
    for number, ((family, opened, method, seed), auroc) in enumerate(values.items()):
        rows.append(
            {
                "dataset": "ferplus",
                "protocol": family,
                "open_classes": opened,
                "method": method,
                "seed": seed,
                "status": "missing" if auroc is None else "finished",
                "run_id": f"run{number}",
                "auroc": auroc,
                "fpr_at_tpr95": None if auroc is None else 1 - auroc,
                "error": "",
                "notes": (),
                "counts": "",
                "fingerprint": "f",
                "demonstration": False,
                "logged": pd.Timestamp("2026-01-01"),
                "selection": "own",
                "git_commit": "c",
                "host": "h",
                "device": "cpu",
                "cell_key": "k",
                "settings_key": "s",
                "version": "9.8",
                "python": "3.13",
                "torch": "2.99",
                "cpu": "A processor",
                "gpu": "unknown",
                "threads": "2",
                **LOSSES,
            }
        )
    names = methods or {}
    params = {row["run_id"]: {"method.name": names.get(row["method"], row["method"])} for row in rows}
    return Results("p", "7", typed_frame(rows, params), params, (), cast(Tracker, NoScores()))


SEEDS = made(
    {
        ("single", opened, method, seed): base + step + 0.02 * seed
        for method, base in (("ours", 0.3), ("baseline", 0.7))
        for opened, step in (("fear", 0.0), ("anger", 0.1))
        for seed in (0, 1)
    }
)


def test_means_ranges_and_deviations_are_those_of_the_cells() -> None:
    (summary,) = summaries(SEEDS)
    assert [row.method for row in summary.standings] == ["baseline", "ours"]
    mean = summary.standings[0].means[0]
    assert (mean.entry.value, min(mean.values), max(mean.values)) == pytest.approx((0.76, 0.71, 0.81))
    assert mean.notes == ["0.710 to 0.810"]
    assert mean.entry.std == pytest.approx(0.02 / 2**0.5)
    assert (mean.entry.best, mean.entry.text) == (True, "0.760 ± 0.014")
    assert (len(mean.entry.by_seed), len(mean.values)) == (2, 2)
    assert "standard deviation of the mean over 2 seeds" in summary.basis


def test_the_sentence_names_the_best_method_and_where_ours_stands() -> None:
    (summary,) = summaries(SEEDS)
    assert summary.finding.startswith(
        "FERPlus: Baseline (MSP) has the highest mean AUROC, 0.760 ± 0.014; the next is Ours"
    )
    assert "Ours, the paper's method, has 0.360 ± 0.014, 0.400 below Baseline (MSP)" in summary.finding


def test_a_mean_over_fewer_choices_is_last_and_never_best() -> None:
    results = made(
        {
            ("single", "fear", "baseline", 0): 0.6,
            ("single", "anger", "baseline", 0): 0.6,
            ("single", "fear", "eow", 0): 0.9,
            ("single", "anger", "eow", 0): None,
            ("single", "fear", "dias", 0): None,
            ("single", "anger", "dias", 0): None,
        }
    )
    (summary,) = summaries(results)
    assert [row.method for row in summary.standings] == ["baseline", "eow", "dias"]
    short = summary.standings[1].means[0]
    assert (short.notes, short.entry.best, short.entry.std) == (["1 of 2 choices"], False, None)
    assert [mean.entry.value for mean in summary.standings[2].means] == [None, None]
    assert [mean.entry.text for mean in summary.standings[2].means] == ["—", "—"]
    assert "Baseline (MSP) has the highest" in summary.finding


def test_families_have_columns_beside_the_mean_over_all_choices() -> None:
    results = made({("single", "fear", "baseline", 0): 0.6, ("pairs", "fear+anger", "baseline", 0): 0.8})
    (summary,) = summaries(results)
    assert summary.columns == ["AUROC, all", "AUROC, single", "AUROC, pairs", "FPR@TPR95, all"]
    assert [round(m.entry.value, 3) for m in summary.standings[0].means] == [0.7, 0.6, 0.8, 0.3]


def test_below_one_half_is_explained_by_what_was_measured() -> None:
    (summary,) = summaries(SEEDS)
    assert "Ours (4 of 4 cells, lowest 0.300)" in summary.below
    assert "Baseline" not in summary.below
    assert "is 0.40 on open and 0.90 on closed faces" in summary.below
    assert "README" not in summary.below  # it has no section on this
    (other,) = summaries(made({("single", "fear", "eow", 0): 0.4}))
    assert "EOW (1 of 1 cells" in other.below
    assert "pseudo label" not in other.below
    assert (summary.below_names, other.below_names) == ("Ours", "EOW")
    (above,) = summaries(made({("single", "fear", "eow", 0): 0.6}))
    assert above.below == above.below_names == ""


def test_a_demonstration_is_said_to_be_one_beside_its_means(results: Results) -> None:
    said = {summary.dataset: DEMONSTRATION in summary.basis.lower() for summary in summaries(results)}
    assert said == {"synthetic": True, "ferplus": False}
