"""Commands for photographs: detector build, detect."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from open_set_fer.cli import options
from open_set_fer.cli.groups import grouped
from open_set_fer.console import console, log, out
from open_set_fer.errors import SuiteError, summary
from open_set_fer.files import writable

if TYPE_CHECKING:
    from open_set_fer.benchmark.storage.detectors import Description, Detector

app = typer.Typer()
detector_app = typer.Typer(
    no_args_is_help=True,
    help="Build a detector for photographs.",
    epilog=options.examples("osfer detector build", "osfer detector build --dataset ferplus --method ours-plus"),
)
OPEN_HELP = "Classes that it does not learn, as surprise+fear (default: contempt, else compound ones, else none)."


@dataclass(frozen=True)
class DetectorOptions:
    """What a detector is made of."""

    profile: options.ProfileOption = ""
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Data set (default: the profile's first).")] = ""
    method: Annotated[str, typer.Option("--method", "-m", help="Label of an inductive method.")] = "baseline"
    open_classes: Annotated[str, typer.Option("--open", help=OPEN_HELP)] = ""
    seed: Annotated[int, typer.Option(help="Seed.")] = 0
    share: Annotated[
        float,
        typer.Option(
            help="Fraction of known faces, of split `valid` or held out of `train`, that the threshold accepts."
        ),
    ] = 0.95
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder to write (default: `<home>/detectors/<data set>-<method>`).")
    ] = None
    weights: options.WeightsOption = ""
    device: options.DeviceOption = "auto"
    threads: options.ThreadsOption = None
    store: options.StoreOption = ""
    as_json: Annotated[bool, typer.Option("--json", help="Print detector.json on standard output, with `folder`.")] = (
        False
    )


@detector_app.command(
    epilog=options.examples(
        "osfer detector build",
        "osfer detector build --dataset ferplus",
        "osfer detector build -d ferplus -m ours-plus --open surprise --share 0.9 --out surprise-detector",
    )
)
@grouped
def build(made: DetectorOptions, home: options.HomeOption = options.HOME) -> None:
    """Train a method, set its threshold on held-out known faces, and write a folder for `osfer detect`."""
    from open_set_fer.benchmark.execution.devices import choose_device
    from open_set_fer.benchmark.planning.aliases import label_of
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.planning.profile_files import default_profile
    from open_set_fer.benchmark.storage.detectors import DESCRIPTION
    from open_set_fer.photos.build import build_detector, plan_detector
    from open_set_fer.photos.find import finder

    if not 0 < made.share < 1:
        raise SuiteError(f"--share {made.share:g} is not between 0 and 1", "for example --share 0.95")
    finder()  # fails before minutes of training
    device = choose_device(made.device, made.threads)
    profile = load_profile(default_profile(made.profile, options.parts(made.dataset)), made.weights)
    name = made.dataset or (profile.default_datasets or list(profile.datasets))[0]
    label = label_of(made.method)
    target = made.to or home / "detectors" / f"{name}-{label}"
    if target.exists() and not (target / DESCRIPTION).exists():
        raise SuiteError(f"{target} exists and is not a detector", "name another folder with --out")
    cell, faces = plan_detector(profile, name, label, made.open_classes, made.seed, writable(home) / "cache")
    writable(options.folder(target).parent)
    try:
        description = build_detector(cell, faces, target, home, device, made.share, made.store)
    except KeyboardInterrupt as stop:
        kept = "a closed-set model in training is kept up to its last kept epoch, from which the same command goes on"
        options.exit_stopped(stop, kept)
    if made.as_json:
        options.print_json(description.model_dump(mode="json") | {"folder": str(target)})
    else:
        _print_detector(description, target)


def _print_detector(description: Description, target: Path) -> None:
    calibration = description.calibration
    assert calibration is not None
    known = f"{calibration.faces} known faces ({calibration.split})"
    threshold = f"threshold {description.threshold:.4g}: accepts {calibration.share:.0%} of {known}"
    if calibration.accepted_known is not None:
        threshold += f"; of test faces {calibration.accepted_known:.0%} of the known"
    if calibration.rejected_open is not None:
        names = "+".join(description.source.open_classes)
        threshold += f", and takes {calibration.rejected_open:.0%} of {names} for unknown"
    for line in (f"detector: {target}", f"knows {', '.join(description.classes)}", threshold):
        options.say(line, out)
    if description.crop is not None and not description.crop.measured_on:
        log.warning("too few training images have a detectable face to measure how they are cropped: FERPlus' is used")
    if description.source.demonstration:
        log.warning("it is trained on synthetic data: its predictions on real faces mean nothing")
    options.say(f"next: osfer detect --detector {target} PHOTO")


@app.command(
    epilog=options.examples(
        "osfer detect party.jpg holiday/",
        "ffmpeg -loglevel error -f v4l2 -i /dev/video0 -frames:v 1 -f mjpeg - | osfer detect -",
        "osfer detect --json *.jpg > faces.json",
        "osfer detect --serve",
    )
)
def detect(
    photos: Annotated[
        list[str] | None, typer.Argument(help="Photographs, folders of them, - for one on standard input.")
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(
            "--detector",
            help="Folder that `osfer detector build` wrote (default: the newest under `<home>/detectors`).",
        ),
    ] = None,
    to: Annotated[
        Path,
        typer.Option("--out", parser=options.folder, metavar="<path>", help="Folder to write annotated pictures to."),
    ] = Path("detected"),
    serve: Annotated[
        bool, typer.Option("--serve", help="A page on 127.0.0.1 to drop photographs on, until Ctrl-C; nothing is kept.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve; 0 for any that is free.")] = 5002,
    threads: options.ThreadsOption = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: detector, threshold, photos (each with photo, picture and faces, or "
            "error).",
        ),
    ] = False,
    home: options.HomeOption = options.HOME,
) -> None:
    """Name the expression of each face in photographs, or reject it as unknown.

    Exit code 1: a file could not be read.
    """
    from open_set_fer.benchmark.execution.devices import choose_device
    from open_set_fer.benchmark.storage.detectors import load_detector

    if serve == bool(photos):
        fault = "--serve takes no photographs" if photos else "no photograph is named"
        raise SuiteError(fault, "osfer detect PHOTO...")
    place = detector or _newest_detector(home / "detectors")
    loaded = load_detector(place, choose_device("cpu", threads))
    if loaded.description.threshold is None:
        raise SuiteError(f"{place} has no threshold, so it cannot decide", "build one: osfer detector build")
    if serve:
        from open_set_fer.photos.serve import serve_page

        serve_page(loaded, port)
        return
    names = list(_files(photos or [], to.resolve()))
    taken = {Path(name).resolve() for name in names if name != "-"}  # no annotated picture replaces an original
    predictions = [_predict(loaded, name, to, taken) for name in names]
    if as_json:
        options.print_json({"detector": str(place), "threshold": loaded.description.threshold, "photos": predictions})
    else:
        _print_table(predictions)
    if loaded.description.source.demonstration:
        log.warning("this detector is trained on synthetic data: its predictions on real faces mean nothing")
    if any("error" in prediction for prediction in predictions):
        sys.exit(1)


def _newest_detector(place: Path) -> Path:
    paths = sorted(place.glob("*/detector.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        fix = "osfer detector build --dataset ferplus, or name one with --detector"
        raise SuiteError(f"no detector under {place}", fix)
    return paths[-1].parent


def _files(names: list[str], out_folder: Path) -> Iterator[str]:
    """Files to read; of a folder all pictures in and below it, except earlier annotated ones in `out_folder`."""
    from open_set_fer.datasets.listing import find_images

    for name in names:
        if name == "-" or not Path(name).is_dir():
            yield name
            continue
        pictures = [Path(name, *parts) for parts in sorted(find_images(Path(name), "detect", refuse=False))]
        if out_folder != Path(name).resolve():  # in one folder the two cannot be distinguished
            pictures = [p for p in pictures if out_folder not in p.resolve().parents]
        if not pictures:
            log.warning("%s: no picture in this folder", name)
        yield from map(str, pictures)


def _predict(detector: Detector, name: str, out_folder: Path, taken: set[Path]) -> dict[str, Any]:
    """Faces of a photograph and the path of its annotated picture, which is added to those taken; or the error."""
    from open_set_fer.photos.detect import annotated, detect_faces
    from open_set_fer.photos.find import read_photo

    try:
        photo = read_photo(sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes())
    except (OSError, SuiteError) as error:
        reason = str(error.strerror) if isinstance(error, OSError) else summary(error)
        console.print(f"{name}: {reason}", style="red", soft_wrap=True, highlight=False)
        return {"photo": name, "error": reason}
    faces = detect_faces(detector, photo)
    stem = "stdin" if name == "-" else Path(name).stem
    path, number = writable(out_folder) / f"{stem}.jpg", 1
    while path.resolve() in taken:
        number += 1
        path = out_folder / f"{stem}-{number}.jpg"
    taken.add(path.resolve())
    annotated(photo, faces).save(path, quality=92)
    return {"photo": name, "picture": str(path), "faces": [face.content() for face in faces]}


def _print_table(predictions: list[dict[str, Any]]) -> None:
    table = Table("photo", "decision", "expression", "score")
    for prediction in predictions:
        name = Path(prediction["photo"]).name
        if not prediction.get("faces"):
            table.add_row(name, "not read" if "error" in prediction else "no face found", "", "")
        for number, face in enumerate(prediction.get("faces", [])):
            best = sorted(face["probabilities"].items(), key=lambda item: -item[1])[:3]
            likely = ", ".join(f"{expression} {value:.2f}" for expression, value in best)
            table.add_row("" if number else name, face["decision"], likely, f"{face['unknown_score']:.3g}")
    out.print(table)
    for place in sorted({str(Path(each["picture"]).parent) for each in predictions if "picture" in each}):
        options.say(f"annotated pictures: {place}", out)
