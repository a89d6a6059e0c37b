"""What the commands share: their options, what is read from them, and how they print."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from open_set_fer.console import console
from open_set_fer.errors import SuiteError, masked


def examples(*commands: str) -> str:
    """The end of a command's help, as a Markdown list."""
    return "Examples:\n\n" + "\n".join(f"- `{command}`" for command in commands)


def folder(text: str | Path) -> Path:
    """A folder named on the command line; raises SuiteError for an empty name and where a file stands in the way."""
    path = Path(text)
    if not str(text).strip():
        raise SuiteError("the name of a folder is empty", "name one, for example --home runs")
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise SuiteError(f"{place} is a file, not a folder", "name another folder")
    return path


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="OSFER_HOME",
        parser=folder,
        metavar="<path>",
        help="Folder of results, caches and the default MLflow store.",
    ),
]
ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        help="Built-in profile or path of a .toml file (default: `<data set>-cpu` if there is "
        "such a profile for --dataset, else `demo`).",
    ),
]
DatasetOption = Annotated[str, typer.Option("--dataset", "-d", help="Data sets, comma-separated (default: profile's).")]
ProtocolOption = Annotated[str, typer.Option("--protocol", help="Families: single,pairs,triples,compound,contempt.")]
OpenOption = Annotated[str, typer.Option("--open", help="Only protocols opening these: surprise,fear+disgust.")]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        help="Method labels or OpenOOD's names, comma-separated (see `osfer list`); `all`: those of the suite, of "
        "installed packages and of the profile.",
    ),
]
SeedOption = Annotated[str, typer.Option("--seed", help="Seeds, comma-separated (default: profile's).")]
AllPairsOption = Annotated[bool, typer.Option("--all-pairs", help="Every pair, not only the paper's list.")]
AllTriplesOption = Annotated[bool, typer.Option("--all-triples", help="Every triple, not only the paper's list.")]
LabelsOption = Annotated[
    str,
    typer.Option(
        "--labels",
        help="Which labels of the closed-set model methods get: own, released, concentrated, spiked, flipped-true "
        "(default: profile's).",
    ),
]
LabelShareOption = Annotated[
    float | None,
    typer.Option("--label-share", help="Share of them that is not the image's own, 0 to 1, with --labels."),
]
WeightsOption = Annotated[
    str, typer.Option("--weights", help="Checkpoint for a ResNet (safely read): PATH, or resnet18=PATH,resnet50=PATH.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, help="CPU threads (default: as many as torch takes). Another number rounds otherwise."
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Cells at once, each in its own process (default: one after the other, with torch's own "
        "number of threads). The cores are divided among them unless --threads says how many each has.",
    ),
]
BackendOption = Annotated[
    str, typer.Option("--backend", help="Where cells are computed: local, or ray for the nodes of a Ray cluster.")
]
AddressOption = Annotated[
    str,
    typer.Option(
        "--address", help="Of the Ray cluster, as host:port, ray://host:port or auto (default: start one here)."
    ),
]
GpusOption = Annotated[
    float, typer.Option("--gpus", min=0.0, help="With --backend ray: GPUs of each cell, 0.5 for two cells on one.")
]
CellTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--cell-timeout",
        min=0.001,
        metavar="SECONDS",
        help="A cell (or closed-set model) that takes longer is ended and fails.",
    ),
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="URL",
        help="Share closed-set models with other homes there: any fsspec URL, as s3://bucket/models "
        "or file:///shared/models.",
    ),
]
KeepFeaturesOption = Annotated[
    bool,
    typer.Option(
        "--keep-features",
        help="Keep the features of each cell's own network on its test faces as features.npz, for Figure 7.",
    ),
]
KeepModelsOption = Annotated[
    bool,
    typer.Option(
        "--keep-models",
        help="Keep the fitted scorer of each cell, and log it with its closed-set model as MLflow models, for "
        "`mlflow models serve` and the registry.",
    ),
]
FaceArtifactsOption = Annotated[
    bool,
    typer.Option(
        "--allow-face-artifacts",
        help="Log pictures of faces of every data set, not of `synthetic` alone: pictures of real people then go to "
        "the tracking server, and the data set's licence must allow it.",
    ),
]
HOME = Path("runs")


def parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def command_line() -> str:
    """The command as it was typed, without the passwords of addresses: it is logged and printed."""
    return shlex.join(["osfer", *map(masked, sys.argv[1:])])


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output, in ASCII."""
    print(json.dumps(content, indent=1))


def say(text: str, to: Console = console) -> None:
    """Print one line, never broken; on standard error unless `to` is another console."""
    to.print(text, soft_wrap=True, highlight=False)


def exit_stopped(stop: KeyboardInterrupt, kept: str) -> NoReturn:
    """End a command that a signal stopped, and say what is kept."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not kill the exit, which Python makes by default
    say(f"stopped; {kept}")
    sys.exit(128 + getattr(stop, "signal", signal.SIGINT))
