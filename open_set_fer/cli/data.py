"""Commands on data sets: prepare, check, guide, preview."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from open_set_fer import plugins
from open_set_fer.cli.options import HOME, HomeOption, ProfileOption, examples, print_json
from open_set_fer.console import out
from open_set_fer.files import writable

if TYPE_CHECKING:
    from open_set_fer.benchmark.protocols.twins import TwinCounts
    from open_set_fer.datasets.checks import DataCheck
    from open_set_fer.datasets.faceset import DataSet, FaceSet

app = typer.Typer(
    no_args_is_help=True,
    help="Look at and prepare data sets.",
    epilog=examples("osfer data guide ferplus", "osfer data check ferplus"),
)


@app.command(epilog=examples("osfer data preview synthetic --out faces.png"))
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
    from open_set_fer.datasets.checks import check_picture_path, contact_sheet

    target = to or home / "preview" / f"{name}.png"
    check_picture_path(target)  # before minutes of decoding
    contact_sheet(_load_dataset(name, profile, home), target, per_class)
    out.print(f"contact sheet: {target.resolve()}", soft_wrap=True, highlight=False)


@app.command(epilog=examples("osfer data prepare ferplus"))
def prepare(
    name: Annotated[str, typer.Argument(help="Data set.")], profile: ProfileOption = "", home: HomeOption = HOME
) -> None:
    """Decode a data set into the cache; resumes a killed preparation."""
    faces = _load_dataset(name, profile, home)
    out.print(f"{name}: {len(faces.images)} images, fingerprint {faces.fingerprint}", soft_wrap=True, highlight=False)


@app.command(epilog=examples("osfer data check ferplus", "osfer data check ferplus --json"))
def check(
    name: Annotated[str, typer.Argument(help="Data set.")],
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    files: Annotated[bool, typer.Option("--files", help="First list every unreadable or wrongly sized file.")] = False,
    profile: ProfileOption = "",
    home: HomeOption = HOME,
) -> None:
    """Compare counts with the published ones, and find images that occur more than once."""
    from dataclasses import asdict

    from open_set_fer.benchmark.planning.settings import settings_of
    from open_set_fer.benchmark.protocols.twins import twin_table
    from open_set_fer.datasets.checks import check as examine
    from open_set_fer.datasets.checks import odd_files
    from open_set_fer.datasets.faceset import data_root, facts

    published = facts(plugins.load(plugins.DATASETS, name))
    if files:
        odd = odd_files(data_root(name, settings_of(_dataset(name, profile)).get("root", "")), published.face_side)
        _print_lines(odd)
        out.print(f"{len(odd)} odd files", highlight=False)
        if odd:
            sys.exit(1)
    faces = _load_dataset(name, profile, home)
    report, twins = examine(faces, published), twin_table(faces)
    if as_json:
        print_json(asdict(report) | {"twins": [asdict(row) for row in twins]})
        return
    out.print(_count_table(name, report))
    count, faces_in = len(report.duplicates), sum(map(len, report.duplicates))
    spans = f"{report.across} across splits, {report.conflicting} across classes"
    _print_lines([f"same pixels, mirrored or not: {count} groups of {faces_in} faces, {spans}"])
    _print_lines([f"  {', '.join(group)}" for group in report.duplicates[:5]])
    if twins:
        out.print(_twin_table(twins))
    out.print(f"near duplicates by perceptual hash: {len(report.near)} pairs, {report.near_across} across splits")
    _print_lines([f"  {', '.join(pair)}" for pair in report.near[:5]])
    _print_lines(report.vocabulary)


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        out.print(line, soft_wrap=True, highlight=False)


@app.command(epilog=examples("osfer data guide rafdb"))
def guide(name: Annotated[str, typer.Argument(help="Data set.")]) -> None:
    """Describe a data set: where to request it, its folder, what is checked."""
    from open_set_fer.datasets.faceset import facts

    out.print(facts(plugins.load(plugins.DATASETS, name)).guide, soft_wrap=True, highlight=False, markup=False)


def _load_dataset(name: str, profile: str, home: Path) -> FaceSet:
    """Load the data set with the settings of its profile, preparing it if necessary."""
    faces: FaceSet = _dataset(name, profile).load(writable(home) / "cache")
    return faces


def _dataset(name: str, profile: str) -> DataSet:
    """Data set with the settings of a profile: the named one, its own (`ferplus-cpu`) or `demo`.

    Default settings if no profile lists it.
    """
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.planning.profile_files import profile_of

    profile_name = profile or profile_of((name,))
    if profile_name is None:
        dataset: DataSet = plugins.load(plugins.DATASETS, name)()
        return dataset
    return load_profile(profile_name).dataset(name)


def _count_table(name: str, report: DataCheck) -> Table:
    """Images by class and split, beside the published numbers if there are any."""
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
    for note, by_split in report.notes.items():
        table.add_row(note, *(f"{by_split.get(split, 0):,}" for split in totals))
    return table


def _twin_table(twins: list[TwinCounts]) -> Table:
    """Shares of the pool's faces that have a twin, by open classes, and its size with and without repeated faces."""
    table = Table("open", title="faces with a twin: the same pixels, mirrored or not")
    for head in ("open faces:\nin the pool", "closed faces:\nin the pool", "closed faces:\nin training"):
        table.add_column(head, justify="right")
    table.add_column("pool\nkeep / once", justify="right")
    for row in twins:
        shares = (row.open_in_pool / row.open, row.closed_in_pool / row.closed, row.closed_in_train / row.closed)
        sizes = f"{row.open + row.closed:,} / {row.pool_once:,}"
        table.add_row(row.open_classes, *(f"{100 * share:.1f} %" for share in shares), sizes)
    return table
