"""The command tune: hyperparameter studies and their results."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.table import Table

from open_set_fer import plugins
from open_set_fer.cli.groups import CellOptions, ComputeOptions, grouped
from open_set_fer.cli.options import (
    HOME,
    DatasetOption,
    DeviceOption,
    HomeOption,
    ProfileOption,
    SeedOption,
    ThreadsOption,
    command_line,
    examples,
    exit_stopped,
    parts,
    print_json,
    say,
)
from open_set_fer.console import console, log, out
from open_set_fer.errors import SuiteError, TrackingAway, masked, summary
from open_set_fer.files import writable

if TYPE_CHECKING:
    from open_set_fer.benchmark.planning.cells import Selection
    from open_set_fer.benchmark.planning.profile import Profile
    from open_set_fer.benchmark.tuning.storage import Storage
    from open_set_fer.benchmark.tuning.study import Study
    from open_set_fer.reports.study import StudyReport

app = typer.Typer(invoke_without_command=True)
StorageOption = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="Where studies are kept: a database file or URL (postgresql://host/studies), or journal:PATH, a file that "
        "the machines of a cluster share (default: studies.db in the home).",
    ),
]
MethodOption = Annotated[
    str, typer.Option("--method", "-m", help="Labels with a [search] table, comma-separated (default: all).")
]
OpenOption = Annotated[
    str, typer.Option("--open", help="Open classes to study on (default: compound, contempt where not reported).")
]
ObjectiveOption = Annotated[
    str,
    typer.Option(
        help="auroc: of open faces, outside the test split; control: sensitivity S, how well flipped true labels of "
        "closed faces are found among faces of one label, without any open face, for methods that learn from labels; "
        "test: on the tables' own faces, and every output says so. A study without a trial above 0.5 chooses nothing."
    ),
]
TrialsOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Trials of each label in all, the profile's own settings first (default: 6; the whole grid)."
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="SECONDS", help="Begin no trial of a label after so long (default: no limit)."),
]
SamplerOption = Annotated[
    str, typer.Option(help="tpe, random, gp (Gaussian process) or grid (every combination of the listed values).")
]
PrunerOption = Annotated[
    str,
    typer.Option(
        help="none, or hyperband: stop trials early by the value of their first cell (for methods that report while "
        "they train: ours, o2u, co-teaching)."
    ),
]


@dataclass(frozen=True)
class StudyOptions:
    """Which studies, and how they search."""

    profile: ProfileOption = ""
    dataset: DatasetOption = ""
    open_classes: OpenOption = ""
    method: MethodOption = ""
    seed: SeedOption = ""
    objective: ObjectiveOption = "auroc"
    trials: TrialsOption = None
    timeout: TimeoutOption = None
    sampler: SamplerOption = "tpe"
    pruner: PrunerOption = "none"
    storage: StorageOption = ""
    device: DeviceOption = "auto"
    threads: ThreadsOption = None

    def cells(self) -> CellOptions:
        """The cells that trials are made of."""
        return CellOptions(self.profile, self.dataset, "", self.open_classes, self.method, self.seed)


@app.callback(
    epilog=examples(
        "osfer tune -p ferplus-cpu --method ours --trials 6",
        "osfer tune -p ferplus-cpu -m baseline,ours --open contempt --seed 0,1,2 --trials 20",
        "osfer tune -p ferplus-cpu -m ours --sampler grid --timeout 3600",
        "osfer tune -p paper -m ours --storage journal:/shared/studies.log --trials 100",
    )
)
@grouped
def tune(context: typer.Context, study: StudyOptions, home: HomeOption = HOME) -> None:
    """Search hyperparameters with Optuna on faces outside the test split; prints what to write into the profile.

    Started again, or several times at once on one storage, it goes on with the same study.
    """
    if context.invoked_subcommand:
        return
    from open_set_fer.benchmark.tuning import tune as tuning
    from open_set_fer.benchmark.tuning.plan import StudyPlan
    from open_set_fer.benchmark.tuning.storage import Storage
    from open_set_fer.benchmark.tuning.study import OBJECTIVES

    cells, options = study.cells(), ComputeOptions(study.device, study.threads).checked()
    profile, selection = cells.load(), cells.selection()
    sampler = _member(study.sampler, tuning.SAMPLERS, "sampler")
    pruner = _member(study.pruner, tuning.PRUNERS, "pruner")
    search = tuning.Search(study.trials, sampler, study.timeout, pruner)
    aim = _member(study.objective, OBJECTIVES, "objective")
    dataset, labels = _studied(profile, selection)
    selection = replace(selection, datasets=(dataset,))
    place = Storage.of(study.storage, writable(home))
    refused = False
    for label in labels:
        try:
            plan = StudyPlan.of(profile, label, selection, home / "cache", aim)
            done = tuning.tune(plan, search, home, options, command_line(), place)
        except KeyboardInterrupt as stop:
            _exit_stopped(stop, place, profile.name, label)
        except SuiteError as error:
            if len(labels) == 1 or isinstance(error, TrackingAway):
                raise
            refused = True
            log.error("%s: %s", label, summary(error))
        else:
            _print_study(done)
    command = ["osfer", "tune", "show", "--profile", study.profile or profile.name, "--home", str(home)]
    command += ["--storage", masked(study.storage)] if study.storage else []
    say(f"next: {shlex.join(command)}")
    say(f"or: {_dashboard(place)}")
    if refused:
        sys.exit(1)


def _studied(profile: Profile, selection: Selection) -> tuple[str, tuple[str, ...]]:
    """The data set and the labels, one for each study."""
    datasets = selection.datasets or tuple(profile.default_datasets or profile.datasets)
    if len(datasets) > 1:
        raise SuiteError(f"a study is on one data set, not on {', '.join(datasets)}", "choose it with --dataset")
    if labels := selection.methods or tuple(profile.search):
        return datasets[0], labels
    raise SuiteError(f"profile {profile.name} has no [search] table", "write one: see `osfer profile show ferplus-cpu`")


def _exit_stopped(stop: KeyboardInterrupt, storage: Storage, profile: str, label: str) -> NoReturn:
    """Say what is kept of a study and how it goes on, and exit as the signal does."""
    from open_set_fer.benchmark.tuning.study import Study, stored_studies

    count = 0
    with suppress(SuiteError):
        count = len(Study.of(stored_studies(storage, profile, (label,))[0]).finished)
    exit_stopped(
        stop,
        f"{count} finished trials of {label} are kept, and finished cells of the stopped trial; "
        f"the same command goes on: {command_line()}",
    )


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
        typer.Option("--out", help="Folder of texts and figures (default: `report/<profile>-tuning` in the home)."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: studies, each with name, label, objective, selection, best, own, "
            "keep, words, importance, trials and files.",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Show studies: best values with their spread, whether to take them, and figures, also in MLflow."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker
    from open_set_fer.benchmark.tuning.storage import Storage
    from open_set_fer.benchmark.tuning.study import stored_studies
    from open_set_fer.reports.study import study_report

    name = load_profile(profile or "demo").name
    studies = stored_studies(Storage.of(storage, home), name, parts(method))
    if study:
        names = [item.study_name for item in studies]
        studies = [studies[names.index(_member(study, tuple(names), "study"))]]
    latest = {(item.user_attrs["label"], item.user_attrs["objective"]): item for item in reversed(studies)}
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
            say(f"importance (fANOVA): {shares}", out)
        say(f"figures: {report.folder}")
    if older := len(studies) - len(reports):
        console.print(f"{older} older studies are not shown: name one with --study", highlight=False)


def _as_json(report: StudyReport) -> dict[str, Any]:
    study = report.study
    best, own = (study.best() if study.chooses else None), study.own_trial()
    verdict = study.verdict() if study.finished else None
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


def _member(text: str, allowed: tuple[Any, ...], kind: str) -> Any:
    if text not in allowed:
        raise SuiteError(f"unknown {kind} {text!r}{plugins.nearest(text, allowed)}", f"one of {', '.join(allowed)}")
    return text


def _dashboard(storage: Storage) -> str:
    return shlex.join(["optuna-dashboard", masked(storage.address)]) + " (pip install 'open-set-fer[studies]')"


def _print_study(study: Study) -> None:
    """Print the trials of a study, its best values, and whether they are to be taken."""
    from open_set_fer.benchmark.tuning.study import STAMP, spread_of

    keys = list(study.own)
    stamp = f"{STAMP} · " * (study.objective == "test")
    table = Table("trial", *keys, study.area, title=f"{stamp}{study.label}: {study.selection}")
    best = study.best() if study.finished else None
    chosen = best if study.chooses else None
    for trial in study.trials:
        values = [_short(trial.values.get(key, "")) for key in keys]
        mark = " best" * (trial is chosen) + " yours" * (trial.values == study.own)
        table.add_row(str(trial.number), *values, spread_of(trial) + mark)
    out.print(table)
    if best is None:
        log.warning("%s: no trial has finished", study.label)
        return
    verdict = study.verdict()
    say(f"{study.label}: {verdict.words}", out)
    if chosen is None:
        return
    out.print(f"best values of {study.label}{', for the profile' * (not verdict.keep)}:", highlight=False)
    for key, value in chosen.values.items():
        say(f"  {key} = {json.dumps(value)}", out)
    say(f'  selection = "{study.selection}"', out)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
