"""The typed frame of results: its columns, how they are filled, and the order of methods and protocols."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from open_set_fer import plugins
from open_set_fer.benchmark.protocols.pool import SHIFT
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.benchmark.storage.kept import FEATURES_TAG
from open_set_fer.benchmark.storage.mlflow_reader import IMPORTED_FROM, read_notes
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.names import method_name, origin_differs

if TYPE_CHECKING:
    from mlflow.entities import Run

PAPER_METHODS = ("baseline", "eow", "proser", "dias", "ours")
FAMILY_ORDER = ("single", "pairs", "triples", "compound", "contempt")
ENVIRONMENT = ("version", "python", "torch", "cpu", "gpu", "threads")
"""Tags that say with what a cell was computed; runs of older versions lack them."""
FACTS = ("sees_pool", "label_based")
"""What a method states of itself: by the tags of its runs, or by the installed method where they have none."""
FINISHED, FAILED, MISSING = "finished", "failed", "missing"
OWN = "this home"  # source of a cell that was not imported from somebody else's results

COLUMNS = {
    # the cell; open_classes is the display text of its protocol
    **dict.fromkeys(("dataset", "protocol", "open_classes", "method"), "str"),
    "seed": "int64",
    # its protocol: open classes, splits of the open faces, part of the test pool, twins in it, pseudo-label setting
    **dict.fromkeys(("choice", "open_from", "pool", "twins", "labels"), "str"),
    "label_share": "float64",
    # its method; title is the display name of its label
    "title": "str",
    **dict.fromkeys(FACTS, "bool"),
    # its run; texts are missing values where the status is `missing`
    **dict.fromkeys(("status", "error", "run_id", "source", "cell_key", "settings_key", "selection"), "str"),
    **dict.fromkeys(("git_commit", "host", "device", *ENVIRONMENT), "str"),
    "demonstration": "bool",
    **dict.fromkeys(("reads_labels", "features", "fingerprint", "counts"), "str"),
    "logged": "datetime64[us, UTC]",
    "notes": "object",
}
"""Columns of `Results.cells` and their types; each metric is one more, of float64."""


def protocol_fields(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a protocol, from a cell of plan.json or from tags."""
    fields = cell if "choice" in cell else _parsed(cell["open_classes"])
    defaults = {"choice": "", "open_from": "both", "pool": "", "twins": "keep", "labels": "own"}
    texts = {name: fields.get(name, default) for name, default in defaults.items()}
    return texts | {"label_share": float(fields.get("label_share", 0))}


_LABELS = {
    "labels flipped": "flipped",  # of older versions; in no table
    "labels as released": "released",
    "labels concentrated": "concentrated",
    "labels flipped in the pool": "spiked",
    "true labels flipped": "flipped-true",
}
_DISPLAY = re.compile(
    r"(?P<choice>.*?)(?P<test> \(open faces of the test split\))?"
    r"(?: \((?P<pool>\d+ (?:images, \S+% open|closed faces, half with \w+)[^()]*)\))?"
    rf"(?: \((?:(?P<percent>\S+)% of )?(?P<labels>{'|'.join(_LABELS)})\))?"
)


def _parsed(open_classes: str) -> dict[str, Any]:
    """The columns of a protocol from its display text: of plans and runs that were logged without them."""
    match = _DISPLAY.fullmatch(open_classes)
    if match is None:  # a line break in it
        return {"choice": open_classes}
    labels = _LABELS.get(match["labels"], "own")
    share = float(match["percent"]) / 100 if match["percent"] else float(labels != "own")
    part = {"open_from": "test" if match["test"] else "both", "pool": match["pool"] or ""}
    return part | {"choice": match["choice"], "labels": labels, "label_share": share}


