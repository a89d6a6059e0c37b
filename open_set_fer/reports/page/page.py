"""Self-contained page of a report: result, runs, tables, figures, failures, notes, settings."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, METRICS
from open_set_fer.benchmark.storage.mlflow_reader import experiment_link, run_link
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.results import ENVIRONMENT, FAILED, FINISHED, MISSING, Results, method_order
from open_set_fer.reports.figures.base import ReportFigure
from open_set_fer.reports.page.picture import NAME as PICTURE
from open_set_fer.reports.page.summary import summaries
from open_set_fer.reports.page.tooltips import Tooltips
from open_set_fer.reports.tables.build import Table, slug
from open_set_fer.reports.tables.latex import to_latex
from open_set_fer.reports.tables.wording import ABOUT
from open_set_fer.templates import templates

CITATION = (
    "Yuhang Zhang, Yue Yao, Xuannan Liu, Lixiong Qin, Wenjing Wang, Weihong Deng: Open-Set Facial Expression "
    "Recognition. AAAI 2024. arXiv:2401.12507."
)
LOST_CLASS = re.compile(r"a class without a clean sample was kept whole in (\d+) of (\d+) selections \(lost: (.*)\)")
WHERE = {
    **{"selection": "Hyperparameters", "version": "Suite", "git_commit": "Git commit", "torch": "torch"},
    **{"python": "Python", "device": "Device", "cpu": "Processor", "gpu": "GPU", "threads": "Threads", "host": "Host"},
}
"""Headings on the origin of the cells, by tag."""


def build_page(
    results: Results,
    tables: list[Table],
    figures: list[ReportFigure],
    ui: str = "",
    not_drawn: Iterable[str] = (),
    forms: Iterable[Table] = (),
    studies: Mapping[str, str] | None = None,
    leaderboard: Iterable[tuple[str, list[str], list[list[str]]]] = (),
) -> str:
    """Render the page as HTML.

    ui: address of an MLflow UI for links. not_drawn: sentences on omitted figures. forms: tables in the paper's layout.
    studies: links to the texts of hyperparameter studies, by name. leaderboard: title, heads, rows of its tables.
    """
    ran, forms = results.results, list(forms)
    pictures = {figure.name: figure for figure in figures if figure.name.startswith(f"{PICTURE}_")}
    counts = {title: _counted(ran[name], name in ENVIRONMENT) for name, title in WHERE.items()}
    template = templates().get_template("reports/page/page.html.jinja")
    return template.render(
        profile=results.profile,
        status=_status(results.cells),
        cards=[_card(results, dataset) for dataset in results.datasets],
        demonstration_only=results.demonstrations == set(results.datasets),
        first=ran["logged"].min(),
        last=ran["logged"].max(),
        hours=ran["seconds.total"].sum() / 3600 if "seconds.total" in ran else None,
        where={title: values for title, values in counts.items() if values},
        summaries=summaries(results.under(results.regimes[0])),
        picture_of=lambda dataset: pictures.get(f"{PICTURE}_{slug(dataset)}"),
        below={table.name: _below(results, table) for table in tables},
        numbered=_numbered(tables),
        about={metric.title: ABOUT[metric.name] for metric in METRICS if metric.name in ABOUT},
        latex={table.name: to_latex(table) for table in [*tables, *forms]},
        form_of={table.name: form for table in tables for form in forms if _is_form(form, table)},
        dataset_name=dataset_name,
        method_name=results.title,
        tooltips=Tooltips(results, ui),
        forms=forms,
        library=table_library(),
        experiment=experiment_link(ui, results.experiment_id) if ui else "",
        runs=_by_method(ran) if ui else [],
        run_link=lambda run_id: run_link(ui, results.experiment_id, run_id),
        warnings=[warn.about(results.methods(warn.dataset)) for warn in results.warnings],
        tables=[table for table in tables if not table.is_side],
        side_tables=[table for table in tables if table.is_side],
        figures=[figure for figure in figures if figure.name not in pictures],
        not_drawn=list(not_drawn),
        failures=ran[ran["status"] == FAILED].to_dict("records"),
        missing=_by_method(results.cells[results.cells["status"] == MISSING]),
        notes=_notes(results, ran),
        studies=studies or {},
        leaderboard=list(leaderboard),
        settings=[(dataset, _settings(results, dataset)) for dataset in results.datasets],
        citation=CITATION,
    )


@cache
def table_library() -> str:
    """Inline script that defines window.DataTable: DataTables with jQuery from the package itables."""
    text = resources.files("itables").joinpath("html", "dt_bundle.js").read_text("utf-8")
    exported = re.search(r"export\s*\{[^}]*?(\w+) as default[^}]*\};?", text)
    if not exported:
        fix = "install the version of constraints.txt"
        raise SuiteError("the script of the package itables is not as expected", fix)
    text = f"{text[: exported.start()]}window.DataTable={exported[1]};{text[exported.end() :]}"
    return text.replace("</script", "<\\/script")


def _status(cells: pd.DataFrame) -> dict[str, int]:
    return {status: int((cells["status"] == status).sum()) for status in (FINISHED, FAILED, MISSING)}


def _by_method(cells: pd.DataFrame) -> list[tuple[Any, list[dict[Hashable, Any]]]]:
    return [(place, rows.to_dict("records")) for place, rows in cells.groupby(["dataset", "method"], sort=False)]


def _counted(values: pd.Series[str], optional: bool = False) -> list[tuple[str, int]]:
    """Values with their number of cells, most frequent first; optional: empty if every one is unknown."""
    counts = Counter(map(str, values)).most_common()
    return [] if optional and [name for name, _ in counts] == ["unknown"] else counts


def _numbered(tables: list[Table]) -> dict[str, int]:
    """The tables' notes, each once, with its number."""
    notes = dict.fromkeys(note for table in tables for note in table.footnotes)
    return {note: number for number, note in enumerate(notes, start=1)}


