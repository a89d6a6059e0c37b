"""The time of a plan before anything was computed, and afterwards."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from open_set_fer.benchmark.planning import estimate as module
from open_set_fer.benchmark.planning.cells import Selection, dry_plan
from open_set_fer.benchmark.planning.estimate import estimate
from open_set_fer.benchmark.planning.profile import load_profile


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    return dry_plan(load_profile("smoke"), Selection(methods=("baseline", "ours"), regime=None), tmp_path / "cache")


def test_before_the_first_cell_a_rule_of_thumb_says_how_wrong_it_may_be(planned, tmp_path):
    cells, outlines = planned
    text = estimate(cells, {}, outlines, tmp_path)
    assert re.match(rf"roughly \d+ \w+ for 1 closed-set models and {len(cells)} cells of new kinds \(by a rule", text)
    assert "2 idle cores, right within a factor of 5" in text
    (outline,) = outlines.values()
    step = 0.0005 * (cells[0].recipe.backbone.width / 16) ** 2 * (outline.bytes / outline.images) / 48**2
    training = 0.8 * outline.images * cells[0].recipe.closed_set.epochs * step
    assert module._training(cells[0], outline) == pytest.approx(training)
    longer = replace(cells[0].recipe, closed_set=replace(cells[0].recipe.closed_set, epochs=6000))
    minutes = (0.8 * 6000 + 0.3) * outline.images * step / 2 / 60  # on two cores
    assert f"roughly {minutes:.0f} min" in estimate([replace(cells[0], recipe=longer)], {}, outlines, tmp_path)


def test_finished_cells_of_the_kind_are_better_and_a_trained_model_costs_nothing(planned, tmp_path):
    cells, outlines = planned
    (tmp_path / f"{cells[0].closed_set_key}.safetensors").touch()
    assert estimate(cells[:1], {("synthetic", "baseline"): [600.0, 840.0]}, outlines, tmp_path) == (
        "about 12 min by finished cells of the same kind"
    )
    text = estimate(cells[:2], {("synthetic", "baseline"): [720.0]}, outlines, tmp_path)
    assert text.startswith("about 12 min by finished cells of the same kind, roughly ")
    assert "for 1 cells of new kinds" in text


def test_a_data_set_that_cannot_be_read_gives_no_number(planned, tmp_path):
    cells, outlines = planned
    lost = {name: replace(outline, images=0) for name, outline in outlines.items()}
    assert estimate(cells[:1], {}, lost, tmp_path) == (
        "1 closed-set models and 1 cells of new kinds with nothing to estimate from"
    )


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (1234, "20 min"), (20_000, "6 h 0 min"), (9e7, "1000 days")]
)
def test_a_rough_time_has_one_digit(seconds, said):
    assert module.duration(module._rounded(seconds)) == said
