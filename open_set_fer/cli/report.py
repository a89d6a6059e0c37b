"""Commands that show what was logged: report, ui, effect-study."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from open_set_fer.cli.options import HOME, HomeOption, ProfileOption, examples, folder, print_json
from open_set_fer.console import console, out
from open_set_fer.errors import SuiteError

app = typer.Typer()


@app.command(epilog=examples("osfer report", "osfer report -p ferplus-cpu --out my-report", "osfer report --json"))
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
    home: HomeOption = HOME,
) -> None:
    """Render tables (LaTeX, Markdown, CSV), figures and index.html from MLflow; files of yours are never overwritten."""
    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.benchmark.server import public_address
    from open_set_fer.benchmark.tracking import Tracker
    from open_set_fer.reports.render import render, report_files

    name, _, _ = load_profile(profile)
    if not name.strip("."):
        raise SuiteError(f"the profile {profile} has no name that a folder may have", "rename the file")
    if ui and not ui.startswith(("http://", "https://")):
        raise SuiteError(f"--ui {ui} is no address", "write it as http://127.0.0.1:5000")
    tracker = Tracker(home, name, create=False)
    if not ui and tracker.uri.startswith(("http://", "https://")):
        ui = tracker.uri
    ui = public_address(ui)  # the page is handed on
    index = render(tracker, to or home / "report" / name, ui)
    tracker.log_report(index.parent, report_files(index.parent))
    if as_json:
        place = index.resolve().parent
        paths = {"report": index.resolve(), "tables": place / "tables", "figures": place / "figures"}
        print_json({"profile": name} | {key: str(path) for key, path in paths.items()})
        return
    out.print(f"report: {index.resolve()}", soft_wrap=True, highlight=False, markup=False)


@app.command(epilog=examples("osfer ui", "osfer ui -p ferplus-cpu --port 5001"))
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on the loopback interface.")] = 5000,
    profile: Annotated[str, typer.Option("--profile", "-p", help="Print the link of this profile alone.")] = "",
    home: HomeOption = HOME,
) -> None:
    """Open the MLflow UI on 127.0.0.1, or say where the tracking server's own is."""
    from open_set_fer.benchmark import server, tracking
    from open_set_fer.benchmark.profiles import load_profile

    uri, _ = server.tracking_uri(home)
    if server.is_remote(uri):
        out.print("the runs are on the tracking server of MLFLOW_TRACKING_URI, which has its own MLflow UI:")
        out.print(f"  {server.public_address(uri)}", soft_wrap=True, highlight=False, markup=False)
        return
    experiments = tracking.stored_experiments(home)
    if profile:
        name, _, _ = load_profile(profile)
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
    from open_set_fer.reports.effect_study import write_effect_study

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
    from open_set_fer.reports.ours_plus_study import write_ours_plus_study

    path = write_ours_plus_study(home, to)
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
    from open_set_fer.benchmark.profiles import load_profile
    from open_set_fer.reports.replication import write_replication

    name, _, _ = load_profile(profile)
    path = write_replication(home, to, name)
    out.print(f"replication: {path.resolve()}", soft_wrap=True, highlight=False, markup=False)
