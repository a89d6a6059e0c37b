"""LaTeX tables: their contents, and their fit into a column or page as pdflatex sets them."""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest

from open_set_fer.benchmark.evaluation.metrics import MAIN_METRICS
from open_set_fer.reports.data import statistics
from open_set_fer.reports.data.names import method_name
from open_set_fer.reports.data.results import MISSING, load
from open_set_fer.reports.tables.build import Table, all_tables
from open_set_fer.reports.tables.latex import FIT, latex_escape, to_latex
from open_set_fer.reports.tables.means import Block, Entry, Row, mark_best
from open_set_fer.reports.tables.specs import SIDE, TABLES, TableSpec
from tests.reports.conftest import ODD, Store
from tests.reports.data.test_statistics import cells
from tests.reports.tables.test_wide import forms

PAPER_METHODS = ["baseline", "eow", "proser", "dias", "ours"]
POST_HOC = [
    "energy",
    "relative-mahalanobis",
    "kl-matching",
    "knn",
    "vim",
    "react",
    "she",
    "dice",
    "odin",
    "ours-plus",
    "co-teaching",
    "cleanlab",
    "o2u",
    "ours-no-attention",
    "mahalanobis",
    "openmax",
    "entropy",
]
SPECIAL = [
    string.punctuation,
    "[a]",
    "*",
    "*[1pt]",
    "=1+1",
    "two\nlines\n\nmore",
    "a\tb",
    "é ß",
    "unbroken" * 9,
    "--",
    "",
]
CLASSES = {
    "column": ("article", "\\usepackage[a4paper,margin=1in]{geometry}"),
    "narrow": ("article", ""),
    "two columns": ("article", "\\usepackage[letterpaper,margin=0.75in,columnsep=0.375in]{geometry}"),
    "conference": ("IEEEtran", ""),
}


def table(methods: list[str], rows: list[str], seeds: int = 1, spec: TableSpec = TABLES[0], name: str = "") -> Table:
    """A table of two metrics and printed numbers, with every mark a number can have."""
    blocks = []
    for metric in MAIN_METRICS:
        made = []
        for place, label in enumerate([*rows, "mean"]):
            entries = [
                Entry(
                    "single",
                    label,
                    method,
                    metric,
                    "finished",
                    0.5 + 0.013 * ((place + 3 * k) % 11),
                    0.0123 if seeds > 1 else None,
                    mark="†" if label == "mean" and k == 1 else "",
                )
                for k, method in enumerate(methods)
            ]
            entries[0] = Entry("single", label, methods[0], metric, MISSING)
            mark_best(entries)
            made.append(Row(label, entries, is_mean=label == "mean"))
        long = "Paper (RAF-DB as published; another data set, not comparable): AUROC (higher is better)"
        blocks.append(Block(long, made, "RAF-DB as published: AUROC ↑", "RAF-DB as published: of another data set."))
    return Table(
        spec,
        name or "table1_made",
        "one open class",
        "ferplus",
        f"Mean ± standard deviation over {seeds} seeds.",
        {method: method_name(method) for method in methods},
        blocks,
        ["† mean over 2 of 3 rows for EOW."],
        ["Hyperparameters: settings for speed."],
    )


def compared() -> Table:
    """A table whose caption compares methods over seven choices of open classes."""
    made = table(PAPER_METHODS, ["fear"], name="compared")
    made.notes.append(statistics.sentences(statistics.compare(cells())))
    return made


def side_table() -> Table:
    heads = [
        "model accuracy",
        "closed accuracy",
        "OSCR",
        "AUPR open",
        "AUPR closed",
        "entropy open",
        "entropy closed",
        "open faces",
        "closed faces",
        "seconds",
    ]
    made = table(heads, ["happiness+sadness+anger", "Ours (online)"], spec=SIDE, name="side_made")
    return made


def cell_counts(text: str) -> set[int]:
    """Columns that the rows of a file's tabulars fill."""
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    return {
        len(re.findall(r"(?<!\\)&", row)) + 1 + sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
        for row in rows
    }


