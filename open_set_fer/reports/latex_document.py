"""paper.tex: a document with every table and figure of a report, to compile, look at and copy from."""

from __future__ import annotations

from open_set_fer.reports.figures.base import ReportFigure
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.latex import latex_escape

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


def manuscript(profile: str, forms: list[Table], tables: list[Table], figures: list[ReportFigure]) -> str:
    """The document; `forms`: the tables as the paper prints them. It \\inputs tables/ and includes figures/."""
    parts = [
        ("Tables in the paper's form", [_input(table) for table in forms]),
        ("Tables", [_input(table) for table in tables if not table.is_side]),
        ("Figures", [_figure(figure) for figure in figures]),
        ("Side measurements", [_input(table) for table in tables if table.is_side]),
    ]
    lines = [
        "% written by `osfer report`; compile in this folder: pdflatex paper.tex",
        f"{PREAMBLE}\\title{{{latex_escape(f'open-set-fer: profile {profile}')}}}",
        "\\author{}\\date{}",
        "\\begin{document}",
        "\\maketitle",
    ]
    for title, items in parts:
        if items:
            lines += [f"\\section{{{latex_escape(title)}}}", *items, "\\clearpage"]
    return "\n".join([*lines, "\\end{document}"]) + "\n"


def _input(table: Table) -> str:
    return f"\\input{{tables/{table.name}}}"


def _figure(figure: ReportFigure) -> str:
    width = 72.27 * float(figure.figure.get_figwidth())
    size = f"width={min(width, 505):.0f}pt,height=.8\\textheight,keepaspectratio"
    label = figure.name.replace("_", "-")
    return (
        f"\\begin{{figure}}\n\\centering\\includegraphics[{size}]{{figures/{figure.name}.pdf}}\n"
        f"\\caption{{{latex_escape(figure.caption)}}}\\label{{fig:{label}}}\n\\end{{figure}}"
    )
