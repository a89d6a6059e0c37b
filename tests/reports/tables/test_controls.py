"""Sensitivity, added information and verdicts of constructed scores; marks and sentences that follow from them."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from open_set_fer.benchmark.evaluation.metrics import area_of, information_strata, label_strata
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.results import Results, typed_frame
from open_set_fer.reports.page.summary import summaries
from open_set_fer.reports.tables.build import INDUCTIVE, TRANSDUCTIVE, Table, all_tables
from open_set_fer.reports.tables.controls import controls_of, information_of, verdict
from open_set_fer.reports.tables.latex import to_latex
from open_set_fer.reports.tables.marks import heading_mark, mark_notes
from open_set_fer.reports.tables.readings import reading
from open_set_fer.reports.tables.text import to_frame, to_markdown
from open_set_fer.reports.tables.wide import wide_tables

SPIKED, TRUE = "surprise (5% of labels flipped in the pool)", "surprise (20% of true labels flipped)"
FACES = 600
LABEL_BASED = ("ours", "small-loss", "label-loss", "label-frequency", "cleanlab")


class Scores:
    """In the place of a tracker: scores by run id."""

    def __init__(self, frames: dict[str, pd.DataFrame]) -> None:
        self.frames = frames

    def read_scores(self, run_id: str) -> pd.DataFrame:
        if run_id not in self.frames:
            raise FileNotFoundError(run_id)
        return self.frames[run_id]


def table_of_scores(gap: float, noise: int, seed: int = 0, of_labels: float = 0.0) -> pd.DataFrame:
    """Wrong labels score `gap` higher; label b is wrong three times as often as a, and scores `of_labels` higher.

    noise: seed of what two methods do not share; seed: of the flips and of what a face has in every method.
    """
    rng, own = np.random.default_rng(seed), np.random.default_rng([noise, seed])
    labels = rng.choice(["a", "b"], FACES)
    is_open = rng.random(FACES) < np.where(labels == "b", 0.3, 0.1)
    scores = rng.normal(size=FACES) + 0.5 * own.normal(size=FACES) + gap * is_open + of_labels * (labels == "b")
    columns = {"id": [f"face_{i}" for i in range(FACES)], "is_open": is_open, "unknown_score": scores}
    return pd.DataFrame(columns | {"given_class": labels}).sample(frac=1, random_state=noise)


def results_of(cells: dict[tuple[str, str, int], pd.DataFrame | dict[str, float]], scores: bool = True) -> Results:
    """Results by (open classes, method, seed) on FERPlus: scores, whose areas are measured, or metrics."""
    rows, frames = [], {}
    for number, ((opened, method, seed), made) in enumerate(cells.items()):
        metrics = made
        if isinstance(made, pd.DataFrame):
            frames[f"run{number}"] = made
            metrics = {}
            measured = {"auroc": None, "auroc_within_label": label_strata(made)}
            if "closed_set_loss" in made:
                measured["added_information"] = information_strata(made)
            for name, strata in measured.items():
                area = area_of(made, strata)
                assert area is not None
                low, high = area.interval()
                metrics |= {name: area.value, f"{name}_low": low, f"{name}_high": high}
        rows.append(
            {
                **{"dataset": "ferplus", "protocol": "single", "open_classes": opened, "method": method, "seed": seed},
                **{"status": "finished", "run_id": f"run{number}", "reads_labels": "true", "notes": ()},
                **{"label_based": str(method in LABEL_BASED).lower(), "sees_pool": str(method == "ours").lower()},
                **cast("dict[str, Any]", {"fpr_at_tpr95": 0.5} | metrics),
            }
        )
    tracker = cast("Tracker", Scores(frames if scores else {}))
    return Results("made", "1", typed_frame(rows, {}), {}, (), tracker)


OPEN = {"auroc": 0.6, "closed_accuracy": 0.8, "closed_set_accuracy": 0.8}


def control_of(gap: float, plain: float = 1.5, **changes: Any) -> Results:
    """`ours` and small-loss on one spiked cell of two seeds, and on an open cell."""
    cells: dict[tuple[str, str, int], pd.DataFrame | dict[str, float]] = {("surprise", "ours", 0): OPEN | changes}
    for seed in (0, 1):
        cells[SPIKED, "ours", seed] = table_of_scores(gap, 1, seed)
        cells[SPIKED, "small-loss", seed] = table_of_scores(plain, 2, seed)
    return results_of(cells)


@pytest.mark.parametrize(
    ("gap", "plain", "expected"),
    [(0.0, 1.5, "blind"), (0.7, 1.5, "weak"), (1.5, 1.5, "sensitive"), (1.5, 0.0, "sensitive"), (-1.0, 0.0, "blind")],
)
def test_the_verdict_goes_by_chance_and_by_small_loss(gap: float, plain: float, expected: str) -> None:
    results = control_of(gap, plain)
    assert verdict(results, "ferplus", "ours") == expected
    assert ("§" in heading_mark(results.under("own"), "ferplus", "ours")) == (expected == "blind")


def test_the_label_histogram_alone_is_blind_whatever_its_auroc() -> None:
    scores = table_of_scores(0.0, 1, of_labels=9.0)
    results = results_of({(SPIKED, "ours", 0): scores})
    assert results.cells["auroc"].item() > 0.6
    assert verdict(results, "ferplus", "ours") == "blind"


def test_sensitivity_is_the_mean_and_its_error_takes_a_face_of_two_seeds_for_one_cluster() -> None:
    results = control_of(1.0)
    (control,) = controls_of(results, "ferplus", "ours")
    pairs = []
    for seed in (0, 1):
        scores = table_of_scores(1.0, 1, seed)
        won = n = 0.0
        for label in "ab":
            of = scores[scores["given_class"] == label]
            opened, closed = (of.loc[of["is_open"] == kind, "unknown_score"].to_numpy() for kind in (True, False))
            won += float(np.sum(opened[:, None] > closed) + np.sum(opened[:, None] == closed) / 2)
            n += len(opened) * len(closed)
        pairs.append(won / n)
    assert control.value == pytest.approx(np.mean(pairs))
    assert control.counted == "2 cells"
    # Two seeds of the very same scores tell no more than one; two of other faces tell more.
    same = {(SPIKED, "ours", seed): table_of_scores(1.0, 1) for seed in (0, 1)}
    one = controls_of(results_of({(SPIKED, "ours", 0): table_of_scores(1.0, 1)}), "ferplus", "ours")[0].error
    (twice,) = controls_of(results_of(same), "ferplus", "ours")
    assert one is not None
    assert twice.error == pytest.approx(one)
    others = {cell: scores.assign(id=scores["id"] + str(cell[2])) for cell, scores in same.items()}
    (independent,) = controls_of(results_of(others), "ferplus", "ours")
    assert independent.error == pytest.approx(one / np.sqrt(2), rel=0.01)


def test_the_gap_is_paired_so_its_interval_is_narrower_than_that_of_either() -> None:
    (control,) = controls_of(control_of(1.5), "ferplus", "ours")
    assert control.gap is not None
    assert control.error is not None
    assert control.gap.error < control.error
    assert control.gap.value == pytest.approx(control.value - control.others["small-loss"].value)


def test_without_scores_the_columns_give_an_interval_that_is_no_narrower() -> None:
    cells = {(SPIKED, "ours", seed): table_of_scores(1.0, 1, seed) for seed in (0, 1)}
    measured, columns = (controls_of(results_of(cells, kept), "ferplus", "ours")[0] for kept in (True, False))
    assert columns.value == measured.value
    assert columns.error >= measured.error
    assert (columns.gap, columns.verdict) == (None, "sensitive")


def test_spiked_counts_before_true_labels_flipped() -> None:
    cells = {(TRUE, "ours", 0): table_of_scores(2.0, 1), (SPIKED, "ours", 0): table_of_scores(0.0, 1)}
    results = results_of(cells)
    assert [control.labels for control in controls_of(results, "ferplus", "ours")] == ["spiked", "flipped-true"]
    assert verdict(results, "ferplus", "ours") == "blind"


def test_label_loss_is_a_ceiling_and_other_methods_are_not_asked() -> None:
    cells = {(SPIKED, method, 0): table_of_scores(0.0, 1) for method in ("label-loss", "baseline")}
    results = results_of(cells)
    assert verdict(results, "ferplus", "label-loss") is None
    assert "a ceiling without a pass mark" in reading(results, "ferplus", "label-loss")
    assert (controls_of(results, "ferplus", "baseline"), reading(results, "ferplus", "baseline")) == ([], "")


def test_one_sentence_a_method_says_what_the_two_numbers_mean() -> None:
    said = {gap: reading(control_of(gap), "ferplus", "ours") for gap in (0.0, 0.7, 1.5)}
    assert said[0.0].startswith("Ours: blind: it does not find wrong labels (S 0.")
    assert said[0.0].endswith("; its AUROC is no evidence on the method.")
    assert said[0.7].startswith("Ours: weak: it finds fewer wrong labels than plain training does (S 0.")
    assert said[1.5].startswith("Ours: sensitive: it finds wrong labels (S 0.")
    ends = {"added_information": 0.4, "added_information_low": 0.35, "added_information_high": 0.45}
    below = reading(control_of(1.5, **ends), "ferplus", "ours")
    assert "it ranks open ones below closed ones (I 0.400 [0.350, 0.450])" in below
    unknown = reading(control_of(1.5, **dict.fromkeys(ends, 0.6)), "ferplus", "ours")
    assert unknown.endswith("on open faces, not compared with that of the closed-set model's own loss.")
    lacking = reading(results_of({("surprise", "cleanlab", 0): OPEN}), "ferplus", "cleanlab")
    command = "osfer run --profile made --dataset ferplus --method cleanlab,small-loss --labels spiked"
    assert lacking == f"Cleanlab: control not run, so whether it finds wrong labels is not known: `{command}`."
    frequency = reading(results_of({("surprise", "label-frequency", 0): OPEN}), "ferplus", "label-frequency")
    assert "looks at no face" in frequency


def with_model(scores: pd.DataFrame, gap: float) -> pd.DataFrame:
    """The scores beside a model's loss that finds open faces; both have `gap` and what the model knows in common."""
    loss = np.random.default_rng(8).normal(size=FACES) + scores.sort_index()["is_open"]
    score = scores["is_open"] * gap + loss + 0.3 * np.random.default_rng(9).normal(size=FACES)
    return scores.assign(closed_set_loss=loss, unknown_score=score)


