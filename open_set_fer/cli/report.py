"""Commands that show what was logged: report, ui, effect-study."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from open_set_fer.cli.options import HOME, HomeOption, ProfileOption, examples, folder, print_json
from open_set_fer.console import console, out
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    from open_set_fer.benchmark.storage.tracking import Tracker

app = typer.Typer()
WATCH_PAUSE = 5.0
"""Seconds between two looks at the store."""


@app.command(
    epilog=examples(
        "osfer report",
        "osfer report -p ferplus-cpu --out my-report",
        "osfer report --watch",
        "osfer report -p demo --compare runs other/runs",
        "osfer report --compare ferplus-cpu-plain ferplus-cpu --out docs/closed_set",
    )
)
def report(
    profile: ProfileOption = "demo",
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=folder, metavar="<path>", help="Folder to write (default: `<home>/report/<profile>`)."
        ),
    ] = None,
    ui: Annotated[
        str,
        typer.Option(
            "--ui",
            metavar="URL",
            help="Address of an MLflow UI: the page links its numbers to their runs there (default: the tracking server's, none for a store on disk).",
        ),
    ] = "",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON on standard output: profile, and paths as report, tables, figures."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Render again whenever cells were logged, until Ctrl-C; a line each time.")
    ] = False,
    clip_features: Annotated[
        Path | None,
        typer.Option(
            "--clip-features",
            metavar="FILE",
            help="CLIP features of test images that you computed, for Figure 1 as printed: an .npz with `ids` and `features`, or a .parquet with "
            "`id` and the features in the other columns (ids as in `scores.parquet`).",
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Render nothing; print how the second differs from the first on shared cells, and write it as Markdown with --out. "
            "Each is a profile of --home, or a folder of results or the address of a store with the profile.",
        ),
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Render tables (LaTeX, Markdown, CSV), figures and index.html from MLflow; files of yours are never overwritten."""
    if compare:
        if watch or ui or clip_features:
            raise SuiteError("--compare writes no page", "leave out --ui, --clip-features and --watch")
        _compare(compare, profile, home, to, as_json)
        return
    if watch and as_json:
        raise SuiteError("--watch never ends, so it has no JSON to print", "leave out one of --watch and --json")
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage.connection import public_address
    from open_set_fer.benchmark.storage.tracking import Tracker
    from open_set_fer.reports.data.clip_features import read_clip_features
    from open_set_fer.reports.render import render, report_files

    name = load_profile(profile).name
    if not name.strip("."):
        raise SuiteError(f"the profile {profile} has no name that a folder may have", "rename the file")
    if ui and not ui.startswith(("http://", "https://")):
        raise SuiteError(f"--ui {ui} is no address", "write it as http://127.0.0.1:5000")
    clip = read_clip_features(clip_features) if clip_features else None

    def find() -> Tracker:
        return Tracker(home, name, create=False)

    tracker = find()
    if not ui and tracker.uri.startswith(("http://", "https://")):
        ui = tracker.uri
    ui = public_address(ui)  # the page is handed on
    if watch:
        _watch(tracker, find, lambda found: render(found, to or home / "report" / name, ui, clip))
        return
    index = render(tracker, to or home / "report" / name, ui, clip)
    tracker.log_report(index.parent, report_files(index.parent))
    if as_json:
        place = index.resolve().parent
        paths = {"report": index.resolve(), "tables": place / "tables", "figures": place / "figures"}
        print_json({"profile": name} | {key: str(path) for key, path in paths.items()})
        return
    out.print(f"report: {index.resolve()}", soft_wrap=True, highlight=False, markup=False)


def _watch(tracker: Tracker, find: Callable[[], Tracker], render: Callable[[Tracker], Path]) -> None:
    """Render whenever the logged cells have changed; what is not there yet is waited for. It is not logged to MLflow.

    Nor does it end where no page can be made of what is there, since a run may be about to fix that: said once.
    """
    seen: dict[str, str] | None = None
    fault = ""
    try:
        while True:
            if tracker.is_outdated:
                tracker = find()
            cells = {run.info.run_id: run.info.status for run in tracker.cells()}
            states = Counter(cells.values())
            if cells != seen and states["FINISHED"]:
                try:
                    page = render(tracker).resolve()
                except SuiteError as error:
                    if str(error) != fault:
                        fault = str(error)
                        console.print(f"no page yet: {fault}", highlight=False, soft_wrap=True, markup=False)
                else:
                    fault, seen = "", cells
                    planned = max(len(tracker.planned()), len(cells))
                    failed = f", {states['FAILED']} failed" * (states["FAILED"] > 0)
                    said = (
                        f"{time.strftime('%H:%M:%S')} {states['FINISHED']} of {planned} cells finished{failed}: {page}"
                    )
                    out.print(said, soft_wrap=True, highlight=False, markup=False)
            else:
                if seen is None:
                    console.print("no finished cell yet; waiting, Ctrl-C ends it")
                seen = cells
            time.sleep(WATCH_PAUSE)
    except KeyboardInterrupt:
        console.print("stopped watching")


