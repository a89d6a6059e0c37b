"""AUROC by origin: of the test split's open faces for transductive methods where the splits differ by origin."""

from __future__ import annotations

import pandas as pd
import pytest

from open_set_fer.reports.data.frame import FINISHED, typed_frame


def row(dataset: str, sees_pool: bool, opened: str = "contempt", protocol: str = "contempt") -> dict:
    numbers = {"auroc": 0.9, "auroc_low": 0.8, "auroc_high": 0.95, "auroc_open_test": 0.7, "oscr": 0.5}
    place = {"dataset": dataset, "protocol": protocol, "open_classes": opened, "method": f"{dataset} {sees_pool}"}
    facts = {"sees_pool": str(sees_pool).lower(), "label_based": "false", "demonstration": False, "notes": ()}
    return place | {"seed": 0, "status": FINISHED, "run_id": "r"} | facts | numbers


@pytest.mark.parametrize(
    ("dataset", "sees_pool", "opened", "protocol", "expected"),
    [
        ("affectnet", True, "contempt", "contempt", 0.7),
        ("affectnet", False, "contempt", "contempt", 0.9),
        ("ferplus", True, "contempt", "contempt", 0.9),
        ("affectnet", True, "contempt (20% of true labels flipped)", "contempt", 0.9),
        ("affectnet", True, "contempt (9 closed faces, half with blur)", "shift", 0.9),
    ],
)
def test_auroc_of_the_test_split(dataset, sees_pool, opened, protocol, expected):
    [cell] = typed_frame([row(dataset, sees_pool, opened, protocol)], {}).to_dict("records")
    assert cell["auroc"] == expected
    assert pd.isna(cell["auroc_low"]) == pd.isna(cell["auroc_high"]) == (expected == 0.7)
    assert (cell["oscr"], cell["auroc_open_test"]) == (0.5, 0.7)


def test_without_the_measurement_there_is_no_auroc():
    cell = {name: value for name, value in row("affectnet", True).items() if name != "auroc_open_test"}
    assert typed_frame([cell], {})["auroc"].isna().all()
