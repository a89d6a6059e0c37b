"""docs/replication.md: what needs no run is there at once, what was measured is read from MLflow, what is not is said."""

from __future__ import annotations

import pandas as pd
import pytest

from open_set_fer.reports import replication
from open_set_fer.reports.replication import control_rows, measured_cells, regime_rows, share_curve, write_replication


def cells(*rows: tuple[str, str, float, str, int, float]) -> pd.DataFrame:
    columns = ["open", "labels", "share", "method", "seed", "auroc"]
    return pd.DataFrame(rows, columns=columns).assign(dataset="ferplus")


def test_without_a_store_the_evidence_is_written_and_what_lacks_is_said(tmp_path):
    path = write_replication(tmp_path / "none", tmp_path / "docs")
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
    found = regime_rows(cells(
        ("surprise", "own", 0.0, "baseline", 0, 0.70), ("surprise", "own", 0.0, "baseline", 1, 0.68),
        ("surprise", "released", 1.0, "baseline", 0, 0.54), ("surprise", "released", 0.5, "baseline", 0, 0.60),
        ("surprise", "own", 0.0, "knn", 0, 0.9),  # never under released labels: it does not read them
        ("fear", "released", 1.0, "baseline", 0, 0.50),
    ))  # fmt: skip
    assert [(row["open"], row["method"]) for row in found] == [("surprise", "baseline"), ("fear", "baseline")]
    assert found[0]["own"]["mean"] == pytest.approx(0.69)
    assert found[0]["own"]["cells"] == 2
    assert found[0]["released"]["mean"] == pytest.approx(0.54)
    assert found[0]["printed"] == 0.406
    assert pd.isna(found[1]["own"]["mean"])


def test_a_method_below_label_loss_is_not_informative():
    control = cells(
        ("surprise", "flipped", 0.2, "label-loss", 0, 0.99), ("surprise", "flipped", 0.2, "ours", 0, 0.83),
        ("surprise", "flipped-true", 0.2, "ours", 0, 0.93),
    )  # fmt: skip
    found = {(row["labels"], row["method"]): row["informative"] for row in control_rows(control)}
    assert found == {("flipped", "ours"): False, ("flipped", "label-loss"): True, ("flipped-true", "ours"): None}


def test_the_curve_needs_three_shares():
    rows = [("surprise", "own", 0.0, "label-loss", 0, 0.7), ("surprise", "released", 1.0, "label-loss", 0, 0.9)]
    assert share_curve(cells(*rows)).empty
    curve = share_curve(cells(*rows, ("surprise", "released", 0.5, "label-loss", 0, 0.8)))
    assert curve["label-loss"].to_dict() == {0.0: 0.7, 0.5: 0.8, 1.0: 0.9}
    assert replication._share("surprise (50% of labels as released)") == 0.5
    assert replication._share("surprise (labels as released)") == 1.0
    assert replication._share("surprise") == 0.0
