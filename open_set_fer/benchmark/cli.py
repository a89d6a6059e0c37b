"""The command `osfer`. Heavy imports (torch, mlflow: seconds) stay inside the commands, so that --help is quick."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from open_set_fer import __version__, plugins
from open_set_fer.console import console, log, out, print_what_the_terminal_can, set_up_logging
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    from open_set_fer.benchmark.plan import Cell, Selection
    from open_set_fer.benchmark.runner import Runner
    from open_set_fer.benchmark.tracking import Tracker
    from open_set_fer.datasets.faceset import Outline


def _examples(*commands: str) -> str:
    """The end of a command's help, as a Markdown list."""
    return "Examples:\n\n" + "\n".join(f"- `{command}`" for command in commands)


def _folder(text: str | Path) -> Path:
    """A folder named on the command line; raises SuiteError for an empty name and where a file stands in the way."""
    path = Path(text)
    if not str(text).strip():
        raise SuiteError("the name of a folder is empty", "name one, for example --home runs")
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise SuiteError(f"{place} is a file, not a folder", "name another folder")
    return path


def _made(home: Path) -> Path:
    """The folder of results, created where it is not there yet; raises SuiteError where nothing can be written."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SuiteError(
            f"cannot create the folder {home}: {error.strerror}", "name another one with --home"
        ) from error
    if not os.access(home, os.W_OK):
        raise SuiteError(f"cannot write into the folder {home}", "name another one with --home")
    return home


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Benchmark suite for open-set facial expression recognition.\n\nFirst steps: `osfer list`, `osfer plan`, "
    "`osfer run`, `osfer report`, `osfer ui`.",
    epilog=_examples("osfer run --help", "osfer run -p demo", "osfer report -p demo"),
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    no_args_is_help=True,
    help="Look at and prepare data sets.",
    epilog=_examples("osfer data guide ferplus", "osfer data check ferplus"),
)
app.add_typer(data_app, name="data")
profile_app = typer.Typer(
    no_args_is_help=True,
    help="Look at the built-in profiles.",
    epilog=_examples("osfer profile list", "osfer profile show ferplus-cpu > my.toml"),
)
app.add_typer(profile_app, name="profile")

HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="OSFER_HOME",
        parser=_folder,
        metavar="<path>",
        help="Folder of results, caches and the default MLflow store.",
    ),
]
ProfileOption = Annotated[str, typer.Option("--profile", "-p", help="Built-in profile or path of a .toml file.")]
DatasetOption = Annotated[str, typer.Option("--dataset", "-d", help="Data sets, comma-separated (default: profile's).")]
ProtocolOption = Annotated[str, typer.Option("--protocol", help="Families: single,pairs,triples,compound,contempt.")]
OpenOption = Annotated[str, typer.Option("--open", help="Only protocols opening these: surprise,fear+disgust.")]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        help="Method labels, comma-separated (see `osfer list`); `all`: those of the suite, of installed packages and of "
        "the profile.",
    ),
]
SeedOption = Annotated[str, typer.Option("--seed", help="Seeds, comma-separated (default: profile's).")]
AllPairsOption = Annotated[bool, typer.Option("--all-pairs", help="Every pair, not only the paper's list.")]
AllTriplesOption = Annotated[bool, typer.Option("--all-triples", help="Every triple, not only the paper's list.")]
WeightsOption = Annotated[str, typer.Option("--weights", help="Checkpoint for a ResNet backbone (safely read).")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="CPU threads (default: as many as torch takes). Another number rounds otherwise."
    ),
]
HOME = Path("runs")


def main() -> None:
    """Entry point: a SuiteError is one clear message."""
    print_what_the_terminal_can()
    set_up_logging()
    try:
        app()
    except SuiteError as error:
        console.print("error:", style="red", end=" ")
        console.print(str(error), highlight=False, soft_wrap=True)
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        from open_set_fer.benchmark.provenance import git_commit

        print(f"osfer {__version__} (commit {git_commit()})")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version and commit of the suite.")
    ] = False,
) -> None:
    pass


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _selection(
    dataset: str, protocol: str, opened: str, method: str, seed: str, all_pairs: bool, all_triples: bool
) -> Selection:
    from open_set_fer.benchmark.plan import Selection

    try:
        seeds = tuple(int(part) for part in _split(seed))
    except ValueError as error:
        raise SuiteError(f"--seed {seed!r} is not a list of whole numbers", "for example --seed 0,1,2") from error
    methods = _split(method)
    if "all" in methods:
        for fault in plugins.broken(plugins.METHODS).values():
            log.warning("left out: %s", fault)
    return Selection(_split(dataset), _split(protocol), _split(opened), methods, seeds, all_pairs, all_triples)


def _default_profile(profile: str, dataset: str) -> str:
    """`demo`, or where a data set has a profile of its own (`ferplus-cpu`) and no other is named, that one."""
    from open_set_fer.benchmark.profiles import profile_names

    if profile:
        return profile
    own = f"{dataset}-cpu"
    return own if own in profile_names() else "demo"


@app.command(
    epilog=_examples(
        "osfer run",
        "osfer run --dataset ferplus --protocol single --method baseline,ours",
        "osfer run -p demo --method all --seed 0,1,2",
        "osfer run --open surprise -m ours,knn --json",
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
    weights: WeightsOption = "",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    allow_face_artifacts: Annotated[
        bool,
        typer.Option(
            "--allow-face-artifacts",
            help="Log pictures of faces of every data set, not of `synthetic` alone: pictures of real people then go to "
            "the tracking server, and the data set's licence must allow it.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: profile, home, cells, computed, logged_from_disk, already_done, failed "
            "(cells with error), results (cells with auroc), retry and report (commands).",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Run the cells of a profile that are not done yet, and log them to MLflow; ends with a table of AUROC."""
    from open_set_fer.benchmark.plan import make_plan
    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.benchmark.runner import Runner, choose_device

    chosen_device = choose_device(device, threads)
    name, loaded, text = load_profile(_default_profile(profile, dataset), weights)
    selection = _selection(dataset, protocol, opened, method, seed, all_pairs, all_triples)
    cells, face_sets = make_plan(loaded, selection, _made(home) / "cache")
    runner = Runner(home, name, loaded, text, chosen_device, allow_face_artifacts)
    log.info("profile %s: %d cells, results under %s", name, len(cells), home)
    try:
        outcome = runner.run(cells, face_sets, shlex.join(["osfer", *sys.argv[1:]]))
    except KeyboardInterrupt as stop:
        console.print("stopped; finished cells are kept, the same command goes on from here")
        sys.exit(128 + getattr(stop, "signal", signal.SIGINT))
    log.info(
        "%d computed, %d logged from an earlier computation, %d already done, %d failed",
        outcome.computed, outcome.logged_from_disk, outcome.already_done, len(outcome.failed),
    )  # fmt: skip
    retry = ""
    if outcome.waiting:
        console.print(
            f"{len(outcome.waiting)} result(s) wait on disk, because the tracking server does not answer; when it does, the "
            f"same command logs them: {shlex.join(['osfer', *sys.argv[1:]])}",
            soft_wrap=True, highlight=False, markup=False,
        )  # fmt: skip
    if outcome.failed:
        table = Table("data set", "protocol", "open", "method", "seed", "error", title="failed cells")
        for cell, error in outcome.failed:
            table.add_row(*_row(cell), error)
        console.print(table)
        labels = ",".join(dict.fromkeys(cell.label for cell, _ in outcome.failed))
        opens = ",".join(dict.fromkeys("+".join(cell.protocol.open) for cell, _ in outcome.failed))
        again = ["osfer", "run", "--profile", profile or name, "--method", labels, "--open", opens]
        for flag, on in (
            ("--all-pairs", all_pairs),
            ("--all-triples", all_triples),
            ("--allow-face-artifacts", allow_face_artifacts),
        ):
            again += [flag] * on
        for option, value in (
            ("--weights", weights),
            ("--dataset", dataset),
            ("--protocol", protocol),
            ("--seed", seed),
            ("--threads", str(threads or "")),
            ("--home", str(home)),
        ):
            again += [option, value] * bool(value)
        retry = shlex.join(again)
    report_command = f"osfer report --profile {shlex.quote(profile or name)} --home {shlex.quote(str(home))}"
    auroc = _auroc(cells, runner)
    if as_json:
        _print_json({
            "profile": name, "home": str(home), "cells": len(cells), "computed": outcome.computed,
            "logged_from_disk": outcome.logged_from_disk, "already_done": outcome.already_done,
            "failed": [cell.coordinates() | {"error": error} for cell, error in outcome.failed],
            "results": [cell.coordinates() | {"auroc": auroc[cell.key]} for cell in cells if cell.key in auroc],
            "retry": retry or None, "report": report_command,
        })  # fmt: skip
    else:
        out.print(_auroc_table(cells, auroc))
    if retry:
        console.print(f"retry only these with: {retry}", soft_wrap=True, highlight=False)
        sys.exit(1)
    if outcome.waiting:
        sys.exit(3)
    console.print(f"next: {report_command}", soft_wrap=True, highlight=False)


