"""The table of AUROC that ends a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from open_set_fer.benchmark.planning.cells import Cell


def auroc_table(cells: list[Cell], auroc: dict[str, float]) -> Table:
    """Mean AUROC by method; a column for each open class if they are few, else for each family of protocols.

    Controls and shifts stand apart and are in no other mean. '(2/3)': the mean of two of three cells; '-': of none.
    """
    main = [cell for cell in cells if cell.protocol.has_open] or cells
    shown = {(cell.protocol.regime, cell.protocol.has_open) for cell in main}
    apart = [cell for cell in cells if (cell.protocol.regime, cell.protocol.has_open) not in shown]
    regimes = list(dict.fromkeys(cell.protocol.regime for cell in apart if cell.protocol.regime.is_control))
    shifts = list(dict.fromkeys(p.pool.shift for cell in apart if (p := cell.protocol).pool and p.pool.shift))
    opens = list(dict.fromkeys(cell.protocol.label for cell in main))
    by_class = len(opens) <= 7
    columns = opens if by_class else list(dict.fromkeys(cell.protocol.family for cell in main))
    several = len({cell.dataset for cell in cells}) > 1
    mean = ["mean"] * (len(columns) > 1)
    first = main[0].protocol
    area = "control AUROC" if first.regime.is_control else "AUROC" if first.has_open else "AUROC of shifted faces"
    controls = [*(f"control:{regime.suffix}" for regime in regimes), *(f"shift: {shift}" for shift in shifts)]
    table = Table(*["data set"] * several, "method", *columns, *mean, *controls, title=f"mean {area}")
    for dataset, label in dict.fromkeys((cell.dataset, cell.label) for cell in cells):
        of = [cell for cell in cells if (cell.dataset, cell.label) == (dataset, label)]
        row = [cell for cell in of if (cell.protocol.regime, cell.protocol.has_open) in shown]
        parts = [[c for c in row if (c.protocol.label if by_class else c.protocol.family) == name] for name in columns]
        parts += [row for _ in mean] + [[cell for cell in of if cell.protocol.regime == regime] for regime in regimes]
        parts += [[c for c in of if c.protocol.pool and c.protocol.pool.shift == shift] for shift in shifts]
        texts = [_mean_auroc(part, auroc) for part in parts]
        table.add_row(*[dataset] * several, label, *texts)
    return table


def _mean_auroc(cells: list[Cell], auroc: dict[str, float]) -> str:
    known = [auroc[cell.key] for cell in cells if cell.key in auroc]
    if not known:
        return "-"
    return f"{sum(known) / len(known):.3f}" + f" ({len(known)}/{len(cells)})" * (len(known) < len(cells))
