"""replication.md: evidence without a run, measurements from MLflow, missing ones named."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.results import load
from open_set_fer.reports.tables.controls import controls_of
from open_set_fer.studies.replication import write_up as replication
from open_set_fer.studies.replication.write_up import measured_cells, rate_curve, regime_rows, write
from tests.reports.tables.test_controls import Marked


def cells(*rows: tuple[str, str, float, str, int, float | None]) -> pd.DataFrame:
    columns = ["open", "labels", "share", "method", "seed", "auroc"]
    frame = pd.DataFrame(rows, columns=columns).assign(dataset="ferplus", protocol="single")
    return frame.assign(status=frame["auroc"].notna().map({True: "finished", False: "missing"}))


def test_without_a_store_the_evidence_is_written_and_what_lacks_is_said(tmp_path):
    path = write(tmp_path / "none", tmp_path / "docs")
    text = path.read_text("utf-8")
    assert not (tmp_path / "none").exists()
    assert "2.4 on 5 degrees of freedom" in text
    assert "192 on 5 degrees of freedom" in text
    assert "| Baseline (MSP) | 0.93 (18," in text
    assert "0.96 (7," in text
    assert text.count("ot measured in this store") == 3
    assert (tmp_path / "docs" / "replication_printed.png").stat().st_size > 5000
    assert measured_cells(tmp_path / "none", "smoke")[0].empty


def test_rows_of_both_regimes_stand_beside_the_printed_number():
    found = regime_rows(
        cells(
            ("surprise", "own", 0.0, "baseline", 0, 0.70),
            ("surprise", "own", 0.0, "baseline", 1, 0.68),
            ("surprise", "released", 1.0, "baseline", 0, 0.54),
            ("surprise", "released", 0.5, "baseline", 0, 0.60),
            ("surprise", "own", 0.0, "knn", 0, 0.9),  # never under released labels: it does not read them
            ("fear", "released", 1.0, "baseline", 0, 0.50),
        )
    )
    assert [(row["open"], row["method"]) for row in found] == [("surprise", "baseline"), ("fear", "baseline")]
    assert found[0]["own"]["mean"] == pytest.approx(0.69)
    assert found[0]["own"]["cells"] == "2"
    assert found[0]["released"]["mean"] == pytest.approx(0.54)
    assert found[0]["published"] == 0.406
    assert pd.isna(found[1]["own"]["mean"])


def test_what_is_planned_and_not_there_is_shown_as_missing():
    (row,) = regime_rows(
        cells(
            ("fear", "own", 0.0, "ours-mine", 0, 0.5),
            ("fear", "own", 0.0, "ours-mine", 1, None),
            ("fear", "released", 1.0, "ours-mine", 0, None),
        )
    )
    assert (row["own"]["mean"], row["own"]["cells"]) == (0.5, "1 of 2")
    assert pd.isna(row["released"]["mean"])
    assert row["released"]["cells"] == "0 of 1"


def test_the_curve_needs_three_shares_and_compares_like_with_like():
    rows = [("surprise", "own", 0.0, "label-loss", 0, 0.7), ("surprise", "released", 1.0, "label-loss", 0, 0.9)]
    assert rate_curve(cells(*rows)).empty
    rows += [("surprise", "released", 0.5, "label-loss", 0, 0.8), ("fear", "own", 0.0, "label-loss", 0, 0.1)]
    curve = rate_curve(cells(*rows))
    assert curve[["share", "mean"]].to_numpy().tolist() == [[0.0, 0.7], [0.5, 0.8], [1.0, 0.9]], (
        "fear has one share alone"
    )
    assert curve["std"].isna().all()
    rows += [
        ("surprise", labels, share, "label-loss", 1, 0.5)
        for labels, share in (("own", 0.0), ("released", 0.5), ("released", 1.0))
    ]
    several = rate_curve(cells(*rows))
    assert several["mean"].tolist() == pytest.approx([0.6, 0.65, 0.7])
    assert several["std"].tolist() == pytest.approx([0.2 / 2**0.5, 0.3 / 2**0.5, 0.4 / 2**0.5])
    for of, bars in ((curve, 0), (several, 1)):
        axes = replication._rate_figure(of).axes[0]
        assert axes.get_legend().get_texts()[0].get_text() == "Label loss"
        assert len(axes.collections) == bars


def test_the_page_has_controls_curve_seeds_and_what_is_missing_of_any_label(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Marked(Tracker(tmp_path, "made"), tmp_path)
    (tmp_path / "profile.toml").write_text("seeds = [0, 1]\n")
    regimes = [
        "surprise",
        "surprise (50% of labels as released)",
        "surprise (labels as released)",
        "surprise (5% of labels flipped in the pool)",
    ]
    planned = [
        ("ferplus", "single", opened, method, seed)
        for opened in regimes
        for method in ("baseline", "label-loss", "ours-best")
        for seed in (0, 1)
    ]
    made.make_plan(planned)
    for cell in planned:
        if cell[2:] != ("surprise", "ours-best", 1):
            made.finish(*cell, gap=3.0 if cell[3] == "label-loss" else 0.3)
    text = write(tmp_path, tmp_path / "docs", "made").read_text("utf-8")
    assert "seeds 0, 1: mean AUROC, ± over seeds" in text
    own = made.logged["ferplus", "surprise", "ours-best", 0]["auroc"]
    assert re.search(rf"\| surprise \| ours-best \| {own:.3f} \| 0\.\d+ ± 0\.\d+ \| — \| 1 of 2 \+ 2 \|", text)
    (control,) = controls_of(load(made.tracker), "ferplus", "ours-best")
    shown = f"| {control.value:.3f} ± {control.std:.3f} | {control.reference:.3f} | 2 cells | not informative |"
    assert f"| 5% of labels flipped in the pool | ours-best {shown}" in text
    assert "| ours-best | 0.50 |" in text
    assert "Baseline" not in text[text.index("## The positive control") :], "it scores no label"
    assert (tmp_path / "docs" / "replication_share.png").exists()
