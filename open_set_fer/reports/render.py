"""Write the page, the tables and the figures of an experiment, and touch no file that is not the report's own."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import filelock

from open_set_fer.console import log
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.clip_features import ClipFeatures
from open_set_fer.reports.data.results import Results, load
from open_set_fer.reports.figures.clip import clip_figures, lacking_clip
from open_set_fer.reports.figures.histograms import all_figures
from open_set_fer.reports.figures.pseudo_labels import label_figures
from open_set_fer.reports.figures.sweep import sweep_figures
from open_set_fer.reports.figures.tsne import embedding_figures, lacking_features
from open_set_fer.reports.latex_document import manuscript
from open_set_fer.reports.page.page import build_page
from open_set_fer.reports.tables.build import all_tables
from open_set_fer.reports.tables.latex import to_latex
from open_set_fer.reports.tables.text import cells_frame, to_frame, to_markdown
from open_set_fer.reports.tables.wide import form_frame, printed_tables

if TYPE_CHECKING:
    from open_set_fer.benchmark.storage.tracking import Tracker

PAGE, PAPER = "index.html", "paper.tex"
MANIFEST = ".osfer-report.json"
"""What the report wrote into a folder: names with the digests that a file of it may have."""


def render(tracker: Tracker, out: Path, ui: str = "", clip: ClipFeatures | None = None) -> Path:
    """Write out/index.html, out/paper.tex, out/tables/*.{tex,md,csv}, out/figures/*.{png,pdf,svg}; returns the page's path.

    Files of an earlier report that this one lacks are removed. ui: address of an MLflow UI to link runs to. clip: for Figure 1 as
    printed.

    Raises:
        SuiteError: the experiment holds no finished cell, `out` cannot be written, or a file is in the way that no
            report wrote or that was changed since. Nothing has been written then.
    """
    results = load(tracker)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(out / f"{MANIFEST}.lock"), tempfile.TemporaryDirectory() as fresh:
            _render(results, Path(fresh), ui, clip, _studies(out.resolve(), results.profile))
            _move(Path(fresh), out)
    except OSError as error:
        place = error.filename or out
        raise SuiteError(
            f"the report cannot be written to {out}: {place}: {error.strerror}", "choose another folder with --out"
        ) from error
    return out / PAGE


def report_files(out: Path) -> list[Path]:
    """What the last report wrote into a folder, without what was changed or removed since."""
    return [out / name for name, digests in _read_manifest(out).items() if _digest(out / name) in digests]


def _studies(out: Path, profile: str) -> dict[str, str]:
    """What `osfer tune show` wrote beside the report: links from the page, by study."""
    folder = out.parent / f"{profile}-tuning"
    texts = sorted(folder.glob("*/study.md"))
    return {path.parent.name: quote(f"../{folder.name}/{path.parent.name}/{path.name}") for path in texts}


def _render(results: Results, folder: Path, ui: str, clip: ClipFeatures | None, studies: dict[str, str]) -> None:
    tables_folder, figures_folder = folder / "tables", folder / "figures"
    tables_folder.mkdir()
    figures_folder.mkdir()
    tables = [table for labels in results.regimes for table in all_tables(results.under(labels))]
    forms = printed_tables(results.under("own")) if "own" in results.regimes else []
    for to_csv, written in ((to_frame, tables), (form_frame, forms)):
        for table in written:
            (tables_folder / f"{table.name}.tex").write_text(to_latex(table), "utf-8")
            (tables_folder / f"{table.name}.md").write_text(to_markdown(table), "utf-8")
            to_csv(table).to_csv(tables_folder / f"{table.name}.csv", index=False)
    cells_frame(results).to_csv(tables_folder / "cells.csv", index=False)
    first = results.under(results.regimes[0])
    figures = [
        *(clip_figures(first, clip) if clip else ()),
        *all_figures(first),
        *label_figures(results),
        *embedding_figures(first),
        *sweep_figures(first),
    ]
    not_drawn = [*([] if clip else lacking_clip(first)), *lacking_features(first)]
    for figure in figures:
        figure.save(figures_folder)
    (folder / PAPER).write_text(manuscript(results.profile, forms, tables, figures), "utf-8")
    (folder / PAGE).write_text(build_page(results, tables, figures, ui, not_drawn, forms, studies), "utf-8")


def _move(fresh: Path, out: Path) -> None:
    """Put the files of `fresh` into `out`, the page last; a kill leaves each file old or new and known as the report's."""
    new = {path.relative_to(fresh).as_posix(): path for path in sorted(fresh.rglob("*")) if path.is_file()}
    digests = {name: _digest(path) for name, path in new.items()}
    old = _read_manifest(out)
    foreign = [
        name
        for name in new
        if os.path.lexists(out / name) and _digest(out / name) not in {digests[name], *old.get(name, ())}
    ]
    if foreign:
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise SuiteError(
            f"{out / foreign[0]} was not written by `osfer report`, or was changed since{more}; nothing was written",
            "move it away, or choose another folder with --out",
        )
    _write_manifest(out, {name: [*old.get(name, ()), *([digests[name]] if name in new else ())] for name in old | new})
    for name in sorted(new, key=lambda name: name == PAGE):
        _replace(out / name, new[name].read_bytes())
    for name in old.keys() - new.keys():
        if _digest(out / name) in old[name]:
            (out / name).unlink()
        elif (out / name).exists():
            log.warning("%s belongs to an earlier report and was changed since: left as it is", out / name)
    _write_manifest(out, {name: [digest] for name, digest in digests.items()})


def _replace(target: Path, content: bytes) -> None:
    target.parent.mkdir(exist_ok=True)
    partial = target.parent / f"{MANIFEST}.partial"
    partial.write_bytes(content)
    os.replace(partial, target)


def _digest(path: Path) -> str:
    """SHA-256 of a plain file, '' for anything else: a link or a folder is never the report's."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""


def _read_manifest(out: Path) -> dict[str, list[str]]:
    path = out / MANIFEST
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text("utf-8"))
        return {str(name): list(map(str, digests)) for name, digests in manifest.items() if _is_own(str(name))}
    except (ValueError, AttributeError, TypeError) as error:
        raise SuiteError(f"{path} is damaged", "delete it together with the report's files beside it") from error


def _is_own(name: str) -> bool:
    """Whether a report may have written this name: nothing outside its folders is ever removed."""
    return name in (PAGE, PAPER) or (
        name.count("/") == 1 and name.startswith(("tables/", "figures/")) and ".." not in name
    )


def _write_manifest(out: Path, digests: dict[str, list[str]]) -> None:
    _replace(out / MANIFEST, json.dumps(digests, indent=1, sort_keys=True).encode())