def _print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output, in ASCII."""
    print(json.dumps(content, indent=1))


def _auroc(cells: list[Cell], runner: Runner) -> dict[str, float]:
    """AUROC of these cells by key, as far as they are finished; from the results on disk where MLflow does not answer."""
    try:
        logged = {key: metrics["auroc"] for key, metrics in runner.tracker.finished_cells().items()}
    except SuiteError:
        logged = {}
    found: dict[str, float] = {}
    for cell in cells:
        path = runner.home / "results" / cell.key / "result.json"
        if cell.key in logged:
            found[cell.key] = logged[cell.key]
        elif path.is_file():
            found[cell.key] = json.loads(path.read_text("utf-8"))["metrics"]["auroc"]
    return found


def _auroc_table(cells: list[Cell], auroc: dict[str, float]) -> Table:
    """Mean AUROC by method; a column for each open class where they are few, else for each family of protocols.

    '(2/3)' beside a number: so many of the cells that it should be the mean of are there; '-': none.
    """
    opens = list(dict.fromkeys(cell.protocol.label for cell in cells))
    by_class = len(opens) <= 7
    columns = opens if by_class else list(dict.fromkeys(cell.protocol.family for cell in cells))
    several = len({cell.dataset for cell in cells}) > 1
    mean = ["mean"] * (len(columns) > 1)
    table = Table(*["data set"] * several, "method", *columns, *mean, title="mean AUROC")
    for dataset, label in dict.fromkeys((cell.dataset, cell.label) for cell in cells):
        row = [cell for cell in cells if (cell.dataset, cell.label) == (dataset, label)]
        parts = [[c for c in row if (c.protocol.label if by_class else c.protocol.family) == name] for name in columns]
        texts = [_mean_auroc(part, auroc) for part in [*parts, *[row for _ in mean]]]
        table.add_row(*[dataset] * several, label, *texts)
    return table


def _mean_auroc(cells: list[Cell], auroc: dict[str, float]) -> str:
    known = [auroc[cell.key] for cell in cells if cell.key in auroc]
    if not known:
        return "-"
    return f"{sum(known) / len(known):.3f}" + f" ({len(known)}/{len(cells)})" * (len(known) < len(cells))


@app.command(epilog=_examples("osfer plan", "osfer plan -p paper --all-pairs", "osfer plan -m knn,vim --json"))
def plan(
    profile: ProfileOption = "",
    dataset: DatasetOption = "",
    protocol: ProtocolOption = "",
    opened: OpenOption = "",
    method: MethodOption = "",
    seed: SeedOption = "",
    all_pairs: AllPairsOption = False,
    all_triples: AllTriplesOption = False,
    weights: WeightsOption = "",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: profile, home, cells (each with its cell_key and state, `done` or "
            "`to do`), to_do, estimate.",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Dry run: the cells, which are done, and an estimate of the time the others take. Decodes and writes nothing."""
    from open_set_fer.benchmark.plan import dry_plan
    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.benchmark.tracking import Tracker

    name, loaded, _ = load_profile(_default_profile(profile, dataset), weights)
    selection = _selection(dataset, protocol, opened, method, seed, all_pairs, all_triples)
    cells, outlines = dry_plan(loaded, selection, home / "cache")
    tracker = Tracker(home, name, create=False)
    done = tracker.finished_cells()
    missing = [cell for cell in cells if cell.key not in done]
    states = ["done" if cell.key in done else "to do" for cell in cells]
    if as_json:
        _print_json({
            "profile": name, "home": str(home),
            "cells": [cell.coordinates() | {"state": state} for cell, state in zip(cells, states, strict=True)],
            "to_do": len(missing), "estimate": _estimate(missing, tracker) if missing else None,
        })  # fmt: skip
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
    out.print(f"{len(missing)} of {len(cells)} cells to do; {_estimate(missing, tracker)}")


