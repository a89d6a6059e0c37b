"""The command `osfer`. Heavy imports (torch, mlflow: seconds) stay inside the commands, so that --help is quick."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from open_set_fer import plugins
from open_set_fer.console import console, log, set_up_logging
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    from open_set_fer.benchmark.plan import Cell, Selection
    from open_set_fer.benchmark.tracking import Tracker

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Benchmark suite for open-set facial expression recognition.\n\nFirst steps: `osfer list`, `osfer plan`, "
    "`osfer run`, `osfer report`, `osfer ui`.",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True, help="Look at and prepare data sets.")
app.add_typer(data_app, name="data")
out = console.__class__()  # stdout: what a script may want to read

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="OSFER_HOME", help="Folder of results, caches and the default MLflow store.")
]
ProfileOption = Annotated[str, typer.Option("--profile", "-p", help="Built-in profile or path of a .toml file.")]
DatasetOption = Annotated[str, typer.Option("--dataset", "-d", help="Data sets, comma-separated (default: profile's).")]
ProtocolOption = Annotated[str, typer.Option("--protocol", help="Families: single,pairs,triples,compound,contempt.")]
OpenOption = Annotated[str, typer.Option("--open", help="Only protocols opening these: surprise,fear+disgust.")]
MethodOption = Annotated[
    str, typer.Option("--method", "-m", help="Method labels, comma-separated; `all` for every one.")
]
SeedOption = Annotated[str, typer.Option("--seed", help="Seeds, comma-separated (default: profile's).")]
AllPairsOption = Annotated[bool, typer.Option("--all-pairs", help="Every pair, not only the paper's list.")]
AllTriplesOption = Annotated[bool, typer.Option("--all-triples", help="Every triple, not only the paper's list.")]
WeightsOption = Annotated[str, typer.Option("--weights", help="Checkpoint for a ResNet backbone (safely read).")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1")]
HOME = Path("runs")


def main() -> None:
    """Entry point: a SuiteError is one clear message."""
    set_up_logging()
    try:
        app()
    except SuiteError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


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
    return Selection(_split(dataset), _split(protocol), _split(opened), _split(method), seeds, all_pairs, all_triples)


def _default_profile(profile: str, dataset: str) -> str:
    """`demo`, or where a data set has a profile of its own (`ferplus-cpu`) and no other is named, that one."""
    from open_set_fer.benchmark.profiles import profile_names

    if profile:
        return profile
    own = f"{dataset}-cpu"
    return own if own in profile_names() else "demo"


@app.command(
    epilog="Examples: `osfer run` · `osfer run --dataset ferplus --protocol single --method baseline,ours` · "
    "`osfer run -p demo --method all --seed 0,1,2` · `osfer run --open surprise -m ours`"
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
    allow_face_artifacts: Annotated[
        bool,
        typer.Option(
            "--allow-face-artifacts",
            help="Log pictures of faces of every data set, not of `synthetic` alone: pictures of real people then go to "
            "the tracking server, and the data set's licence must allow it.",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Run the cells of a profile that are not done yet, and log them to MLflow."""
    from open_set_fer.benchmark.plan import make_plan
    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.benchmark.runner import Runner, choose_device

    name, loaded, text = load_profile(_default_profile(profile, dataset), weights)
    selection = _selection(dataset, protocol, opened, method, seed, all_pairs, all_triples)
    cells, face_sets = make_plan(loaded, selection, home / "cache")
    runner = Runner(home, name, loaded, text, choose_device(device), allow_face_artifacts)
    log.info("profile %s: %d cells, results under %s", name, len(cells), home)
    try:
        outcome = runner.run(cells, face_sets, shlex.join(["osfer", *sys.argv[1:]]))
    except KeyboardInterrupt:
        console.print("stopped; finished cells are kept, the same command goes on from here")
        sys.exit(130)
    log.info(
        "%d computed, %d logged from an earlier computation, %d already done, %d failed",
        outcome.computed, outcome.logged_from_disk, outcome.already_done, len(outcome.failed),
    )  # fmt: skip
    if outcome.failed:
        table = Table("data set", "protocol", "open", "method", "seed", "error", title="failed cells")
        for cell, error in outcome.failed:
            table.add_row(*_row(cell), escape(error))
        console.print(table)
        labels = ",".join(dict.fromkeys(cell.label for cell, _ in outcome.failed))
        opens = ",".join(dict.fromkeys("+".join(cell.protocol.open) for cell, _ in outcome.failed))
        retry = ["osfer", "run", "--profile", profile or name, "--method", labels, "--open", opens]
        for flag, on in (
            ("--all-pairs", all_pairs),
            ("--all-triples", all_triples),
            ("--allow-face-artifacts", allow_face_artifacts),
        ):
            retry += [flag] * on
        for option, value in (
            ("--weights", weights),
            ("--dataset", dataset),
            ("--protocol", protocol),
            ("--seed", seed),
            ("--home", str(home)),
        ):
            retry += [option, value] * bool(value)
        console.print(f"retry only these with: {shlex.join(retry)}", soft_wrap=True)
        sys.exit(1)
    console.print(f"next: osfer report --profile {shlex.quote(profile or name)} --home {shlex.quote(str(home))}")


