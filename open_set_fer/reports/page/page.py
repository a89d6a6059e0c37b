"""Self-contained page of a report: result, runs, tables, figures, failures, notes, settings."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from open_set_fer.benchmark.evaluation.metrics import AUROC
from open_set_fer.benchmark.storage.tracking import experiment_link, run_link
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import ENVIRONMENT, FAILED, FINISHED, MISSING, Results, method_order
from open_set_fer.reports.page.summary import summaries
from open_set_fer.reports.page.tooltips import DIFFERENCE_NOTE, TIP_NOTE, Tooltips
from open_set_fer.templates import templates

if TYPE_CHECKING:
    import pandas as pd

    from open_set_fer.reports.figures.base import ReportFigure
    from open_set_fer.reports.tables.build import Table

CITATION = (
    "Yuhang Zhang, Yue Yao, Xuannan Liu, Lixiong Qin, Wenjing Wang, Weihong Deng: Open-Set Facial Expression "
    "Recognition. AAAI 2024. arXiv:2401.12507."
)
LOST_CLASS = re.compile(r"a class without a clean sample was kept whole in (\d+) of (\d+) selections \(lost: (.*)\)")
OLD_NOTE = re.compile(r"network \d+, epoch \d+: selection kept no sample.*: all samples used")
"""Note of older versions on each single selection that fell back."""
WHERE = {
    "selection": "Hyperparameters",
    "version": "Suite",
    "git_commit": "Git commit",
    "torch": "torch",
    "python": "Python",
    "device": "Device",
    "cpu": "Processor",
    "gpu": "GPU",
    "threads": "Threads",
    "host": "Host",
}
"""Headings on the origin of the cells, by tag."""


@dataclass(frozen=True)
class DataSetCard:
    """Contents of a data set (fingerprint, counts by split) and its cells by status."""

    name: str
    demonstration: bool
    fingerprints: list[str]
    classes: list[str]
    splits: list[tuple[str, list[int | None], int]]
    status: dict[str, int]


@dataclass(frozen=True)
class SettingsGroup:
    """Settings of one method label (or those shared by a data set's cells), distinct values joined."""

    title: str
    rows: list[tuple[str, str]]


def build_page(
    results: Results,
    tables: list[Table],
    figures: list[ReportFigure],
    ui: str = "",
    not_drawn: Iterable[str] = (),
    forms: Iterable[Table] = (),
    studies: Mapping[str, str] | None = None,
) -> str:
    """Render the page as HTML.

    ui: address of an MLflow UI for links to experiment and runs. not_drawn: sentences on omitted figures. forms: tables
    in the paper's layout, linked beside paper.tex. studies: links to the texts of hyperparameter studies, by name.
    """
    ran = results.results
    return (
        templates()
        .get_template("reports/page/page.html.jinja")
        .render(
            profile=results.profile,
            status=_status(results.cells),
            cards=[_card(results, dataset) for dataset in results.datasets],
            demonstration_only=results.demonstrations == set(results.datasets),
            first=ran["logged"].min(),
            last=ran["logged"].max(),
            hours=ran["seconds.total"].sum() / 3600 if "seconds.total" in ran else None,
            where={
                title: values for name, title in WHERE.items() if (values := _counted(ran[name], name in ENVIRONMENT))
            },
            summaries=summaries(results.under(results.regimes[0])),
            below={table.name: _below(table) for table in tables},
            dataset_name=dataset_name,
            method_name=method_name,
            tooltips=Tooltips(results, ui),
            forms=list(forms),
            library=table_library(),
            tip_note=TIP_NOTE,
            difference_note=DIFFERENCE_NOTE,
            experiment=experiment_link(ui, results.experiment_id) if ui else "",
            runs=_runs(results, ui) if ui else [],
            warnings=[warn.about(results.methods(warn.dataset)) for warn in results.warnings],
            tables=[table for table in tables if not table.is_side],
            side_tables=[table for table in tables if table.is_side],
            figures=figures,
            not_drawn=list(not_drawn),
            failures=ran[ran["status"] == FAILED].to_dict("records"),
            missing=_missing(results.cells),
            notes=_notes(ran),
            studies=studies or {},
            settings=[(dataset, _settings(results, dataset)) for dataset in results.datasets],
            citation=CITATION,
        )
    )


@cache
def table_library() -> str:
    """Inline script that defines window.DataTable: DataTables with jQuery from the package itables."""
    text = resources.files("itables").joinpath("html", "dt_bundle.js").read_text("utf-8")
    exported = re.search(r"export\s*\{[^}]*?(\w+) as default[^}]*\};?", text)
    if not exported:
        raise SuiteError(
            "the script of the package itables is not as expected", "install the version of constraints.txt"
        )
    text = f"{text[: exported.start()]}window.DataTable={exported[1]};{text[exported.end() :]}"
    return text.replace("</script", "<\\/script")


def _status(cells: pd.DataFrame) -> dict[str, int]:
    return {status: int((cells["status"] == status).sum()) for status in (FINISHED, FAILED, MISSING)}


def _missing(cells: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Missing cells by data set and method."""
    missing: dict[tuple[str, str], list[str]] = {}
    for cell in cells[cells["status"] == MISSING].to_dict("records"):
        name = f"{cell['open_classes']} seed {cell['seed']}"
        missing.setdefault((cell["dataset"], cell["method"]), []).append(name)
    return [(dataset, method, ", ".join(items)) for (dataset, method), items in missing.items()]


def _counted(values: pd.Series[str], optional: bool = False) -> list[tuple[str, int]]:
    """Values with their number of cells, most frequent first; optional: empty if every one is unknown."""
    counts = Counter(map(str, values)).most_common()
    return [] if optional and [name for name, _ in counts] == ["unknown"] else counts


def _below(table: Table) -> str:
    """Measured AUROCs of a table below 0.5, by method."""
    rows: dict[str, list[str]] = {}
    for entry in table.entries():
        if entry.metric == AUROC and entry.value is not None and entry.value < 0.5:
            rows.setdefault(method_name(entry.method), []).append(entry.open_classes)
    return "; ".join(f"{method} ({', '.join(dict.fromkeys(labels))})" for method, labels in rows.items())


def _runs(results: Results, ui: str) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Links to the run of every cell, by data set and method."""
    runs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for cell in results.cells[results.cells["status"] != MISSING].to_dict("records"):
        link = run_link(ui, results.experiment_id, cell["run_id"])
        runs.setdefault((cell["dataset"], cell["method"]), []).append((f"{cell['open_classes']} s{cell['seed']}", link))
    return [(dataset_name(dataset), method_name(method), links) for (dataset, method), links in runs.items()]


def _card(results: Results, dataset: str) -> DataSetCard:
    cells = results.of(dataset)
    ran = cells[cells["status"] == FINISHED]
    described = [text for text in dict.fromkeys(ran["counts"]) if text]
    counts: dict[str, dict[str, int]] = json.loads(described[-1]) if described else {}
    classes = list(dict.fromkeys(name for split in counts.values() for name in split))
    splits = [(split, [count.get(name) for name in classes], sum(count.values())) for split, count in counts.items()]
    prints = [text for text in dict.fromkeys(ran["fingerprint"]) if text]
    return DataSetCard(dataset, dataset in results.demonstrations, prints, classes, splits, _status(cells))


def _notes(ran: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Data set and methods, note, number of cells, most frequent first; selections that lost a class are one note."""
    single: dict[str, list[tuple[str, str]]] = {}
    fell: dict[str, list[tuple[str, str]]] = {}
    for row in ran.to_dict("records"):
        for note in dict.fromkeys(
            OLD_NOTE.sub("a selection lost a class: all samples used", note) for note in row["notes"]
        ):
            into = fell if LOST_CLASS.fullmatch(note) else single
            into.setdefault(note, []).append((row["dataset"], row["method"]))
    listed = [(_sources(sources), note, len(sources)) for note, sources in single.items()]
    if fell:
        sources = [source for cells in fell.values() for source in cells]
        counts = {note: len(cells) for note, cells in fell.items()}
        listed.append((_sources(sources), _lost_classes(counts), len(sources)))
    return sorted(listed, key=lambda item: -item[2])


def _sources(sources: list[tuple[str, str]]) -> str:
    by_set: dict[str, dict[str, None]] = {}
    for dataset, method in sources:
        by_set.setdefault(dataset_name(dataset), {})[method_name(method)] = None
    return "; ".join(f"{dataset}: {', '.join(methods)}" for dataset, methods in by_set.items())


def _lost_classes(notes: dict[str, int]) -> str:
    """Sentence on the selections that lost a class. notes: number of cells by note."""
    fell, total, lost = 0, 0, Counter[str]()
    for note, cells in notes.items():
        if match := LOST_CLASS.fullmatch(note):
            fell, total = fell + cells * int(match[1]), total + cells * int(match[2])
            for name in dict.fromkeys(re.findall(r"[^\s,;]+", match[3])):
                lost[name] += cells
    classes = ", ".join(f"{name} in {cells} cells" if cells > 1 else name for name, cells in lost.most_common())
    return f"A class without a clean sample was kept whole in {fell} of {total} selections: {classes}."


def _settings(results: Results, dataset: str) -> list[SettingsGroup]:
    cells = results.of(dataset)
    cells = cells[cells["status"] == FINISHED]
    groups = []
    for method in method_order(cells["method"]):
        rows = _distinct(results, cells[cells["method"] == method]["run_id"], of_method=True)
        groups.append(SettingsGroup(method_name(method), rows))
    groups.append(SettingsGroup("shared: closed-set model, backbone, data set", _distinct(results, cells["run_id"])))
    return [group for group in groups if group.rows]


def _distinct(results: Results, run_ids: pd.Series[str], of_method: bool = False) -> list[tuple[str, str]]:
    """Settings of these runs by name: the method's (method.*) or all others."""
    values: dict[str, dict[str, None]] = {}
    for run_id in run_ids:
        for name, value in results.params.get(run_id, {}).items():
            if name.startswith("method.") == of_method and not name.startswith("cell."):
                values.setdefault(name.removeprefix("method."), {})[value] = None
    return [(name, " | ".join(distinct)) for name, distinct in sorted(values.items())]
