"""The released pairing: every figure that the text states, from the small files and by an independent computation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, rankdata

from open_set_fer.datasets.faceset import BASIC
from open_set_fer.reports.data.paper import paper_results
from open_set_fer.studies.replication import pairing


def test_counts_are_the_files_totals():
    groups = {"closed test": 2739, "open test": 329, "open train": 1290}
    assert {group: pairing.released_labels(group).sum() for group in groups} == groups
    train, test = (pairing.class_counts("rafdb", split) for split in ("train", "test"))
    assert (train.sum(), test.sum()) == (12271, 3068)
    assert set(train.index) == set(test.index) == set(BASIC)
    assert (train["surprise"], test["surprise"]) == (1290, 329)


def test_open_train_faces_have_the_labels_of_random_images_not_of_open_faces():
    by_hand = []
    for drawn, seen in zip((281, 717, 4772, 1982, 705, 2524), (61, 16, 54, 16, 27, 155), strict=True):
        by_hand.append(1290 * (drawn + 1290 * seen / 329) / 12271)
    np.testing.assert_allclose(pairing.expected_labels(), by_hand)
    random = pairing.fits_random_images()
    observed = np.array([53, 90, 525, 218, 74, 330])
    assert random.statistic == pytest.approx(np.sum((observed - by_hand) ** 2 / np.array(by_hand)))
    assert random.statistic == pytest.approx(2.4, abs=0.05)
    assert random.freedom == 5
    assert random.p_value == pytest.approx(chi2.sf(random.statistic, 5))
    assert random.p_value > 0.7

    table = np.array([[61, 16, 54, 16, 27, 155], observed])
    wanted = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    others = pairing.fits_open_test_faces()
    assert others.statistic == pytest.approx(np.sum((table - wanted) ** 2 / wanted))
    assert others.statistic == pytest.approx(192, abs=0.5)
    assert others.freedom == 5
    assert others.p_value < 1e-30


def test_share_of_truly_open_faces():
    assert pairing.truly_open("rafdb", "surprise") == pytest.approx((329 + 1290 * 1290 / 12271) / (329 + 1290))
    pair = (329 + 74 + (1290 + 281) ** 2 / 12271) / (329 + 74 + 1290 + 281)
    assert pairing.truly_open("rafdb", "surprise+fear") == pytest.approx(pair)


@pytest.mark.parametrize(("dataset", "n", "rho"), [("rafdb", 18, 0.93), ("ferplus", 7, 0.96)])
def test_the_printed_baseline_follows_it_and_methods_that_see_images_do_not(dataset, n, rho):
    found = pairing.correlations(dataset).set_index("method")
    assert (found["n"] == n).all()
    assert found.loc["baseline", "rho"] == pytest.approx(rho, abs=0.005)
    assert found.loc["baseline", "p_value"] < 0.001
    assert (found.loc[["eow", "proser", "dias"], "rho"].abs() < 0.5).all()
    rows = pairing.published_auroc(dataset).query("method == 'baseline'")
    ranks = np.corrcoef(rankdata(rows["truly_open"]), rankdata(rows["value"]))[0, 1]
    assert found.loc["baseline", "rho"] == pytest.approx(ranks)


def test_every_printed_row_is_used_once():
    printed = paper_results()
    wanted = printed[
        (printed["metric"] == "auroc")
        & printed["table"].isin(["table1", "table2"])
        & (printed["open_classes"] != "mean")
    ]
    used = pd.concat([pairing.published_auroc(name) for name in ("rafdb", "ferplus")])
    assert len(used) == len(wanted)
