"""Figure 5: which cells make a sweep, and that its curves and map show their numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from open_set_fer.reports.figures.sweep import sweep_figures


def results(cells):
    """Of cells (method, network or None, settings, seed, AUROC by epoch)."""
    rows, params = [], {}
    for number, (network, settings, seed, read) in enumerate(cells):
        rows.append(
            {
                "dataset": "ferplus",
                "open_classes": "surprise",
                "seed": seed,
                "status": "finished",
                "run_id": str(number),
                "auroc": 0.5,
                **{f"auroc.epoch_{epoch}": value for epoch, value in read.items()},
            }
        )
        own = {"own_backbone.name": network, "own_backbone.width": "8"} if network else {}
        params[str(number)] = {
            "backbone.name": "shallow",
            "backbone.width": "16",
            **own,
            "method.name": "ours",
            **{f"method.{name}": str(value) for name, value in settings.items()},
        }
    return SimpleNamespace(cells=pd.DataFrame(rows), params=params, labels="own", demonstrations=set())


def settings(weight=5.0, cycle=10):
    return {"consistency_weight": weight, "cycle_length": cycle}


@pytest.fixture
def figures():
    cells = [
        (network, settings(float(weight)), seed, {10: 0.5 + weight / 100 + seed / 10, 20: 0.62, 30: np.nan})
        for network in (None, "small")
        for weight in (1, 2, 5)
        for seed in (0, 1)
    ]
    cells.append((None, settings(cycle=50), 0, {20: 0.7}))
    return {figure.name: figure for figure in sweep_figures(results(cells))}


def test_each_swept_setting_has_a_figure_with_a_panel_a_network(figures):
    assert set(figures) == {"sweep_ferplus_surprise_consistency_weight", "sweep_ferplus_surprise_cycle_length"}
    shown = figures["sweep_ferplus_surprise_consistency_weight"].figure.axes
    assert [axes.get_title() for axes in shown[:2]] == ["shallow network, width 16", "small network, width 8"]
    cycles = figures["sweep_ferplus_surprise_cycle_length"]
    assert [axes.get_title() for axes in cycles.figure.axes[:2]] == ["shallow network, width 16", ""]


def test_curves_and_map_show_the_means_over_seeds(figures):
    figure = figures["sweep_ferplus_surprise_consistency_weight"]
    curves = {line.get_label(): line for line in figure.figure.axes[0].get_lines()}
    assert set(curves) == {"10", "20"}, "nothing was read off after 30 epochs"
    assert list(curves["10"].get_xdata()) == [1, 2, 5]
    assert curves["10"].get_ydata() == pytest.approx([0.56, 0.57, 0.60])
    written = [text.get_text() for text in figure.figure.axes[2].texts]
    assert written == [".56", ".57", ".60", ".62", ".62", ".62"]
    assert "mean over 2 seeds" in figure.caption
    assert figure.alternative.endswith(
        "from 0.56 to 0.62, the highest with λ 1 after 20 epochs (shallow network, width 16)."
    )


def test_a_value_without_a_reading_stays_empty(figures):
    texts = [text.get_text() for text in figures["sweep_ferplus_surprise_cycle_length"].figure.axes[1].texts]
    assert texts == [".60", ".62", ".70"], "50 epochs a cycle: nothing after 10"


def test_there_is_no_sweep_of_one_value_or_without_readings():
    assert list(sweep_figures(results([(None, settings(), 0, {10: 0.5})]))) == []
    assert list(sweep_figures(results([(None, settings(1.0), 0, {}), (None, settings(2.0), 0, {})]))) == []
    two = [(None, settings(1.0, 5), 0, {10: 0.5}), (None, settings(2.0, 10), 0, {10: 0.5})]
    assert list(sweep_figures(results(two))) == [], "they differ in more than one setting"


def test_the_figure_can_stand_on_a_page(figures):
    for figure in figures.values():
        assert 'role="img"' in figure.svg()
