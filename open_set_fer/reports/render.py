"""Write the page, the tables and the figures of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from open_set_fer.reports.figures import Picture, all_figures
from open_set_fer.reports.latex import to_latex
from open_set_fer.reports.page import build_page
from open_set_fer.reports.query import load
from open_set_fer.reports.tables import all_tables, cells_frame, to_frame, to_markdown

if TYPE_CHECKING:
    from open_set_fer.benchmark.tracking import Tracker


def render(tracker: Tracker, out: Path) -> Path:
    """Write out/index.html, out/tables/*.{tex,md,csv}, out/figures/*.{png,pdf,svg}; returns the page's path.

    Tables and figures of an earlier render are removed. Raises SuiteError when the experiment holds no finished cell.
    """
    results = load(tracker)
    tables_folder = _emptied(out / "tables", ("tex", "md", "csv"))
    figures_folder = _emptied(out / "figures", ("png", "pdf", "svg"))
    tables = all_tables(results)
    for table in tables:
        (tables_folder / f"{table.name}.tex").write_text(to_latex(table), "utf-8")
        (tables_folder / f"{table.name}.md").write_text(to_markdown(table), "utf-8")
        to_frame(table).to_csv(tables_folder / f"{table.name}.csv", index=False)
    cells_frame(results).to_csv(tables_folder / "cells.csv", index=False)
    pictures: list[Picture] = []
    for picture in all_figures(results, tracker):
        picture.save(figures_folder)
        pictures.append(picture)
    page = out / "index.html"
    page.write_text(build_page(results, tables, pictures), "utf-8")
    return page


def _emptied(folder: Path, suffixes: tuple[str, ...]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in suffixes:
        for path in folder.glob(f"*.{suffix}"):
            path.unlink()
    return folder