# -- without TeX -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "seeds", "environment"),
    [(PAPER_METHODS, 1, "table"), (PAPER_METHODS, 3, "table*"), (["baseline", "ours"], 3, "table")],
)
def test_a_table_takes_one_column_where_it_fits_else_the_page(methods, seeds, environment):
    text = to_latex(table(methods, ["surprise", "fear"], seeds))
    assert f"\\begin{{{environment}}}\n" in text
    assert text.count("\\begin{table") == text.count(f"{FIT}\n\\begin{{tabular}}") == 1


def test_what_is_wider_than_a_page_goes_on_in_further_floats_with_every_method_once():
    methods = [*PAPER_METHODS, *POST_HOC]
    made = table(methods, ["surprise", "happiness+sadness+anger"], seeds=3)
    text = to_latex(made)
    assert text.count(f"{FIT}\n\\begin{{tabular}}") == text.count("\\begin{table*}")
    assert text.count("\\begin{table*}") == text.count("continued") + 1 > 2
    assert text.count("\\label") == 1
    assert text.count("minipage") == 2  # one set of footnotes
    flat = re.sub(
        r"\\shortstack\[.\]\{(.*?)\}(?=\}| )", lambda found: re.sub(r"(\\\\)?\\strut ", " ", found[1]).strip(), text
    )
    heads = [line.removesuffix(r" \\") for line in flat.splitlines() if line.startswith("open classes")]
    written = [head for line in heads for head in line.split(" & ")[1:]]
    assert [head.replace("- ", "-") for head in written] == made.heads


def test_a_long_table_goes_on_in_further_floats():
    rows = [f"class {k}" for k in range(30)]
    text = to_latex(table(PAPER_METHODS, rows))
    assert text.count("\\begin{table}") == 2
    assert all(len(re.findall(rf"^class {k} &", text, re.M)) == 2 for k in range(30))


def test_numbers_have_deviations_and_marks():
    text = to_latex(table(["a", "b", "c"], ["surprise"], seeds=2))
    row = next(line for line in text.splitlines() if line.startswith("surprise &"))
    assert row == (r"surprise & --- & 0.539{\scriptsize\,$\pm$ 0.012} & \textbf{0.578}{\scriptsize\,$\pm$ 0.012} \\")
    assert r"$\pm$ 0.012}$^\dagger$" in text
    assert cell_counts(text) == {4}  # a row's label and three methods
    text = to_latex(table(["a", "b", "c", "d"], ["surprise"]))
    assert r"\underline{0.578}" in text


def test_methods_and_data_sets_are_named_as_their_papers_write_them():
    text = to_latex(table(["eow", "ours-online", "relative-mahalanobis", "mine_2"], ["fear"]))
    assert "FERPlus: one open class. Mean" in text
    for name in ("EOW", r"\strut Ours\\\strut (online)", r"\strut Relative\\\strut Mahalanobis", r"mine\_2"):
        assert name in text
    assert "the paper's" not in text


def test_provenance_notes_are_comments_alone():
    made = table(PAPER_METHODS, ["fear"])
    made.provenance_notes.append("Warning: two\nlines")
    text = to_latex(made)
    assert "% Hyperparameters: settings for speed.\n% Warning: two lines\n" in text
    typeset = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert "settings for speed" not in typeset
    assert "Warning" not in typeset
    assert "2 of 3 rows" in typeset
    assert "of another data set" in typeset


def test_no_row_begins_with_what_the_line_break_before_it_would_take():
    text = to_latex(table(["[m]", "*m"], ["[a]", "* b", "[1pt]"]))
    assert not re.search(r"^\s*[\[*]", text, re.M)
    assert not re.search(r"\\\\[\[*]", text)
    assert "{[}a] &" in text
    assert "{*} b &" in text


def test_every_row_fills_its_columns_whatever_the_labels(store: Store):
    for made in [*all_tables(load(store.tracker)), table(SPECIAL, SPECIAL, 2), side_table()]:
        text = to_latex(made)
        body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        unescaped = re.sub(r"\\\\|\\[{}]", "", body)
        assert unescaped.count("{") == unescaped.count("}")
        environments = text.split("\\begin{tabular}")[1:]
        assert all(len(cell_counts(part)) == 1 for part in environments)


