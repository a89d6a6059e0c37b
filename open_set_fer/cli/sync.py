"""The command that logs result folders to MLflow: this home's own, or another person's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from open_set_fer.cli.options import HOME, HomeOption, command_line, examples, folder, print_json, say
from open_set_fer.console import out
from open_set_fer.errors import SuiteError
from open_set_fer.files import writable

if TYPE_CHECKING:
    from open_set_fer.benchmark.storage.exchange import Synced

app = typer.Typer()
REMARKS = {
    "hidden": "logged, and not shown by reports: the plans of this home have other settings there",
    "differing": "computed here already, with OTHER numbers (the leaderboard of `osfer report` shows both)",
    "waiting": "not logged: computed here, to be logged or re-evaluated first (`osfer run`, `osfer reevaluate`)",
}


@app.command(epilog=examples("osfer sync ada/runs --as 'Ada, FER group'", "osfer sync ada/results --home all --json"))
def sync(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Another person's home, its folder `results`, or one cell's folder (default: own results).",
            parser=folder,
        ),
    ] = None,
    name: Annotated[str, typer.Option("--as", help="Whose results they are (default: the folder's name).")] = "",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: name, new, same, differing, hidden, waiting (cells), refused (why).",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Log results on disk that MLflow lacks; another person's are verified first, and tagged with whose they are."""
    if source is None:
        _sync_own(writable(home), as_json)
        return
    from open_set_fer.benchmark.storage.exchange import owner_of, sync_folder

    name = name or owner_of(source)
    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise SuiteError(f"--as {name[:100]!r} cannot name anybody", "write a name of at most 100 letters on one line")
    done = sync_folder(writable(home), source, name, command_line())
    if as_json:
        print_json({"name": name, **vars(done)})
    else:
        _print(name, done)
    if done.refused or done.differing:
        sys.exit(1)


def _sync_own(home: Path, as_json: bool) -> None:
    from open_set_fer.benchmark.storage.sync import sync_home

    done, refused = sync_home(home, command_line())
    if as_json:
        print_json({"name": "this home", "new": done, "refused": refused})
    else:
        out.print(f"{len(done)} cell(s) logged, {len(refused)} refused", highlight=False)
        for key, reason in refused.items():
            say(f"refused: cell {key[:12]}: {reason}")
    if refused:
        sys.exit(1)


def _print(name: str, done: Synced) -> None:
    say(
        f"from {name}: {len(done.new) + len(done.hidden)} cell(s) logged, {len(done.same)} computed here already "
        f"with the same numbers, {len(done.refused)} refused",
        out,
    )
    lines = [f"{text}: {cell}" for kind, text in REMARKS.items() for cell in getattr(done, kind)]
    lines += [f"refused: cell {key[:12]}: {reason}" for key, reason in done.refused.items()]
    for line in lines:
        say(line)