@pytest.mark.parametrize(("gap", "said"), [(0.0, "adds nothing to"), (2.0, "adds to")])
def test_a_method_adds_to_the_model_if_its_information_is_above_that_of_the_models_own_loss(
    gap: float, said: str
) -> None:
    scores = with_model(table_of_scores(0.0, 1), gap)
    cells = {(SPIKED, "ours", 0): table_of_scores(1.5, 1), ("surprise", "ours", 0): scores}
    results = results_of(cells)
    found = information_of(results, "ferplus", "ours")
    values = []
    for column in ("unknown_score", "closed_set_loss"):  # by the pairs of each stratum
        decile = scores["closed_set_loss"].rank(method="first").sub(1) // (FACES // 10)
        won = n = 0.0
        for _, of in scores.groupby(["given_class", decile]):
            opened, closed = (of.loc[of["is_open"] == kind, column].to_numpy() for kind in (True, False))
            won += float(np.sum(opened[:, None] > closed) + np.sum(opened[:, None] == closed) / 2)
            n += len(opened) * len(closed)
        values.append(won / n)
    assert values[1] > 0.5, "the model's own loss is above chance in its deciles"
    assert found.value == pytest.approx(values[0])
    assert found.gap is not None
    assert found.gap.value == pytest.approx(values[0] - values[1])
    text = reading(results, "ferplus", "ours")
    assert f"on open faces its score {said} the closed-set model's own" in text
    assert f"less that of the model's loss: {found.gap.value:+.3f} [" in text


