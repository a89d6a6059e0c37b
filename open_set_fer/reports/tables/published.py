"""The paper's published numbers as blocks of a table, never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Mapping

from open_set_fer.benchmark.evaluation.metrics import MAIN_METRICS, Metric
from open_set_fer.reports.data.names import dataset_name
from open_set_fer.reports.data.paper import DATASET_OF_FAMILY, USUAL_DATASET, paper_rows, paper_value
from open_set_fer.reports.tables.means import PRINTED, Block, Entry, Row, mark_best


def paper_blocks(
    dataset: str, rows: list[tuple[str, str]], methods: list[str], shared_only: bool, published_as: Mapping[str, str]
) -> list[Block]:
    """The paper's rows for the data set, or for the paper's data set, marked as another one.

    shared_only: only the paper's rows that are in `rows` and have a number of every method; else of any.
    """
    names = {method: published_as.get(method, method) for method in methods}
    classes = {part for _, open_classes in rows for part in open_classes.split("+")}
    by_source: dict[str, list[tuple[str, str]]] = {}
    for family in dict.fromkeys(family for family, _ in rows):
        source = dataset if paper_rows(dataset, [family]) else DATASET_OF_FAMILY.get(family, USUAL_DATASET)
        candidates = paper_rows(source, [family])
        if any(classes & set(label.split("+")) for _, label in candidates):  # the paper has none of digits, for example
            by_source.setdefault(source, []).extend(row for row in candidates if row in rows or not shared_only)
    return [
        _block(source, source == dataset, block_rows, metric)
        for metric in MAIN_METRICS
        for source, places in by_source.items()
        if (block_rows := _rows(source, places, names, metric, shared_only))
    ]


def _rows(
    source: str, places: list[tuple[str, str]], names: dict[str, str], metric: Metric, whole_only: bool
) -> list[Row]:
    """The rows with enough numbers, and the published mean if it averages them all. names: as published, by method."""

    def entries(family: str, open_classes: str) -> list[Entry]:
        values = {m: paper_value(source, family, open_classes, name, metric.name) for m, name in names.items()}
        return [Entry(family, open_classes, method, metric, PRINTED, value) for method, value in values.items()]

    rows = [Row(open_classes, entries(family, open_classes)) for family, open_classes in places]
    rows = [row for row in rows if (all if whole_only else any)(entry.value is not None for entry in row.entries)]
    families = list(dict.fromkeys(family for family, _ in places))
    if rows and places == paper_rows(source, families):
        mean = entries("+".join(families), "mean")
        rows += [Row("mean", mean, is_mean=True)] if any(entry.value is not None for entry in mean) else []
    for row in rows:
        mark_best(row.entries)
    return rows


def _block(source: str, is_same: bool, rows: list[Row], metric: Metric) -> Block:
    title = f"{dataset_name(source)} as published"
    other = ", with the paper's settings" if is_same else "; another data set, not comparable"
    note = f"{title}: numbers of Zhang et al. (AAAI 2024){other.replace('the paper', 'that paper')}."
    return Block(f"Paper ({title}{other}): {metric.heading}", rows, f"{title}: {metric.short}", note, printed=True)
