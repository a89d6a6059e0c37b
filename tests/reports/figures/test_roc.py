"""ROC curves: their area and their FPR@TPR95 are those of the tables, and what is not drawn is said."""

from __future__ import annotations

import numpy as np
import pytest

from open_set_fer.benchmark.evaluation.metrics import AUROC, auroc, fpr_at_tpr95
from open_set_fer.reports.data.results import Results
from open_set_fer.reports.figures.roc import POINTS, STYLES, curve, roc_figures


def test_a_curve_has_the_area_and_the_fpr_of_the_metrics():
    rng = np.random.default_rng(0)
    closed, opened = rng.normal(size=3000), rng.normal(1.0, size=1000)
    fpr, tpr = curve(closed, opened)
    assert len(fpr) <= POINTS
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    is_open, scores = np.r_[np.zeros(3000, bool), np.ones(1000, bool)], np.r_[closed, opened]
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(is_open, scores), abs=2e-3)
    assert np.interp(0.95, tpr, fpr) == pytest.approx(fpr_at_tpr95(is_open, scores), abs=0.02)
    assert [list(of) for of in curve(np.array([0.0, 0.0]), np.array([0.0]))] == [[0, 1], [0, 1]]  # constant scores


def test_every_family_has_its_curves_and_says_what_is_missing(results: Results):
    figures = {figure.name: figure for figure in roc_figures(results.under("own"), "synthetic")}
    assert list(figures) == ["roc_synthetic_single", "roc_synthetic_compound"]
    single = figures["roc_synthetic_single"]
    panels = [axes for axes in single.figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["surprise", "fear", "disgust"]
    of_fear = results.of("synthetic").query("open_classes == 'fear' and seed == 0").set_index("method")
    assert f"Baseline (MSP) {of_fear.loc['baseline', AUROC.name]:.3f}" in single.alternative
    assert "EOW failed" in single.alternative
    assert "EOW missing" in single.alternative
    assert len(panels[0].get_lines()) > len(panels[2].get_lines())
    assert len({str(style) for style in STYLES}) == len(STYLES)
    assert len({colour for colour, _ in STYLES}) == len(STYLES)
