"""replication.md: evidence without a run, measurements from MLflow, missing ones named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.studies.provenance import LINE, stale
from open_set_fer.studies.replication import write_up as replication
from open_set_fer.studies.replication.measured import (
    COLUMNS,
    METHODS,
    class_table,
    measured_cells,
    of_labels,
    rate_curve,
    summary_rows,
)
from open_set_fer.studies.replication.write_up import write
from tests.reports.conftest import Store


class Planned(Store):
    def make_plan(self, cells: list[tuple[str, str, str, str, int]]) -> None:
        names = ("dataset", "protocol", "open_classes", "method", "seed")
        plan = [dict(zip(names, cell, strict=True)) | {"cell_key": self.key(*cell, "a")} for cell in cells]
        self.parent = self.tracker.start_benchmark(plan, "", "osfer run")


def cells(*rows: tuple[str, str, float, str, int, float | None], **more: Any) -> pd.DataFrame:
    columns = ["open", "labels", "share", "method", "seed", "auroc"]
    frame = pd.DataFrame(rows, columns=columns).assign(dataset="ferplus", protocol="single", **more)
    frame = frame.assign(status=frame["auroc"].notna().map({True: "finished", False: "missing"}))
    return frame.reindex(columns=list(dict.fromkeys([*COLUMNS, *frame.columns])))


def row_of(method: str, frame: pd.DataFrame) -> dict[str, Any]:
    return next(row for row in summary_rows(frame) if row["method"] == method)


def test_without_a_store_the_evidence_is_written_and_what_lacks_is_said(tmp_path):
    path = write(tmp_path / "none", tmp_path / "docs")
    text = path.read_text("utf-8")
    assert not (tmp_path / "none").exists()
    for part in (
        "| 10 | 1146 | 1146 | 100.0 % |",
        "4.6 on 5 degrees of freedom, p = 0.47",
        "192 on 5, p = 1e-39",
        "579 of 1619 open faces",
        "| Baseline (MSP) | 18 | 0.35 + 0.43 a | 0.86 | 0.93 | 7 | 0.28 + 0.59 a | 0.96 |",
        "would not follow it",
        "rows are not independent",
        "0.996 on RAF-DB",
        "images without augmentation" if "Own labels" in text else "Not measured in this store",
        "## What stays open",
    ):
        assert part in text
    assert "cannot be distinguished" not in text
    assert text.count("ot measured in this store") == 2
    assert (tmp_path / "docs" / "replication_printed.png").stat().st_size > 5000
    assert measured_cells(tmp_path / "none", "smoke")[0].empty
    assert stale(text) == []


def test_means_over_classes_and_seeds_stand_beside_the_printed_number():
    frame = cells(
        ("surprise", "own", 0.0, "baseline", 0, 0.70),
        ("surprise", "own", 0.0, "baseline", 1, 0.68),
        ("fear", "own", 0.0, "baseline", 0, 0.60),
        ("fear", "own", 0.0, "baseline", 1, 0.50),
        ("surprise", "released", 1.0, "baseline", 0, 0.54),
        ("surprise", "released", 0.5, "baseline", 0, 0.90),  # another share
        ("fear", "released", 1.0, "baseline", 0, None),
        ("surprise", "own", 0.0, "energy", 0, 0.8),
        closed_accuracy=0.75,
    )
    row = row_of("baseline", frame)
    assert row["own"]["mean"] == pytest.approx((0.69 + 0.55) / 2)
    assert row["own"]["std"] == pytest.approx(np.std([0.65, 0.59], ddof=1))
    assert row["own"]["counted"] == "2"
    assert (row["released"]["mean"], row["released"]["counted"]) == (None, "1, 1 of 2 classes")
    assert (row["published"], row["accuracy"]["mean"]) == (0.424, 0.75)
    assert row_of("energy", frame)["own"]["counted"] == "1, 1 of 2 classes"
    assert row_of("ours", frame)["own"] == {"mean": None, "std": None, "counted": ""}
    assert [row["method"] for row in summary_rows(frame)] == list(METHODS)
    table = class_table(of_labels(frame, "own"), ["baseline", "energy"])
    assert [row["open"] for row in table] == ["surprise", "fear"]
    assert table[1]["values"] == {"baseline": pytest.approx(0.55), "energy": None}
    assert class_table(of_labels(frame, "released"), ["baseline"])[1]["values"] == {"baseline": None}


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
        axes = replication._rate_figure(of, "Title of {}".format).axes[0]
        assert axes.get_legend().get_texts()[0].get_text() == "Title of label-loss"
        assert len(axes.collections) == bars


def test_the_page_has_what_was_logged_and_what_is_missing_of_any_label(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Planned(Tracker(tmp_path, "ferplus-cpu"), tmp_path)
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
        for method in ("baseline", "label-loss", "ours", "their-own")
        for seed in (0, 1)
    ]
    made.make_plan(planned)
    for cell in planned:
        if cell[2:] != ("surprise", "ours", 1):
            made.finish(*cell, gap=3.0 if cell[3] == "label-loss" else 0.3)
    text = write(tmp_path, tmp_path / "docs").read_text("utf-8")
    assert "seeds 0, 1; means over the seeds that are there" in text
    assert "images without augmentation" in text
    own = made.logged["ferplus", "surprise", "ours", 0]["auroc"]
    released = [made.logged["ferplus", regimes[2], "ours", seed]["auroc"] for seed in (0, 1)]
    of_released = f"{np.mean(released):.3f} ± {np.std(released, ddof=1):.3f}"
    assert f"| Ours | {own:.3f} | {of_released} | 0.882 | 0.900 | — |  |  | — | — | 1; 2 |" in text
    both = [made.logged["ferplus", "surprise", "baseline", seed]["auroc"] for seed in (0, 1)]
    first, second = (line for line in text.splitlines() if line.startswith("| surprise |"))
    shown = dict(zip(METHODS, first.strip("| ").split(" | ")[1:], strict=True))
    assert (shown["baseline"], shown["ours"], shown["eow"]) == (f"{np.mean(both):.3f}", f"{own:.3f}", "—")
    assert second.count("|") == 5
    assert "| EOW | — | — | 0.592 | — | — |  |  | — | — | — |" in text
    assert "| Ours | 0.50 |" in text
    assert "- Ours: control not run, so whether it finds wrong labels is not known" in text
    assert "their-own" not in text
    assert (tmp_path / "docs" / "replication_share.png").exists()
    assert LINE.search(text)
    assert any(fault.startswith("methods.ours.settings: a, now") for fault in stale(text))
