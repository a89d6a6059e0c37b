"""The command tune: hyperparameter studies, and what they found."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from open_set_fer import plugins
from open_set_fer.cli.groups import CellOptions
from open_set_fer.cli.options import (
    HOME,
    DatasetOption,
    DeviceOption,
    HomeOption,
    ProfileOption,
    SeedOption,
    ThreadsOption,
    command_line,
    default_profile,
    examples,
    parts,
    print_json,
    writable,
)
from open_set_fer.console import console, log, out
from open_set_fer.errors import SuiteError, TrackingAway, masked, summary

if TYPE_CHECKING:
    from open_set_fer.benchmark.tuning.study import Storage, Study
    from open_set_fer.reports.study import StudyReport

app = typer.Typer(invoke_without_command=True)
StorageOption = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="Where studies are kept: a database file or URL (postgresql://host/studies), or journal:PATH, a file that the "
        "machines of a cluster share (default: studies.db in the home).",
    ),
]
MethodOption = Annotated[
    str, typer.Option("--method", "-m", help="Labels with a [search] table, comma-separated (default: all).")
]


@app.callback(
    epilog=examples(
        "osfer tune -p ferplus-cpu --method ours --trials 6",
        "osfer tune -p ferplus-cpu -m baseline,ours --open contempt --seed 0,1,2 --trials 20",
        "osfer tune -p ferplus-cpu -m ours-warm --sampler grid --timeout 3600",
        "osfer tune -p paper -m ours --storage journal:/shared/studies.log --trials 100",
    )
)
def tune(
    context: typer.Context,
    profile: ProfileOption = "",
    dataset: DatasetOption = "",
    opened: Annotated[
        str, typer.Option("--open", help="Open classes to study on (default: compound, contempt where not reported).")
    ] = "",
    method: MethodOption = "",
    seed: SeedOption = "",
    objective: Annotated[
        str,
        typer.Option(
            help="auroc: of open faces, outside the test split; control: of flipped labels of closed faces, without any open "
            "face, for methods that learn from labels; test: on the tables' own faces, and every output says so."
        ),
    ] = "auroc",
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trials of each label in all, the profile's own settings first (default: 6; the whole grid)."
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Begin no trial of a label after so long (default: no limit)."),
    ] = None,
    sampler: Annotated[
        str, typer.Option(help="tpe, random, gp (Gaussian process) or grid (every combination of the listed values).")
    ] = "tpe",
    pruner: Annotated[
        str,
        typer.Option(
            help="none, or hyperband: stop trials early by the AUROC of their first cell (for methods that report while they "
            "train: ours, o2u, co-teaching)."
        ),
    ] = "none",
    storage: StorageOption = "",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    home: HomeOption = HOME,
) -> None:
    """Search hyperparameters with Optuna on faces outside the test split; prints what to write into the profile.

    Started again, or several times at once on one storage, it goes on with the same study.
    """
    if context.invoked_subcommand:
        return
    from open_set_fer.benchmark.execution.options import RunOptions
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.tuning import tune as tuning
    from open_set_fer.benchmark.tuning.study import OBJECTIVES, Storage

    options = RunOptions(device, threads)
    loaded = load_profile(default_profile(profile, dataset))
    name = loaded.name
    selection = CellOptions(dataset=dataset, open_classes=opened, method=method, seed=seed).selection()
    faces = selection.datasets or tuple(loaded.default_datasets or loaded.datasets)
    if len(faces) > 1:
        raise SuiteError(f"a study is on one data set, not on {', '.join(faces)}", "choose it with --dataset")
    aim = _known(objective, OBJECTIVES, "objective")
    search = tuning.Search(
        trials, _known(sampler, tuning.SAMPLERS, "sampler"), timeout, _known(pruner, tuning.PRUNERS, "pruner")
    )
    labels = selection.methods or tuple(loaded.search)
    if not labels:
        raise SuiteError(f"profile {name} has no [search] table", "write one: see `osfer profile show ferplus-cpu`")
    place = Storage.of(storage, writable(home))
    refused = False
    for label in labels:
        try:
            study = tuning.tune(
                loaded,
                label,
                search,
                faces[0],
                selection.open_classes,
                selection.seeds or tuple(loaded.seeds),
                home,
                options,
                command_line(),
                aim,
                place,
            )
        except KeyboardInterrupt as stop:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not kill the exit
            console.print(
                f"stopped; {_kept(place, name, label)}, the same command goes on: {command_line()}",
                soft_wrap=True,
                highlight=False,
            )
            sys.exit(128 + getattr(stop, "signal", signal.SIGINT))
        except TrackingAway:
            raise
        except SuiteError as error:
            if len(labels) == 1:
                raise
            refused = True
            log.error("%s: %s", label, summary(error))
            continue
        _print_study(study)
    shown = shlex.join(
        [
            "osfer",
            "tune",
            "show",
            "--profile",
            profile or name,
            "--home",
            str(home),
            *(["--storage", masked(storage)] if storage else []),
        ]
    )
    console.print(f"next: {shown}", soft_wrap=True, highlight=False)
    console.print(f"or: {_dashboard(place)}", soft_wrap=True, highlight=False)
    if refused:
        sys.exit(1)


@app.command(epilog=examples("osfer tune show -p ferplus-cpu", "osfer tune show -p ferplus-cpu -m ours --json"))
def show(
    profile: ProfileOption = "",
    method: MethodOption = "",
    storage: StorageOption = "",
    study: Annotated[
        str, typer.Option(help="Its name (default: of each label and objective the one started last).")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of texts and figures (default: report/<profile>-tuning in the home)."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: studies, each with name, label, objective, selection, best, own, keep, words, "
            "importance, trials and files.",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """What studies found: best values with their spread, whether to take them, and figures, also in MLflow."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker
    from open_set_fer.benchmark.tuning.study import Storage, stored_studies
    from open_set_fer.reports.study import study_report

    name = load_profile(default_profile(profile, "")).name
    found = stored_studies(Storage.of(storage, home), name, parts(method))
    if study:
        known = [item.study_name for item in found]
        found = [item for item in found if item.study_name == _known(study, tuple(known), "study")]
    latest = {(item.user_attrs["label"], item.user_attrs["objective"]): item for item in reversed(found)}
    folder = output or home / "report" / f"{name}-tuning"
    writable(folder)
    reports = [study_report(item, folder) for item in latest.values()]
    tracker = Tracker(home, f"{name}-tuning", create=False)
    for report in reports:
        tracker.log_study(report.study.parent, report.files)
    if as_json:
        print_json({"studies": [_as_json(report) for report in reports]})
        return
    for report in reports:
        _print_study(report.study)
        if report.importance:
            shares = ", ".join(f"{key} {share:.2f}" for key, share in report.importance.items())
            out.print(f"importance (fANOVA): {shares}", highlight=False, soft_wrap=True)
        console.print(f"figures: {report.folder}", soft_wrap=True, highlight=False)
    if older := len(found) - len(reports):
        console.print(f"{older} older studies are not shown: name one with --study", highlight=False)