def typed_frame(rows: list[dict[str, Any]], params: dict[str, dict[str, str]]) -> pd.DataFrame:
    """The frame of `COLUMNS` and metrics; rows: coordinates and status of each cell, and the columns of its run."""
    facts = {
        (method, fact): _states(method, fact, [row for row in rows if row["method"] == method], params)
        for method in {row["method"] for row in rows}
        for fact in FACTS
    }
    rows = [row | protocol_fields(row) | {fact: facts[row["method"], fact] for fact in FACTS} for row in rows]
    frame = pd.DataFrame(rows)
    settings = {row["method"]: params[row["run_id"]] for row in rows if row.get("run_id") in params}
    frame["title"] = [method_name(method, settings.get(method)) for method in frame["method"]]
    metrics = [name for name in frame.columns if name not in COLUMNS]
    frame = frame.reindex(columns=[*COLUMNS, *metrics])
    frame["demonstration"] = frame["demonstration"].eq(True)
    frame["logged"] = pd.to_datetime(frame["logged"], utc=True)
    return _by_origin(frame.astype(COLUMNS | dict.fromkeys(metrics, "float64")))


def _by_origin(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells; where origin gives open faces away to transductive methods, their AUROC is of the test split's.

    The interval is of all open faces, so it is left out.
    """
    is_open = (cells["protocol"] != SHIFT) & ~cells["labels"].isin(CONTROLS)
    concerned = is_open & cells["sees_pool"] & cells["dataset"].map(origin_differs).astype(bool)
    if concerned.any() and "auroc" in cells:
        named = cells.reindex(columns=["auroc_open_test"])
        cells.loc[concerned, "auroc"] = named.loc[concerned, "auroc_open_test"]
        cells.loc[concerned, [name for name in ("auroc_low", "auroc_high") if name in cells]] = float("nan")
    return cells


def _states(label: str, fact: str, rows: list[dict[str, Any]], params: dict[str, dict[str, str]]) -> bool:
    """Whether the method behind a label states a fact: by the tags of its runs, else by its installed version."""
    tagged = [row[fact] for row in rows if row.get(fact) in ("true", "false")]
    if tagged:
        return bool(tagged[-1] == "true")
    names = (params.get(row.get("run_id", ""), {}).get("method.name") for row in rows)
    try:
        return bool(getattr(plugins.load(plugins.METHODS, next(filter(None, names), label)), fact, False))
    except SuiteError:  # not installed here, or broken
        return False


def run_columns(run: Run) -> dict[str, Any]:
    """Status, tags, data and metrics of a run."""
    tags, data = run.data.tags, [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
    return {
        "status": FINISHED if run.info.status == "FINISHED" else FAILED,
        "error": tags.get("error", "") or "no error recorded",
        "run_id": run.info.run_id,
        "logged": datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        "source": tags.get(IMPORTED_FROM, OWN),
        **{name: tags.get(name, "") for name in ("cell_key", "settings_key")},
        "selection": tags.get("selection", "") or "not stated",
        **{name: tags.get(name, "unknown") for name in ("git_commit", "host", "device", *ENVIRONMENT, "reads_labels")},
        "demonstration": tags.get("demonstration", "").lower() == "true",
        "features": tags.get(FEATURES_TAG, ""),
        **{fact: tags.get(fact) for fact in FACTS},
        "notes": tuple(read_notes(tags.get("notes", ""))),
        "fingerprint": data[0].digest if data else "",
        "counts": (data[0].profile or "") if data else "",
        **{name: value for name, value in run.data.metrics.items() if not name.startswith("curve.")},
    }


def method_order(labels: Iterable[str]) -> list[str]:
    """The paper's methods in the paper's order, then the others as they come."""
    distinct = list(dict.fromkeys(labels))
    return [m for m in PAPER_METHODS if m in distinct] + [m for m in distinct if m not in PAPER_METHODS]


def protocol_order(cells: pd.DataFrame) -> list[tuple[str, str]]:
    """(family, open_classes) by family, then by the classes' order in the paper; other classes as they come."""
    distinct = cells[["protocol", "open_classes", "choice"]].drop_duplicates().itertuples(index=False, name=None)

    def rank(item: tuple[str, str, str]) -> tuple[int, list[int]]:
        family, _, choice = item
        classes = [BASIC.index(name) if name in BASIC else len(BASIC) for name in choice.split("+")]
        return FAMILY_ORDER.index(family) if family in FAMILY_ORDER else len(FAMILY_ORDER), classes

    return [(family, label) for family, label, _ in sorted(distinct, key=rank)]
