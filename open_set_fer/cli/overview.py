"""The tables that end a run: AUROC and closed accuracy by method, then the controls; legible at 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

if TYPE_CHECKING:
    from open_set_fer.benchmark.planning.cells import Cell

LETTERS, HEAD_LETTERS, NUMBER_LETTERS, FEWEST = 80, 9, 5, 12
"""Letters of a line of a table, of a heading (those of `happiness`), of a number, and of a method at least."""
MOST_CLASSES = 7
Values = Mapping[str, float]
"""A metric's values by the key of a cell."""


def result_tables(
    cells: list[Cell], auroc: Values, accuracy: Values | None = None, within: Values | None = None
) -> Iterator[Table]:
    """A table of mean AUROC for each data set, then one of its controls and shifts, if there are any.

    A column for each open class if they are few, else for each family of protocols. accuracy: closed accuracy. within:
    AUROC within the assigned label, which is a control's number, where it is measured. '(2/3)' below a number: the
    mean of two of three cells; '-': of none.
    """
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        of = [cell for cell in cells if cell.dataset == dataset]
        title = f"{dataset}: " * (len({cell.dataset for cell in cells}) > 1)
        main = [cell for cell in of if cell.protocol.has_open] or of
        yield _main_table(title, main, auroc, accuracy or {})
        apart = [cell for cell in of if cell not in main]
        if apart:
            yield _apart_table(title, apart, auroc, within or {})


def _main_table(title: str, cells: list[Cell], auroc: Values, accuracy: Values) -> Table:
    opens = list(dict.fromkeys(cell.protocol.label for cell in cells))
    by_class = len(opens) <= MOST_CLASSES
    columns = opens if by_class else list(dict.fromkeys(cell.protocol.family for cell in cells))
    first, has_mean = cells[0].protocol, len(columns) > 1
    area = "control AUROC" if first.regime.is_control else "AUROC" if first.has_open else "AUROC of shifted faces"
    suffixes = {cell.protocol.label.removeprefix(cell.protocol.choice) for cell in cells}
    shared = next(iter(suffixes)) if len(suffixes) == 1 else ""  # such as ` (labels as released)`: said once
    heads = [*(name.removesuffix(shared) for name in columns), *["mean"] * has_mean, *["closed acc."] * bool(accuracy)]
    table = _table(f"{title}mean {area}{shared}", heads)
    for label in dict.fromkeys(cell.label for cell in cells):
        own = [cell for cell in cells if cell.label == label]
        parts = [[c for c in own if (c.protocol.label if by_class else c.protocol.family) == name] for name in columns]
        texts = [_mean(part, auroc) for part in [*parts, *[own] * has_mean]]
        table.add_row(_label(label, table), *texts, *[_mean(own, accuracy)] * bool(accuracy))
    return table


def _apart_table(title: str, cells: list[Cell], auroc: Values, within: Values) -> Table:
    regimes = list(dict.fromkeys(c.protocol.regime for c in cells if c.protocol.regime.is_control))
    shifts = list(dict.fromkeys(p.pool.shift for c in cells if (p := c.protocol).pool and p.pool.shift))
    kind = "sensitivity S" if within else "AUROC"
    heads = [*(f"{kind}, {regime.text}" for regime in regimes), *(f"AUROC, shift: {shift}" for shift in shifts)]
    table = _table(f"{title}controls" if regimes else f"{title}shifted faces", heads, 2 * HEAD_LETTERS)
    for label in dict.fromkeys(cell.label for cell in cells):
        own = [cell for cell in cells if cell.label == label]
        parts = [_mean([c for c in own if c.protocol.regime == regime], within or auroc) for regime in regimes]
        parts += [_mean([c for c in own if c.protocol.pool and c.protocol.pool.shift == s], auroc) for s in shifts]
        table.add_row(_label(label, table), *parts)
    return table


def _table(title: str, heads: list[str], letters: int = HEAD_LETTERS) -> Table:
    table = Table("method", title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    for head in heads:
        lines = textwrap.wrap(head.replace("+", "+ "), letters, break_long_words=False)
        table.add_column("\n".join(line.replace("+ ", "+") for line in lines), no_wrap=True)
    return table


def _label(label: str, table: Table) -> str:
    """A method's label on lines that leave room for the columns, broken at hyphens."""
    heads = [str(column.header).splitlines() for column in table.columns[1:]]
    taken = sum(1 + max(NUMBER_LETTERS, *map(len, lines)) for lines in heads)
    return "\n".join(textwrap.wrap(label, max(FEWEST, LETTERS - taken)))


def _mean(cells: list[Cell], values: Values) -> str:
    known = [values[cell.key] for cell in cells if cell.key in values]
    if not known:
        return "-"
    return f"{sum(known) / len(known):.3f}" + f"\n({len(known)}/{len(cells)})" * (len(known) < len(cells))
