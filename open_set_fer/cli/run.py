"""Commands that compute or say what there is to compute: run, plan, reevaluate."""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from open_set_fer.cli.options import (
    HOME,
    AddressOption,
    AllPairsOption,
    AllTriplesOption,
    BackendOption,
    CellTimeoutOption,
    DatasetOption,
    DeviceOption,
    GpusOption,
    HomeOption,
    JobsOption,
    LabelShareOption,
    LabelsOption,
    MethodOption,
    OpenOption,
    ProfileOption,
    ProtocolOption,
    SeedOption,
    StoreOption,
    ThreadsOption,
    WeightsOption,
    command_line,
    default_profile,
    examples,
    print_json,
    read_selection,
    run_options,
    writable,
)
from open_set_fer.console import console, log, out
from open_set_fer.errors import masked, some

if TYPE_CHECKING:
    from open_set_fer.benchmark.planning.cells import Cell
    from open_set_fer.datasets.faceset import Outline

app = typer.Typer()


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
def run(
    profile: ProfileOption = "",
    dataset: DatasetOption = "",
    protocol: ProtocolOption = "",
    opened: OpenOption = "",
    method: MethodOption = "",
    seed: SeedOption = "",
    all_pairs: AllPairsOption = False,
    all_triples: AllTriplesOption = False,
    labels: LabelsOption = "",
    label_share: LabelShareOption = None,
    weights: WeightsOption = "",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    jobs: JobsOption = None,
    backend: BackendOption = "local",
    address: AddressOption = "",
    gpus: GpusOption = 0.0,
    cell_timeout: CellTimeoutOption = None,
    store: StoreOption = "",
    allow_face_artifacts: Annotated[
        bool,
        typer.Option(
            "--allow-face-artifacts",
            help="Log pictures of faces of every data set, not of `synthetic` alone: pictures of real people then go to "
            "the tracking server, and the data set's licence must allow it.",
        ),
    ] = False,
    keep_features: Annotated[
        bool,
        typer.Option(
            "--keep-features",
            help="Keep the features of each cell's own network on its test faces as the artifact features.npz, for Figure 7.",
        ),
    ] = False,
    keep_models: Annotated[
        bool,
        typer.Option(
            "--keep-models",
            help="Keep what is left of each cell to score single faces, and log it with its closed-set model as MLflow "
            "models, for `mlflow models serve` and the registry.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: profile, home, cells, computed, logged_from_disk, measured, already_done, "
            "failed (cells with error), results (cells with auroc), retry and report (commands).",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Run the cells of a profile that are not done yet, and log them to MLflow; ends with a table of AUROC."""
    from open_set_fer.benchmark.execution.runner import Runner
    from open_set_fer.benchmark.planning.cells import make_plan
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage.connection import called, tracking_uri
    from open_set_fer.benchmark.storage.features import FEATURES_TAG
    from open_set_fer.benchmark.storage.kept import MODELS_TAG
    from open_set_fer.benchmark.storage.model_store import ModelStore
    from open_set_fer.cli.overview import auroc_table

    options = replace(
        run_options(device, threads, jobs, backend, address, gpus, cell_timeout, store),
        keep_features=keep_features,
        keep_models=keep_models,
        allow_face_artifacts=allow_face_artifacts,
    )
    if store:
        ModelStore(store)  # says what is wrong with it now, not cell by cell
    loaded = load_profile(default_profile(profile, dataset), weights)
    name = loaded.name
    selection = read_selection(dataset, protocol, opened, method, seed, all_pairs, all_triples, labels, label_share)
    cells, face_sets = make_plan(loaded, selection, writable(home) / "cache")
    runner = Runner(home, loaded, options)
    log.info("profile %s: %d cells, results under %s", name, len(cells), home)
    try:
        outcome = runner.run(cells, face_sets, command_line())
    except KeyboardInterrupt as stop:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # a second one must not kill the exit, which Python makes by default
        console.print("stopped; finished cells are kept, the same command goes on from here")
        sys.exit(128 + getattr(stop, "signal", signal.SIGINT))
    log.info(
        "%d computed, %d logged from an earlier computation, %d already done, %d failed%s",
        outcome.computed,
        outcome.logged_from_disk,
        outcome.already_done,
        len(outcome.failed),
        f", {outcome.measured} measured again" * bool(outcome.measured),
    )
    if outcome.waiting:
        console.print(
            f"{len(outcome.waiting)} result(s) wait on disk, because {called(tracking_uri(home)[0])} does not answer; when it does, the "
            f"same command logs them: {command_line()}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    asked = (keep_features, "features", FEATURES_TAG), (keep_models, "models", MODELS_TAG)
    for what, tag in [(what, tag) for wanted, what, tag in asked if wanted]:
        if not (lacking := runner.without(cells, tag)):
            continue
        log.warning(
            "%d of the cells were computed without --keep-%s, and %s cannot be had from scores: %s\n"
            "  fix: the same command with a --home of its own; or delete their runs in MLflow (`osfer ui`) and %s, then the "
            "same command computes them again",
            len(lacking),
            what,
            what,
            some([str(cell) for cell in lacking]),
            some([str(home / "results" / cell.key) for cell in lacking]),
        )
    again = ["--profile", profile or name, "--home", str(home)]
    retry = ""
    if outcome.failed:
        _print_failed(outcome.failed)
        as_now = [*["--allow-face-artifacts"] * allow_face_artifacts, *["--weights", weights] * bool(weights)]
        as_now += ["--keep-features"] * keep_features + ["--keep-models"] * keep_models
        given = {
            "--threads": threads,
            "--jobs": jobs,
            "--backend": backend if backend != "local" else "",
            "--address": address,
            "--gpus": gpus,
            "--cell-timeout": cell_timeout,
            "--store": masked(store),
            "--device": device if device != "auto" else "",
        }
        as_now += [text for option, value in given.items() if value for text in (option, str(value))]
        chosen = selection.only([cell for cell, _ in outcome.failed]).arguments()
        retry = shlex.join(["osfer", "run", *again[:2], *chosen, *as_now, *again[2:]])
    report_command = shlex.join(["osfer", "report", *again])
    auroc = runner.auroc(cells)
    if as_json:
        print_json(
            {
                "profile": name,
                "home": str(home),
                "cells": len(cells),
                "computed": outcome.computed,
                "logged_from_disk": outcome.logged_from_disk,
                "measured": outcome.measured,
                "already_done": outcome.already_done,
                "failed": [cell.coordinates() | {"error": error} for cell, error in outcome.failed],
                "results": [cell.coordinates() | {"auroc": auroc[cell.key]} for cell in cells if cell.key in auroc],
                "retry": retry or None,
                "report": report_command,
            }
        )
    else:
        out.print(auroc_table(cells, auroc))
    if retry:
        console.print(f"retry only these with: {retry}", soft_wrap=True, highlight=False)
        sys.exit(1)
    if outcome.waiting:
        sys.exit(3)
    console.print(f"next: {report_command}", soft_wrap=True, highlight=False)


@app.command(epilog=examples("osfer plan", "osfer plan -p paper --all-pairs", "osfer plan -m knn,vim --json"))
def plan(
    profile: ProfileOption = "",
    dataset: DatasetOption = "",
    protocol: ProtocolOption = "",
    opened: OpenOption = "",
    method: MethodOption = "",
    seed: SeedOption = "",
    all_pairs: AllPairsOption = False,
    all_triples: AllTriplesOption = False,
    labels: LabelsOption = "",
    label_share: LabelShareOption = None,
    weights: WeightsOption = "",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: profile, home, cells (each with its cell_key, null where the data set is "
            "not prepared, and its state, `done`, `to measure` or `to do`), to_do, estimate.",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Dry run: the cells, which are done, and an estimate of the time the others take. Decodes and writes nothing."""
    from open_set_fer.benchmark.planning.cells import dry_plan
    from open_set_fer.benchmark.planning.estimate import estimate
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage.tracking import Tracker

    loaded = load_profile(default_profile(profile, dataset), weights)
    name = loaded.name
    selection = read_selection(dataset, protocol, opened, method, seed, all_pairs, all_triples, labels, label_share)
    cells, outlines = dry_plan(loaded, selection, home / "cache")
    tracker = Tracker(home, name, create=False)
    finished = tracker.finished()
    done, to_measure = ({cell.key for cell in finished if cell.is_current is state} for state in (True, False))
    missing = [cell for cell in cells if cell.key not in done]
    to_compute = [cell for cell in missing if cell.key not in to_measure]
    seconds: dict[tuple[str, str], list[float]] = {}
    for known in finished:
        if known.is_current and known.seconds is not None:
            seconds.setdefault((known.dataset, known.method), []).append(known.seconds)
    time = estimate(to_compute, seconds) if to_compute else ""
    states = ["done" if cell.key in done else "to measure" if cell.key in to_measure else "to do" for cell in cells]
    if as_json:
        print_json(
            {
                "profile": name,
                "home": str(home),
                "cells": [
                    cell.coordinates() | {"cell_key": cell.key or None, "state": state}
                    for cell, state in zip(cells, states, strict=True)
                ],
                "to_do": len(missing),
                "estimate": time or None,
            }
        )
        return
    table = Table("data set", "protocol", "open", "method", "seed", "state", title=f"profile {name}")
    for cell, state in zip(cells, states, strict=True):
        table.add_row(*_row(cell), state)
    out.print(table)
    for dataset_name, outline in outlines.items():
        for line in _not_prepared(dataset_name, outline, home / "cache"):
            out.print(line, soft_wrap=True, highlight=False, markup=False)
    if not missing:
        out.print(f"nothing to do: all {len(cells)} cells are done")
        return
    out.print(f"{len(missing)} of {len(cells)} cells to do" + f"; {time}" * bool(time))


def _print_failed(failed: list[tuple[Cell, str]]) -> None:
    table = Table("data set", "protocol", "open", "method", "seed", "error", title="failed cells")
    for cell, error in failed:
        table.add_row(*_row(cell), error)
    console.print(table)


def _row(cell: Cell) -> tuple[str, str, str, str, str]:
    return cell.dataset, cell.protocol.family, cell.protocol.label, cell.label, str(cell.seed)


def _not_prepared(name: str, outline: Outline, cache: Path) -> list[str]:
    """What stands between a data set and its cells, one line at most; which of them are done shows once it is prepared."""
    from open_set_fer.datasets.cache import in_words

    if outline.missing:
        fault, _, fix = outline.missing.partition("\n  fix: ")
        return [f"{name} cannot be read yet: {fault.removeprefix(f'{name}: ')} ({fix})"]
    if not outline.fingerprint:
        return [
            f"{name}: `osfer run` will decode {outline.images:,} images into {in_words(outline.bytes)} under {cache}"
        ]
    return []


@app.command("measure", hidden=True)
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
    from open_set_fer.benchmark.storage.tracking import Tracker

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
