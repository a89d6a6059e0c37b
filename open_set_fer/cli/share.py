"""Commands between people: export, import, leaderboard."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from open_set_fer.cli.options import (
    HOME,
    HomeOption,
    ProfileOption,
    command_line,
    examples,
    folder,
    print_json,
    writable,
)
from open_set_fer.console import console, out
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    from open_set_fer.benchmark.evaluation.result import CellResult
    from open_set_fer.reports.leaderboard import Leaderboard, Source

app = typer.Typer()


@app.command(
    "export", epilog=examples("osfer export -p ferplus-cpu --name 'Ada, FER group'", "osfer export --out mine")
)
def export_(
    profile: ProfileOption = "demo",
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=folder, metavar="<path>", help="Folder to write (default: `<home>/export/<profile>`)."
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Whose results they are (default: this machine's name).")] = "",
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Only these data sets, comma-separated.")] = "",
    method: Annotated[str, typer.Option("--method", "-m", help="Only these method labels, comma-separated.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output: export, cells, left_out (reasons by cell).")
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Write the finished cells of a profile as one folder to hand on: scores, settings, keys, checksums; no image of a face."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage import exchange
    from open_set_fer.benchmark.storage.tracking import Tracker

    profile_name = load_profile(profile).name
    whose = name or socket.gethostname()
    if not whose.strip() or not whose.isprintable() or len(whose) > 100:
        raise SuiteError(
            f"--name {whose[:100]!r} cannot name anybody", "write a name of at most 100 letters on one line"
        )
    target = to or home / "export" / profile_name
    datasets, methods = (tuple(filter(None, map(str.strip, text.split(",")))) for text in (dataset, method))
    count, left_out = exchange.export(
        Tracker(home, profile_name, create=False), target, whose, home / "cache", datasets, methods
    )
    if as_json:
        print_json({"export": str(target.resolve()), "cells": count, "left_out": left_out})
    else:
        out.print(f"export: {target.resolve()} ({count} cells)", soft_wrap=True, highlight=False)
    for cell, reason in left_out.items():
        console.print(f"left out: {cell}: {reason}", soft_wrap=True, highlight=False)
    if left_out:
        sys.exit(1)


@app.command("import", epilog=examples("osfer import ada/ferplus-cpu", "osfer import ada/ferplus-cpu --home all"))
def import_(
    shared: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `osfer export` wrote.", parser=folder)],
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="Profile to put the cells under (default: the one they come from).")
    ] = "",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: name, profile, new, known, differing, hidden, waiting, refused.",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Log somebody's exported cells as finished runs, tagged with whose they are; nothing that can be computed is believed."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage import exchange
    from open_set_fer.benchmark.storage.tracking import Tracker

    found = exchange.read_export(shared)
    name = load_profile(profile).name if profile else found.index.profile
    tracker = Tracker(writable(home), name)
    done = exchange.import_export(tracker, home / "results", found, command_line())
    if as_json:
        print_json({"name": found.index.name, "profile": name, **vars(done), "refused": found.refused})
    else:
        out.print(
            f"from {found.index.name}, profile {name}: {len(done.new)} cell(s) imported, {len(done.known)} here already with the "
            f"same numbers, {len(found.refused)} refused",
            soft_wrap=True,
            highlight=False,
        )
    for cells, text in (
        (done.hidden, "imported, and not shown by reports: the plans of this home have other settings there"),
        (done.differing, "not imported: here already, with OTHER numbers (`osfer leaderboard` shows both)"),
        (done.waiting, "not imported: here already, to be logged or measured again (`osfer run`, `osfer measure`)"),
    ):
        for cell in cells:
            console.print(f"{text}: {cell}", soft_wrap=True, highlight=False)
    for key, reason in found.refused.items():
        console.print(f"refused: cell {key[:12]}: {reason}", soft_wrap=True, highlight=False)
    unchecked = sum(cell.content is None for cell in found.cells)
    if unchecked:
        console.print(
            f"{unchecked} cells have no key.json: that their settings are what their keys stand for could not be checked",
            soft_wrap=True,
            highlight=False,
        )
    if found.refused or done.differing:
        sys.exit(1)


@app.command(
    epilog=examples(
        "osfer leaderboard",
        "osfer leaderboard runs ada/ferplus-cpu bob=https://mlflow.example -p ferplus-cpu --out board",
    )
)
def leaderboard(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STORE_OR_FOLDER]...",
            help="Homes, exported folders, addresses of MLflow stores; NAME=PLACE names one (default: MLFLOW_TRACKING_URI, else "
            "--home).",
        ),
    ] = None,
    profile: Annotated[
        str, typer.Option("--profile", "-p", help="Profiles of the stores, comma-separated (default: all but studies).")
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option(
            "--out",
            parser=folder,
            metavar="<path>",
            help="Also write leaderboard.md, leaderboard.csv and leaderboard.json.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Check the cells of stores too, as those of folders always are: keys, and metrics from the scores.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output: boards, shared, left_out, notes.")
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Rank the results of several stores and exported folders together, a table a data set and protocol family."""
    from open_set_fer.reports import leaderboard as boards

    profiles = tuple(filter(None, map(str.strip, profile.split(","))))
    here = os.environ.get("MLFLOW_TRACKING_URI") or str(home)
    sources = [_source(place, profiles, check) for place in places or [here]]
    names = [source.name for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SuiteError(f"two places are called {sorted(twice)[0]}", "name one: NAME=PLACE")
    board = boards.leaderboard(sources)
    if to is not None:
        _write(board, to)
    if as_json:
        print_json(boards.to_json(board))
    else:
        _print(board)
    if not board.boards:
        sys.exit(1)


def _source(place: str, profiles: tuple[str, ...], check: bool) -> Source:
    """A home, an exported folder, or the address of a store."""
    from open_set_fer.benchmark.storage import exchange
    from open_set_fer.benchmark.storage import sqlite_store as store
    from open_set_fer.benchmark.storage.connection import public_address
    from open_set_fer.benchmark.storage.tracking import Tracker
    from open_set_fer.reports.leaderboard import STUDIES, Source, stored

    name, equals, rest = place.partition("=")
    if not equals or not rest or Path(place).exists() or "/" in name or ":" in name:
        name, rest = "", place
    if "://" not in rest and exchange.is_export(Path(rest)):
        found = exchange.read_export(Path(rest))
        if profiles and found.index.profile not in profiles:
            return Source(name or found.index.name, [])
        unchecked = sum(cell.content is None for cell in found.cells)
        return Source(name or found.index.name, [cell.result for cell in found.cells], found.refused, unchecked)
    path, uri = (Path(), rest) if "://" in rest else (folder(rest), "")
    if not uri and not (path / store.DATABASE).exists():
        raise SuiteError(
            f"{rest} is neither a home, nor an exported folder, nor the address of a store",
            "name a folder with mlflow.db or export.json, or an address such as https://host:5000",
        )
    there = Tracker(path, "", create=False, uri=uri).profiles()
    chosen = [each for each in there if (each in profiles if profiles else not each.endswith(STUDIES))]
    cells: list[CellResult] = []
    refused: dict[str, str] = {}
    for each in chosen:
        tracker = Tracker(path, each, create=False, uri=uri)
        for run_id, cell in stored(tracker).items():
            if check and (faults := exchange.stored_faults(tracker, run_id, cell)):
                refused[f"{each}: {cell.title()}"] = "; ".join(faults[:3])
            else:
                cells.append(cell)
    unchecked = sum(cell.tags.get(exchange.IMPORTED_KEY) == "not checked" for cell in cells)
    return Source(name or (public_address(uri) if uri else path.resolve().name), cells, refused, unchecked)


def _write(board: Leaderboard, to: Path) -> None:
    from open_set_fer.reports import leaderboard as boards

    to.mkdir(parents=True, exist_ok=True)
    (to / "leaderboard.md").write_text(boards.to_markdown(board), "utf-8")
    boards.to_frame(board).to_csv(to / "leaderboard.csv", index=False)
    (to / "leaderboard.json").write_text(json.dumps(boards.to_json(board), indent=1) + "\n", "utf-8")
    console.print(f"leaderboard: {(to / 'leaderboard.md').resolve()}", soft_wrap=True, highlight=False)


def _print(board: Leaderboard) -> None:
    from open_set_fer.reports import leaderboard as boards

    tables: list[tuple[str, tuple[str, ...], list[list[str]]]] = [
        (boards.title(each), boards.HEADS, boards.shown_rows(each)) for each in board.boards
    ]
    tables.append(("cells that several have computed", boards.SHARED_HEADS, boards.shared_rows(board)))
    tables.append(("not merged", boards.LEFT_OUT_HEADS, boards.left_out_rows(board)))
    for title, heads, rows in tables:
        if rows:
            columns: list[tuple[str, ...]] = []
            wide = heads != boards.HEADS or out.width >= 120
            table = Table(title=title, title_justify="left")
            for head, texts in zip(heads, zip(*rows, strict=True), strict=True):
                if wide or head not in boards.ON_WIDE_TERMINALS:
                    table.add_column(head, no_wrap=head in ("AUROC", "rank"))
                    columns.append(texts)
            for row in zip(*columns, strict=True):
                table.add_row(*row)
            out.print(table)
    for note in board.notes:
        console.print(note, soft_wrap=True, highlight=False)
    if not board.boards:
        console.print("no finished cell to rank", highlight=False)
