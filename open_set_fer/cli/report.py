"""Commands that show what was logged: report, study, ui."""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from open_set_fer import studies
from open_set_fer.cli.options import HOME, HomeOption, ProfileOption, examples, folder, print_json, say
from open_set_fer.console import console, out
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker

app = typer.Typer()
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", parser=folder, metavar="<path>", help="Folder to write (default: `<home>/report/<profile>`)."
    ),
]
UiOption = Annotated[
    str,
    typer.Option(
        "--ui",
        metavar="URL",
        help="Address of an MLflow UI: the page links its numbers to their runs there (default: the tracking server's, "
        "none for a store on disk).",
    ),
]
ClipOption = Annotated[
    Path | None,
    typer.Option(
        "--clip-features",
        metavar="FILE",
        help="Your CLIP features of test images, for Figure 1 as published: an .npz with `ids` and `features`, or a "
        ".parquet with `id` and the features in the other columns (ids as in `scores.parquet`).",
    ),
]
CompareOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--compare",
        metavar="A B",
        help="Render nothing; print how the second differs from the first on shared cells, and write it as Markdown "
        "with --out. Each is a profile of --home, or a folder of results or the address of a store with the profile.",
    ),
]


@app.command(
    epilog=examples(
        "osfer report", "osfer report -p ferplus-cpu --out my-report", "osfer report -p demo --compare runs other/runs"
    )
)
def report(
    profile: ProfileOption = "demo",
    to: OutOption = None,
    ui: UiOption = "",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON on standard output: profile, and paths as report, tables, figures."),
    ] = False,
    clip_features: ClipOption = None,
    compare: CompareOption = None,
    home: HomeOption = HOME,
) -> None:
    """Render tables (LaTeX, Markdown, CSV), figures and index.html from MLflow, in place of an earlier report."""
    if compare:
        if ui or clip_features:
            raise SuiteError("--compare writes no page", "leave out --ui and --clip-features")
        _compare(compare, profile, home, to, as_json)
        return
    from open_set_fer import api
    from open_set_fer.benchmark.planning.profile import load_profile

    index = api.report(profile, home, out=to, ui=ui, clip_features=clip_features)
    if as_json:
        place = index.resolve().parent
        paths = {"report": place / index.name, "tables": place / "tables", "figures": place / "figures"}
        print_json({"profile": load_profile(profile).name} | {key: str(path) for key, path in paths.items()})
        return
    _print_path("report", index)


def _print_path(name: str, path: Path) -> None:
    say(f"{name}: {path.resolve()}", out)


def _compare(names: tuple[str, str], profile: str, home: Path, to: Path | None, as_json: bool) -> None:
    """Print how the second experiment differs from the first, and write it where `to` is given."""
    from open_set_fer.benchmark.storage.connection import public_address
    from open_set_fer.reports.compare import compare_results
    from open_set_fer.reports.data.results import load

    first, second = (load(_experiment(name, profile, home)) for name in names)
    comparison = compare_results(first, second, (public_address(names[0]), public_address(names[1])))
    written = comparison.write(to) if to else None
    if as_json:
        print_json(comparison.content())
        return
    comparison.print(out)
    if written:
        _print_path("comparison", written)


def _experiment(name: str, profile: str, home: Path) -> Tracker:
    """The experiment that `--compare` names: of a store's address, of a folder's own store, or of a profile here."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker

    if "://" in name:
        return Tracker(home, load_profile(profile).name, create=False, uri=name)
    if Path(name).is_dir():  # uri: whatever MLFLOW_TRACKING_URI says
        return Tracker(Path(name), load_profile(profile).name, create=False, uri="")
    return Tracker(home, load_profile(name).name, create=False)


RafDbListOption = Annotated[
    Path | None,
    typer.Option(
        "--rafdb-list",
        metavar="FILE",
        help="replication: your copy of RAF-DB's list_patition_label.txt, from which, with --released, the released "
        "pairing is recomputed in seconds.",
    ),
]
ReleasedOption = Annotated[
    Path | None,
    typer.Option(
        "--released",
        metavar="FILE",
        help="replication: predicted_labels_open0.txt of the authors' repository zyh-uaiaaaa/Open-Set-FER.",
    ),
]


@app.command(
    help="Write up one of this suite's own studies from the logged cells.\n\n"
    + "\n".join(f"- `{name}`: {about}" for name, about in studies.STUDIES.items()),
    epilog=examples("osfer run -p ours-plus-study; osfer study ours-plus", "osfer study replication --out docs"),
)
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(studies.STUDIES)}.")],
    to: Annotated[
        Path,
        typer.Option("--out", parser=folder, metavar="<path>", help="Folder to write the text and its figures to."),
    ] = Path("docs"),
    rafdb_list: RafDbListOption = None,
    released: ReleasedOption = None,
    home: HomeOption = HOME,
) -> None:
    write = studies.write_up(name)
    if rafdb_list or released:
        if name != "replication" or not (rafdb_list and released):
            fix = "give both with `osfer study replication`, or neither"
            raise SuiteError("--rafdb-list and --released are for the study replication, which needs both", fix)
        from open_set_fer.studies.replication.write_up import write as write_replication

        write = partial(write_replication, files=(rafdb_list, released))
    _print_path(name, write(home, to))


@app.command(epilog=examples("osfer ui", "osfer ui -p ferplus-cpu --port 5001"))
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on the loopback interface.")] = 5000,
    profile: Annotated[str, typer.Option("--profile", "-p", help="Print the link of this profile alone.")] = "",
    home: HomeOption = HOME,
) -> None:
    """Open the MLflow UI on 127.0.0.1, or print the address of the tracking server's."""
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage import connection as server
    from open_set_fer.benchmark.storage import mlflow_reader

    uri, _ = server.tracking_uri(home)
    if server.is_remote(uri):
        out.print("the runs are on the tracking server of MLFLOW_TRACKING_URI, which has its own MLflow UI:")
        say(f"  {server.public_address(uri)}", out)
        return
    experiments = mlflow_reader.stored_experiments(home)
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
        link = mlflow_reader.experiment_link(base, experiment_id)
        say(f"  {name}: {link}")
    # The job runner of MLflow's server serves evaluations of language models; four workers serve many users.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # a database's password must not be in the list of processes
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *command, "--workers", "1"])
