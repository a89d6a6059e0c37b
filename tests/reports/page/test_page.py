"""The page: self-contained, whole, the result first, notes summed up."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from open_set_fer.reports.data.names import method_name
from open_set_fer.reports.page.page import _notes, build_page
from open_set_fer.reports.render import _studies
from open_set_fer.reports.tables.build import Table, all_tables
from open_set_fer.reports.tables.latex import to_latex
from tests.reports.page.test_summary import SEEDS


def without_script(text: str) -> str:
    """A page without its scripts: the library's notices name its home page."""
    return re.sub(r'<script type="module">.*?</script>', "", text, flags=re.DOTALL)


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
    whole = (rendered / "index.html").read_text("utf-8")
    text = without_script(whole)
    assert not re.search(r"<script|<link|@import", text)
    assert "http:" not in text
    assert "https:" not in text
    page = _References(text)
    assert page.open == []
    assert text.count("<svg") == 11
    files = {link for link in page.links if not link.startswith("#")}
    assert {link for link in files if (rendered / link).is_file()} == files  # nothing is fetched from elsewhere
    written = {
        p.relative_to(rendered).as_posix() for kind in ("tables", "figures") for p in (rendered / kind).iterdir()
    }
    assert files == written | {"paper.tex"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert set(tables) <= page.ids
    without_pictures = re.sub(r"<textarea.*?</textarea>", "", text, flags=re.DOTALL)  # LaTeX has its own braces
    for hole in ("None<", ">nan", "nan<", "NaT", "Undefined", "{{", "}}<", "<td></td>"):
        assert hole not in without_pictures.replace("<p>None.</p>", ""), hole


def test_page_says_what_was_run(rendered: Path) -> None:
    text = (rendered / "index.html").read_text("utf-8")
    for said in (
        "<b>20</b> cells finished",
        "<b>4</b> failed",
        "<b>4</b> missing",
        "unknown: no cell finished",
        "f" * 36,
        "1,234",
        "c0ffee-dirty",
        "node-1",
        "cpu (x86_64)",
        "ValueError: &lt;diverged&gt; &amp; more",
        "few epochs",
        "osfer report --profile test",
        "also finished with other settings",
        "my_method &amp; 50% #1",
        "3 | 5",
        "closed_set.epochs",
        "AAAI 2024",
        "EOW: disgust seed 0, disgust seed 1",
    ):
        assert said in text, said


def test_where_the_hyperparameters_come_from_is_on_the_page_and_under_every_result_table(
    rendered: Path, tables: dict[str, Table]
) -> None:
    told = "chosen on the test split, λ aside"
    assert told in (rendered / "index.html").read_text("utf-8")
    for name, table in tables.items():
        if not name.startswith("side_") and any(entry.n_cells for entry in table.entries()):
            assert f"Hyperparameters: {told}." in table.footnotes, name
            assert f"% Hyperparameters: {told}." in to_latex(table)


def test_the_page_begins_with_the_result_and_links_runs_where_there_is_a_ui() -> None:
    tables = all_tables(SEEDS)
    page = build_page(SEEDS, tables, [], "http://127.0.0.1:5160")
    assert page.index('id="result"') < page.index('id="run"') < page.index('id="tables"')
    assert page.count('href="#why-ferplus"') == 1
    assert 'id="why-ferplus"' in page
    assert "http://127.0.0.1:5160/#/experiments/7/runs?workflowType=machine_learning" in page
    linked = re.findall(r'href="http://127\.0\.0\.1:5160/#/experiments/7/runs/(run\w+)\?', page)
    assert set(linked) == set(SEEDS.cells["run_id"])
    for said in ("9.8", "2.99", "3.13", "A processor", "Threads"):
        assert said in page
    assert "http:" not in without_script(build_page(SEEDS, tables, []))


def test_latex_stands_at_its_table_and_notes_once_at_the_end(rendered: Path, tables: dict[str, Table]) -> None:
    text = without_script((rendered / "index.html").read_text("utf-8"))
    at = text.index('id="table1_ferplus"')
    head = text[at : text.index("<table", at)]
    for name in ("table1_ferplus", "printed_table1"):
        assert f'href="tables/{name}.tex"' in head
        copied = re.search(rf'<textarea id="latex-{name}"[^>]*>(.*?)</textarea>', text, re.DOTALL)
        assert copied is not None
        assert html.unescape(copied[1]) == (rendered / "tables" / f"{name}.tex").read_text("utf-8")
    notes = text[text.index('id="notes"') :]
    for note in {note for table in tables.values() for note in table.footnotes}:
        assert notes.count(f">{html.escape(note, quote=False)}</li>".replace("'", "&#39;")) == 1, note
    assert 'class="footnotes' not in text[: text.index('id="notes"')]
    ids = re.findall(r' id="([^"]+)"', re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    assert len(ids) == len(set(ids))
    assert text.index('id="result"') < text.index('id="result_synthetic"') < text.index('id="run"')


def test_selections_that_lost_a_class_are_one_line() -> None:
    def cell(*notes: str) -> dict[str, object]:
        return {"dataset": "ferplus", "method": "ours", "notes": notes}

    fell = "a class without a clean sample was kept whole in {} of 3 selections (lost: {})"
    ran = pd.DataFrame(
        [
            cell(fell.format(3, "fear, disgust")),
            cell(fell.format(2, "fear")),
            cell(fell.format(3, "fear, disgust"), "other"),
            cell("single", "single"),
        ]
    )
    assert _notes(SimpleNamespace(title=method_name), ran) == [
        (
            "FERPlus: Ours",
            "A class without a clean sample was kept whole in 8 of 9 selections: fear in 3 cells, disgust in 2 cells.",
            3,
        ),
        ("FERPlus: Ours", "other", 1),
        ("FERPlus: Ours", "single", 1),
    ]


def test_the_page_links_studies_that_lie_beside_it(tmp_path: Path) -> None:
    for name in ("p_ours_auroc_1", "p_<b>_auroc_2"):
        (tmp_path / "p-tuning" / name).mkdir(parents=True)
        (tmp_path / "p-tuning" / name / "study.md").write_text("# Study")
    (tmp_path / "p-tuning" / "no study").mkdir()
    tables = all_tables(SEEDS)
    page = build_page(SEEDS, tables, [], studies=_studies(tmp_path / "p", "p"))
    assert '<a href="../p-tuning/p_ours_auroc_1/study.md">p_ours_auroc_1</a>' in page
    assert '<a href="../p-tuning/p_%3Cb%3E_auroc_2/study.md">p_&lt;b&gt;_auroc_2</a>' in page
    assert "no study" not in page
    assert "Hyperparameter studies" not in build_page(SEEDS, tables, [], studies=_studies(tmp_path / "q", "q"))