def test_text_that_pdflatex_does_not_know_is_said():
    assert "lualatex" not in to_latex(table(["a", "b"], ["fear"]))
    assert "pdflatex may not know 恐" in to_latex(table(["a", "b"], ["恐"]))
    assert "lualatex" not in to_latex(compared())


def test_escape():
    assert latex_escape(r"a_b & 5% \x{y} ± —") == r"a\_b \& 5\% \textbackslash{}x\{y\} $\pm$ ---"
    assert latex_escape("a\n\nb\x00c") == "a b c"
    assert latex_escape("χ²(4)") == r"$\chi$$^2$(4)"


# -- with TeX ----------------------------------------------------------------------------------------------------------


def compile_tables(folder: Path, texts: dict[str, str], where: str) -> tuple[str, dict[str, float], dict[str, float]]:
    """Compile a document with these tables; the log, the natural widths of the tabulars, and the document's widths."""
    document_class, preamble = CLASSES[where]
    options = "conference" if document_class == "IEEEtran" else "twocolumn" if where == "two columns" else "10pt"
    boxes = []
    for name, text in texts.items():
        (folder / f"{name}.tex").write_text(text, "utf-8")
        size = re.search(r"\\small\\setlength\{\\tabcolsep\}\{3pt\}", text)[0]
        for number, tabular in enumerate(re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.S)):
            (folder / f"{name}-{number}-box.tex").write_text(tabular + "%\n", "utf-8")
            boxes.append(f"{{{size}\\sbox0{{\\input{{{name}-{number}-box}}}}\\typeout{{NATURAL {name} \\the\\wd0}}}}")
    source = [
        f"\\documentclass[{options}]{{{document_class}}}",
        preamble,
        "\\usepackage[T1]{fontenc}",
        "\\usepackage{booktabs,graphicx}",
        "\\begin{document}",
        "\\typeout{WIDTH column \\the\\columnwidth}\\typeout{WIDTH page \\the\\textwidth}",
        *boxes,
        "Text.",
        *(f"\\input{{{name}}}\\clearpage" for name in texts),
        "\\end{document}",
    ]
    (folder / "all.tex").write_text("\n".join(source), "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    log = (folder / "all.log").read_text("utf-8", "replace")
    assert done.returncode == 0, log[-3000:]
    natural: dict[str, float] = {}
    for name, width in re.findall(r"NATURAL (\S+) ([\d.]+)pt", log):
        natural[name] = max(natural.get(name, 0.0), float(width))
    return log, natural, {name: float(width) for name, width in re.findall(r"WIDTH (\S+) ([\d.]+)pt", log)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("where", CLASSES)
def test_tables_compile_and_fit_measured_by_pdflatex(where: str, store: Store, tmp_path: Path) -> None:
    made = {t.name: t for t in all_tables(load(store.tracker))} | {
        "five": table(PAPER_METHODS, ["surprise", "fear"]),
        "five-seeds": table(PAPER_METHODS, ["surprise", "happiness+sadness+anger"], seeds=3),
        "many": table([*PAPER_METHODS, *POST_HOC], ["surprise", "happiness+sadness+anger"], seeds=3),
        "long": table(["baseline", "ours"], [f"class {k}" for k in range(30)]),
        "special": table(SPECIAL, SPECIAL, 2),
        "special-side": table(SPECIAL[:4], SPECIAL, 1, SIDE),
        "odd": table([ODD, "ours"], ["fear"]),
        "side": side_table(),
        "compared": compared(),
        **forms(),
    }
    texts = {name: to_latex(t).replace("tab:", f"tab:{name}-") for name, t in made.items()}
    log, natural, widths = compile_tables(tmp_path, texts, where)
    assert "Overfull" not in log
    assert set(natural) == set(texts)
    for name, text in texts.items():
        own = widths["column" if "\\begin{table}\n" in text else "page"]
        if "special" not in name:
            assert natural[name] <= 2 * own, f"{name} is shrunk below half of \\small"