def _as_json(report: StudyReport) -> dict[str, Any]:
    study = report.study
    best, own = (study.best() if study.finished else None), study.own_trial()
    verdict = study.verdict() if best else None
    return {
        "name": study.name,
        "label": study.label,
        "objective": study.objective,
        "selection": study.selection,
        "best": best and asdict(best),
        "own": own and asdict(own),
        "keep": verdict and verdict.keep,
        "words": verdict and verdict.words,
        "importance": report.importance,
        "trials": [asdict(trial) for trial in study.trials],
        "files": [str(path) for path in report.files],
    }


def _known(text: str, known: tuple[Any, ...], what: str) -> Any:
    if text not in known:
        raise SuiteError(f"unknown {what} {text!r}{plugins.nearest(text, known)}", f"one of {', '.join(known)}")
    return text


def _kept(storage: Storage, profile: str, label: str) -> str:
    """How many trials of a label are done."""
    from open_set_fer.benchmark.tuning.study import Study, stored_studies

    try:
        done = len(Study.of(stored_studies(storage, profile, (label,))[0]).finished)
    except SuiteError:
        done = 0
    return f"{done} finished trials of {label} are kept, and the cells of the one that was stopped"


def _dashboard(storage: Storage) -> str:
    """How Optuna's own tools see a storage."""
    return shlex.join(["optuna-dashboard", masked(storage.address)]) + " (pip install 'open-set-fer[studies]')"


def _print_study(study: Study) -> None:
    """The trials of a study, its best values, and whether they are to be taken."""
    from open_set_fer.benchmark.tuning.study import STAMP, spread_of

    keys = list(study.own)
    stamp = f"{STAMP} · " * (study.objective == "test")
    table = Table("trial", *keys, study.area, title=f"{stamp}{study.label}: {study.selection}")
    best = study.best() if study.finished else None
    for trial in study.trials:
        shown = [_short(trial.values.get(key, "")) for key in keys]
        mark = " best" * (trial is best) + " yours" * (trial.values == study.own)
        table.add_row(str(trial.number), *shown, spread_of(trial) + mark)
    out.print(table)
    if best is None:
        log.warning("%s: no trial has finished", study.label)
        return
    verdict = study.verdict()
    out.print(f"{study.label}: {verdict.words}", highlight=False, soft_wrap=True)
    out.print(f"best values of {study.label}{', for the profile' * (not verdict.keep)}:", highlight=False)
    for key, value in best.values.items():
        out.print(f"  {key} = {json.dumps(value)}", highlight=False, soft_wrap=True)
    out.print(f'  selection = "{study.selection}"', highlight=False, soft_wrap=True)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
