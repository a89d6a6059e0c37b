"""Figures as files and on the page: fonts, widths, and SVG that follows the page's colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from open_set_fer.reports.data.results import Results, load
from open_set_fer.reports.figures.base import COLUMN_WIDTH, PAGE_WIDTH, ReportFigure
from open_set_fer.reports.figures.histograms import all_figures
from tests.reports.conftest import Store
from tests.reports.figures.test_contrast import make
from tests.reports.made import results_of


@pytest.fixture(scope="module")
def figures(store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[ReportFigure]:
    """Every kind of figure, with empty panels too."""
    made = make(
        tmp_path_factory.mktemp("contrast"),
        ("synthetic", "digits"),
        ("baseline", "ours", "eow"),
        failed=frozenset({("synthetic", "fear", "ours")}),
    )
    contrast = list(all_figures(load(made.tracker)))
    return contrast[:2] + list(all_figures(load(store.tracker)))


def small() -> ReportFigure:
    figure = Figure(figsize=(3, 2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o", label="<odd> & label")
    axes.set_xlabel("score")
    axes.legend(frameon=False)
    return ReportFigure("small", "A title", "A caption", "What it shows: all & <everything>.", figure)


def test_files_are_written_and_listed_with_fonts_that_publishers_take(tmp_path: Path) -> None:
    written = small().save(tmp_path)
    assert sorted(written) == sorted(tmp_path.iterdir())
    assert {path.suffix for path in written} == {".png", ".pdf", ".svg"}
    pdf = (tmp_path / "small.pdf").read_bytes()
    objects = pdf + b"".join(_inflated(stream) for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.S))
    assert b"/CIDFontType2" in objects  # TrueType, Type 42 in PostScript's words
    assert b"/Type3" not in objects


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_every_figure_is_a_column_or_a_page_wide_and_readable_in_print(figures: list[ReportFigure]) -> None:
    assert {shown.name.split("_")[0] for shown in figures} == {"figure1", "figure2", "figure4", "auroc", "roc"}
    for shown in figures:
        assert shown.figure.get_figwidth() in (COLUMN_WIDTH, PAGE_WIDTH)
        texts = [t for t in shown.figure.findobj(Text) if t.get_text() and t.get_visible()]
        assert min(text.get_fontsize() for text in texts) >= 7, shown.name


def test_nothing_is_cut_off(figures: list[ReportFigure]) -> None:
    for shown in figures:
        shown.figure.draw_without_rendering()
        box = shown.figure.get_tightbbox()
        assert box is not None
        width, height = shown.figure.get_size_inches()
        assert box.x0 >= -0.02, shown.name
        assert box.y0 >= -0.02, shown.name
        assert box.x1 <= width + 0.02, shown.name
        assert box.y1 <= height + 0.02, shown.name


def test_score_axes_are_labelled(figures: list[ReportFigure]) -> None:
    for shown in figures:
        if shown.name.startswith(("figure1", "figure4")):
            assert shown.figure.get_supylabel().startswith("share of")
            drawn = [axes for axes in shown.figure.axes if axes.patches]
            assert drawn
            assert all(len(axes.get_yticks()) >= 2 for axes in drawn)


def test_svg_stands_in_a_page_and_takes_its_colours(figures: list[ReportFigure]) -> None:
    ids: list[str] = []
    for shown in figures:
        text = shown.svg()
        assert text.startswith("<svg ")
        assert "http" not in text
        assert "<style" not in text
        root = ET.fromstring(text)
        own = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        ids += own
        refers = re.findall(r'(?:href="|url\()#([^")]+)', text)
        assert refers
        assert set(refers) <= set(own)
        assert root.attrib["role"] == "img"
        assert root.find("desc").text == shown.alternative
        assert root.find("title").text in shown.alternative
        assert "#000000" not in text
        assert "currentColor" in text
        assert "fill: #ffffff" not in text  # no white patch on a dark page
        assert not re.search(r"(?<!--page, )#ffffff", text)
        for element in root.iter("text"):
            assert "fill: #" not in element.attrib["style"].replace("fill: #111111", "")  # on light segments
    assert len(ids) == len(set(ids))


def test_svg_keeps_its_words_and_is_the_same_each_time() -> None:
    text = small().svg()
    assert "&lt;odd&gt; &amp; label" in text
    assert text == small().svg()


def test_class_names_are_no_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = pd.DataFrame({"is_open": [False, True] * 9, "unknown_score": range(18)})
    monkeypatch.setattr(Results, "scores", lambda *_: scores)
    name = "$\\frac$ $x_1$"
    cells = {("ferplus", "single", opened, "baseline", 0): (0.8, 0.5) for opened in (name, "fear")}
    figures = {figure.name: figure for figure in all_figures(results_of(cells))}
    assert set(figures) == {"auroc_ferplus", "roc_ferplus_single", "figure4_ferplus_single"}
    for figure in figures.values():
        figure.save(tmp_path)
        assert figure.name == "auroc_ferplus" or f">{name}<" in figure.svg()


def test_the_svg_file_stands_alone(tmp_path: Path) -> None:
    small().save(tmp_path)
    assert ET.fromstring((tmp_path / "small.svg").read_text("utf-8")).tag == "{http://www.w3.org/2000/svg}svg"


def test_figures_without_score_artifacts(results: Results, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(run_id: str) -> pd.DataFrame:
        raise FileNotFoundError(run_id)

    monkeypatch.setattr(store.tracker, "read_scores", gone)
    texts = [text.get_text() for p in all_figures(results) for ax in p.figure.axes for text in ax.texts]
    assert {"scores not found", "failed", "missing", "not planned"} <= set(texts)