def _row(cell: Cell) -> tuple[str, str, str, str, str]:
    return cell.dataset, cell.protocol.family, cell.protocol.label, cell.label, str(cell.seed)


def _not_prepared(name: str, outline: Outline, cache: Path) -> list[str]:
    """What stands between a data set and its cells, one line at most; which of them are done shows once it is prepared."""
    from open_set_fer.datasets.preparation import in_words

    if outline.missing:
        fault, _, mend = outline.missing.partition("\n  mend: ")
        return [f"{name} cannot be read yet: {fault.removeprefix(f'{name}: ')} ({mend})"]
    if not outline.fingerprint:
        return [
            f"{name}: `osfer run` will decode {outline.images:,} images into {in_words(outline.bytes)} under {cache}"
        ]
    return []


def _estimate(missing: list[Cell], tracker: Tracker) -> str:
    """What the open cells will take, by the mean time of finished cells of the same data set and method."""
    times: dict[tuple[str, str], list[float]] = {}
    for finished in tracker.cells():
        if finished.info.status == "FINISHED":
            tags = finished.data.tags
            times.setdefault((tags["dataset"], tags["method"]), []).append(finished.data.metrics["seconds.total"])
    known = [times[pair] for cell in missing if (pair := (cell.dataset, cell.label)) in times]
    unknown = len(missing) - len(known)
    minutes = sum(sum(values) / len(values) for values in known) / 60
    parts = [f"about {minutes:.0f} min"] if known else []
    parts += [f"{unknown} with no finished cell of their kind to estimate from"] if unknown else []
    return ", ".join(parts)


