"""The tables of a report: which there are, and what each holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from open_set_fer.reports.data.paper import ABLATION
from open_set_fer.reports.data.results import FAMILY_ORDER, PAPER_METHODS

Layout = Literal["stacked", "wide", "side"]
"""Metrics as blocks, a table a data set; metrics side by side, data sets as blocks; methods by measurements."""
Published = Literal["every row", "shared rows", "column", "none"]
"""The paper's numbers: every row of the families; those with a number in every column; a column for each method."""


def is_variant(label: str) -> bool:
    """True for `ours` with other settings (Tables 4 and 5); `ours-plus` and its variants are another method."""
    return label.startswith("ours-") and not label.startswith("ours-plus")


def _is_further_variant(label: str) -> bool:
    return is_variant(label) and label not in ABLATION and label != "ours-online"


@dataclass(frozen=True)
class TableSpec:
    """The contents of a table.

    families: of its rows. is_column: whether a method is a column. is_subject: whether a method's protocols are rows;
    the table exists if one of these has a cell. published_as: methods' names in paper_results.csv. In the wide layout
    alone: datasets, in the paper's order; method_names: of the methods in this table, each shown even if it is not
    planned, or empty for those that are planned.
    """

    name: str
    title: str
    reference: str = ""
    families: tuple[str, ...] = FAMILY_ORDER
    is_column: Callable[[str], bool] = lambda label: not is_variant(label)
    is_subject: Callable[[str], bool] = lambda label: not is_variant(label)
    has_mean: bool = True
    published: Published = "every row"
    published_as: Mapping[str, str] = field(default_factory=dict)
    layout: Layout = "stacked"
    row_head: str = "open classes"
    datasets: tuple[str, ...] = ()
    method_names: Mapping[str, str] = field(default_factory=dict)
    methods_in_rows: bool = False


_ONE = TableSpec("table1", "one open class", "the paper's Table 1", ("single",))
_SEVERAL = TableSpec("table2", "two and three open classes", "the paper's Table 2", ("pairs", "triples"))
_FAMILIES = ("compound", "contempt")
_OTHER = TableSpec(
    "table3", "compound expressions and contempt as open classes", "the paper's Table 3", _FAMILIES, has_mean=False
)
_ONLINE = TableSpec(
    "table4",
    "ours on the whole test pool and online, one image at a time",
    "the paper's Table 4",
    is_column=lambda label: label in ("ours", "ours-online"),
    is_subject=lambda label: label == "ours-online",
    published="shared rows",
)
_ABLATION = TableSpec(
    "table5",
    "the parts of ours switched on one after the other",
    "the paper's Table 5",
    is_column=lambda label: label in ABLATION,
    is_subject=lambda label: is_variant(label) and label in ABLATION,
    published_as=ABLATION,
)
_VARIANTS = TableSpec(
    "variants",
    "further variants of ours",
    is_column=lambda label: label in ("baseline", "ours") or _is_further_variant(label),
    is_subject=_is_further_variant,
    published="none",
)
TABLES = (_ONE, _SEVERAL, _OTHER, _ONLINE, _ABLATION, _VARIANTS)
SIDE = TableSpec("side", "side measurements", published="none", layout="side", row_head="method")
PAIRED = TableSpec("paired", "paired tests between methods on the same faces", published="none")
SHIFTED = TableSpec("shift", "closed faces with a shift, no open ones", published="none", row_head="faces")


def _wide(spec: TableSpec, title: str, *datasets: str, **changes: Any) -> TableSpec:
    """A table in the paper's own layout: of the paper's methods, or of those that `changes` name, on single classes."""
    own = {"families": ("single",)} if "method_names" in changes else {"is_subject": PAPER_METHODS.__contains__}
    changed = {"name": f"printed_{spec.name}", "title": title, "layout": "wide", "published": "none"} | own | changes
    return replace(spec, datasets=datasets, **changed)


_DATASETS = ("rafdb", "ferplus")
_PARTS = {
    "baseline": "none: baseline",
    "ours-attention-only": "attention",
    "ours-attention-resets": "attention, cyclic rate",
    "ours": "attention, cyclic rate, cycle training",
}
WIDE_TABLES = (
    _wide(_ONE, "open-set detection with one open class", *_DATASETS),
    _wide(_SEVERAL, "open-set detection with two and three open classes", *_DATASETS),
    _wide(_OTHER, "open-set detection of compound expressions and of contempt", "rafdb", "affectnet"),
    _wide(
        _ONLINE,
        "ours offline, on the whole test pool, and online",
        *_DATASETS,
        published="column",
        method_names={"ours": "offline", "ours-online": "online"},
    ),
    _wide(
        _ABLATION,
        "the parts of ours, switched on one after the other",
        *_DATASETS,
        has_mean=False,
        published="column",
        row_head="parts of ours",
        method_names=_PARTS,
        methods_in_rows=True,
    ),
)
"""The paper's Tables 1 to 5 as it prints them; it has Tables 4 and 5 for RAF-DB alone."""