@app.command(epilog="Examples: `osfer plan` · `osfer plan -p paper --all-pairs`")
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
    home: HomeOption = HOME,
) -> None:
    """Dry run: the cells, which are done, and an estimate of the time the others take."""
    from open_set_fer.benchmark.plan import make_plan
    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.benchmark.tracking import Tracker

    name, loaded, _ = load_profile(_default_profile(profile, dataset), weights)
    selection = _selection(dataset, protocol, opened, method, seed, all_pairs, all_triples)
    cells, _faces = make_plan(loaded, selection, home / "cache")
    tracker = Tracker(home, name)
    done = tracker.finished_cells()
    table = Table("data set", "protocol", "open", "method", "seed", "state", title=f"profile {name}")
    for cell in cells:
        table.add_row(*_row(cell), "done" if cell.key in done else "to do")
    out.print(table)
    missing = [cell for cell in cells if cell.key not in done]
    if not missing:
        out.print(f"nothing to do: all {len(cells)} cells are done")
        return
    out.print(f"{len(missing)} of {len(cells)} cells to do; {_estimate(missing, tracker)}")


def _row(cell: Cell) -> tuple[str, str, str, str, str]:
    return cell.dataset, cell.protocol.family, cell.protocol.label, cell.label, str(cell.seed)


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
    epilog="Examples: `osfer tune -p ferplus-cpu --method ours --trials 6` · "
    "`osfer tune -p ferplus-cpu -m baseline,ours --open contempt --seed 0,1,2 --trials 20`"
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
    home: HomeOption = HOME,
) -> None:
    """Search hyperparameters with Optuna on faces outside the test split; prints what to write into the profile."""
    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.benchmark.runner import choose_device
    from open_set_fer.benchmark.tuning import tune as study

    name, loaded, text = load_profile(_default_profile(profile, dataset))
    selection = _selection(dataset, "", opened, method, seed, False, False)
    faces = selection.datasets or tuple(loaded.datasets)
    if len(faces) > 1:
        raise SuiteError(f"a study is on one data set, not on {', '.join(faces)}", "choose it with --dataset")
    command = shlex.join(["osfer", *sys.argv[1:]])
    labels = selection.methods or tuple(loaded.search)
    if not labels:
        raise SuiteError(f"profile {name} has no [search] table", "write one: see the profile ferplus-cpu")
    for label in labels:
        found = study(
            loaded, name, text, label, trials, faces[0], selection.open_classes, selection.seeds or tuple(loaded.seeds),
            home, choose_device(device), command,
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


@app.command("list", epilog="Example: `osfer list`")
def list_() -> None:
    """What there is: profiles, data sets, protocols, methods."""
    from open_set_fer.benchmark.profiles import load_profile, profile_names
    from open_set_fer.benchmark.protocols import FAMILIES, PAPER_PAIRS, PAPER_TRIPLES

    table = Table("profile", "what for", "methods run by default")
    for name in profile_names():
        _, profile, _ = load_profile(name)
        table.add_row(name, escape(profile.description), ", ".join(profile.default_methods))
    out.print(table)
    for title, group in (("data set", plugins.DATASETS), ("method", plugins.METHODS)):
        table = Table(title, "what", "from")
        for name, point in sorted(plugins.available(group).items()):
            doc = (plugins.load(group, name).__doc__ or "").strip().partition("\n")[0]
            table.add_row(name, escape(doc), escape(point.dist.name if point.dist else point.value))
        out.print(table)
    out.print(f"protocol families: {', '.join(FAMILIES)}")
    for title, groups in (("pairs", PAPER_PAIRS), ("triples", PAPER_TRIPLES)):
        out.print(f"{title} of the paper (--all-{title} for every one): {', '.join('+'.join(g) for g in groups)}")


@app.command(epilog="Examples: `osfer report` · `osfer report -p ferplus-cpu --out tables/`")
def report(
    profile: ProfileOption = "demo",
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder to write (default: <home>/report/<profile>).")
    ] = None,
    ui: Annotated[
        str, typer.Option("--ui", metavar="URL", help="Address of an MLflow UI: the page links its runs there.")
    ] = "",
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
    out.print(f"report: {index.resolve()}", soft_wrap=True, highlight=False)


@app.command(epilog="Examples: `osfer ui` · `osfer ui -p ferplus-cpu --port 5001`")
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
    return loaded.dataset(name).load(home / "cache")


@data_app.command(epilog="Example: `osfer data preview synthetic --out faces.png`")
def preview(
    name: Annotated[str, typer.Argument(help="Data set.")],
    to: Annotated[Path | None, typer.Option("--out", help="PNG to write (default: <home>/preview/<name>.png).")] = None,
    profile: ProfileOption = "",
    per_class: Annotated[int, typer.Option(min=1, max=50, help="Faces of each class.")] = 8,
    home: HomeOption = HOME,
) -> None:
    """Write a contact sheet: some faces of each class."""
    from open_set_fer.datasets.preview import contact_sheet

    target = to or home / "preview" / f"{name}.png"
    contact_sheet(_load_dataset(name, profile, home), target, per_class)
    out.print(f"contact sheet: {target.resolve()}", soft_wrap=True, highlight=False)


@app.command("effect-study", epilog="Example: `osfer run -p effect-study; osfer effect-study --out reports`")
def effect_study(
    to: Annotated[Path, typer.Option("--out", help="Folder to write effect_study.md and its figure to.")] = Path(
        "reports"
    ),
    home: HomeOption = HOME,
) -> None:
    """Write up why `ours` does what it does on FERPlus, from the profiles effect-study and ferplus-cpu."""
    from open_set_fer.reports.effect_study import write_effect_study

    path = write_effect_study(home, to)
    out.print(f"effect study: {path.resolve()}", soft_wrap=True, highlight=False)


@data_app.command(epilog="Example: `osfer data prepare ferplus`")
def prepare(
    name: Annotated[str, typer.Argument(help="Data set.")], profile: ProfileOption = "", home: HomeOption = HOME
) -> None:
    """Decode a data set once into the cache; goes on where a killed preparation stopped."""
    faces = _load_dataset(name, profile, home)
    out.print(f"{name}: {len(faces.images)} images, fingerprint {faces.fingerprint}", soft_wrap=True, highlight=False)


@data_app.command(epilog="Examples: `osfer data check ferplus` · `osfer data check ferplus --json`")
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


@data_app.command(epilog="Example: `osfer data guide rafdb`")
def guide(name: Annotated[str, typer.Argument(help="Data set.")]) -> None:
    """Where to ask for a data set, the folder it must lie in, and what is checked."""
    from open_set_fer.datasets.guide import guide as text

    out.print(text(name), soft_wrap=True, highlight=False)