@app.command(
    epilog=_examples(
        "osfer tune -p ferplus-cpu --method ours --trials 6",
        "osfer tune -p ferplus-cpu -m baseline,ours --open contempt --seed 0,1,2 --trials 20",
    )
)
def tune(
    profile: ProfileOption = "",
    dataset: DatasetOption = "",
    opened: Annotated[
        str, typer.Option("--open", help="Open classes to study on (default: compound, contempt where not reported).")
    ] = "",
    method: Annotated[str, typer.Option("--method", "-m", help="Labels with a [search] table (default: all).")] = "",
    seed: SeedOption = "",
    trials: Annotated[int, typer.Option(min=1, help="Trials of each label, the profile's own settings first.")] = 6,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    home: HomeOption = HOME,
) -> None:
    """Search hyperparameters with Optuna on faces outside the test split; prints what to write into the profile."""
    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.benchmark.runner import choose_device
    from open_set_fer.benchmark.tuning import tune as study

    chosen_device = choose_device(device, threads)
    name, loaded, text = load_profile(_default_profile(profile, dataset))
    selection = _selection(dataset, "", opened, method, seed, False, False)
    faces = selection.datasets or tuple(loaded.datasets)
    if len(faces) > 1:
        raise SuiteError(f"a study is on one data set, not on {', '.join(faces)}", "choose it with --dataset")
    command = shlex.join(["osfer", *sys.argv[1:]])
    labels = selection.methods or tuple(loaded.search)
    if not labels:
        raise SuiteError(f"profile {name} has no [search] table", "write one: see `osfer profile show ferplus-cpu`")
    for label in labels:
        found = study(
            loaded, name, text, label, trials, faces[0], selection.open_classes, selection.seeds or tuple(loaded.seeds),
            _made(home), chosen_device, command,
        )  # fmt: skip
        best = found.best()
        table = Table("trial", *best, "AUROC", title=f"{label}: {found.selection}")
        for number, (values, auroc) in enumerate(found.trials, 1):
            shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values.values()]
            mark = " best" if values is best else ""
            table.add_row(str(number), *shown, (f"{auroc:.3f}" if auroc is not None else "failed") + mark)
        out.print(table)
        out.print(f"best values of {label}, for the profile:", highlight=False)
        for key, value in best.items():
            out.print(f"  {key} = {json.dumps(value)}", highlight=False, soft_wrap=True)
        out.print(f'  selection = "{found.selection}"', highlight=False, soft_wrap=True)


