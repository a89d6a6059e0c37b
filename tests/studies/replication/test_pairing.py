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
    published = {"train": 25057 - 119, "test": 3153 - 16}  # the publishers' majority, without contempt
    assert {split: pairing.class_counts("ferplus", split).sum() for split in published} == published


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
    others = pairing.fits_open_test_faces(pairing.released_labels("open train"))
    assert others.statistic == pytest.approx(np.sum((table - wanted) ** 2 / wanted))
    assert others.statistic == pytest.approx(192, abs=0.5)
    assert others.freedom == 5
    assert others.p_value < 1e-30


def test_share_of_truly_open_faces():
    assert pairing.truly_open("rafdb", "surprise") == pytest.approx((329 + 1290 * 1290 / 12271) / (329 + 1290))
    pair = (329 + 74 + (1290 + 281) ** 2 / 12271) / (329 + 74 + 1290 + 281)
    assert pairing.truly_open("rafdb", "surprise+fear") == pytest.approx(pair)


@pytest.mark.parametrize(
    ("dataset", "n", "r2", "rho", "rho_size"), [("rafdb", 18, 0.86, 0.93, 0.92), ("ferplus", 7, 0.96, 0.89, 0.89)]
)
def test_the_printed_baseline_is_linear_in_it_and_methods_that_see_images_are_not(dataset, n, r2, rho, rho_size):
    found = pairing.mixture_fits(dataset).set_index("method")
    assert (found["n"] == n).all()
    baseline = found.loc["baseline"]
    assert baseline[["r2", "rho", "rho_size"]].tolist() == pytest.approx([r2, rho, rho_size], abs=0.006)
    assert (found.loc[["eow", "proser", "dias"], "r2"] < 0.34).all()
    rows = pairing.published_auroc(dataset).query("method == 'baseline'")
    a, auroc = rows["truly_open"].to_numpy(), rows["value"].to_numpy()
    c1, c0 = np.polyfit(a, auroc, 1)
    assert baseline[["c0", "c1"]].tolist() == pytest.approx([c0, c1])
    left = auroc - c0 - c1 * a
    assert baseline["r2"] == pytest.approx(1 - left @ left / np.sum((auroc - auroc.mean()) ** 2))
    assert baseline["rho"] == pytest.approx(np.corrcoef(rankdata(a), rankdata(auroc))[0, 1])


def test_fraction_and_size_of_the_open_class_cannot_be_told_apart():
    assert pairing.fraction_follows_size("rafdb") == pytest.approx(0.996, abs=0.0005)
    rows = pairing.published_auroc("rafdb").query("open_classes == 'surprise+fear'")
    assert set(rows["n_open"]) == {1290 + 329 + 281 + 74}


def test_every_printed_row_is_used_once():
    printed = paper_results()
    wanted = printed[
        (printed["metric"] == "auroc")
        & printed["table"].isin(["table1", "table2"])
        & (printed["open_classes"] != "mean")
    ]
    used = pd.concat([pairing.published_auroc(name) for name in ("rafdb", "ferplus")])
    assert len(used) == len(wanted)
