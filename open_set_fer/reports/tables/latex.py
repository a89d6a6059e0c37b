"""Tables as LaTeX floats that fit a column or a page, with booktabs alone.

Numbers are split at their point into two cells (r@{}l), so that points align whether or not a number is bold, underlined
or followed by a deviation; siunitx's S columns take no underlined number. Widths are Computer Modern's, the widest of the
usual text fonts.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.tables.build import Table
from open_set_fer.reports.tables.entries import Block, Entry, Row

COLUMN, NARROW_PAGE, PAGE = 234.0, 345.0, 452.0
"""Widths in pt that a float may take: the narrowest usual column (3.25 in), article's text, a text with inch margins.

A page of two columns has 455 pt (ACL) to 516 pt (IEEE).
"""
ROWS_PER_FLOAT = 36
"""Rows after which a table goes on in a further float, so that each fits a page."""
GAP = 3.0
"""\\tabcolsep in pt: half of what lies between two columns."""
HEAD_LETTERS, LABEL_LETTERS, BLOCK_LETTERS = 9, 28, 30
"""Letters after which a column's heading, a row's label and a block's heading go on in a further line."""
SCRIPT = 7.97
"""Points of Computer Modern at 10 pt scaled to \\scriptsize, in which deviations are set."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "—": "---",
    "·": r"$\cdot$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "§": r"\textsuperscript{\S}",
    "λ": r"$\lambda$",
    "χ": r"$\chi$",
    "²": r"$^2$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    # Behind the \\ of the row before it a bare one would be taken for an argument.
    "[": "{[}",
    "*": "{*}",
}


@dataclass(frozen=True)
class Size:
    """A font size: its command, and the size in pt at which Computer Modern at 10 pt is as wide."""

    command: str
    points: float


SIZES = (Size("\\small", 9.25), Size("\\footnotesize", 8.5))
"""At 10 pt: 9 pt, then 8 pt where that makes the table fit."""


def latex_escape(text: str) -> str:
    """Text on one line that LaTeX prints as it is; also the tables' own signs."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return "".join(_LATEX.get(character, character) for character in " ".join(printable.split()))


def to_latex(table: Table) -> str:
    """Floats for a document at 10 pt with \\usepackage{booktabs}.

    One column wide (table) where that fits, else as wide as the page (table*); article's own page is narrower than others, so
    there a table may reach into both margins. What fits neither goes on in further floats. The laboratory's notes are comments at the file's top.
    """
    environment, size, parts = _layout(table)
    widest = max(_width(table, columns, size) for columns in parts)
    where = "one column" if environment == "table" else "the page, both columns of two"
    lines = [f"% needs \\usepackage{{booktabs}}; {widest:.0f} pt wide at 10 pt: {where}"]
    strange = sorted({c for c in "".join(_texts(table)) if c > "\u017f" and c not in _LATEX})
    if strange:
        lines.append(f"% compile with lualatex or xelatex: pdflatex may not know {' '.join(strange)}")
    lines += [f"% {' '.join(note.split())}" for note in table.laboratory]
    floats = [(columns, blocks) for columns in parts for blocks in _paged(table.blocks)]
    for number, (columns, blocks) in enumerate(floats):
        lines += [f"\\begin{{{environment}}}", "\\centering", f"{size.command}\\setlength{{\\tabcolsep}}{{{GAP:g}pt}}"]
        lines += [_caption(table, number), "\\par\\smallskip"]
        tabular = _tabular(table, columns, blocks, size)
        if environment == "table*" and widest > NARROW_PAGE:  # out of a narrow page's margins evenly, not on one side
            tabular = ["\\makebox[\\linewidth][c]{%", *tabular[:-1], f"{tabular[-1]}}}"]
        lines += tabular
        if number == len(floats) - 1:
            lines += _footnotes(table)
        lines.append(f"\\end{{{environment}}}")
    return "\n".join(lines) + "\n"


# -- layout ------------------------------------------------------------------------------------------------------------


