"""Which numbers of a row are marked best and second best."""

from __future__ import annotations

import pytest

from open_set_fer.benchmark.evaluation.metrics import AUROC, FPR_AT_TPR95, Metric
from open_set_fer.reports.tables.means import Entry, mark_best


def entries(*values: float | None, metric: Metric = AUROC, rows: tuple[str, ...] = ("fear",)) -> list[Entry]:
    return [Entry("single", "fear", "m", metric, "finished", v, coverage=frozenset(rows)) for v in values]


@pytest.mark.parametrize(
    ("values", "metric", "best", "second"),
    [
        ((0.9, 0.7, 0.8), AUROC, [0], [2]),
        ((0.9, 0.7, 0.8), FPR_AT_TPR95, [1], [2]),
        ((0.8004, 0.8, 0.7, 0.7004, 0.6), AUROC, [0, 1], [2, 3]),  # equal as displayed: the mark is shared
        ((0.9, 0.7), AUROC, [0], []),  # the worse of two is no second best
        ((0.9, None, None), AUROC, [], []),
        ((0.5, 0.5, 0.5), AUROC, [0, 1, 2], []),
    ],
)
def test_best_and_second_best(values, metric, best, second):
    made = entries(*values, metric=metric)
    mark_best(made)
    assert [k for k, e in enumerate(made) if e.best] == best
    assert [k for k, e in enumerate(made) if e.second] == second


def test_a_mean_over_fewer_rows_gets_no_mark_and_leaves_none_below_it():
    short, *whole = entries(0.7), *entries(0.9, 0.6, rows=("fear", "anger"))
    made = [*short, *whole]
    mark_best(made)
    assert [e.best for e in made] == [False, True, False]
    assert not any(e.second for e in made)
    made[0].value = 0.95
    mark_best(made)
    assert not any(e.best or e.second for e in made)


def test_no_bold_where_the_best_mean_covers_fewer_rows() -> None:
    def mean(metric: Metric, value: float | None, *rows: str) -> Entry:
        return Entry("single", "mean", "m", metric, "partial", value, coverage=frozenset(rows))

    def best(metric: Metric) -> list[bool]:
        means = [
            mean(metric, 0.7, "fear", "anger"),
            mean(metric, 0.6, "fear", "anger"),
            mean(metric, 0.8, "fear"),
            mean(metric, None),
        ]
        mark_best(means)
        return [entry.best for entry in means]

    assert best(AUROC) == [False, False, False, False]
    assert best(FPR_AT_TPR95) == [False, True, False, False]
    alone, none = mean(AUROC, 0.7, "fear"), mean(AUROC, None)
    mark_best([alone, none])
    assert not alone.best
