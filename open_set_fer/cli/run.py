"""Commands that compute: run, and reevaluate, which measures anew from kept scores."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from open_set_fer.cli.groups import CellOptions, ComputeOptions, grouped
from open_set_fer.cli.options import (
    HOME,
    HomeOption,
    ProfileOption,
    command_line,
    examples,
    exit_stopped,
    print_json,
    say,
)
from open_set_fer.cli.overview import result_tables
from open_set_fer.console import console, log, out
from open_set_fer.errors import some

if TYPE_CHECKING:
    from open_set_fer.benchmark.execution.runner import Runner
    from open_set_fer.benchmark.planning.cells import Cell

app = typer.Typer()
RunJsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON on standard output: profile, home, cells, computed, logged_from_disk, measured, "
        "already_done, failed (cells with error), results (cells with auroc), retry and report (commands).",
    ),
]


@app.command(
    epilog=examples(
        "osfer run",
        "osfer run --dataset ferplus --protocol single --method baseline,ours",
        "osfer run -p demo --method all --seed 0,1,2",
        "osfer run --open surprise -m ours,knn --json",
        "osfer run -d ferplus -m baseline,label-loss,ours --labels released",
        "osfer run -d ferplus -m baseline,ours --open surprise --keep-features",
        "osfer run --open surprise -m baseline,ours-online --keep-models",
        "osfer run -p paper --jobs 4 --cell-timeout 36000",
        "osfer run -p paper --backend ray --address 10.0.0.1:6379 --gpus 0.5 --store s3://bucket/models",
    )
)
@grouped
def run(cells: CellOptions, compute: ComputeOptions, as_json: RunJsonOption = False, home: HomeOption = HOME) -> None:
    """Run the cells of a profile that are not done yet, and log them to MLflow; ends with a table of AUROC."""
    from open_set_fer.api import run_cells
    from open_set_fer.benchmark.storage.connection import called, tracking_uri

    options, profile = compute.checked(), cells.load()
    try:
        ran = run_cells(profile, cells.selection(), home, options, command_line())
    except KeyboardInterrupt as stop:
        exit_stopped(
            stop,
            "finished cells are kept, and a closed-set model in training up to its last kept epoch; the same command "
            "goes on from there and begins the other cells that were being computed again",
        )
    runner, plan, outcome = ran.runner, ran.cells, ran.outcome
    measured = f", {outcome.measured} re-evaluated" * bool(outcome.measured)
    log.info(
        "%d computed, %d logged from an earlier computation, %d already done, %d failed%s",
        outcome.computed,
        outcome.logged_from_disk,
        outcome.already_done,
        len(outcome.failed),
        measured,
    )
    if outcome.waiting:
        say(
            f"{len(outcome.waiting)} result(s) wait on disk, because {called(tracking_uri(home)[0])} does not answer; "
            f"when it does, the same command logs them: {command_line()}"
        )
    _warn_of_lacking(runner, plan)
    again = ["--profile", cells.profile or profile.name, "--home", str(home)]
    report, retry = shlex.join(["osfer", "report", *again]), ""
    if outcome.failed:
        _print_failed(outcome.failed)
        chosen = cells.selection().only([cell for cell, _ in outcome.failed]).arguments()
        weights = ["--weights", cells.weights] * bool(cells.weights)
        retry = shlex.join(["osfer", "run", *again[:2], *chosen, *weights, *compute.arguments(), *again[2:]])
    metrics = runner.measured(plan, "auroc", "closed_accuracy", "auroc_within_label")
    auroc = metrics["auroc"]
    if as_json:
        counts = {name: getattr(outcome, name) for name in ("computed", "logged_from_disk", "measured", "already_done")}
        failed = [cell.coordinates() | {"error": error} for cell, error in outcome.failed]
        results = [cell.coordinates() | {"auroc": auroc[cell.key]} for cell in plan if cell.key in auroc]
        about = {"profile": profile.name, "home": str(home), "cells": len(plan)}
        print_json(about | counts | {"failed": failed, "results": results, "retry": retry or None, "report": report})
    else:
        for table in result_tables(plan, *metrics.values()):
            out.print(table, "")
    if retry:
        say(f"retry only these with: {retry}")
        sys.exit(1)
    if outcome.waiting:
        sys.exit(3)
    say(f"next: {report}")


def _warn_of_lacking(runner: Runner, cells: list[Cell]) -> None:
    """Say which finished cells lack an artifact that was asked for, and the fix."""
    from open_set_fer.benchmark.storage.kept import FEATURES_TAG, MODELS_TAG

    options = runner.options
    asked = (options.keep_features, "features", FEATURES_TAG), (options.keep_models, "models", MODELS_TAG)
    for is_asked, what, tag in asked:
        if is_asked and (lacking := runner.without(cells, tag)):
            log.warning(
                "%d of the cells were computed without --keep-%s, and %s cannot be had from scores: %s\n"
                "  fix: the same command with another --home; or delete their runs in MLflow (`osfer ui`) and %s, "
                "then the same command computes them again",
                len(lacking),
                what,
                what,
                some([str(cell) for cell in lacking]),
                some([str(runner.results / cell.key) for cell in lacking]),
            )


def _print_failed(failed: list[tuple[Cell, str]]) -> None:
    table = Table("data set", "protocol", "open", "method", "seed", "error", title="failed cells")
    for cell, error in failed:
        table.add_row(cell.dataset, cell.protocol.family, cell.protocol.label, cell.label, str(cell.seed), error)
    console.print(table)


@app.command("measure", hidden=True, epilog=examples("osfer measure"))
@app.command(epilog=examples("osfer reevaluate", "osfer reevaluate -p ferplus-cpu --json"))
def reevaluate(
    profile: ProfileOption = "demo",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: profile, home, evaluation, measured, failed (cells with error).",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Re-evaluate, from the kept scores, what an older version of the evaluation measured; computes no cell."""
    from open_set_fer.benchmark.evaluation import result as cell_result
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage import reevaluate as reevaluation
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker

    loaded = load_profile(profile)
    name, text = loaded.name, loaded.text
    tracker = Tracker(home, name, create=False)
    measured, failed = reevaluation.reevaluate(tracker, home / "results", text, command_line())
    if as_json:
        print_json(
            {
                "profile": name,
                "home": str(home),
                "evaluation": cell_result.EVALUATION,
                "measured": measured,
                "failed": failed,
            }
        )
    else:
        out.print(f"{len(measured)} cells re-evaluated with evaluation {cell_result.EVALUATION}, {len(failed)} failed")
    if failed:
        for cell in failed:
            console.print(
                f"{cell['method']} {cell['open_classes']} seed {cell['seed']}: {cell['error']}", soft_wrap=True
            )
        sys.exit(1)
