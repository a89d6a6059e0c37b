"""Reports from a fabricated store: what is shown, marked, bold, missing, and what the page holds."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from open_set_fer.benchmark.metrics import AUROC, FPR_AT_TPR95, Metric
from open_set_fer.benchmark.pictures import score_histogram
from open_set_fer.benchmark.tracking import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.reports.entries import Entry, mark_best
from open_set_fer.reports.figures import all_figures
from open_set_fer.reports.formats import to_markdown
from open_set_fer.reports.latex import to_latex
from open_set_fer.reports.paper import paper_results, paper_value
from open_set_fer.reports.query import Results, _notes, load, method_order, protocol_order
from open_set_fer.reports.render import render
from open_set_fer.reports.tables import DEMONSTRATION, Table, all_tables
from tests.reports.conftest import ODD, Store

PAPER = 2
"""Index of the first block with the paper's numbers in a table with two measured blocks."""


@pytest.fixture(scope="session")
def results(store: Store) -> Results:
    return load(store.tracker)


@pytest.fixture(scope="session")
def tables(results: Results) -> dict[str, Table]:
    return {table.name: table for table in all_tables(results)}


@pytest.fixture(scope="session")
def rendered(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    stale = {"tables/table9_gone.csv": "stale", "figures/gone.png": "old"}
    for name, text in stale.items():
        (out / name).parent.mkdir()
        (out / name).write_text(text)
    digests = {name: [hashlib.sha256(text.encode()).hexdigest()] for name, text in stale.items()}
    (out / ".osfer-report.json").write_text(json.dumps(digests))  # as an earlier report leaves it
    assert render(store.tracker, out) == out / "index.html"
    return out


def entry(table: Table, block: int, label: str, method: str) -> Entry:
    row = next(row for row in table.blocks[block].rows if row.label == label)
    return row.entries[table.columns.index(method)]


def csv(rendered: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(rendered / "tables" / f"{name}.csv", engine="python")  # reads floats as Python does


# -- query -------------------------------------------------------------------------------------------------------------


def test_every_planned_cell_has_a_status(results: Results, store: Store) -> None:
    assert len(results.cells) == len(store.plan)
    assert results.cells["status"].value_counts().to_dict() == {"finished": 20, "failed": 4, "missing": 4}
    assert results.demonstrations == {"synthetic"}


def test_the_run_with_the_planned_settings_counts(results: Results, store: Store) -> None:
    cells = results.cells.set_index(["dataset", "open_classes", "method", "seed"])
    assert cells.loc[("synthetic", "surprise", "baseline", 0), "settings_key"] == "b"
    shown = store.logged["synthetic", "surprise", "baseline", 0]["auroc"]
    assert cells.loc[("synthetic", "surprise", "baseline", 0), "auroc"] == shown
    assert cells.loc[("synthetic", "surprise", "dias", 0), "status"] == "finished"  # failed before
    assert cells.loc[("synthetic", "fear", "dias", 0), "status"] == "failed"  # finished before, with other settings


def test_warnings_name_duplicates_settings_and_commits(results: Results) -> None:
    found = {(warn.methods, warn.text) for warn in results.warnings}
    assert (
        ("baseline",),
        "also finished with other settings; those of the latest plan are shown: surprise seed 0.",
    ) in found
    assert (("baseline",), "the cells shown were computed with 2 different settings.") in found
    assert ((ODD,), "computed from a checkout with uncommitted changes (c0ffee-dirty).") in found
    hidden = (
        "failed with the settings of the latest plan; a run with other settings finished and is not shown: fear seed 0."
    )
    assert (("dias",), hidden) in found
    assert len(found) == 4
    assert not results.warnings_for("ferplus", ["baseline", "ours"])


def test_nothing_finished_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(tmp_path / "home", "empty")
    with pytest.raises(SuiteError, match=r"'empty' has no finished cell(.|\n)*osfer run --profile empty"):
        render(tracker, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_notes_cut_at_the_tags_length_are_kept() -> None:
    assert _notes('["a", "b"]') == ("a", "b")
    assert _notes('["a", "lo') == ('["a", "lo',)
    assert _notes("") == ()


def test_orders() -> None:
    assert method_order(["x", "ours", "dias", "a", "baseline"]) == ["baseline", "dias", "ours", "x", "a"]
    rows = [("pairs", "fear+disgust"), ("single", "neutral"), ("pairs", "surprise+fear"), ("single", "zeal"),
            ("single", "fear")]  # fmt: skip
    assert [label for _, label in protocol_order(rows)] == ["fear", "neutral", "zeal", "surprise+fear", "fear+disgust"]


# -- tables ------------------------------------------------------------------------------------------------------------


def test_table_1_has_the_papers_order(tables: dict[str, Table]) -> None:
    table = tables["table1_synthetic"]
    assert table.columns == ["baseline", "eow", "dias", "ours", ODD]
    assert [row.label for row in table.blocks[0].rows] == ["surprise", "fear", "disgust", "mean"]
    assert [block.heading for block in table.blocks[:2]] == ["AUROC (higher is better)", "FPR@TPR95 (lower is better)"]


def test_states_are_shown_and_counted(tables: dict[str, Table]) -> None:
    table = tables["table1_synthetic"]
    assert entry(table, 0, "disgust", "eow").text == "—"
    assert entry(table, 0, "fear", "eow").text == "failed"
    assert entry(table, 0, "disgust", ODD).text == "·"
    assert entry(table, 0, "disgust", "baseline").text == "0.500 ± 0.000"  # constant scores
    assert entry(table, 0, "fear", "ours").mark == "‡"
    assert "3 of 21 cells missing, 3 failed." in table.caption
    assert "over 1 to 2 seeds" in table.caption


def test_means_over_incomplete_columns_are_marked(tables: dict[str, Table], store: Store) -> None:
    table = tables["table1_synthetic"]
    mean = entry(table, 0, "mean", "eow")
    of_eow = [store.logged["synthetic", "surprise", "eow", seed]["auroc"] for seed in (0, 1)]
    assert mean.value == pytest.approx(np.mean(of_eow))
    assert (mean.mark, mean.std) == ("†", None)
    assert entry(table, 0, "mean", "ours").mark == "†"
    assert entry(table, 0, "mean", "baseline").mark == ""
    marked = next(note for note in table.footnotes if note.startswith("†"))
    assert "1 of 3 rows for EOW" in marked
    assert "3 of 3 rows (5 of 6 cells) for Ours" in marked


def test_means_and_deviations_agree_with_pandas(tables: dict[str, Table], store: Store) -> None:
    logged = pd.DataFrame(
        [{"dataset": d, "open": o, "method": m, "seed": s, **v} for (d, o, m, s), v in store.logged.items()]
    )
    for block, metric in enumerate(("auroc", "fpr_at_tpr95")):
        frame = logged[(logged["dataset"] == "synthetic") & (logged["open"] != "compound")]
        expected = frame.groupby(["open", "method"])[metric].agg(["mean", "std", "count"])
        for opened, method in [("surprise", "baseline"), ("surprise", "ours"), ("fear", "ours"), ("disgust", "ours")]:
            shown = entry(tables["table1_synthetic"], block, opened, method)
            want = expected.loc[(opened, method)]
            assert shown.value == pytest.approx(want["mean"])
            assert len(shown.by_seed) == want["count"]
            if want["count"] > 1:
                assert shown.std == pytest.approx(want["std"])
        mean = entry(tables["table1_synthetic"], block, "mean", "baseline")
        by_seed = frame[frame["method"] == "baseline"].groupby("seed")[metric].mean()
        assert mean.value == pytest.approx(by_seed.mean())
        assert mean.std == pytest.approx(by_seed.std(ddof=1))


def test_bold_is_the_best_of_its_row(tables: dict[str, Table]) -> None:
    for name in ("table1_synthetic", "table1_ferplus"):
        for block, pick in ((0, max), (1, min)):
            for row in tables[name].blocks[block].rows:
                values = [round(e.value, 3) for e in row.entries if e.value is not None]
                bold = [round(e.value, 3) for e in row.entries if e.best and e.value is not None]
                if not row.is_mean:
                    assert set(bold) == ({pick(values)} if len(values) > 1 else set())
    shown = tables["table1_synthetic"].blocks[0].rows[-1].entries
    assert not any(e.best for e in shown if len(e.coverage) < 3)


def test_no_bold_where_the_best_mean_covers_fewer_rows() -> None:
    def mean(metric: Metric, value: float | None, *rows: str) -> Entry:
        return Entry("single", "mean", "m", metric, "partial", value, coverage=frozenset(rows))

    def best(metric: Metric) -> list[bool]:
        means = [mean(metric, 0.7, "fear", "anger"), mean(metric, 0.6, "fear", "anger"), mean(metric, 0.8, "fear"),
                 mean(metric, None)]  # fmt: skip
        mark_best(means)
        return [entry.best for entry in means]

    assert best(AUROC) == [False, False, False, False]
    assert best(FPR_AT_TPR95) == [False, True, False, False]
    alone, none = mean(AUROC, 0.7, "fear"), mean(AUROC, None)
    mark_best([alone, none])
    assert not alone.best


def test_demonstration_captions(results: Results, tables: dict[str, Table]) -> None:
    for table in tables.values():
        assert (DEMONSTRATION in table.caption.lower()) == (table.dataset == "synthetic")
        assert (DEMONSTRATION in to_latex(table).lower()) == (table.dataset == "synthetic")
    assert {"table4_synthetic", "table5_synthetic", "table3_synthetic", "side_ferplus_single"} <= set(tables)


def test_paper_blocks_say_what_they_are(tables: dict[str, Table]) -> None:
    demonstration, ferplus = tables["table1_synthetic"], tables["table1_ferplus"]
    assert "RAF-DB as printed; another data set, not comparable" in demonstration.blocks[PAPER].heading
    assert (
        ferplus.blocks[PAPER].heading
        == "Paper (FERPlus as printed, with the paper's settings): AUROC (higher is better)"
    )
    assert entry(ferplus, PAPER, "surprise", "ours").text == "0.933"
    assert entry(ferplus, PAPER, "mean", "baseline").text == "0.424"
    assert len(ferplus.blocks) == PAPER + 1  # no FPR@TPR95 is printed for FERPlus


def test_footnotes_carry_warnings_of_shown_methods_only(tables: dict[str, Table]) -> None:
    of = {name: " ".join(table.footnotes) for name, table in tables.items()}
    assert "2 different settings" in of["table1_synthetic"]
    assert "Warning" not in of["table4_synthetic"]
    assert "Warning" not in of["table1_ferplus"]


def test_side_measurements(tables: dict[str, Table]) -> None:
    table = tables["side_synthetic_single"]
    surprise = next(block for block in table.blocks if block.heading == "surprise")
    odd = next(row for row in surprise.rows if row.label == ODD)
    texts = dict(zip(table.columns, (e.text for e in odd.entries), strict=True))
    assert texts["model accuracy"] == "n/a"
    assert texts["open faces"] == "20"
    assert texts["seconds"] == "12.3"


def test_markdown_rows_have_every_column(tables: dict[str, Table]) -> None:
    text = to_markdown(tables["table1_synthetic"])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {7}
    assert r"my\_method & 50% \#1" in text
    assert "**" in text


# -- files -------------------------------------------------------------------------------------------------------------


def test_csv_repeats_the_logged_numbers_exactly(rendered: Path, store: Store) -> None:
    cells = csv(rendered, "cells").set_index(["dataset", "open_classes", "method", "seed"])
    for coordinates, metrics in store.logged.items():
        if coordinates == ("synthetic", "fear", "dias", 0):  # hidden by a later failure
            continue
        for name, value in metrics.items():
            assert cells.loc[coordinates, name] == value
    assert cells.loc[("synthetic", "fear", "eow", 0), "error"] == "ValueError: <diverged> & more"
    table = csv(rendered, "table1_ferplus").set_index(["open_classes", "method", "metric"])
    assert table.loc[("surprise", "ours", "auroc"), "value"] == store.logged["ferplus", "surprise", "ours", 0]["auroc"]
    assert table.loc[("surprise", "ours", "auroc"), "paper"] == 0.933


def test_csv_is_tidy(rendered: Path) -> None:
    frame = csv(rendered, "table1_synthetic")
    assert not frame.duplicated(["open_classes", "method", "metric"]).any()
    by = frame.set_index(["open_classes", "method", "metric"])
    assert by.loc[("surprise", "baseline", "auroc"), ["n_seeds", "n_cells", "n_planned", "status"]].tolist() == [
        2, 2, 2, "finished",
    ]  # fmt: skip
    assert by.loc[("fear", "ours", "auroc"), "status"] == "partial"
    assert by.loc[("fear", "eow", "auroc"), "status"] == "failed"
    assert by.loc[("mean", "eow", "auroc"), ["n_cells", "n_planned", "status"]].tolist() == [2, 6, "partial"]
    assert frame["paper"].isna().all()  # the paper has no such data set


def test_files_are_complete_and_stale_ones_gone(rendered: Path, tables: dict[str, Table]) -> None:
    names = {path.name for path in (rendered / "tables").iterdir()}
    assert names == {f"{name}.{suffix}" for name in tables for suffix in ("tex", "md", "csv")} | {"cells.csv"}
    figures = {path.name for path in (rendered / "figures").iterdir()}
    stems = {"auroc_synthetic", "auroc_ferplus", "figure4_ferplus_single", "figure4_synthetic_compound",
             "figure4_synthetic_single_1", "figure4_synthetic_single_2"}  # fmt: skip
    assert figures == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "pdf", "svg")}
    for path in (rendered / "figures").iterdir():
        assert path.read_bytes()[:4] == {".pdf": b"%PDF", ".png": b"\x89PNG", ".svg": b"<svg"}[path.suffix]


class _References(HTMLParser):
    """Collects what a page refers to, and its tables' rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := given.get(name))]
        self.ids |= {value for value in [given.get("id")] if value}
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_self_contained_and_whole(rendered: Path, tables: dict[str, Table]) -> None:
    text = (rendered / "index.html").read_text("utf-8")
    assert "http:" not in text
    assert "https:" not in text
    page = _References(text)
    assert page.open == []
    assert text.count("<svg") == 6
    files = {link for link in page.links if not link.startswith("#")}
    assert {link for link in files if (rendered / link).is_file()} == files  # nothing is fetched from elsewhere
    written = {
        p.relative_to(rendered).as_posix() for kind in ("tables", "figures") for p in (rendered / kind).iterdir()
    }
    assert files == written
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert set(tables) <= page.ids
    without_pictures = re.sub(r'src="data:[^"]*"', "", text)
    for hole in ("None<", ">nan", "nan<", "NaT", "Undefined", "{{", "}}<", "<td></td>"):
        assert hole not in without_pictures.replace("<p>None.</p>", ""), hole


def test_page_says_what_was_run(rendered: Path) -> None:
    text = (rendered / "index.html").read_text("utf-8")
    for said in (
        "<b>20</b> cells finished", "<b>4</b> failed", "<b>4</b> missing", "unknown: no cell finished", "f" * 36, "1,234", "c0ffee-dirty", "node-1",
        "cpu (x86_64)", "ValueError: &lt;diverged&gt; &amp; more", "few epochs", "osfer report --profile test",
        "also finished with other settings", "my_method &amp; 50% #1", "3 | 5", "closed_set.epochs", "AAAI 2024", "EOW: disgust seed 0, disgust seed 1",
    ):  # fmt: skip
        assert said in text, said


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(50),
        np.full(50, 1e9),
        1e9 + np.arange(50) * 1e-7,
        np.r_[np.zeros(49), 1.0],
        np.exp(np.linspace(-30, 30, 50)),
        np.linspace(-1, 1, 50),
    ],
    ids=["constant", "large constant", "nearly constant", "one off", "heavy tail", "even"],
)
@pytest.mark.parametrize("n_open", [0, 1, 20, 50])
def test_histogram_of_any_scores(scores: np.ndarray, n_open: int, tmp_path: Path) -> None:
    frame = pd.DataFrame({"is_open": np.arange(50) < n_open, "unknown_score": scores})
    figure = score_histogram(frame, "a title")
    axes = figure.axes[0]
    assert axes.get_title() == "a title"
    # Both groups' shares add up to one: nothing is lost by clipping the axis.
    outlines = [patch for patch in axes.patches if patch.get_label() and not patch.get_label().startswith("_")]
    for outline, count in zip(outlines, (50 - n_open, n_open), strict=True):
        assert outline.get_data().values.sum() == pytest.approx(1 if count else 0)
    figure.savefig(tmp_path / "histogram.png")


def test_histogram_says_when_the_axis_is_clipped() -> None:
    scores = np.r_[np.linspace(0, 1, 999), 1e6]
    figure = score_histogram(pd.DataFrame({"is_open": np.arange(1000) % 2 == 0, "unknown_score": scores}), "t")
    assert "99th percentile" in figure.axes[0].get_xlabel()
    assert figure.axes[0].get_xlim()[1] < 2


def test_figures_without_score_artifacts(results: Results, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(run_id: str) -> pd.DataFrame:
        raise FileNotFoundError(run_id)

    monkeypatch.setattr(store.tracker, "read_scores", gone)
    texts = [text.get_text() for p in all_figures(results) for ax in p.figure.axes for text in ax.texts]
    assert {"scores not found", "failed", "missing", "not planned"} <= set(texts)


# -- paper -------------------------------------------------------------------------------------------------------------


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


def test_ours_plus_is_a_method_of_its_own_and_variants_are_not():
    from open_set_fer.reports.tables import is_variant

    labels = ["baseline", "ours", "ours-plus", "ours-online", "ours-no-attention"]
    assert [label for label in labels if is_variant(label)] == ["ours-online", "ours-no-attention"]


def test_where_the_hyperparameters_come_from_is_on_the_page_and_under_every_result_table(
    rendered: Path, tables: dict[str, Table]
) -> None:
    told = "chosen on the test split, λ aside"
    assert told in (rendered / "index.html").read_text("utf-8")
    for name, table in tables.items():
        if not name.startswith("side_") and any(entry.n_cells for entry in table.entries()):
            assert f"Hyperparameters: {told}." in table.footnotes, name
            assert f"% Hyperparameters: {told}." in to_latex(table)