def _is_form(form: Table, table: Table) -> bool:
    """Whether a form has a table's numbers in the paper's layout."""
    return table.name == f"{form.name.removeprefix('printed_')}_{slug(table.dataset)}"


def _below(results: Results, table: Table) -> str:
    rows: dict[str, list[str]] = {}
    for entry in table.entries():
        if entry.metric == AUROC and entry.value is not None and entry.value < 0.5:
            rows.setdefault(results.title(entry.method), []).append(entry.open_classes)
    return "; ".join(f"{method} ({', '.join(dict.fromkeys(labels))})" for method, labels in rows.items())


def _card(results: Results, dataset: str) -> dict[str, Any]:
    """Contents of a data set (fingerprints, number of images by split and class) and its cells by status."""
    cells = results.of(dataset)
    ran = cells[cells["status"] == FINISHED]
    described = [text for text in dict.fromkeys(ran["counts"]) if text]
    counts: dict[str, dict[str, int]] = json.loads(described[-1]) if described else {}
    return {
        "name": dataset,
        "demonstration": dataset in results.demonstrations,
        "fingerprints": [text for text in dict.fromkeys(ran["fingerprint"]) if text],
        "counts": counts,
        "classes": list(dict.fromkeys(name for split in counts.values() for name in split)),
        "status": _status(cells),
    }


def _notes(results: Results, ran: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Data set and methods, note, number of cells, most frequent first; selections that lost a class are one note."""
    cells = ran[["dataset", "method", "notes"]].reset_index(drop=True)
    notes = cells.explode("notes").dropna().reset_index().drop_duplicates()
    is_lost = notes["notes"].map(lambda note: LOST_CLASS.fullmatch(note) is not None).astype(bool)
    notes.loc[is_lost, "notes"] = _lost_classes(notes.loc[is_lost, "notes"])
    listed = [(_sources(results, rows), str(note), len(rows)) for note, rows in notes.groupby("notes", sort=False)]
    return sorted(listed, key=lambda item: -item[2])


def _sources(results: Results, rows: pd.DataFrame) -> str:
    return "; ".join(
        f"{dataset_name(str(dataset))}: {', '.join(dict.fromkeys(map(results.title, methods)))}"
        for dataset, methods in rows.groupby("dataset", sort=False)["method"]
    )


def _lost_classes(notes: Iterable[str]) -> str:
    """Sentence on the selections that lost a class. notes: one a cell."""
    matches = [match for note in notes if (match := LOST_CLASS.fullmatch(note))]
    fell, total = (sum(int(match[place]) for match in matches) for place in (1, 2))
    lost = Counter(name for match in matches for name in dict.fromkeys(re.findall(r"[^\s,;]+", match[3])))
    classes = ", ".join(f"{name} in {cells} cells" if cells > 1 else name for name, cells in lost.most_common())
    return f"A class without a clean sample was kept whole in {fell} of {total} selections: {classes}."


def _settings(results: Results, dataset: str) -> dict[str, list[tuple[str, str]]]:
    """Settings of each method label and those shared by the data set's cells, distinct values joined."""
    cells = results.of(dataset)
    cells = cells[cells["status"] == FINISHED]
    runs = {method: cells.loc[cells["method"] == method, "run_id"] for method in method_order(cells["method"])}
    groups = {results.title(method): _distinct(results, run_ids, of_method=True) for method, run_ids in runs.items()}
    groups["shared: closed-set model, backbone, data set"] = _distinct(results, cells["run_id"], of_method=False)
    return {title: rows for title, rows in groups.items() if rows}


def _distinct(results: Results, run_ids: Iterable[str], of_method: bool) -> list[tuple[str, str]]:
    """Settings of these runs by name: the method's (method.*) or all others."""
    params = pd.DataFrame([results.params.get(run_id, {}) for run_id in run_ids])
    return [
        (name.removeprefix("method."), " | ".join(params[name].dropna().unique()))
        for name in sorted(map(str, params))
        if name.startswith("method.") == of_method and not name.startswith("cell.")
    ]
