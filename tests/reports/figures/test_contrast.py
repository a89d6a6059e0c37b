"""Figures 1 and 2: faces beside a data set with large inter-class distance, from a fabricated store."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from open_set_fer.benchmark.evaluation.metrics import cell_metrics
from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.reports.data.results import load
from open_set_fer.reports.figures.base import ReportFigure
from open_set_fer.reports.figures.contrast import contrast_figures
from open_set_fer.reports.render import render
from open_set_fer.reports.tables.build import DEMONSTRATION, all_tables

CLASSES = {"digits": tuple("0123"), "synthetic": BASIC[:4], "ferplus": BASIC[:5], "cifar10": ("cat", "dog", "ship")}
OPENED = {"digits": ("2", "0"), "synthetic": ("fear", "surprise"), "ferplus": ("fear",), "cifar10": ("cat",)}
"""Not in the order of the figures."""

NUMBERS = itertools.count()

Cell = tuple[str, str, str]


@dataclass
class Made:
    """A tracker, and the scores of its finished cells by (data set, open class, method)."""

    tracker: Tracker
    scores: dict[Cell, pd.DataFrame]

    def figures(self) -> dict[str, ReportFigure]:
        return {figure.name: figure for figure in contrast_figures(load(self.tracker))}


def drawn_scores(closed: tuple[str, ...], rng: np.random.Generator) -> tuple[pd.DataFrame, dict[str, float]]:
    """Scores of 90 images, 30 of them open and never taken for the last closed class, and such a cell's metrics."""
    truth = np.where(np.arange(90) % 3 == 0, -1, rng.integers(0, len(closed), 90))
    predicted = np.where(truth < 0, rng.choice(len(closed) - 1, 90), truth)
    scores = rng.normal(size=90) + (truth < 0)
    names = np.array([*closed, "open"])
    frame = pd.DataFrame(
        {
            "id": [f"face_{i}" for i in range(90)],
            "truth": names[truth],
            "is_open": truth < 0,
            "unknown_score": scores,
            "predicted_class": names[predicted],
        }
    )
    columns = {"true_class": np.where(truth < 0, "new", names[truth]), "origin": "test"}
    classes = {name: frame["predicted_class"] for name in ("closed_set_class", "given_class")}
    return frame, cell_metrics(frame.assign(**columns, **classes), closed)


def make(
    home: Path,
    datasets: tuple[str, ...],
    methods: tuple[str, ...] = ("proser", "baseline"),
    *,
    failed: frozenset[Cell] = frozenset(),
    missing: frozenset[Cell] = frozenset(),
) -> Made:
    """A new experiment in the store of `home`: a cell for each of these data sets, its opened classes and methods."""
    made = Made(Tracker(home, f"contrast-{next(NUMBERS)}"), {})
    cells = [(dataset, opened, method) for dataset in datasets for opened in OPENED[dataset] for method in methods]
    plan = [
        {"dataset": d, "protocol": "single", "open_classes": o, "method": m, "seed": 0, "cell_key": f"{d}/{o}/{m}"}
        for d, o, m in cells
    ]
    parent = made.tracker.start_benchmark(plan, "", "osfer run")
    (home / "profile.toml").write_text("seeds = [0]\n")
    rng = np.random.default_rng(0)
    for cell, planned in zip(cells, plan, strict=True):
        dataset, opened, _ = cell
        demonstration = str(dataset == "synthetic").lower()
        tags = {name: str(value) for name, value in planned.items()} | {"demonstration": demonstration}
        if cell in failed:
            made.tracker.log_failure(parent, tags, "ValueError: diverged")
        elif cell not in missing:
            made.scores[cell], metrics = drawn_scores(tuple(c for c in CLASSES[dataset] if c != opened), rng)
            made.scores[cell].to_parquet(home / "scores.parquet")
            data = DataUsed(dataset, "f" * 64, {"test": dict.fromkeys(CLASSES[dataset], 30)})
            result = CellResult(metrics, {}, tags, data=data)
            made.tracker.log_cell(parent, result, home, {})
    made.tracker.end(parent, "FINISHED")
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One store for all experiments: MLflow takes seconds to create one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tmp_path_factory.mktemp("contrast")


@pytest.fixture(scope="module")
def both(home: Path) -> Made:
    return make(home, ("synthetic", "digits"))