@app.command("list", epilog=_examples("osfer list", "osfer list --json"))
def list_(
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: profiles, methods (labels, with the profiles that have them), datasets, "
            "broken, families, pairs, triples.",
        ),
    ] = False,
) -> None:
    """What there is: profiles, data sets, method labels, protocols."""
    there = _inventory()
    if as_json:
        _print_json(there)
        return
    for title, columns, rows in (
        ("profile", ("what for", "methods run by default"), there["profiles"]),
        ("method", ("what", "in profiles", "from"), there["methods"]),
        ("data set", ("what", "from"), there["datasets"]),
        ("broken", ("what is wrong",), there["broken"]),
    ):
        if rows:
            table = Table(title, *columns)
            for row in rows:
                table.add_row(*(", ".join(cell) if isinstance(cell, list) else cell for cell in row.values()))
            out.print(table)
    out.print(f"protocol families: {', '.join(there['families'])}", soft_wrap=True)
    for name in ("pairs", "triples"):
        out.print(f"{name} of the paper (--all-{name} for every one): {', '.join(there[name])}", soft_wrap=True)


def _inventory() -> dict[str, list[Any]]:
    """What `osfer list` shows; a package whose entry point cannot be used is under `broken`, with the reason."""
    from open_set_fer.benchmark.profiles import built_in_labels, load_profile, profile_names
    from open_set_fer.benchmark.protocols import FAMILIES, PAPER_PAIRS, PAPER_TRIPLES

    profiles = {name: load_profile(name)[1] for name in profile_names()}
    labels: dict[str, list[str]] = {}
    for name, profile in profiles.items():
        for label in profile.method_labels():
            labels.setdefault(label, []).append(name)
    methods, datasets = plugins.available(plugins.METHODS), plugins.available(plugins.DATASETS)
    no_data = plugins.broken(plugins.DATASETS)
    return {
        "profiles": [
            {"name": name, "description": profile.description, "default_methods": profile.default_methods}
            for name, profile in profiles.items()
        ],
        "methods": [
            {
                "name": label,
                "description": profiles[names[0]].about(label),
                "profiles": ["all"] if len(names) == len(profiles) else names,
                "package": _package(methods[label]) if label in methods else "open-set-fer",
            }
            for label, names in sorted(labels.items(), key=lambda item: item[0] not in built_in_labels())
        ],
        "datasets": [
            {
                "name": name,
                "description": (plugins.load(plugins.DATASETS, name).__doc__ or "").strip().partition("\n")[0],
                "package": _package(point),
            }
            for name, point in sorted(datasets.items())
            if name not in no_data
        ],
        "broken": [
            {"name": name, "reason": fault} for name, fault in (plugins.broken(plugins.METHODS) | no_data).items()
        ],
        "families": list(FAMILIES),
        "pairs": ["+".join(group) for group in PAPER_PAIRS],
        "triples": ["+".join(group) for group in PAPER_TRIPLES],
    }


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


@profile_app.command("list", epilog=_examples("osfer profile list"))
def profile_list() -> None:
    """Names of the built-in profiles, one a line."""
    from open_set_fer.benchmark.profiles import profile_names

    print("\n".join(profile_names()))


@profile_app.command("show", epilog=_examples("osfer profile show smoke", "osfer profile show ferplus-cpu > my.toml"))
def profile_show(name: Annotated[str, typer.Argument(help="Built-in profile.")]) -> None:
    """Print the TOML of a built-in profile, to read or to start one's own from."""
    from open_set_fer.benchmark.profiles import profile_text

    print(profile_text(name), end="")


