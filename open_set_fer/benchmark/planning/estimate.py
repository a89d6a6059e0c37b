"""Estimated time of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from open_set_fer.benchmark.planning.cells import Cell


def estimate(missing: list[Cell], seconds: Mapping[tuple[str, str], Sequence[float]]) -> str:
    """Text on the time of the missing cells, by the mean time of finished cells of their kind; '' without any.

    seconds: of the finished cells, by (data set, method).
    """
    known = [seconds[pair] for cell in missing if (pair := (cell.dataset, cell.label)) in seconds]
    unknown = len(missing) - len(known)
    minutes = sum(sum(values) / len(values) for values in known) / 60
    parts = [f"about {minutes:.0f} min"] if known else []
    parts += [f"{unknown} with no finished cell of their kind to estimate from"] if unknown else []
    return ", ".join(parts)