def _layout(table: Table) -> tuple[str, Size, list[range]]:
    """The environment, the size, and the columns of each part: one part, unless the table is wider than a page."""
    everything = range(len(table.columns))
    for environment, limit in (("table", COLUMN), ("table*", NARROW_PAGE), ("table*", PAGE)):
        for size in SIZES:
            if _width(table, everything, size) <= limit:
                return environment, size, [everything]
    size, parts, start = SIZES[-1], [], 0
    while start < len(table.columns):
        fitting = (stop for stop in range(len(table.columns), start, -1) if _fits(table, range(start, stop), size))
        parts.append(range(start, next(fitting, start + 1)))
        start = parts[-1].stop
    return "table*", size, parts


def _fits(table: Table, columns: range, size: Size) -> bool:
    return _width(table, columns, size) <= PAGE


def _paged(blocks: list[Block]) -> list[list[Block]]:
    """The blocks in parts of at most ROWS_PER_FLOAT rows, headings counted."""
    parts: list[list[Block]] = [[]]
    for block in blocks:
        if parts[-1] and sum(len(b.rows) + 1 for b in parts[-1]) + len(block.rows) > ROWS_PER_FLOAT:
            parts.append([])
        for start in range(0, max(len(block.rows), 1), ROWS_PER_FLOAT):
            if start:
                parts.append([])
            rows = block.rows[start : start + ROWS_PER_FLOAT]
            parts[-1].append(replace(block, rows=rows))
    return parts


def _width(table: Table, columns: range, size: Size) -> float:
    """Natural width in pt, a little more for what slopes, kerning and small sizes add."""
    rows = [row for block in table.blocks for row in block.rows]
    labels = [line for text in [table.row_head, *(row.label for row in rows)] for line in _lines(text, LABEL_LETTERS)]
    total = max(_text_width(line, size.points) for line in labels)
    widths = []
    for column in columns:
        heads = [_text_width(line, size.points) for line in _lines(table.heads[column], HEAD_LETTERS)]
        entries = [_entry_width(row.entries[column], table.align == "left", size.points) for row in rows]
        widths.append(2 * GAP + max([*heads, *entries]))
    for sees, count in table.groups(columns):  # a heading wider than its columns stretches the last one
        heading = max(_text_width(line, size.points) for line in _lines(sees, HEAD_LETTERS * count))
        of, widths = widths[:count], widths[count:]
        total += max(sum(of), heading + 2 * GAP)
    total += sum(widths)
    blocks = [line for block in table.blocks for line in _lines(block.short, BLOCK_LETTERS)]
    return 1.02 * max([total, *(_text_width(line, size.points) for line in blocks)])


def _entry_width(entry: Entry, with_tail: bool, points: float) -> float:
    width = _text_width(entry.number or entry.text, points) * (1.16 if entry.best else 1.0)
    if with_tail:  # right-aligned tables let the mark stick out
        width += (1.5 + _text_width(entry.spread, SCRIPT)) * bool(entry.spread) + 0.45 * points * bool(entry.mark)
    return width


@cache
def _text_width(text: str, points: float) -> float:
    # What the font lacks, or LaTeX draws by other means, is taken to be as wide as a capital.
    known = "".join(c if (c.isascii() and (c.isalnum() or c in " .,:;-+=()/%&#'")) or c == "±" else "M" for c in text)
    return float(text_to_path.get_text_width_height_descent(known, _computer_modern(points), ismath=False)[0])


@cache
def _computer_modern(points: float) -> FontProperties:
    return FontProperties(fname=str(Path(matplotlib.get_data_path(), "fonts", "ttf", "cmr10.ttf")), size=points)


def _lines(text: str, letters: int) -> list[str]:
    """Text in lines of about so many letters, broken at spaces and plus signs; words far longer are broken too."""
    spaced = text.replace("+", "+ ")
    long = any(len(word) > 1.35 * letters for word in spaced.split())
    lines = textwrap.wrap(spaced, letters, break_on_hyphens=long, break_long_words=long)
    return [line.replace("+ ", "+") for line in lines] or [""]


def _texts(table: Table) -> list[str]:
    rows = [row.label for block in table.blocks for row in block.rows]
    heads = [*table.heads, *(block.short for block in table.blocks)]
    return [dataset_name(table.dataset), *heads, *rows, *(n for n in table.footnotes if n not in table.laboratory)]