def _compare(which: tuple[str, str], profile: str, home: Path, to: Path | None, as_json: bool) -> None:
    """Print how the second experiment differs from the first, and write it where `to` is given."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from open_set_fer.benchmark.storage.connection import public_address
    from open_set_fer.reports import compare
    from open_set_fer.reports.data.results import load

    first, second = (load(_place(name, profile, home)) for name in which)
    which = (public_address(which[0]), public_address(which[1]))
    found = compare.differences(first, second, which)
    others = compare.other_faces(first, second)
    if to:
        to.mkdir(parents=True, exist_ok=True)
        (to / compare.FILE).write_text(compare.to_markdown(found, which, others), "utf-8")
    if as_json:
        rows = [asdict(row) | {"metric": row.metric.name} for row in found]
        print_json({"first": which[0], "second": which[1], "differences": rows})
        return
    for title, of in compare.titled(found):
        table = Table(*compare.HEADS, title=escape(title), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.columns[4].no_wrap = True
        for row in of:
            table.add_row(*(escape(text.replace(" [", "\n[")) for text in row.row))
        out.print(table)
    for text in compare.remarks(found, which, others):
        out.print(text, highlight=False, markup=False)
    if to:
        out.print(f"comparison: {(to / compare.FILE).resolve()}", soft_wrap=True, highlight=False, markup=False)


def _place(name: str, profile: str, home: Path) -> Tracker:
    """What `--compare` names: the address of a store, a folder's own store, or a profile where runs go here."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage.tracking import Tracker

    if "://" in name:
        return Tracker(home, load_profile(profile).name, create=False, uri=name)
    if Path(name).is_dir():
        return Tracker(
            Path(name), load_profile(profile).name, create=False, uri=""
        )  # whatever MLFLOW_TRACKING_URI says
    return Tracker(home, load_profile(name).name, create=False)


@app.command(epilog=examples("osfer ui", "osfer ui -p ferplus-cpu --port 5001"))
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on the loopback interface.")] = 5000,
    profile: Annotated[str, typer.Option("--profile", "-p", help="Print the link of this profile alone.")] = "",
    home: HomeOption = HOME,
) -> None:
    """Open the MLflow UI on 127.0.0.1, or say where the tracking server's own is."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage import connection as server
    from open_set_fer.benchmark.storage import tracking

    uri, _ = server.tracking_uri(home)
    if server.is_remote(uri):
        out.print("the runs are on the tracking server of MLFLOW_TRACKING_URI, which has its own MLflow UI:")
        out.print(f"  {server.public_address(uri)}", soft_wrap=True, highlight=False, markup=False)
        return
    experiments = tracking.stored_experiments(home)
    if profile:
        name = load_profile(profile).name
        if name not in experiments:
            raise SuiteError(
                f"no run of profile {name} in the store of {home}", f"it has: {', '.join(experiments) or 'none'}"
            )
        experiments = {name: experiments[name]}
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SuiteError(f"port {port} is not free: {error.strerror}", "choose another with --port") from error
    base = f"http://127.0.0.1:{port}"
    console.print("MLflow UI starts; Ctrl-C ends it. Runs by profile, the newest first:")
    for name, experiment_id in experiments.items():
        link = tracking.experiment_link(base, experiment_id)
        console.print(f"  {name}: {link}", soft_wrap=True, highlight=False, markup=False)
    # The job runner of MLflow's server serves evaluations of language models; four workers serve many users.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # a database's password must not be in the list of processes
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *command, "--workers", "1"])


@app.command("effect-study", epilog=examples("osfer run -p effect-study; osfer effect-study --out docs"))
def effect_study(
    to: Annotated[
        Path,
        typer.Option(
            "--out", parser=folder, metavar="<path>", help="Folder to write effect_study.md and its figure to."
        ),
    ] = Path("docs"),
    home: HomeOption = HOME,
) -> None:
    """Write up why `ours` does what it does on FERPlus, from the profiles effect-study and ferplus-cpu."""
    from open_set_fer.studies.effect_study.write_up import write_effect_study

    path = write_effect_study(home, to)
    out.print(f"effect study: {path.resolve()}", soft_wrap=True, highlight=False)


@app.command("ours-plus-study", epilog=examples("osfer run -p ours-plus-study; osfer ours-plus-study --out docs"))
def ours_plus_study(
    to: Annotated[
        Path, typer.Option("--out", parser=folder, metavar="<path>", help="Folder to write ours_plus.md to.")
    ] = Path("docs"),
    home: HomeOption = HOME,
) -> None:
    """Write up when `ours-plus` is of use and when not, from the profile ours-plus-study."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.studies.ours_plus.write_up import PROFILE, write_ours_plus_study

    profile = load_profile(PROFILE)
    name = profile.name
    path = write_ours_plus_study(home, to, name, profile.default_methods, profile.seeds)
    out.print(f"ours-plus study: {path.resolve()}", soft_wrap=True, highlight=False)


@app.command(epilog=examples("osfer replicate", "osfer replicate -p ferplus-cpu --out docs"))
def replicate(
    profile: Annotated[
        str,
        typer.Option("--profile", "-p", help="Profile whose cells under own, released and flipped labels are shown."),
    ] = "ferplus-cpu",
    to: Annotated[Path, typer.Option("--out", help="Folder to write replication.md and its figures to.")] = Path(
        "docs"
    ),
    home: HomeOption = HOME,
) -> None:
    """Write up what the published numbers rest on: the released label file, the printed tables, what was measured."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.studies.replication.write_up import write_replication

    name = load_profile(profile).name
    path = write_replication(home, to, name)
    out.print(f"replication: {path.resolve()}", soft_wrap=True, highlight=False, markup=False)
