"""Tables as LaTeX floats, with booktabs and graphicx: shrunk to the width of their column or page if they are wider."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from itertools import accumulate, pairwise

import pandas as pd

from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.means import Block, Entry

COLUMN_LETTERS, PAGE_LETTERS = 64, 120
"""Letters in a row of a float one column wide, and of a float as wide as the page, each about 4 pt at \\small."""
ROWS_PER_FLOAT = 36  # rows of a float that fits a page
HEAD_LETTERS, LABEL_LETTERS, BLOCK_LETTERS = 12, 28, 30
"""Letters of a line of a column's heading, a row's label and a block's heading."""
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"

_SIGNS = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "—": "---", "·": r"$\cdot$", "†": r"$^\dagger$",
    "‡": r"$^\ddagger$", "§": r"\textsuperscript{\S}", "¶": r"\textsuperscript{\P}", "×": r"$^\times$",
    "λ": r"$\lambda$", "χ": r"$\chi$", "²": r"$^2$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "[": "{[}", "*": "{*}",  # bare, behind \\, they would be its arguments
}  # fmt: skip
_ESCAPED = str.maketrans(_SIGNS | {character: f"\\{character}" for character in "&%$#_{}"})


def latex_escape(text: str) -> str:
    """Text on one line that LaTeX prints unchanged, with the tables' own signs."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split()).translate(_ESCAPED)


def to_latex(table: Table) -> str:
    """Floats one column (table) or a page wide (table*); columns and rows that fit neither follow in further floats.

    The provenance notes are comments at the file's top.
    """
    parts = _parts(table)
    environment = "table" if len(parts) == 1 and sum(_letters(table)) <= COLUMN_LETTERS else "table*"
    lines = ["% needs \\usepackage{booktabs,graphicx}"]
    unusual = sorted({c for c in "".join(_texts(table)) if c > "\u017f" and ord(c) not in _ESCAPED})
    if unusual:
        lines.append(f"% compile with lualatex or xelatex: pdflatex may not know {' '.join(unusual)}")
    lines += [f"% {' '.join(note.split())}" for note in table.provenance_notes]
    floats = [(columns, blocks) for columns in parts for blocks in _paged(table.blocks)]
    for number, (columns, blocks) in enumerate(floats):
        lines += [f"\\begin{{{environment}}}", "\\centering\\small\\setlength{\\tabcolsep}{3pt}"]
        lines += [_caption(table, number), "\\par\\smallskip", FIT, f"{_tabular(table, columns, blocks)}}}"]
        if number == len(floats) - 1:
            lines += _footnotes(table)
        lines.append(f"\\end{{{environment}}}")
    return "\n".join(lines) + "\n"


def _letters(table: Table) -> list[int]:
    """Letters of the longest line of the row labels, then of each column with the space behind it."""
    rows = [row for block in table.blocks for row in block.rows]
    texts = [table.spec.row_head, *(row.label for row in rows)]
    labels = [len(line) for text in texts for line in _lines(text, LABEL_LETTERS)]
    columns = [
        2 + max(len(text) for text in [*_lines(head, HEAD_LETTERS), *(row.entries[column].text for row in rows)])
        for column, head in enumerate(table.heads)
    ]
    return [max(labels), *columns]


def _parts(table: Table) -> list[range]:
    label, *columns = _letters(table)
    step = len(columns) if label + sum(columns) <= PAGE_LETTERS else max(1, (PAGE_LETTERS - label) // max(columns))
    return [range(start, min(start + step, len(columns))) for start in range(0, len(columns), step)]


def _paged(blocks: list[Block]) -> list[list[Block]]:
    parts: list[list[Block]] = [[]]
    for block in blocks:
        if parts[-1] and sum(len(b.rows) + 1 for b in parts[-1]) + len(block.rows) > ROWS_PER_FLOAT:
            parts.append([])
        for start in range(0, len(block.rows), ROWS_PER_FLOAT):
            if start:
                parts.append([])
            parts[-1].append(replace(block, rows=block.rows[start : start + ROWS_PER_FLOAT]))
    return parts


def _lines(text: str, letters: int) -> list[str]:
    """Lines of the text; only words that are too long are broken at hyphens."""
    is_long = any(len(word) > letters for word in text.split())
    return textwrap.wrap(text, letters, break_on_hyphens=is_long) or [""]


def _texts(table: Table) -> list[str]:
    labels = [text for block in table.blocks for text in (block.short, *(row.label for row in block.rows))]
    return [dataset_name(table.dataset), *table.heads, *labels, *table.notes]


def _caption(table: Table, number: int) -> str:
    title = f"{dataset_name(table.dataset)}: {table.title}"
    if number:
        return f"\\caption{{{latex_escape(title)}, continued.}}"
    label = f"tab:{table.name.replace('_', '-')}"
    return f"\\caption{{{latex_escape(f'{title}. {table.state}')}}}\\label{{{label}}}"


def _tabular(table: Table, columns: range, blocks: list[Block]) -> str:
    """The tabular; rules and headings of blocks stand before the text of a row's first cell."""
    align, width = "r" if table.is_side else "l", len(columns) + 1
    labels, cells = [], []
    for number, block in enumerate(blocks):
        labels.append("\\midrule\n" * bool(number) + f"\\rlap{{\\textit{{{_stack(block.short, BLOCK_LETTERS)}}}}}")
        cells.append([""] * len(columns))
        for row in block.rows:
            labels.append(f"\\cmidrule{{1-{width}}}\n" * row.is_mean + _stack(row.label, LABEL_LETTERS))
            cells.append([_entry(row.entries[column], align) for column in columns])
    heads = [_stack(table.heads[column], HEAD_LETTERS, align) for column in columns]
    frame = pd.DataFrame(cells, labels, pd.Index(heads, name=latex_escape(table.spec.row_head)))
    if groups := table.groups(columns):
        ends = accumulate((count for _, count in groups), initial=1)
        rules = " ".join(f"\\cmidrule(lr){{{start + 1}-{end}}}" for start, end in pairwise(ends))
        above = [f"\\textit{{{_stack(group, HEAD_LETTERS * n)}}}" for group, n in groups for _ in range(n)]
        names = ["" if table.spec.layout == "wide" else "\\textit{setting}", f"{rules}\n{frame.columns.name}"]
        frame.columns = pd.MultiIndex.from_arrays([above, heads], names=names)
    text = frame.style.to_latex(hrules=True, column_format=f"@{{}}l{align * len(columns)}@{{}}", multicol_align="l")
    return str(text).rstrip()


def _entry(entry: Entry, align: str) -> str:
    number = latex_escape(entry.number or entry.text)
    number = f"\\textbf{{{number}}}" if entry.best else f"\\underline{{{number}}}" if entry.second else number
    spread = f"{{\\scriptsize\\,{latex_escape(entry.spread)}}}" if entry.spread else ""
    mark = latex_escape(entry.mark)
    return number + spread + (f"\\rlap{{{mark}}}" if mark and align == "r" else mark)


def _stack(text: str, letters: int, align: str = "l") -> str:
    lines = [latex_escape(line) for line in _lines(text, letters)]
    if len(lines) == 1:
        return lines[0]
    stacked = r"\\".join(f"\\strut {line}" for line in lines)  # struts: lines as far apart whatever their letters
    return f"\\shortstack[{align}]{{{stacked}}}"


def _footnotes(table: Table) -> list[str]:
    notes = [*table.notes, *dict.fromkeys(block.note for block in table.blocks if block.note)]
    if not notes:
        return []
    lines = [latex_escape(note) + r"\par" for note in notes]
    return ["\\par\\smallskip\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright", *lines, "\\end{minipage}"]