@app.command(epilog=_examples("osfer report", "osfer report -p ferplus-cpu --out my-report", "osfer report --json"))
def report(
    profile: ProfileOption = "demo",
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=_folder, metavar="<path>", help="Folder to write (default: `<home>/report/<profile>`)."
        ),
    ] = None,
    ui: Annotated[
        str, typer.Option("--ui", metavar="URL", help="Address of an MLflow UI: the page links its runs there.")
    ] = "",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON on standard output: profile, and paths as report, tables, figures."),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Render tables (LaTeX, Markdown, CSV), figures and index.html from MLflow; files of yours are never overwritten."""
    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.benchmark.tracking import Tracker
    from open_set_fer.reports.render import render, report_files

    name, _, _ = load_profile(profile)
    if not name.strip("."):
        raise SuiteError(f"the profile {profile} has no name that a folder may have", "rename the file")
    if ui and not ui.startswith(("http://", "https://")):
        raise SuiteError(f"--ui {ui} is no address", "write it as http://127.0.0.1:5000")
    tracker = Tracker(home, name, create=False)
    index = render(tracker, to or home / "report" / name, ui)
    tracker.log_report(index.parent, report_files(index.parent))
    if as_json:
        folder = index.resolve().parent
        paths = {"report": index.resolve(), "tables": folder / "tables", "figures": folder / "figures"}
        _print_json({"profile": name} | {key: str(path) for key, path in paths.items()})
        return
    out.print(f"report: {index.resolve()}", soft_wrap=True, highlight=False, markup=False)


@app.command(epilog=_examples("osfer ui", "osfer ui -p ferplus-cpu --port 5001"))
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on the loopback interface.")] = 5000,
    profile: Annotated[str, typer.Option("--profile", "-p", help="Print the link of this profile alone.")] = "",
    home: HomeOption = HOME,
) -> None:
    """Open the MLflow UI on 127.0.0.1, or say where the tracking server's own is."""
    from open_set_fer.benchmark import tracking
    from open_set_fer.benchmark.profiles import load_profile

    uri, _ = tracking.tracking_uri(home)
    if tracking.is_remote(uri):
        out.print("the runs are on the tracking server of MLFLOW_TRACKING_URI, which has its own MLflow UI:")
        out.print(f"  {tracking.public_address(uri)}", soft_wrap=True, highlight=False, markup=False)
        return
    found = tracking.stored_experiments(home)
    if profile:
        name, _, _ = load_profile(profile)
        if name not in found:
            raise SuiteError(
                f"no run of profile {name} in the store of {home}", f"it has: {', '.join(found) or 'none'}"
            )
        found = {name: found[name]}
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SuiteError(f"port {port} is not free: {error.strerror}", "choose another with --port") from error
    base = f"http://127.0.0.1:{port}"
    console.print("MLflow UI starts; Ctrl-C ends it. Runs by profile, the newest first:")
    for name, experiment_id in found.items():
        link = tracking.experiment_link(base, experiment_id)
        console.print(f"  {name}: {link}", soft_wrap=True, highlight=False, markup=False)
    # The job runner of MLflow's server serves evaluations of language models; four workers serve many users.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    server = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *server, "--workers", "1"])


def _load_dataset(name: str, profile: str, home: Path) -> Any:
    from open_set_fer.benchmark.profiles import load_profile

    _, loaded, _ = load_profile(_default_profile(profile, name))
    return loaded.dataset(name).load(_made(home) / "cache")


@data_app.command(epilog=_examples("osfer data preview synthetic --out faces.png"))
def preview(
    name: Annotated[str, typer.Argument(help="Data set.")],
    to: Annotated[
        Path | None, typer.Option("--out", help="PNG to write (default: `<home>/preview/<name>.png`).")
    ] = None,
    profile: ProfileOption = "",
    per_class: Annotated[int, typer.Option(min=1, max=50, help="Faces of each class.")] = 8,
    home: HomeOption = HOME,
) -> None:
    """Write a contact sheet: some faces of each class."""
    from open_set_fer.datasets.preview import check_picture_path, contact_sheet

    target = to or home / "preview" / f"{name}.png"
    check_picture_path(target)  # before minutes of decoding
    contact_sheet(_load_dataset(name, profile, home), target, per_class)
    out.print(f"contact sheet: {target.resolve()}", soft_wrap=True, highlight=False)


