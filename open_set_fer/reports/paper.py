"""The paper's printed numbers: looked up, and as blocks of a table that are never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd

from open_set_fer.benchmark.metrics import MAIN_METRICS, Metric
from open_set_fer.reports.entries import PRINTED, Block, Entry, Row, mark_best
from open_set_fer.reports.names import dataset_name, method_name

KEY = ["dataset", "protocol", "open_classes", "method", "metric"]
USUAL_DATASET, DATASET_OF_FAMILY = "rafdb", {"contempt": "affectnet"}
"""Whose numbers stand beside a data set for which the paper prints none."""

ABLATION = {
    "baseline": "none", "ours-attention-only": "attention", "ours-attention-resets": "attention+cycle_lr",
    "ours": "attention+cycle_lr+cycle_training",
}  # fmt: skip
"""The four rows of Table 5: the label, and what paper_results.csv calls the row, which parts are switched on."""

PRINTED_AS = {"rafdb_compound": "rafdb"}
"""What the paper calls a data set of the suite: RAF-DB with its compound faces is RAF-DB there."""


@cache
def paper_results() -> pd.DataFrame:
    """Columns table, dataset, protocol, open_classes ('mean' for a mean row), method, metric, value, note."""
    return pd.read_csv(Path(__file__).parent / "paper_results.csv", keep_default_na=False, dtype={"value": float})


@cache
def _by_key() -> dict[tuple[str, ...], float]:
    # A number that the paper prints in several tables is the same in each.
    frame = paper_results().drop_duplicates(KEY)
    return {tuple(row[name] for name in KEY): float(row["value"]) for row in frame.to_dict("records")}


def paper_value(dataset: str, protocol: str, open_classes: str, method: str, metric: str) -> float | None:
    """The number as printed, None where the paper has none."""
    return _by_key().get((PRINTED_AS.get(dataset, dataset), protocol, open_classes, method, metric))


def figure6_value(labels: str) -> float | None:
    """AUROC of ours as Figure 6 has it under a label regime (RAF-DB, surprise open); None where it has none."""
    names = {"own": "ours", "concentrated": "ours-concentrated-pseudo-labels"}
    frame = paper_results()
    values = frame.loc[(frame["table"] == "figure6") & (frame["method"] == names.get(labels)), "value"]
    return float(values.iloc[0]) if len(values) else None


def paper_rows(dataset: str, protocols: list[str]) -> list[tuple[str, str]]:
    """(protocol, open_classes) of the paper's rows for a data set, in printed order, mean rows left out."""
    frame = paper_results()
    chosen = frame[
        (frame["dataset"] == PRINTED_AS.get(dataset, dataset))
        & frame["protocol"].isin(protocols)
        & (frame["open_classes"] != "mean")
    ]
    return list(dict.fromkeys(zip(chosen["protocol"], chosen["open_classes"], strict=True)))


def unreadable_note() -> str:
    """What is not known of the printed Table 5."""
    known = set(paper_results().loc[paper_results()["table"] == "table5", "method"])
    unknown = [method_name(label) for label, printed in ABLATION.items() if printed not in known]
    return (
        f"Table 5 of Zhang et al.: no number of {', '.join(unknown)}, whose row is not readable in the source at hand."
    )


def paper_blocks(
    dataset: str,
    rows: list[tuple[str, str]],
    methods: list[str],
    shared_only: bool = False,
    printed_as: Mapping[str, str] | None = None,
) -> list[Block]:
    """The paper's rows for the data set, or for the one that the paper uses, said to be another.

    rows: (family, open classes) of the table. shared_only: those of the paper's rows that are in `rows` and have a number
    of every method; else of any. printed_as: what paper_results.csv calls a method in this table.
    """
    names = {method: (printed_as or {}).get(method, method) for method in methods}
    printed: dict[str, list[tuple[str, str]]] = {}
    for family in dict.fromkeys(family for family, _ in rows):
        source = dataset if paper_rows(dataset, [family]) else DATASET_OF_FAMILY.get(family, USUAL_DATASET)
        candidates = paper_rows(source, [family])
        if _classes(candidates) & _classes(rows):  # of digits, say, the paper opened nothing like it
            chosen = [row for row in candidates if row in rows or not shared_only]
            printed.setdefault(source, []).extend(chosen)
    blocks = []
    for metric in MAIN_METRICS:
        for source, chosen in printed.items():
            if block_rows := _rows(source, chosen, names, metric, shared_only):
                blocks.append(_block(source, source == dataset, block_rows, metric))
    return blocks


def _classes(rows: list[tuple[str, str]]) -> set[str]:
    """Every class named in (family, open classes) pairs."""
    return {part for _, open_classes in rows for part in open_classes.split("+")}


def _rows(
    source: str, chosen: list[tuple[str, str]], names: dict[str, str], metric: Metric, whole_only: bool
) -> list[Row]:
    """The rows with enough numbers, and the printed mean where it averages them all. names: as printed, by method."""

    def entries(family: str, open_classes: str) -> list[Entry]:
        values = {m: paper_value(source, family, open_classes, name, metric.name) for m, name in names.items()}
        return [Entry(family, open_classes, method, metric, PRINTED, value) for method, value in values.items()]

    rows = [Row(open_classes, entries(family, open_classes)) for family, open_classes in chosen]
    enough = all if whole_only else any
    rows = [row for row in rows if enough(entry.value is not None for entry in row.entries)]
    families = list(dict.fromkeys(family for family, _ in chosen))
    if rows and chosen == paper_rows(source, families):
        mean = entries("+".join(families), "mean")
        rows += [Row("mean", mean, is_mean=True)] if any(entry.value is not None for entry in mean) else []
    for row in rows:
        mark_best(row.entries)
    return rows


def _block(source: str, is_same: bool, rows: list[Row], metric: Metric) -> Block:
    printed = f"{dataset_name(source)} as printed"
    other = ", with the paper's settings" if is_same else "; another data set, not comparable"
    note = f"{printed}: numbers of Zhang et al. (AAAI 2024){other.replace('the paper', 'that paper')}."
    return Block(f"Paper ({printed}{other}): {metric.heading}", rows, f"{printed}: {metric.short}", note, printed=True)
