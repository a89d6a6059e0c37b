"""The tables of a report: which there are, and what each holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal

from open_set_fer.reports.data.paper import ABLATION
from open_set_fer.reports.data.results import FAMILY_ORDER, PAPER_METHODS

Layout = Literal["stacked", "wide", "side"]
"""Metrics as blocks, a table a data set; metrics side by side, data sets as blocks; methods by measurements."""


class Published(Enum):
    """How the paper's published numbers appear in a table."""

    ROWS = "every published row of the table's families"
    SHARED_ROWS = "the rows of the table that have a published number in every column"
    COLUMN = "a column for each method: the paper's AUROC on its usual data set"
    NONE = "not at all"


def is_variant(label: str) -> bool:
    """True for `ours` with other settings (Tables 4 and 5); `ours-plus` and its variants are another method."""
    return label.startswith("ours-") and not label.startswith("ours-plus")


def _is_method(label: str) -> bool:
    return not is_variant(label)


def _is_of_paper(label: str) -> bool:
    return label in PAPER_METHODS


def _is_ablation(label: str) -> bool:
    return is_variant(label) and label in ABLATION


def _is_further_variant(label: str) -> bool:
    return is_variant(label) and label not in ABLATION and label != "ours-online"


@dataclass(frozen=True)
class TableSpec:
    """The contents of a table.

    families: of its rows. is_column: whether a method is a column. is_subject: whether a method's protocols are rows;
    the table exists if one of these has a cell. has_mean: whether a last row is the mean of the others. published_as:
    methods' names in paper_results.csv.

    In the wide layout alone: datasets, in the paper's order; method_names: names of the methods in this table, each
    shown even if it is not planned, or empty for those that are planned; methods_in_rows: a row a method.
    """

    name: str
    title: str
    reference: str = ""
    families: tuple[str, ...] = FAMILY_ORDER
    is_column: Callable[[str], bool] = _is_method
    is_subject: Callable[[str], bool] = _is_method
    has_mean: bool = True
    published: Published = Published.ROWS
    published_as: Mapping[str, str] = field(default_factory=dict)
    layout: Layout = "stacked"
    row_head: str = "open classes"
    datasets: tuple[str, ...] = ()
    method_names: Mapping[str, str] = field(default_factory=dict)
    methods_in_rows: bool = False


_ONE = TableSpec("table1", "one open class", "the paper's Table 1", ("single",))
_SEVERAL = TableSpec("table2", "two and three open classes", "the paper's Table 2", ("pairs", "triples"))
_OTHER = TableSpec(
    "table3",
    "compound expressions and contempt as open classes",
    "the paper's Table 3",
    ("compound", "contempt"),
    has_mean=False,
)
_ONLINE = TableSpec(
    "table4",
    "ours on the whole test pool and online, one image at a time",
    "the paper's Table 4",
    is_column=lambda label: label in ("ours", "ours-online"),
    is_subject=lambda label: label == "ours-online",
    published=Published.SHARED_ROWS,
)
_ABLATION = TableSpec(
    "table5",
    "the parts of ours switched on one after the other",
    "the paper's Table 5",
    is_column=lambda label: label in ABLATION,
    is_subject=_is_ablation,
    published_as=ABLATION,
)
_VARIANTS = TableSpec(
    "variants",
    "further variants of ours",
    is_column=lambda label: label in ("baseline", "ours") or _is_further_variant(label),
    is_subject=_is_further_variant,
    published=Published.NONE,
)
TABLES = (_ONE, _SEVERAL, _OTHER, _ONLINE, _ABLATION, _VARIANTS)
SIDE = TableSpec("side", "side measurements", published=Published.NONE, layout="side", row_head="method")
SHIFTED = TableSpec("shift", "closed faces with a shift, no open ones", published=Published.NONE, row_head="faces")


def _wide(spec: TableSpec, title: str, *datasets: str, **changes: Any) -> TableSpec:
    changed = {"published": Published.NONE} | changes
    return replace(spec, name=f"printed_{spec.name}", title=title, layout="wide", datasets=datasets, **changed)


WIDE_TABLES = (
    _wide(_ONE, "open-set detection with one open class", "rafdb", "ferplus", is_subject=_is_of_paper),
    _wide(_SEVERAL, "open-set detection with two and three open classes", "rafdb", "ferplus", is_subject=_is_of_paper),
    _wide(
        _OTHER,
        "open-set detection of compound expressions and of contempt",
        "rafdb",
        "affectnet",
        is_subject=_is_of_paper,
    ),
    _wide(
        _ONLINE,
        "ours offline, on the whole test pool, and online",
        "rafdb",
        "ferplus",
        families=("single",),
        published=Published.COLUMN,
        method_names={"ours": "offline", "ours-online": "online"},
    ),
    _wide(
        _ABLATION,
        "the parts of ours, switched on one after the other",
        "rafdb",
        "ferplus",
        families=("single",),
        has_mean=False,
        published=Published.COLUMN,
        row_head="parts of ours",
        method_names={
            "baseline": "none: baseline",
            "ours-attention-only": "attention",
            "ours-attention-resets": "attention, cyclic rate",
            "ours": "attention, cyclic rate, cycle training",
        },
        methods_in_rows=True,
    ),
)
"""The paper's Tables 1 to 5 as it prints them; it has Tables 4 and 5 for RAF-DB alone."""