def test_other_starts_are_not_compared_and_an_undefined_error_gives_no_verdict() -> None:
    cells = {(SPIKED, method, 0): table_of_scores(gap, 1) for method, gap in (("ours", 0.7), ("small-loss", 1.5))}
    results = results_of(cells)
    assert verdict(results, "ferplus", "ours") == "weak"
    results.every_cell.loc[results.every_cell["method"] == "small-loss", "title"] = "Small loss (closed-set stages)"
    assert verdict(results, "ferplus", "ours") == "sensitive"
    assert "not compared with small-loss, whose network starts otherwise" in reading(results, "ferplus", "ours")
    (control,) = controls_of(results, "ferplus", "ours")
    control.error = float("nan")
    assert control.verdict is None


def open_cells(accuracy: float = 0.8, high: float = 0.7) -> Results:
    """EOW and the baseline with surprise and fear open; only the first cell of EOW has another upper end."""
    usual = OPEN | {"auroc_low": 0.5, "auroc_high": 0.7}
    cells: dict[tuple[str, str, int], pd.DataFrame | dict[str, float]] = {
        (opened, method, seed): usual
        for opened, method, seed in product(("surprise", "fear"), ("baseline", "eow"), (0, 1))
    }
    for seed in (0, 1):
        cells["surprise", "eow", seed] = usual | {"auroc_high": high, "auroc": 0.4, "closed_accuracy": accuracy}
        cells["fear", "eow", seed] = usual | {"closed_accuracy": accuracy}
    return results_of(cells).under("own")


