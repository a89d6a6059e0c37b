"""Paired tests between methods on the same faces, against a permutation of which method a score is from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from open_set_fer.benchmark.evaluation.metrics import auroc
from open_set_fer.reports.tables.build import Table, all_tables
from open_set_fer.reports.tables.means import BEST
from open_set_fer.reports.tables.paired_tests import P_VALUE, PValue
from open_set_fer.reports.tables.wording import ALL_ORIGINS, BY_ORIGIN
from tests.reports.tables.test_controls import results_of

FACES = 400
GAPS = {"baseline": 1.3, "eow": 1.0, "dias": 0.4}


def scores(gap: float, noise: int) -> pd.DataFrame:
    """Methods share half of a face's score; `noise` seeds the rest, and the order of the faces."""
    rng, own = np.random.default_rng(0), np.random.default_rng(noise)
    is_open = np.arange(FACES) % 4 == 0
    values = rng.normal(size=FACES) + own.normal(size=FACES) + gap * is_open
    columns = {"id": [f"f{i:04d}" for i in range(FACES)], "is_open": is_open, "unknown_score": values}
    return pd.DataFrame(columns | {"given_class": "a"}).sample(frac=1, random_state=noise)


def of(gap: float, place: int) -> list[pd.DataFrame]:
    return [scores(gap, 10 * place + seed) for seed in (1, 2)]


def area(frame: pd.DataFrame) -> float:
    return auroc(frame["is_open"].to_numpy(), frame["unknown_score"].to_numpy())


def paired(cells: dict[tuple[str, str, int], pd.DataFrame]) -> Table:
    made = all_tables(results_of(dict(cells)).under("own"))
    return next(table for table in made if table.name == "paired_ferplus")


def p_value(cells: dict[tuple[str, str, int], pd.DataFrame]) -> float:
    return next(entry.value for entry in paired(cells).blocks[1].entries if entry.value is not None)


def test_the_best_method_of_a_row_is_compared_with_each_other() -> None:
    cells = {
        (opened, method, seed): frame
        for opened in ("surprise", "fear")
        for place, (method, gap) in enumerate(GAPS.items())
        for seed, frame in enumerate(of(gap, place))
    }
    table = paired(cells)
    gaps, p_values = table.blocks
    assert [row.label for row in gaps.rows] == [row.label for row in p_values.rows] == ["surprise", "fear", "mean"]
    for row in (*gaps.rows, *p_values.rows):
        assert [entry.status == BEST for entry in row.entries] == [True, False, False]
    means = [np.mean([area(frame) for frame in of(gap, place)]) for place, gap in enumerate(GAPS.values())]
    assert [entry.value for entry in gaps.rows[0].entries[1:]] == pytest.approx([means[0] - x for x in means[1:]])
    assert p_values.rows[0].entries[2].text == "< 0.001"
    assert any("Holm's correction over the tests of a row" in note for note in table.notes)


def test_its_p_is_near_that_of_a_permutation() -> None:
    frames = [scores(1.2, 1), scores(0.9, 2)]
    measured = p_value({("surprise", m, 0): f for m, f in zip(("baseline", "eow"), frames, strict=True)})
    ordered = [frame.sort_values("id") for frame in frames]
    is_open, ranks = ordered[0]["is_open"].to_numpy(), [f["unknown_score"].rank().to_numpy() for f in ordered]
    seen, rng = abs(auroc(is_open, ranks[0]) - auroc(is_open, ranks[1])), np.random.default_rng(0)
    swaps = rng.random((1000, FACES)) < 0.5
    drawn = [auroc(is_open, np.where(s, *ranks)) - auroc(is_open, np.where(s, *ranks[::-1])) for s in swaps]
    assert measured == pytest.approx(np.mean(np.abs(drawn) >= seen), abs=0.04)


def test_copies_of_faces_are_one_cluster() -> None:
    once = {("surprise", m, 0): scores(gap, n) for m, gap, n in (("baseline", 1.2, 1), ("eow", 1.0, 2))}
    twice = {}
    for cell, frame in once.items():
        both = pd.concat([frame, frame.assign(id=frame["id"] + "copy")])
        twice[cell] = both.assign(twin=both["id"].str[1:5].astype(int))
    assert p_value(twice) == pytest.approx(p_value(once), rel=1e-6)


def test_there_is_no_table_without_the_scores_of_two_methods() -> None:
    made = all_tables(results_of({("surprise", "baseline", 0): scores(1, 1)}).under("own"))
    assert "paired_ferplus" not in [table.name for table in made]


def test_faces_of_both_origins_are_compared_and_the_caption_says_so() -> None:
    """On AffectNet the main table has the AUROC of transductive methods by open faces of the test split alone."""
    frames = {("surprise", m, 0): scores(gap, n) for m, gap, n in (("baseline", 1.2, 1), ("ours", 1.0, 2))}
    made = results_of(dict(frames))
    for dataset, said in (("affectnet", True), ("ferplus", False)):
        results = replace(made, cells=made.cells.assign(dataset=dataset)).under("own")
        table = next(table for table in all_tables(results) if table.name == f"paired_{dataset}")
        assert BY_ORIGIN not in table.caption
        assert (ALL_ORIGINS in table.notes) == said
        gaps = [entry.value for entry in table.blocks[0].entries if entry.value is not None]
        first, second = frames.values()
        assert gaps == pytest.approx([area(first) - area(second)])


def test_small_p_values_are_displayed_as_such() -> None:
    texts = [PValue("f", "o", "m", P_VALUE, "finished", value).text for value in (0.0004, 0.0123)]
    assert texts == ["< 0.001", "0.012"]
