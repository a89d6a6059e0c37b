"""Commands that list profiles, data sets and methods: list, profile list, profile show."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from open_set_fer.cli.options import examples, print_json
from open_set_fer.console import out

app = typer.Typer()
profile_app = typer.Typer(
    no_args_is_help=True,
    help="Look at the built-in profiles.",
    epilog=examples("osfer profile list", "osfer profile show ferplus-cpu > my.toml"),
)


@app.command("list", epilog=examples("osfer list", "osfer list --json"))
def list_(
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: profiles, methods (labels, with the profiles that have them and "
            "OpenOOD's names), datasets, broken, families, pairs, triples.",
        ),
    ] = False,
) -> None:
    """List profiles, data sets, method labels and protocols."""
    from open_set_fer.benchmark.planning.inventory import inventory

    installed = inventory()
    if as_json:
        print_json(installed)
        return
    for title, columns, rows in (
        ("profile", ("what for", "methods run by default"), installed["profiles"]),
        ("method", ("what", "in profiles", "from", "in OpenOOD"), installed["methods"]),
        ("data set", ("what", "from"), installed["datasets"]),
        ("broken", ("what is wrong",), installed["broken"]),
    ):
        if rows:
            # Names are typed by the user: never wrapped.
            table = Table(Column(title, no_wrap=True, min_width=max(len(row["name"]) for row in rows)), *columns)
            for row in rows:
                table.add_row(*(", ".join(cell) if isinstance(cell, list) else cell for cell in row.values()))
            out.print(table)
    out.print(f"protocol families: {', '.join(installed['families'])}", soft_wrap=True)
    for name in ("pairs", "triples"):
        out.print(f"{name} of the paper (--all-{name} for every one): {', '.join(installed[name])}", soft_wrap=True)


@profile_app.command("list", epilog=examples("osfer profile list"))
def profile_list() -> None:
    """List the built-in profiles, one a line."""
    from open_set_fer.benchmark.planning.profile_files import profile_names

    print("\n".join(profile_names()))


@profile_app.command("show", epilog=examples("osfer profile show smoke", "osfer profile show ferplus-cpu > my.toml"))
def profile_show(name: Annotated[str, typer.Argument(help="Built-in profile.")]) -> None:
    """Print the TOML of a built-in profile, to read or to start your own from."""
    from open_set_fer.benchmark.planning.profile_files import profile_text

    print(profile_text(name), end="")
