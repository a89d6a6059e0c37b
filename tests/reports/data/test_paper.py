"""The paper's printed numbers: looked up, and consistent with each other."""

from __future__ import annotations

import pytest

from open_set_fer.reports.data.paper import paper_results, paper_value
from open_set_fer.reports.tables.published import paper_blocks


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("rafdb", "single", "surprise", "ours", "auroc"), 0.918),
        (("rafdb", "single", "neutral", "eow", "fpr_at_tpr95"), 0.977),
        (("ferplus", "single", "mean", "ours", "auroc"), 0.882),
        (("rafdb", "pairs", "fear+disgust", "dias", "auroc"), 0.688),
        (("rafdb", "pairs+triples", "mean", "ours", "auroc"), 0.876),
        (("affectnet", "contempt", "contempt", "ours", "auroc"), 0.674),
        (("rafdb", "single", "fear", "ours-online", "auroc"), 0.870),
        (("rafdb_compound", "compound", "compound", "ours", "auroc"), 0.771),
        (("synthetic", "single", "surprise", "ours", "auroc"), None),
    ],
)
def test_paper_lookup(key: tuple[str, str, str, str, str], value: float | None) -> None:
    assert paper_value(*key) == value


def test_numbers_printed_twice_agree() -> None:
    key = ["dataset", "protocol", "open_classes", "method", "metric"]
    assert (paper_results().groupby(key)["value"].nunique() == 1).all()


def test_printed_means_are_those_of_the_printed_rows() -> None:
    frame = paper_results()
    for table in ("table1", "table2", "table4"):
        own = frame[frame["table"] == table]
        rows, means = own[own["open_classes"] != "mean"], own[own["open_classes"] == "mean"]
        computed = rows.groupby(["dataset", "method", "metric"])["value"].mean()
        for mean in means.to_dict("records"):
            # The paper averages unrounded numbers.
            assert mean["value"] == pytest.approx(computed[mean["dataset"], mean["method"], mean["metric"]], abs=2e-3)


@pytest.mark.parametrize(
    ("dataset", "heading"),
    [
        ("rafdb_compound", "RAF-DB (compound) as published, with the paper's settings"),
        ("affectnet", "RAF-DB as published; another data set, not comparable"),
    ],
)
def test_raf_db_with_compound_faces_is_the_papers_raf_db(dataset: str, heading: str) -> None:
    (block,) = paper_blocks(dataset, [("compound", "compound")], ["baseline", "ours"], False, {})[:1]
    assert heading in block.heading
