"""`make gpu-check` without a card: a dry pass, its JSON, and the hours of a plan by hand."""

from __future__ import annotations

import json

import pytest

from open_set_fer.datasets.ferplus import FerPlus
from tests.performance import gpu_check
from tests.performance.gpu_check import CLOSED_SET, Row


def test_without_a_card_it_says_so_and_ends_well(tmp_path, capsys):
    path = tmp_path / "made" / "gpu-check.json"
    arguments = ["--device", "cpu", "--json", str(path), "--label", "baseline", "--label", "ours"]
    assert gpu_check.main(arguments) == 0
    assert "no card is used" in capsys.readouterr().out
    found = json.loads(path.read_text("utf-8"))
    rows = {(row["method"], row["precision"]): row for row in found["rows"]}
    expected = {(name, kind) for name in (CLOSED_SET, "baseline", "ours") for kind in ("full", "mixed")}
    assert rows.keys() - {(row, "full") for row, _ in rows if "step" in row} == expected
    assert rows["ours", "full"]["agreement"] == pytest.approx(1.0)
    assert all(row["peak_mib"] > 0 for row in rows.values())
    assert (found["device"], found["paper_hours"]) == ("the CPU", None)


def test_numbers_that_differ_from_the_cpus_end_with_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "LOGITS", -1.0)
    assert gpu_check.main(["--device", "cpu", "--json", str(tmp_path / "it.json"), "--label", "baseline"]) == 1
    assert "NO" in capsys.readouterr().out


def test_hours_of_a_plan():
    cells = [cell for cell in gpu_check.paper_cells() if cell.protocol.choice == "surprise"]
    cells = [cell for cell in cells if cell.label in ("proser", "eow") and not cell.protocol.regime.is_control]
    assert [cell.label for cell in cells] == ["eow", "proser"]
    rows = [Row(CLOSED_SET, "full", 1000.0, 0, 0), Row("proser", "full", 500.0, 0, 0), Row("eow", "full", 10.0, 0, 0)]
    protocol = cells[0].protocol
    images = FerPlus.published["train"] * len(protocol.closed) / (1 + len(protocol.closed))
    seconds = 60 * images / 1000 + 10 * images / 500 + (15 - 8) * images / 10
    hours, unknown = gpu_check.hours(cells, rows)
    assert hours == pytest.approx(seconds / 3600)
    assert unknown == []
    assert gpu_check.hours(cells, rows[:2])[1] == ["eow"]
