"""Render the page, the tables and the figures of an experiment into one folder."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

import filelock
import pandas as pd

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.files import whole_folder
from open_set_fer.reports.data.results import Results, load
from open_set_fer.reports.figures.base import ReportFigure
from open_set_fer.reports.figures.clip import clip_figures, lacking_clip
from open_set_fer.reports.figures.histograms import all_figures
from open_set_fer.reports.figures.pseudo_labels import label_figures
from open_set_fer.reports.figures.sweep import sweep_figures
from open_set_fer.reports.figures.tsne import embedding_figures, lacking_features
from open_set_fer.reports.leaderboard import stored_leaderboard
from open_set_fer.reports.page.page import build_page
from open_set_fer.reports.page.picture import result_figures
from open_set_fer.reports.tables.build import Table, all_tables
from open_set_fer.reports.tables.latex import latex_escape, to_latex
from open_set_fer.reports.tables.text import cells_frame, to_frame, to_markdown
from open_set_fer.reports.tables.wide import wide_tables

PAGE, PAPER = "index.html", "paper.tex"
MARKER = ".osfer-report.json"  # file that tells a report from a folder of the user's

PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[letterpaper,margin=0.75in]{geometry}
\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{booktabs,graphicx}
\extrafloats{500}
\renewcommand\topfraction{.95}
\renewcommand\bottomfraction{.95}
\renewcommand\textfraction{.05}
\renewcommand\floatpagefraction{.6}
\setcounter{topnumber}{9}
\setcounter{totalnumber}{9}
\makeatletter\def\fps@table{!htbp}\def\fps@figure{!htbp}\makeatother
"""
"""A page as wide as the figures; floats that fill pages, as there is next to no text."""


def render(tracker: Tracker, out: Path, ui: str = "", clip: pd.DataFrame | None = None) -> Path:
    """Write the report into `out` and return the path of its page.

    It has index.html, paper.tex, tables/*.{tex,md,csv} and figures/*.{png,pdf,svg}; it is written beside `out` and then
    replaces an earlier report there as a whole. ui: address of an MLflow UI to link runs to. clip: features for Figure
    1. SuiteError, with `out` unchanged: no cell is finished, or `out` cannot be written or is not a report.
    """
    results = load(tracker)
    try:
        place = out.resolve()
        _check_replaceable(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        with _lock(place), whole_folder(place) as folder:
            _render(results, folder, ui, clip, _studies(place, results.profile))
            for path in place.glob("paper.*"):  # what TeX made of it
                if path.name != PAPER:
                    shutil.copy2(path, folder)
    except OSError as error:
        raise SuiteError(
            f"the report cannot be written to {out}: {error.filename or out}: {error.strerror}",
            "choose another folder with --out",
        ) from error
    return out / PAGE


def _lock(place: Path) -> filelock.BaseFileLock:
    """Lock of a folder, outside it and its parent: reports of one folder are written one after the other."""
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    return filelock.FileLock(Path(tempfile.gettempdir(), f"osfer-report-{digest}.lock"))


def _check_replaceable(folder: Path) -> None:
    """Raise SuiteError unless the folder is absent, empty or a report, with what TeX made of it, and nothing else."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    names.discard(f"{MARKER}.lock")  # of an older version
    others = {name for name in names if not name.startswith("paper.")} - {MARKER, PAGE, "tables", "figures"}
    if names and (others or MARKER not in names):
        reason = f"it holds {min(others)}" if others else f"it has no {MARKER}"
        raise SuiteError(
            f"{folder} is not a report ({reason}), so it is not replaced by one",
            "move away what is yours, or choose another folder with --out",
        )
    if folder in (Path.cwd(), *Path.cwd().parents):
        raise SuiteError(f"{folder} is the working directory or above it", "choose another folder with --out")


def _studies(out: Path, profile: str) -> dict[str, str]:
    """Links to the texts that `osfer tune show` wrote beside the report, by study."""
    folder = out.parent / f"{profile}-tuning"
    texts = sorted(folder.glob("*/study.md"))
    return {path.parent.name: quote(f"../{folder.name}/{path.parent.name}/{path.name}") for path in texts}


def _render(results: Results, folder: Path, ui: str, clip: pd.DataFrame | None, studies: dict[str, str]) -> None:
    tables_folder, figures_folder = folder / "tables", folder / "figures"
    tables_folder.mkdir()
    figures_folder.mkdir()
    tables = [table for labels in results.regimes for table in all_tables(results.under(labels))]
    forms = wide_tables(results.under("own")) if "own" in results.regimes else []
    for table in [*tables, *forms]:
        (tables_folder / f"{table.name}.tex").write_text(to_latex(table), "utf-8")
        (tables_folder / f"{table.name}.md").write_text(to_markdown(table), "utf-8")
        to_frame(table).to_csv(tables_folder / f"{table.name}.csv", index=False)
    cells_frame(results).to_csv(tables_folder / "cells.csv", index=False)
    board = stored_leaderboard(results.tracker)
    if board:
        (tables_folder / "leaderboard.md").write_text(board.to_markdown(), "utf-8")
        board.to_frame().to_csv(tables_folder / "leaderboard.csv", index=False)
    first = results.under(results.regimes[0])
    paper = [*all_figures(first), *label_figures(results), *embedding_figures(first), *sweep_figures(first)]
    figures = [*result_figures(first), *(clip_figures(first, clip) if clip is not None else ()), *paper]
    not_drawn = [*([] if clip is not None else lacking_clip(first)), *lacking_features(first)]
    for figure in figures:
        figure.save(figures_folder)
    (folder / PAPER).write_text(_manuscript(results.profile, forms, tables, figures), "utf-8")
    ranking = board.sections() if board else ()
    page = build_page(results, tables, figures, ui, not_drawn, forms, studies, ranking)
    (folder / PAGE).write_text(page, "utf-8")
    (folder / MARKER).write_text("{}\n", "utf-8")


def _manuscript(profile: str, forms: list[Table], tables: list[Table], figures: list[ReportFigure]) -> str:
    """paper.tex: a document with every table and figure, to compile and copy from; forms: as the paper prints them."""
    parts = [
        ("Tables in the paper's form", [f"\\input{{tables/{table.name}}}" for table in forms]),
        ("Tables", [f"\\input{{tables/{table.name}}}" for table in tables if not table.is_side]),
        ("Figures", [_float(figure) for figure in figures]),
        ("Side measurements", [f"\\input{{tables/{table.name}}}" for table in tables if table.is_side]),
    ]
    title = f"\\title{{{latex_escape(f'open-set-fer: profile {profile}')}}}"
    lines = ["% written by `osfer report`; compile in this folder: pdflatex paper.tex", f"{PREAMBLE}{title}"]
    lines += ["\\author{}\\date{}", "\\begin{document}", "\\maketitle"]
    for title, items in parts:
        if items:
            lines += [f"\\section{{{latex_escape(title)}}}", *items, "\\clearpage"]
    return "\n".join([*lines, "\\end{document}"]) + "\n"


def _float(figure: ReportFigure) -> str:
    width = 72.27 * float(figure.figure.get_figwidth())
    size = f"width={min(width, 505):.0f}pt,height=.8\\textheight,keepaspectratio"
    label = figure.name.replace("_", "-")
    return (
        f"\\begin{{figure}}\n\\centering\\includegraphics[{size}]{{figures/{figure.name}.pdf}}\n"
        f"\\caption{{{latex_escape(figure.caption)}}}\\label{{fig:{label}}}\n\\end{{figure}}"
    )
