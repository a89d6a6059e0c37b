"""The command `osfer`. Heavy imports (torch, mlflow: seconds) stay inside the commands, so that --help is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from open_set_fer.cli import data, evaluate, plan, report, run, show, sync, tune
from open_set_fer.cli.options import examples, say
from open_set_fer.console import console, print_traceback, print_what_the_terminal_can, set_up_logging
from open_set_fer.errors import SuiteError
from open_set_fer.photos import command as detect
from open_set_fer.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Benchmark suite for open-set facial expression recognition.\n\nFirst steps: `osfer list`, `osfer plan`, "
    "`osfer run`, `osfer report`, `osfer ui`. Your own faces: `osfer data guide manifest`; your own scores: "
    "`osfer evaluate --help`.",
    epilog=examples("osfer run --help", "osfer run -p demo", "osfer report -p demo"),
    pretty_exceptions_enable=False,
)
for part in (run, plan, evaluate, show, report, sync, detect):
    app.add_typer(part.app)
app.add_typer(data.app, name="data")
app.add_typer(detect.detector_app, name="detector")
app.add_typer(tune.app, name="tune")
app.add_typer(show.profile_app, name="profile")


def main() -> None:
    """Entry point: a SuiteError is one clear message."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait sleep: see execution/worker.py
    print_what_the_terminal_can()
    set_up_logging()
    sys.excepthook = print_traceback
    try:
        app()
    except SuiteError as error:
        console.print("error:", style="red", end=" ")
        say(str(error))
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        from open_set_fer.benchmark.storage.provenance import git_commit

        print(f"osfer {__version__} (commit {git_commit()})")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version and commit of the suite.")
    ] = False,
) -> None:
    pass
