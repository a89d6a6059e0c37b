"""Commands for photographs: detector build, detect."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from open_set_fer.cli.options import (
    HOME,
    DeviceOption,
    HomeOption,
    ProfileOption,
    StoreOption,
    ThreadsOption,
    WeightsOption,
    default_profile,
    examples,
    folder,
    print_json,
    writable,
)
from open_set_fer.console import console, log, out
from open_set_fer.errors import SuiteError, summary

if TYPE_CHECKING:
    from PIL.Image import Image

    from open_set_fer.benchmark.storage.detectors import Detector
    from open_set_fer.photos.detect import Face

app = typer.Typer()
detector_app = typer.Typer(
    no_args_is_help=True,
    help="Build a detector for photographs.",
    epilog=examples("osfer detector build", "osfer detector build --dataset ferplus --method ours-plus"),
)
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""What is taken for a picture in a folder; a file that is named is read whatever its name."""
DetectorOption = Annotated[
    Path | None,
    typer.Option(
        "--detector", help="Folder that `osfer detector build` wrote (default: the newest under `<home>/detectors`)."
    ),
]


@detector_app.command(
    epilog=examples(
        "osfer detector build",
        "osfer detector build --dataset ferplus",
        "osfer detector build -d ferplus -m ours-plus --open surprise --share 0.9 --out surprise-detector",
    )
)
def build(
    profile: ProfileOption = "",
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Data set (default: the profile's first).")] = "",
    method: Annotated[
        str, typer.Option("--method", "-m", help="Label of a method that can score a single face.")
    ] = "baseline",
    opened: Annotated[
        str,
        typer.Option(
            "--open",
            help="Classes that it does not learn: surprise, surprise+fear (default: contempt, else the compound "
            "expressions, else none).",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    share: Annotated[
        float, typer.Option(help="Share of known faces, of split `valid`, that the threshold accepts.")
    ] = 0.95,
    to: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write (default: `<home>/detectors/<data set>-<method>`)."),
    ] = None,
    weights: WeightsOption = "",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    store: StoreOption = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print detector.json on standard output, with `folder`.")
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Train a method on a data set, set its threshold on known faces that it has not seen, and write a folder for `osfer detect`."""
    from open_set_fer.benchmark.execution.devices import choose_device
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.storage.detectors import DESCRIPTION
    from open_set_fer.photos.build import build_detector, plan_detector
    from open_set_fer.photos.find import finder

    if not 0 < share < 1:
        raise SuiteError(f"--share {share:g} is not between 0 and 1", "for example --share 0.95")
    finder()  # says what is missing before minutes of training
    chosen = choose_device(device, threads)
    loaded = load_profile(default_profile(profile, dataset), weights)
    name = dataset or (loaded.default_datasets or list(loaded.datasets))[0]
    target = to or home / "detectors" / f"{name}-{method}"
    if target.exists() and not (target / DESCRIPTION).exists():
        raise SuiteError(f"{target} is there and is no detector", "name another folder with --out")
    cell, faces = plan_detector(loaded, name, method, opened, seed, writable(home) / "cache")
    writable(folder(target).parent)
    made = build_detector(cell, faces, target, home, chosen, share, store)
    if as_json:
        print_json(made.model_dump(mode="json") | {"folder": str(target)})
        return
    set_on = made.calibration
    assert set_on is not None
    out.print(f"detector: {target}", soft_wrap=True, highlight=False)
    out.print(f"knows {', '.join(made.classes)}", soft_wrap=True, highlight=False)
    words = f"threshold {made.threshold:.4g}: accepts {share:.0%} of {set_on.faces} known faces of split {set_on.split}"
    if set_on.accepted_known is not None:
        words += f"; of test faces {set_on.accepted_known:.0%} of the known"
    if set_on.rejected_open is not None:
        words += f", and takes {set_on.rejected_open:.0%} of {'+'.join(made.source.open_classes)} for unknown"
    out.print(words, soft_wrap=True, highlight=False)
    if made.crop is not None and not made.crop.measured_on:
        log.warning(
            "faces are found in too few training images to measure how these are cropped: FERPlus' rule is taken"
        )
    if made.source.demonstration:
        log.warning("it is trained on rendered faces: what it says of real ones means nothing")
    console.print(f"next: osfer detect --detector {target} PHOTO", soft_wrap=True, highlight=False)


@app.command(
    epilog=examples(
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
    detector: DetectorOption = None,
    to: Annotated[
        Path, typer.Option("--out", parser=folder, metavar="<path>", help="Folder to write annotated pictures to.")
    ] = Path("detected"),
    serve: Annotated[
        bool, typer.Option("--serve", help="A page on 127.0.0.1 to drop photographs on, until Ctrl-C; nothing is kept.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve; 0 for any that is free.")] = 5002,
    threads: ThreadsOption = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON on standard output: detector, threshold, photos (each with photo, picture and faces, or error).",
        ),
    ] = False,
    home: HomeOption = HOME,
) -> None:
    """Name the expression in each face of photographs, or say that it is none of the known ones. Exit code 1: a file could not be read."""
    from open_set_fer.benchmark.execution.devices import choose_device
    from open_set_fer.benchmark.storage.detectors import load_detector

    if serve == bool(photos):
        raise SuiteError(
            "no photograph is named" if not photos else "--serve takes no photographs", "osfer detect PHOTO..."
        )
    chosen = detector or _newest(home / "detectors")
    device = choose_device("cpu", threads)
    loaded = load_detector(chosen, device)
    if loaded.description.threshold is None:
        raise SuiteError(f"{chosen} has no threshold, so it decides nothing", "build one: osfer detector build")
    if serve:
        from open_set_fer.photos.serve import serve_page

        serve_page(loaded, port)
        return
    names = list(_files(photos or [], to.resolve()))
    taken = {Path(name).resolve() for name in names if name != "-"}  # no annotated picture in place of an original
    answers = [_answer(loaded, name, to, taken) for name in names]
    if as_json:
        print_json({"detector": str(chosen), "threshold": loaded.description.threshold, "photos": answers})
    else:
        _print_table(answers)
    if loaded.description.source.demonstration:
        log.warning("this detector is trained on rendered faces: what it says of real ones means nothing")
    if any("error" in answer for answer in answers):
        sys.exit(1)


def _newest(place: Path) -> Path:
    found = sorted(place.glob("*/detector.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise SuiteError(
            f"no detector under {place}", "osfer detector build --dataset ferplus, or name one with --detector"
        )
    return found[-1].parent


def _files(named: list[str], to: Path) -> Iterator[str]:
    """The files to read; of a folder the pictures in it and in those below, but for the annotated ones of earlier in `to`."""
    for name in named:
        if name != "-" and Path(name).is_dir():
            found = [p for p in sorted(Path(name).rglob("*")) if p.suffix.lower() in PICTURES and p.is_file()]
            if to != Path(name).resolve():  # where both are one folder, who could tell
                found = [p for p in found if to not in p.resolve().parents]
            inside = [str(p) for p in found]
            if not inside:
                log.warning("%s: no picture in this folder", name)
            yield from inside
        else:
            yield name


def _answer(detector: Detector, name: str, to: Path, taken: set[Path]) -> dict[str, Any]:
    """The faces of one photograph, and its annotated picture, which is put to `taken`; or what is wrong with the file."""
    from open_set_fer.photos.detect import annotated, detect_faces
    from open_set_fer.photos.find import read_photo

    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        photo = read_photo(content)
    except (OSError, SuiteError) as error:
        why = str(error.strerror) if isinstance(error, OSError) else summary(error)
        console.print(f"{name}: {why}", style="red", soft_wrap=True, highlight=False)
        return {"photo": name, "error": why}
    faces: list[Face] = detect_faces(detector, photo)
    picture = _save(annotated(photo, faces), to, "stdin" if name == "-" else Path(name).stem, taken)
    return {"photo": name, "picture": str(picture), "faces": [face.content() for face in faces]}


def _save(picture: Image, to: Path, stem: str, taken: set[Path]) -> Path:
    """Write under a name that is not among `taken`, and put it there."""
    writable(to)
    path, number = to / f"{stem}.jpg", 1
    while path.resolve() in taken:
        number += 1
        path = to / f"{stem}-{number}.jpg"
    taken.add(path.resolve())
    picture.save(path, quality=92)
    return path


def _print_table(answers: list[dict[str, Any]]) -> None:
    table = Table("photo", "decision", "expression", "score")
    for answer in answers:
        name = Path(answer["photo"]).name
        if "error" in answer:
            table.add_row(name, "not read", "", "")
        elif not answer["faces"]:
            table.add_row(name, "no face found", "", "")
        for number, face in enumerate(answer.get("faces", [])):
            best = sorted(face["probabilities"].items(), key=lambda item: -item[1])[:3]
            likely = ", ".join(f"{word} {value:.2f}" for word, value in best)
            table.add_row("" if number else name, face["decision"], likely, f"{face['unknown_score']:.3g}")
    out.print(table)
    folders = {str(Path(answer["picture"]).parent) for answer in answers if "picture" in answer}
    for place in sorted(folders):
        out.print(f"annotated pictures: {place}", soft_wrap=True, highlight=False)