# -- parts of a float --------------------------------------------------------------------------------------------------


def _caption(table: Table, number: int) -> str:
    about = f"{dataset_name(table.dataset)}: {table.title}"
    if number:
        return f"\\caption{{{latex_escape(about)}, continued.}}"
    label = f"tab:{table.name.replace('_', '-')}"
    return f"\\caption{{{latex_escape(f'{about}. {table.state}')}}}\\label{{{label}}}"


def _tabular(table: Table, columns: range, blocks: list[Block], size: Size) -> list[str]:
    left = table.align == "left"
    width = 1 + len(columns) * (2 if left else 1)
    lines = [f"\\begin{{tabular}}{{@{{}}l{('r@{}l' if left else 'r') * len(columns)}@{{}}}}", "\\toprule"]
    lines += _group_heads(table, columns, 2 if left else 1)
    heads = [_stack(table.heads[column], HEAD_LETTERS, table.align[0]) for column in columns]
    if left:
        heads = [f"\\multicolumn{{2}}{{l}}{{{head}}}" for head in heads]
    lines.append(" & ".join([latex_escape(table.row_head), *heads]) + r" \\")
    for block in blocks:
        heading = f"\\textit{{{_stack(block.short, BLOCK_LETTERS, 'l')}}}"
        lines += ["\\midrule", f"\\multicolumn{{{width}}}{{@{{}}l}}{{{heading}}} \\\\"]
        for row in block.rows:
            if row.is_mean:
                lines.append(f"\\cmidrule{{1-{width}}}")
            lines.append(_row(row, columns, left))
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _group_heads(table: Table, columns: range, cells: int) -> list[str]:
    """What the methods of the columns below see, each with a rule; cells: of a column."""
    groups, start = table.groups(columns), 2
    heads, rules = [f"\\textit{{{latex_escape(table.group_head)}}}" if table.group_head else ""], []
    for sees, count in groups:
        width = cells * count
        heads.append(f"\\multicolumn{{{width}}}{{l}}{{\\textit{{{_stack(sees, HEAD_LETTERS * count, 'l')}}}}}")
        rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return [" & ".join(heads) + r" \\", " ".join(rules)] if groups else []


def _row(row: Row, columns: range, left: bool) -> str:
    cells = [(_split_entry if left else _entry)(row.entries[column]) for column in columns]
    return " & ".join([_stack(row.label, LABEL_LETTERS, "l"), *cells]) + r" \\"


def _split_entry(entry: Entry) -> str:
    """Two cells: up to the point, and from the point on with deviation and mark."""
    mark = latex_escape(entry.mark)
    if not entry.number:
        return f"\\multicolumn{{2}}{{l}}{{{latex_escape(entry.text)}{mark}}}"
    whole, point, rest = entry.number.partition(".")
    spread = f"{{\\scriptsize\\,{latex_escape(entry.spread)}}}" if entry.spread else ""
    return f"{_marked(whole, entry)}&{_marked(point + rest, entry)}{spread}{mark}"


def _entry(entry: Entry) -> str:
    mark = f"\\rlap{{{latex_escape(entry.mark)}}}" if entry.mark else ""
    return _marked(latex_escape(entry.number or entry.text), entry) + mark


def _marked(text: str, entry: Entry) -> str:
    return f"\\textbf{{{text}}}" if entry.best else f"\\underline{{{text}}}" if entry.second else text


def _stack(text: str, letters: int, align: str) -> str:
    lines = [latex_escape(line) for line in _lines(text, letters)]
    if len(lines) == 1:
        return lines[0]
    stacked = r"\\".join(f"\\strut {line}" for line in lines)  # struts: lines as far apart whatever their letters
    return f"\\shortstack[{align}]{{{stacked}}}"


def _footnotes(table: Table) -> list[str]:
    notes = [note for note in table.footnotes if note not in table.laboratory]
    notes += dict.fromkeys(block.note for block in table.blocks if block.note)
    if not notes:
        return []
    lines = [latex_escape(note) + r"\par" for note in notes]
    return ["\\par\\smallskip\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright", *lines, "\\end{minipage}"]
