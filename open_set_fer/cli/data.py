"""Commands on data sets: prepare, check, split, guide, preview."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from open_set_fer import plugins
from open_set_fer.cli.options import HOME, HomeOption, ProfileOption, WeightsOption, examples, print_json, say
from open_set_fer.console import log, out
from open_set_fer.errors import SuiteError
from open_set_fer.files import writable

if TYPE_CHECKING:
    from open_set_fer.benchmark.protocols.twins import TwinCounts
    from open_set_fer.datasets.checks import DataCheck
    from open_set_fer.datasets.decoding import ImageFiles
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
    say(f"contact sheet: {target.resolve()}", out)


@app.command(epilog=examples("osfer data prepare ferplus"))
def prepare(
    name: Annotated[str, typer.Argument(help="Data set.")], profile: ProfileOption = "", home: HomeOption = HOME
) -> None:
    """Decode a data set into the cache; resumes a killed preparation."""
    faces = _load_dataset(name, profile, home)
    say(f"{name}: {len(faces.images)} images, fingerprint {faces.fingerprint}", out)


@app.command(epilog=examples("osfer data check ferplus", "osfer data check ferplus --json"))
def check(
    name: Annotated[str, typer.Argument(help="Data set.")],
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    files: Annotated[bool, typer.Option("--files", help="First list every unreadable or wrongly sized file.")] = False,
    profile: ProfileOption = "",
    weights: WeightsOption = "",
    home: HomeOption = HOME,
) -> None:
    """Find what a run would find wrong: counts, unreadable files, images that occur more than once, checkpoints."""
    from dataclasses import asdict

    from open_set_fer.benchmark.protocols.twins import twin_table
    from open_set_fer.datasets.checks import check as examine
    from open_set_fer.datasets.checks import odd_files
    from open_set_fer.datasets.faceset import facts

    published = facts(plugins.load(plugins.DATASETS, name))
    _check_networks(name, profile, weights, home / "cache")
    if files:
        odd = odd_files(_files_of(name, profile, writable(home) / "cache"), published.face_side)
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


@app.command(
    epilog=examples("osfer data split faces.csv --group person --test 0.2 --valid 0.1", "osfer data split folder")
)
def split(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV or Parquet table without a split, a folder <class>/<image>, or one of the Hub's Parquet files."
        ),
    ],
    group: Annotated[
        str, typer.Option("--group", help="Column whose rows of one value go into one split, such as a person's name.")
    ] = "",
    test: Annotated[float, typer.Option(help="Share of the images for split `test`.")] = 0.2,
    valid: Annotated[float, typer.Option(help="Share of the images for split `valid`.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed.")] = 0,
    to: Annotated[
        Path | None, typer.Option("--out", help="File to write (default: beside the table, with -split in its name).")
    ] = None,
) -> None:
    """Write a table with a column split, drawn at random: stratified by the label, groups kept together."""
    from open_set_fer.datasets.embedded import parquet_files
    from open_set_fer.datasets.splitting import Shares, split_table

    beside = table.with_name(f"{table.stem}-split{table.suffix}")
    if table.is_dir():
        is_hub = bool(parquet_files(table))
        beside = table.with_name(f"{table.resolve().name}-split.parquet") if is_hub else table / "split.csv"
    target = to or beside
    if target.exists():
        raise SuiteError(f"{target} exists", "name another file with --out, or remove it")
    if not target.parent.is_dir():
        raise SuiteError(f"no folder {target.parent}", "make it, or name another file with --out")
    result = split_table(table, target, group, Shares(test, valid), seed)
    shown = Table("class", *(name for name in ("train", "valid", "test") if (result["split"] == name).any()))
    for label, rows in result.groupby("label"):
        shown.add_row(str(label), *(f"{(rows['split'] == str(column.header)).sum():,}" for column in shown.columns[1:]))
    out.print(shown)
    groups = f" of {result['group'].nunique():,} groups" if group else ""
    say(f"{target}: {len(result):,} rows{groups}, seed {seed}", out)
    if target.parent.resolve() != beside.parent.resolve():
        log.warning('its paths start from %s: set root = "%s" under [datasets.manifest]', *(2 * [beside.parent]))


def _files_of(name: str, profile: str, cache: Path) -> ImageFiles:
    """Image files of a data set; none if its images are no files."""
    from open_set_fer.datasets.cache import PreparedDataSet
    from open_set_fer.datasets.decoding import ImageFiles

    dataset = _dataset(name, profile)
    pixels = dataset.listing(cache).pixels if isinstance(dataset, PreparedDataSet) else None
    if isinstance(pixels, ImageFiles):
        return pixels
    log.info("%s: its images are no single files", name)
    return ImageFiles([], 8, 1)


def _check_networks(name: str, profile: str, weights: str, cache: Path) -> None:
    """Raise SuiteError if a network, checkpoint or trained model of the profile or of --weights does not fit."""
    from open_set_fer.benchmark.planning.cells import Selection, dry_plan
    from open_set_fer.benchmark.planning.keys import Recipe
    from open_set_fer.benchmark.planning.profile import load_profile
    from open_set_fer.benchmark.planning.profile_files import profile_of
    from open_set_fer.benchmark.protocols.pseudo_labels import OWN

    profile_name = profile or profile_of((name,))
    if profile_name is None:
        if weights:
            raise SuiteError("--weights without --profile", "name the profile whose networks start from it")
        return
    loaded = load_profile(profile_name, weights)
    backbone, channels = loaded.backbone_settings(), getattr(loaded.dataset(name), "channels", 3)
    for label in loaded.default_methods or loaded.methods:
        Recipe(backbone, loaded.closed_set_settings(label), loaded.own_backbone(label)).check_networks(channels)
    if loaded.closed_set_settings().model:
        dry_plan(loaded, Selection((name,), regime=OWN), cache)  # looks into the model


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        say(line, out)


@app.command(epilog=examples("osfer data guide rafdb"))
def guide(name: Annotated[str, typer.Argument(help="Data set.")]) -> None:
    """Describe a data set: where to request it, its folder, what is checked."""
    from open_set_fer.datasets.faceset import facts

    say(facts(plugins.load(plugins.DATASETS, name)).guide, out)


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
