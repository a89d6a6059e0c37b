"""The self-contained page: what was run, tables, figures, failures, notes, settings."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from open_set_fer.reports.query import FAILED, FINISHED, MISSING, Results, method_order

if TYPE_CHECKING:
    import pandas as pd

    from open_set_fer.reports.figures import Picture
    from open_set_fer.reports.tables import Table

CITATION = (
    "Yuhang Zhang, Yue Yao, Xuannan Liu, Lixiong Qin, Wenjing Wang, Weihong Deng: Open-Set Facial Expression "
    "Recognition. AAAI 2024. arXiv:2401.12507."
)


@dataclass(frozen=True)
class DataSetCard:
    """What the runs say about a data set: its contents (fingerprint, counts by split) and cells by status."""

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


def build_page(results: Results, tables: list[Table], pictures: list[Picture]) -> str:
    """The page as HTML; pictures must have been saved."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    ran = results.results
    return environment.get_template("page.html.jinja").render(
        profile=results.profile,
        status=_status(results.cells),
        cards=[_card(results, dataset) for dataset in results.datasets],
        demonstration_only=results.demonstrations == set(results.datasets),
        first=ran["logged"].min(), last=ran["logged"].max(),
        hours=ran["seconds.total"].sum() / 3600 if "seconds.total" in ran else None,
        where={
            "selection": _counted(ran["selection"]),
            "commit": _counted(ran["git_commit"]), "host": _counted(ran["host"]), "device": _counted(ran["device"]),
        },
        warnings=[warn.about(results.methods(warn.dataset)) for warn in results.warnings],
        tables=[table for table in tables if not table.name.startswith("side_")],
        side_tables=[table for table in tables if table.name.startswith("side_")],
        pictures=pictures,
        failures=ran[ran["status"] == FAILED].to_dict("records"),
        missing=_missing(results.cells),
        notes=_notes(ran),
        settings=[(dataset, _settings(results, dataset)) for dataset in results.datasets],
        citation=CITATION,
    )  # fmt: skip


def _status(cells: pd.DataFrame) -> dict[str, int]:
    return {status: int((cells["status"] == status).sum()) for status in (FINISHED, FAILED, MISSING)}


def _missing(cells: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(data set, method, what is missing of it)."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in cells[cells["status"] == MISSING].to_dict("records"):
        where = f"{cell['open_classes']} seed {cell['seed']}"
        found.setdefault((cell["dataset"], cell["method"]), []).append(where)
    return [(dataset, method, ", ".join(items)) for (dataset, method), items in found.items()]


def _counted(values: pd.Series[str]) -> list[tuple[str, int]]:
    return Counter(map(str, values)).most_common()


def _card(results: Results, dataset: str) -> DataSetCard:
    cells = results.of(dataset)
    ran = cells[cells["status"] == FINISHED]
    described = [text for text in dict.fromkeys(ran["counts"]) if text]
    counts: dict[str, dict[str, int]] = json.loads(described[-1]) if described else {}
    classes = list(dict.fromkeys(name for split in counts.values() for name in split))
    splits = [(split, [of.get(name) for name in classes], sum(of.values())) for split, of in counts.items()]
    prints = [text for text in dict.fromkeys(ran["fingerprint"]) if text]
    return DataSetCard(dataset, dataset in results.demonstrations, prints, classes, splits, _status(cells))


def _notes(ran: pd.DataFrame) -> list[tuple[str, str, int]]:
    """(data set and methods, note, number of cells), the most frequent first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for row in ran.to_dict("records"):
        for note in dict.fromkeys(row["notes"]):
            found.setdefault(note, []).append((row["dataset"], row["method"]))
    listed = []
    for note, sources in found.items():
        by_set: dict[str, dict[str, None]] = {}
        for dataset, method in sources:
            by_set.setdefault(dataset, {})[method] = None
        where = "; ".join(f"{dataset}: {', '.join(methods)}" for dataset, methods in by_set.items())
        listed.append((where, note, len(sources)))
    return sorted(listed, key=lambda item: -item[2])


def _settings(results: Results, dataset: str) -> list[SettingsGroup]:
    cells = results.of(dataset)
    cells = cells[cells["status"] == FINISHED]
    groups = []
    for method in method_order(cells["method"]):
        rows = _distinct(results, cells[cells["method"] == method]["run_id"], own=True)
        groups.append(SettingsGroup(method, rows))
    groups.append(SettingsGroup("shared: closed-set model, backbone, data set", _distinct(results, cells["run_id"])))
    return [group for group in groups if group.rows]


def _distinct(results: Results, run_ids: pd.Series[str], own: bool = False) -> list[tuple[str, str]]:
    """Settings of these runs: the method's `own` (method.*) or all others."""
    values: dict[str, dict[str, None]] = {}
    for run_id in run_ids:
        for name, value in results.params.get(run_id, {}).items():
            if name.startswith("method.") == own and not name.startswith("cell."):
                values.setdefault(name.removeprefix("method."), {})[value] = None
    return [(name, " | ".join(found)) for name, found in sorted(values.items())]