def table1(results: Results) -> Table:
    return next(table for table in all_tables(results) if table.name == "table1_ferplus")


@pytest.mark.parametrize(("accuracy", "is_marked"), [(0.8, False), (0.75, False), (0.749, True), (0.5, True)])
def test_a_less_accurate_network_is_marked(accuracy: float, is_marked: bool) -> None:
    results = open_cells(accuracy)
    assert heading_mark(results, "ferplus", "eow") == "¶" * is_marked
    assert heading_mark(results, "ferplus", "baseline") == ""
    table = table1(results)
    assert table.heads == ["Baseline (MSP)", "EOW" + "¶" * is_marked]
    notes = [note for note in table.notes if note.startswith("¶")]
    assert [f"EOW ({accuracy:.3f}, shared model 0.800)" in note for note in notes] == [True] * is_marked
    assert (r"EOW\textsuperscript{\P}" in to_latex(table)) == is_marked


@pytest.mark.parametrize(("high", "is_marked"), [(0.499, True), (0.5, False), (0.6, False)])
def test_an_interval_below_chance_is_no_detector(high: float, is_marked: bool) -> None:
    table = table1(open_cells(high=high))
    marks = {(e.open_classes, e.method): e.mark for e in table.blocks[0].entries if e.mark}
    assert marks == ({("surprise", "eow"): "×"} if is_marked else {})
    assert any(note.startswith("× No detector in that cell") for note in table.notes) == is_marked
    assert (r"$^\times$" in to_latex(table)) == is_marked


