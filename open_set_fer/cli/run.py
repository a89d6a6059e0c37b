"""Commands that compute or say what there is to compute: run, plan, reevaluate."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
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
    from open_set_fer.datasets.faceset import Outline

app = typer.Typer()
LONG = 500
"""Rows of a table that is drawn."""
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
            help="Write each protocol's faces as CSV or Parquet (id, role: train or pool, label of training faces), "
            "for scores computed elsewhere; a data set that is not prepared is then decoded.",
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
        from open_set_fer.api import write_faces

        number = write_faces(faces, profile, cells.selection(), home)
        command = "osfer evaluate --scores FILE --name NAME --dataset DATASET --open CLASSES"
        say(f"{number:,} rows in {faces.resolve()}; measure your scores with: {command}")
        return
    planned, outlines = dry_plan(profile, cells.selection(), home / "cache")
    finished = Tracker(home, profile.name, create=False).finished()
    known_states = {cell.key: "done" if cell.is_current else "to measure" for cell in finished}
    states = [known_states.get(cell.key, "to do") if cell.key else "to do" for cell in planned]
    seconds: dict[tuple[str, str], list[float]] = {}
    for known in finished:
        if known.is_current and known.seconds is not None:
            seconds.setdefault((known.dataset, known.method), []).append(known.seconds)
    to_compute = [cell for cell, state in zip(planned, states, strict=True) if state == "to do"]
    time = estimate(to_compute, seconds, outlines, home / "closed_set") if to_compute else ""
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
            out.print(line, soft_wrap=True, highlight=False, markup=False)
    if to_do:
        out.print(f"{to_do} of {len(planned)} cells to do" + f"; {time}" * bool(time), soft_wrap=True)
    else:
        out.print(f"nothing to do: all {len(planned)} cells are done")


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


def _print_failed(failed: list[tuple[Cell, str]]) -> None:
    table = Table("data set", "protocol", "open", "method", "seed", "error", title="failed cells")
    for cell, error in failed:
        table.add_row(*_row(cell), error)
    console.print(table)


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
