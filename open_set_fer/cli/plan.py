"""Command plan: what a run would compute, without computing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from open_set_fer.cli.groups import CellOptions, grouped
from open_set_fer.cli.options import HOME, HomeOption, examples, print_json, say
from open_set_fer.console import out

if TYPE_CHECKING:
    from open_set_fer.benchmark.planning.cells import Cell, Selection
    from open_set_fer.benchmark.planning.profile import Profile
    from open_set_fer.benchmark.storage.mlflow_reader import Finished
    from open_set_fer.datasets.faceset import Outline

app = typer.Typer()
LONG = 500
"""Rows of a table that is drawn."""


@app.command(
    epilog=examples(
        "osfer plan",
        "osfer plan -p paper --all-pairs",
        "osfer plan -m knn,vim --json",
        "osfer plan -d ferplus --open surprise --faces faces.csv",
    )
)
@grouped
def plan(
    cells: CellOptions,
    faces: Annotated[
        Path | None,
        typer.Option(
            "--faces",
            help="Write each protocol's faces as CSV or Parquet (id, file, role: train or pool, label of training "
            "faces), for scores computed elsewhere; a data set that is not prepared is then decoded.",
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: profile, home, cells (each with its cell_key, null where the data set "
            "is not prepared, and its state, `done`, `to measure` or `to do`), to_do, estimate.",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Dry run: the cells, which are done, and an estimate of the time the others take. Decodes and writes nothing."""
    from open_set_fer.benchmark.planning.cells import dry_plan
    from open_set_fer.benchmark.planning.estimate import estimate
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker

    profile = cells.load()
    if faces:
        _write_faces(faces, profile, cells.selection(), home)
        return
    planned, outlines = dry_plan(profile, cells.selection(), home / "cache")
    finished = Tracker(home, profile.name, create=False).finished()
    known_states = {cell.key: "done" if cell.is_current else "to measure" for cell in finished}
    states = [known_states.get(cell.key, "to do") if cell.key else "to do" for cell in planned]
    to_compute = [cell for cell, state in zip(planned, states, strict=True) if state == "to do"]
    time = estimate(to_compute, _seconds(finished), outlines, home / "closed_set") if to_compute else ""
    to_do = sum(state != "done" for state in states)
    if as_json:
        rows = [
            cell.coordinates() | {"cell_key": cell.key or None, "state": state}
            for cell, state in zip(planned, states, strict=True)
        ]
        about = {"profile": profile.name, "home": str(home), "cells": rows}
        print_json(about | {"to_do": to_do, "estimate": time or None})
        return
    _print_states(
        f"profile {profile.name}", [(*_row(cell), state) for cell, state in zip(planned, states, strict=True)]
    )
    for name, outline in outlines.items():
        for line in _not_prepared(name, outline, home / "cache"):
            say(line, out)
    if to_do:
        out.print(f"{to_do} of {len(planned)} cells to do" + f"; {time}" * bool(time), soft_wrap=True)
    else:
        out.print(f"nothing to do: all {len(planned)} cells are done")


def _write_faces(path: Path, profile: Profile, selection: Selection, home: Path) -> None:
    from open_set_fer.benchmark.planning.face_list import write_faces

    number = write_faces(path, profile, selection, home)
    command = "osfer evaluate --scores FILE --name NAME --dataset DATASET --open CLASSES"
    say(f"{number:,} rows in {path.resolve()}; measure your scores with: {command}")


def _seconds(finished: list[Finished]) -> dict[tuple[str, str], list[float]]:
    """Measured seconds of finished cells by data set and method."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for cell in finished:
        if cell.is_current and cell.seconds is not None:
            seconds.setdefault((cell.dataset, cell.method), []).append(cell.seconds)
    return seconds


def _print_states(title: str, rows: list[tuple[str, ...]]) -> None:
    """A table of the cells; of more than LONG as plain lines, for a table of 10,000 takes seconds to draw."""
    head = ("data set", "protocol", "open", "method", "seed", "state")
    if len(rows) <= LONG:
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        out.print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
    print("\n".join([title, *lines]))


def _row(cell: Cell) -> tuple[str, str, str, str, str]:
    return cell.dataset, cell.protocol.family, cell.protocol.label, cell.label, str(cell.seed)


def _not_prepared(name: str, outline: Outline, cache: Path) -> list[str]:
    """One line if a data set has to be prepared before its cells, or cannot be read."""
    from open_set_fer.datasets.cache import in_words

    if outline.missing:
        fault, _, fix = outline.missing.partition("\n  fix: ")
        return [f"{name} cannot be read yet: {fault.removeprefix(f'{name}: ')} ({fix})"]
    if not outline.fingerprint:
        return [
            f"{name}: `osfer run` will decode {outline.images:,} images into {in_words(outline.bytes)} under {cache}"
        ]
    return []