def test_closed_accuracy_stands_in_the_main_tables_and_in_the_papers_layout() -> None:
    results = open_cells(0.7)
    block = table1(results).blocks[2]
    assert block.heading == "closed accuracy (higher is better)"
    assert [[entry.number for entry in row.entries] for row in block.rows] == [["0.800", "0.700"]] * 3
    assert not any(entry.best for entry in block.entries)
    form = next(table for table in wide_tables(results) if table.name == "printed_table1")
    row = form.blocks[-1].rows[-1]
    assert row.label == "closed accuracy, mean"
    assert [entry.text + entry.mark for entry in row.entries] == ["0.800", "0.700¶", "", ""]
    assert "\nclosed accuracy, mean & 0.800 & 0.700\\textsuperscript{\\P} &  &  \\\\\n" in to_latex(form)


def test_captions_say_which_class_is_positive() -> None:
    results = open_cells()
    tables = {table.name: table for table in [*all_tables(results), *wide_tables(results)]}
    for name in ("table1_ferplus", "printed_table1"):
        assert "FPR@TPR95: closed faces are positive" in tables[name].caption
        assert "closed faces are positive" in to_latex(tables[name])
    side = " ".join(tables["side_ferplus_single"].notes)
    assert "Positive: closed faces in FPR@TPR95 and AUPR closed, open ones in FPR@TPR95, open positive" in side
    assert "AUPR: average precision (no trapezoids)" in side


def test_a_table_has_sensitivity_small_loss_ceiling_and_information_beside_its_numbers() -> None:
    information = {"added_information": 0.6, "added_information_low": 0.55, "added_information_high": 0.65}
    cells: dict[tuple[str, str, int], pd.DataFrame | dict[str, float]] = {
        ("surprise", method, 0): OPEN | information for method in ("baseline", "ours", "cleanlab")
    }
    for method, gap in (("ours", 0.0), ("small-loss", 1.5), ("label-loss", 3.0)):
        cells[TRUE, method, 0] = table_of_scores(gap, 1)
    results = results_of(cells).under("own")
    table = table1(results)
    control, added = (block for block in table.blocks if "assigned label" in block.heading)
    assert control.heading.startswith("Positive control, 20% of true labels flipped: AUROC of wrong labels")
    texts = {row.label: dict(zip(table.headings, (e.text for e in row.entries), strict=True)) for row in control.rows}
    (own,) = controls_of(results, "ferplus", "ours")
    assert texts["sensitivity S"] == {"baseline": "", "cleanlab": "not run", "ours": f"{own.number} {own.spread}"}
    assert texts["small-loss, same cells"]["ours"] == own.others["small-loss"].number
    assert texts["label-loss (ceiling)"]["ours"] == own.others["label-loss"].number
    assert [entry.text for entry in added.rows[0].entries] == ["", "0.600 [0.550, 0.650]", "0.600 [0.550, 0.650]"]
    assert table.headings["ours"] == "Ours§"
    assert table.groups(range(3)) == [(INDUCTIVE, 2), (TRANSDUCTIVE, 1)]
    assert any(note.startswith("§ Blind by the control") for note in table.notes)
    assert reading(results, "ferplus", "ours") in table.notes
    frame, markdown = to_frame(table), to_markdown(table)
    assert set(frame.loc[frame["verdict"] == "blind", "method"]) == {"ours"}
    sensitivity = frame[frame["metric"] == "sensitivity"].set_index("method")
    assert sensitivity.loc["ours", "value"] == own.value
    assert sensitivity.loc["cleanlab", "status"] == "not run"
    assert "| Ours§ |" in markdown
    (summary,) = summaries(results)
    assert "by its control it is blind (§), so this is no evidence on the method" in summary.finding
    readings = {row.method: row.reading for row in summary.standings}
    assert readings["ours"].startswith("Ours: blind")
    assert readings["baseline"] == ""


def test_a_store_without_label_based_methods_says_nothing_of_controls() -> None:
    results = open_cells()
    text = " ".join(to_markdown(table) + to_latex(table) for table in all_tables(results))
    assert "ontrol" not in text
    assert mark_notes(results, "ferplus", ["baseline", "eow"]) == []
    assert information_of(results, "ferplus", "eow").value is None
