"""Command evaluate: scores computed elsewhere, measured on a protocol and logged as a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from open_set_fer.cli.options import HOME, HomeOption, ProfileOption, examples, print_json
from open_set_fer.console import out

app = typer.Typer()


@app.command(
    epilog=examples(
        "osfer plan -d ferplus --open surprise -m baseline --faces faces.csv",
        "osfer evaluate --scores mine.csv --name my-model -d ferplus --open surprise",
        "osfer evaluate --scores logits.parquet --name my-model -d ferplus --open surprise --json",
    )
)
def evaluate(
    scores: Annotated[
        Path,
        typer.Option(
            "--scores",
            help="CSV or Parquet: `id` with `unknown_score` (higher = more likely unknown) and `predicted_class`, or "
            "`id` with a column of logits for each closed class (and `unknown_score`, if the score is another).",
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="How tables call the method.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Data set.")],
    open_classes: Annotated[str, typer.Option("--open", help="The protocol's open classes: surprise, fear+disgust.")],
    seed: Annotated[int, typer.Option("--seed", help="Seed of the protocol's draw.")] = 0,
    profile: ProfileOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output: metrics by name.")] = False,
    home: HomeOption = HOME,
) -> None:
    """Measure scores of another program and log them as a cell, marked as external; nothing is trained.

    `osfer plan --faces FILE` lists the ids that the file must have. A changed file is another cell.
    """
    from open_set_fer import api

    table = api.evaluate(scores, name, dataset, open_classes, seed, profile=profile, home=home)
    if as_json:
        print_json({"name": name, "metrics": table["value"].to_dict()})
        return
    shown = Table(
        "metric", "value", "95 % interval", title=f"{name} (external): {dataset}, {open_classes} open, seed {seed}"
    )
    for metric, row in table.iterrows():
        interval = "" if row.isna()["low"] else f"{row['low']:.3f} to {row['high']:.3f}"
        shown.add_row(str(metric), f"{row['value']:.3f}", interval)
    out.print(shown)
