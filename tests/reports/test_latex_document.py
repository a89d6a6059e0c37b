"""paper.tex: every table and figure of a report, in a document that compiles as it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from open_set_fer.reports.render import render
from open_set_fer.reports.tables.latex import to_latex
from tests.reports.conftest import Store
from tests.reports.tables.test_wide import forms

needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def compiled(folder: Path, name: str) -> str:
    """The log of a document that compiles without an error."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=240)
    log = (folder / name).with_suffix(".log").read_text("utf-8", "replace")
    assert done.returncode == 0, log[-3000:]
    return log


@pytest.mark.slow
@needs_tex
def test_the_document_has_everything_and_compiles_where_the_report_lies(store: Store, tmp_path: Path) -> None:
    folder = render(store.tracker, tmp_path / "report").parent
    text = (folder / "paper.tex").read_text("utf-8")
    assert set(re.findall(r"input\{tables/(.*?)\}", text)) == {path.stem for path in folder.glob("tables/*.tex")}
    assert set(re.findall(r"\{figures/(.*?)\.pdf\}", text)) == {path.stem for path in folder.glob("figures/*.pdf")}
    log = compiled(folder, "paper.tex")
    assert "Overfull" not in log
    assert "Float too large" not in log
    assert (folder / "paper.pdf").stat().st_size > 50_000
    render(store.tracker, folder)  # what TeX wrote beside it is in no report's way
    assert (folder / "paper.pdf").exists()


@pytest.mark.slow
@needs_tex
@pytest.mark.parametrize("opening", ["[10pt]{article}", "[twocolumn]{article}", "[conference]{IEEEtran}"])
def test_wide_tables_need_booktabs_and_graphicx_and_nothing_else(opening: str, tmp_path: Path) -> None:
    tables = forms()
    for name, table in tables.items():
        (tmp_path / f"{name}.tex").write_text(to_latex(table), "utf-8")
    packages = "\\usepackage{booktabs,graphicx}"
    inputs = "\\clearpage\n".join(f"\\input{{{name}}}" for name in tables)
    source = f"\\documentclass{opening}\n{packages}\n\\begin{{document}}\nText.\n{inputs}\n\\end{{document}}\n"
    (tmp_path / "all.tex").write_text(source, "utf-8")
    log = compiled(tmp_path, "all.tex")
    assert len(re.findall(r"^\[?\[\d|\[\d", log, re.M)) >= len(tables)
    if "twocolumn" not in opening:  # whose columns in article's own layout are narrower than any publisher's
        assert "Overfull" not in log
