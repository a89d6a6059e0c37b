"""Render the page, the tables and the figures of an experiment into one folder."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from urllib.parse import quote

import filelock

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from open_set_fer.files import whole_folder
from open_set_fer.reports.data.clip_features import ClipFeatures
from open_set_fer.reports.data.results import Results, load
from open_set_fer.reports.figures.clip import clip_figures, lacking_clip
from open_set_fer.reports.figures.histograms import all_figures
from open_set_fer.reports.figures.pseudo_labels import label_figures
from open_set_fer.reports.figures.sweep import sweep_figures
from open_set_fer.reports.figures.tsne import embedding_figures, lacking_features
from open_set_fer.reports.latex_document import manuscript
from open_set_fer.reports.leaderboard import stored_leaderboard
from open_set_fer.reports.page.page import build_page
from open_set_fer.reports.tables.build import all_tables
from open_set_fer.reports.tables.latex import to_latex
from open_set_fer.reports.tables.text import cells_frame, to_frame, to_markdown
from open_set_fer.reports.tables.wide import wide_tables

PAGE, PAPER = "index.html", "paper.tex"
MARKER = ".osfer-report.json"
"""File that tells a report from a folder of the user's."""


def render(tracker: Tracker, out: Path, ui: str = "", clip: ClipFeatures | None = None) -> Path:
    """Write the report into `out` and return the path of its page.

    It has index.html, paper.tex, tables/*.{tex,md,csv} and figures/*.{png,pdf,svg}.
    The report is written beside `out` and then replaces an earlier report there as a whole. ui: address of an MLflow UI
    to link runs to. clip: features for Figure 1.

    Raises:
        SuiteError: the experiment has no finished cell, or `out` cannot be written or is not a report. `out` is
        unchanged.
    """
    results = load(tracker)
    try:
        place = out.resolve()
        _check_replaceable(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        with _lock(place), whole_folder(place) as folder:
            _render(results, folder, ui, clip, _studies(place, results.profile))
    except OSError as error:
        raise SuiteError(
            f"the report cannot be written to {out}: {error.filename or out}: {error.strerror}",
            "choose another folder with --out",
        ) from error
    return out / PAGE


def _lock(place: Path) -> filelock.BaseFileLock:
    """Lock of a folder, outside it and its parent: reports of one folder are written one after the other."""
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    return filelock.FileLock(Path(tempfile.gettempdir(), f"osfer-report-{digest}.lock"))


def _check_replaceable(folder: Path) -> None:
    """Raise SuiteError unless the folder is absent, empty or a report and nothing else."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    names.discard(f"{MARKER}.lock")  # of an older version
    others = names - {MARKER, PAGE, PAPER, "tables", "figures"}
    if names and (others or MARKER not in names):
        reason = f"it holds {min(others)}" if others else f"it has no {MARKER}"
        raise SuiteError(
            f"{folder} is not a report ({reason}), so it is not replaced by one",
            "move away what is yours, or choose another folder with --out",
        )
    if folder in (Path.cwd(), *Path.cwd().parents):
        raise SuiteError(f"{folder} is the working directory or above it", "choose another folder with --out")


def _studies(out: Path, profile: str) -> dict[str, str]:
    """Links to the texts that `osfer tune show` wrote beside the report, by study."""
    folder = out.parent / f"{profile}-tuning"
    texts = sorted(folder.glob("*/study.md"))
    return {path.parent.name: quote(f"../{folder.name}/{path.parent.name}/{path.name}") for path in texts}


def _render(results: Results, folder: Path, ui: str, clip: ClipFeatures | None, studies: dict[str, str]) -> None:
    tables_folder, figures_folder = folder / "tables", folder / "figures"
    tables_folder.mkdir()
    figures_folder.mkdir()
    tables = [table for labels in results.regimes for table in all_tables(results.under(labels))]
    forms = wide_tables(results.under("own")) if "own" in results.regimes else []
    for table in [*tables, *forms]:
        (tables_folder / f"{table.name}.tex").write_text(to_latex(table), "utf-8")
        (tables_folder / f"{table.name}.md").write_text(to_markdown(table), "utf-8")
        to_frame(table).to_csv(tables_folder / f"{table.name}.csv", index=False)
    cells_frame(results).to_csv(tables_folder / "cells.csv", index=False)
    board = stored_leaderboard(results.tracker)
    if board:
        (tables_folder / "leaderboard.md").write_text(board.to_markdown(), "utf-8")
        board.to_frame().to_csv(tables_folder / "leaderboard.csv", index=False)
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
    (folder / PAGE).write_text(
        build_page(results, tables, figures, ui, not_drawn, forms, studies, board.sections() if board else ()), "utf-8"
    )

    (folder / MARKER).write_text("{}\n", "utf-8")