@app.command("effect-study", epilog=_examples("osfer run -p effect-study; osfer effect-study --out docs"))
def effect_study(
    to: Annotated[Path, typer.Option("--out", help="Folder to write effect_study.md and its figure to.")] = Path(
        "docs"
    ),
    home: HomeOption = HOME,
) -> None:
    """Write up why `ours` does what it does on FERPlus, from the profiles effect-study and ferplus-cpu."""
    from open_set_fer.reports.effect_study import write_effect_study

    path = write_effect_study(home, to)
    out.print(f"effect study: {path.resolve()}", soft_wrap=True, highlight=False)


@data_app.command(epilog=_examples("osfer data prepare ferplus"))
def prepare(
    name: Annotated[str, typer.Argument(help="Data set.")], profile: ProfileOption = "", home: HomeOption = HOME
) -> None:
    """Decode a data set once into the cache; goes on where a killed preparation stopped."""
    faces = _load_dataset(name, profile, home)
    out.print(f"{name}: {len(faces.images)} images, fingerprint {faces.fingerprint}", soft_wrap=True, highlight=False)


@data_app.command(epilog=_examples("osfer data check ferplus", "osfer data check ferplus --json"))
def check(
    name: Annotated[str, typer.Argument(help="Data set.")],
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    files: Annotated[bool, typer.Option("--files", help="First list every unreadable or wrongly sized file.")] = False,
    profile: ProfileOption = "",
    home: HomeOption = HOME,
) -> None:
    """Counts by class and split beside the published ones, and images that are there more than once."""
    from dataclasses import asdict

    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.datasets.faceset import data_root
    from open_set_fer.datasets.integrity import FACE_SIDES, odd_files
    from open_set_fer.datasets.integrity import check as examine

    if files:
        _, loaded, _ = load_profile(_default_profile(profile, name))
        odd = odd_files(data_root(name, getattr(loaded.dataset(name).settings, "root", "")), FACE_SIDES.get(name))
        for line in odd:
            out.print(line, soft_wrap=True, highlight=False)
        out.print(f"{len(odd)} odd files", highlight=False)
        if odd:
            sys.exit(1)
    report = examine(_load_dataset(name, profile, home))
    if as_json:
        print(json.dumps(asdict(report), indent=1))
        return
    table = Table("class", title=f"{name}, fingerprint {report.fingerprint[:12]}")
    for split in report.counts:
        table.add_column(f"{split}\nfound / published" if report.published else split, justify="right")
    for label in next(iter(report.counts.values())):
        row = []
        for split, counts in report.counts.items():
            published = report.published_classes.get(split, {}).get(label)
            beside = f" / {published:,}" if published is not None else " / -"
            row.append(f"{counts[label]:,}" + beside * bool(report.published))
        table.add_row(label, *row)
    totals = {split: sum(counts.values()) for split, counts in report.counts.items()}
    table.add_section()
    table.add_row("all", *(f"{total:,}" for total in totals.values()))
    if report.published:
        table.add_row("published", *(f"{report.published.get(split, 0):,}" for split in totals))
        table.add_row(
            "difference", *(f"{total - report.published.get(split, 0):+,}" for split, total in totals.items())
        )
    for what, by_split in report.notes.items():
        table.add_row(what, *(f"{by_split.get(split, 0):,}" for split in totals))
    out.print(table)
    count = len(report.duplicates)
    out.print(f"same pixels: {count} groups, {report.across} across splits, {report.conflicting} across classes")
    for group in report.duplicates[:5]:
        out.print(f"  {', '.join(group)}", soft_wrap=True, highlight=False)
    out.print(f"near duplicates by perceptual hash: {len(report.near)} pairs, {report.near_across} across splits")
    for pair in report.near[:5]:
        out.print(f"  {', '.join(pair)}", soft_wrap=True, highlight=False)
    for line in report.vocabulary:
        out.print(line, soft_wrap=True, highlight=False)


@data_app.command(epilog=_examples("osfer data guide rafdb"))
def guide(name: Annotated[str, typer.Argument(help="Data set.")]) -> None:
    """What a data set is and needs: where to ask for it, the folder it must lie in, what is checked."""
    from open_set_fer.datasets.guide import guide as text

    out.print(text(name), soft_wrap=True, highlight=False, markup=False)