def texts(figure: Figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return found + [axes.get_title(loc=loc) for axes in figure.axes for loc in ("left", "center", "right")]


def bars(figure: Figure, column: int) -> dict[str, list[float]]:
    """Widths of a column's segments from left to right, by open class."""
    axes = figure.axes[column]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    found: dict[str, list[float]] = {label: [] for label in labels}
    patches: list[Any] = list(axes.patches)
    for patch in sorted(patches, key=lambda p: p.get_x()):
        found[labels[round(patch.get_y() + patch.get_height() / 2)]].append(patch.get_width())
    return found


@pytest.mark.parametrize(
    ("datasets", "pairs"),
    [
        (("synthetic",), []),
        (("synthetic", "ferplus"), []),
        (("digits", "cifar10"), []),
        (("ferplus", "cifar10"), ["ferplus_cifar10"]),
        (("cifar10", "synthetic", "ferplus"), ["synthetic_cifar10", "ferplus_cifar10"]),
    ],
)
def test_drawn_only_where_both_kinds_are(home: Path, datasets: tuple[str, ...], pairs: list[str]) -> None:
    names = list(make(home, datasets, ("baseline",)).figures())
    assert names == [f"figure{number}_{pair}" for pair in pairs for number in (1, 2)]


def test_figure_1_states_the_pooled_and_the_mean_auroc(both: Made) -> None:
    figure = both.figures()["figure1_synthetic_digits"].figure
    shown = iter(figure.axes)
    for method in ("baseline", "proser"):
        for dataset in ("digits", "synthetic"):
            frames = [frame for cell, frame in both.scores.items() if cell[::2] == (dataset, method)]
            assert len(frames) == 2
            together = pd.concat(frames)
            pooled = roc_auc_score(together["is_open"], together["unknown_score"])
            mean = np.mean([roc_auc_score(frame["is_open"], frame["unknown_score"]) for frame in frames])
            assert next(shown).get_title() == f"AUROC pooled {pooled:.3f}, mean {mean:.3f} (n = 2)"
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["Baseline (MSP)", "PROSER"]
    assert [axes.get_title(loc="left").strip() for axes in figure.axes[:2]] == ["Digits", "Rendered faces"]


def test_figure_1_has_at_most_three_methods(home: Path) -> None:
    made = make(home, ("digits", "ferplus"), ("max-logit", "ours", "proser", "baseline"))
    axes = made.figures()["figure1_ferplus_digits"].figure.axes
    assert [panel.get_ylabel() for panel in axes[::2]] == ["Baseline (MSP)", "PROSER", "Ours"]


def test_figure_2_shows_the_shares_and_entropies(both: Made) -> None:
    figure = both.figures()["figure2_synthetic_digits"].figure
    for column, (dataset, order) in enumerate((("digits", ["2", "0"]), ("synthetic", ["surprise", "fear"]))):
        shown = bars(figure, column)
        assert list(shown) == order
        assert figure.axes[column].get_title(loc="left") == {"digits": "Digits", "synthetic": "Rendered faces"}[dataset]
        written = [text.get_text() for text in figure.axes[column].texts]
        for opened, widths in shown.items():
            frame = both.scores[dataset, opened, "baseline"]
            counts = Counter(frame.loc[frame["is_open"], "predicted_class"])
            expected = sorted((n / 30 for n in counts.values()), reverse=True)
            assert widths[: len(expected)] == pytest.approx(expected)
            assert widths[len(expected) :] == [0.0] * (3 - len(expected))  # three closed classes
            assert len(expected) < 3
            entropy = -sum(p * np.log(p) for p in expected) / np.log(3)
            assert f"{entropy:.2f}" in written
            assert f"{counts.most_common(1)[0][0]}: {expected[0]:.0%}" in written
        assert {tuple(line.get_xdata()) for line in figure.axes[column].lines} == {(1 / 3, 1 / 3)}


def test_captions_say_demonstration_only_for_rendered_faces(both: Made, home: Path) -> None:
    for picture in both.figures().values():
        assert DEMONSTRATION in picture.caption.lower()
        assert "nan" not in picture.caption + picture.alternative
    for picture in make(home, ("ferplus", "digits"), ("baseline",)).figures().values():
        assert DEMONSTRATION not in picture.caption.lower()


def test_missing_and_failed_cells_are_shown_as_such(home: Path) -> None:
    failed = {("digits", "2", "baseline"), ("synthetic", "fear", "proser"), ("synthetic", "surprise", "proser")}
    missing = {("synthetic", "fear", "baseline")}
    made = make(home, ("digits", "synthetic"), failed=frozenset(failed), missing=frozenset(missing))
    pictures = made.figures()
    first, second = (pictures[f"figure{number}_synthetic_digits"].figure for number in (1, 2))
    assert [axes.get_ylabel() for axes in first.axes[::2]] == ["Baseline (MSP)"]  # no proser on faces
    assert all("(n = 1 of 2)" in axes.get_title() for axes in first.axes)
    assert {"failed", "missing"} <= set(texts(second))
    assert [name for name, widths in bars(second, 0).items() if widths] == ["0"]
    assert [name for name, widths in bars(second, 1).items() if widths] == ["surprise"]


def test_nothing_is_drawn_without_a_method_that_both_have(home: Path) -> None:
    failed = frozenset({("digits", opened, "baseline") for opened in OPENED["digits"]})
    gone = frozenset({("ferplus", "fear", "proser")})
    assert make(home, ("digits", "ferplus"), failed=failed, missing=gone).figures() == {}


def test_without_a_baseline_there_is_no_figure_2(home: Path) -> None:
    assert list(make(home, ("digits", "ferplus"), ("proser",)).figures()) == ["figure1_ferplus_digits"]


def test_scores_that_are_gone_are_said_to_be(both: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(run_id: str) -> Any:
        raise FileNotFoundError(run_id)

    monkeypatch.setattr(both.tracker, "read_scores", gone)
    for shown in both.figures().values():
        assert "scores not found" in texts(shown.figure)


def test_they_come_first_on_the_page_and_as_files(both: Made, tmp_path: Path) -> None:
    page = render(both.tracker, tmp_path).read_text("utf-8")
    places = [
        page.index(f'<figure id="{name}">')
        for name in ("figure1_synthetic_digits", "figure2_synthetic_digits", "auroc_synthetic")
    ]
    assert places == sorted(places)
    for number in (1, 2):
        for suffix in ("png", "pdf", "svg"):
            assert (tmp_path / "figures" / f"figure{number}_synthetic_digits.{suffix}").stat().st_size > 1000


def test_no_printed_numbers_beside_classes_that_the_paper_never_opened(tmp_path):
    tables = all_tables(load(make(tmp_path, ("digits", "synthetic")).tracker))
    headings = {t.dataset: [block.heading for block in t.blocks] for t in tables if t.name.startswith("table1")}
    assert not any("Paper" in heading for heading in headings["digits"])
    assert any("Paper" in heading for heading in headings["synthetic"])
