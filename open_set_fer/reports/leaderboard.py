"""Results of several people in one ranking: what can stand beside each other, what cannot and why, and where they agree."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.metrics import OF_THE_RUN
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.protocols.protocol import qualifiers
from open_set_fer.benchmark.protocols.pseudo_labels import OWN
from open_set_fer.benchmark.storage.tracking import COORDINATES, DIGEST_LENGTH, Tracker
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FAMILY_ORDER, protocol_fields
from open_set_fer.reports.tables.text import markdown_escape, pipe_table, spreadsheet_safe

CLOSE = 1e-6
"""Between two people's values of one cell: what another order of sums may make."""
EQUAL, WITHIN, DIFFERS = "equal", "within 1e-6", "differs"
STUDIES = "-tuning"
"""What the profiles of hyperparameter studies end in: their cells are no results."""
METRICS = ("auroc", "fpr_at_tpr95", "oscr", "closed_accuracy")
"""What a row shows the mean of."""


@dataclass(frozen=True)
class Source:
    """A store or an exported folder.

    cells: of any evaluation and version. refused: cells that were not even read, and why. unchecked: how many of `cells`
    have settings that nothing could check.
    """

    name: str
    cells: list[CellResult]
    refused: dict[str, str] = field(default_factory=dict)
    unchecked: int = 0


@dataclass(frozen=True)
class Row:
    """One method with one set of settings on one board.

    rank: None where protocols are missing that other rows have. metrics: means over protocols of the means over seeds, by name.
    std: of AUROC over seeds, where every protocol has the same ones. seeds: distinct ones. sources: who has cells of it.
    """

    rank: int | None
    method: str
    settings_key: str
    method_version: str
    sources: tuple[str, ...]
    metrics: dict[str, float]
    std: float | None
    seeds: int
    cells: int
    protocols: int


@dataclass(frozen=True)
class Board:
    """The ranking of one data set and protocol family.

    family: with the part of the test pool where it is not the whole one, and the label regime where labels are not the
    images' own.
    """

    dataset: str
    family: str
    fingerprint: str
    demonstration: bool
    protocols: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Shared:
    """One cell that several people have computed. values: their AUROC; gap: the largest difference of any metric."""

    cell: str
    values: dict[str, float]
    agreement: str
    gap: float
    circumstances: str
    """What of the machines and versions differs."""


@dataclass(frozen=True)
class LeftOut:
    """Cells of one source that are on no board."""

    source: str
    cells: int
    example: str
    reason: str


@dataclass(frozen=True)
class Leaderboard:
    """Boards in order, cells that several have, and cells that are on no board."""

    boards: tuple[Board, ...]
    shared: tuple[Shared, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


Found = tuple[str, CellResult]
"""Whose cell, and the cell."""


def stored(tracker: Tracker) -> dict[str, CellResult]:
    """The finished cells of a profile by run id, of every evaluation, without their curves."""
    finished = [run for run in tracker.cells() if run.info.status == "FINISHED"]
    return {run.info.run_id: tracker.read_cell(run, with_curves=False) for run in [*finished, *tracker.outdated()]}


def leaderboard(sources: list[Source]) -> Leaderboard:
    """What the sources say together; of a cell that several have, the one of the first counts."""
    found = [(_whose(source, cell), cell) for source in sources for cell in source.cells]
    kept, left_out = found, []
    for rule in (_evaluation, _data, _backbone, _method):
        kept, dropped = _by_rule(kept, rule)
        left_out += dropped
    for source in sources:
        left_out += [LeftOut(source.name, 1, cell, reason) for cell, reason in source.refused.items()]
    once, shared = _once(kept)
    notes = [
        f"{source.name}: the settings of {source.unchecked} cells cannot be checked, their runs are of a suite that did not "
        "keep what a key stands for"
        for source in sources
        if source.unchecked
    ]
    return Leaderboard(_boards(once), tuple(shared), tuple(left_out), tuple(notes))


def _whose(source: Source, cell: CellResult) -> str:
    origin = cell.tags.get("imported_from")
    return f"{origin} in {source.name}" if origin and origin != source.name else source.name


# -- what stands beside each other -------------------------------------------------------------------------------------


def _by_rule(found: list[Found], rule: Callable[[list[Found]], dict[int, str]]) -> tuple[list[Found], list[LeftOut]]:
    """The cells that a rule keeps, and the others by source and reason."""
    reasons = rule(found)
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for number, reason in reasons.items():
        source, cell = found[number]
        groups.setdefault((source, reason), []).append(cell)
    dropped = [LeftOut(source, len(cells), _title(cells[0]), reason) for (source, reason), cells in groups.items()]
    return [item for number, item in enumerate(found) if number not in reasons], dropped


def _evaluation(found: list[Found]) -> dict[int, str]:
    """Cells that another version of the evaluation measured."""
    here = cell_result.EVALUATION
    fixes = {True: "`osfer measure` in that store measures them again", False: "update this suite"}
    return {
        number: f"measured by evaluation {cell.evaluation}, this suite has {here}: {fixes[cell.evaluation < here]}"
        for number, (_, cell) in enumerate(found)
        if cell.evaluation != here
    }


def _data(found: list[Found]) -> dict[int, str]:
    """Cells on another content of a data set than most are on."""
    counts: dict[str, Counter[str]] = {}
    for _, cell in found:
        counts.setdefault(cell.tags["dataset"], Counter())[_fingerprint(cell)] += 1
    kept = {dataset: of.most_common(1)[0][0] for dataset, of in counts.items()}
    return {
        number: f"data fingerprint {_fingerprint(cell)[:12] or 'unknown'}; {counts[dataset][kept[dataset]]} cells on {dataset} "
        f"have {kept[dataset][:12]}"
        for number, (_, cell) in enumerate(found)
        if _fingerprint(cell) != kept[dataset := cell.tags["dataset"]]
    }


def _backbone(found: list[Found]) -> dict[int, str]:
    return _older(
        found,
        "backbone.version",
        "backbone",
        lambda cell: f"{cell.params.get('backbone.name')} {cell.params.get('backbone.stem')}",
    )


def _method(found: list[Found]) -> dict[int, str]:
    return _older(found, "method.version", "method", lambda cell: str(cell.params.get("method.name")))


def _older(found: list[Found], param: str, what: str, of: Callable[[CellResult], str]) -> dict[int, str]:
    """Cells of an older version of something than the newest that is there."""
    newest: dict[str, int] = {}
    for _, cell in found:
        newest[of(cell)] = max(newest.get(of(cell), 0), _number(cell.params.get(param)))
    return {
        number: f"{what} version {_number(cell.params.get(param)) or 'unknown'} of {of(cell)}, the newest here is "
        f"{newest[of(cell)]}"
        for number, (_, cell) in enumerate(found)
        if _number(cell.params.get(param)) != newest[of(cell)]
    }


def _number(text: Any) -> int:
    return int(text) if str(text).isdecimal() else 0


def _fingerprint(cell: CellResult) -> str:
    return cell.data.fingerprint[:DIGEST_LENGTH] if cell.data else ""


def _title(cell: CellResult) -> str:
    return f"{' '.join(cell.tags[name] for name in COORDINATES[:-1])} seed {cell.tags['seed']}"


# -- cells that several have -------------------------------------------------------------------------------------------


def _once(found: list[Found]) -> tuple[list[Found], list[Shared]]:
    """Each cell once, and what several people computed; a copy of one computation (imported, say) counts as that one."""
    by_key: dict[str, list[Found]] = {}
    for item in found:
        computations = by_key.setdefault(item[1].tags["cell_key"], [])
        if not any(_is_copy(item[1], cell) for _, cell in computations):
            computations.append(item)
    once = [computations[0] for computations in by_key.values()]
    shared = [_shared(computations) for computations in by_key.values() if len(computations) > 1]
    return once, sorted(shared, key=lambda each: -each.gap)


def _is_copy(a: CellResult, b: CellResult) -> bool:
    """Whether two results are of one computation: of one machine and moment, and with one set of numbers."""
    moments = abs((a.started or 0) - (b.started or 0))
    return a.tags.get("host") == b.tags.get("host") and moments < 0.01 and _gap([a, b]) == 0


def _gap(cells: list[CellResult]) -> float:
    """The largest difference of a metric that scores give."""
    names = set.intersection(*(set(cell.metrics) for cell in cells))
    return max(
        max(cell.metrics[name] for cell in cells) - min(cell.metrics[name] for cell in cells)
        for name in names
        if not name.startswith(OF_THE_RUN)
    )


def _shared(copies: list[Found]) -> Shared:
    cells = [cell for _, cell in copies]
    gap = _gap(cells)
    different = [
        f"{name} {', '.join(ones)}"
        for name in ("cpu", "gpu", "device", "threads", "torch", "version")
        if len(ones := list(dict.fromkeys(cell.tags.get(name, "unknown") for cell in cells))) > 1
    ]
    values: dict[str, float] = {}
    for source, cell in copies:
        again = sum(name == source or name.startswith(f"{source} (") for name in values)
        values[f"{source} ({again + 1})" if again else source] = cell.metrics["auroc"]
    agreement = EQUAL if gap == 0 else WITHIN if gap <= CLOSE else DIFFERS
    return Shared(_title(cells[0]), values, agreement, gap, "; ".join(different))


# -- the ranking -------------------------------------------------------------------------------------------------------


def _boards(found: list[Found]) -> tuple[Board, ...]:
    groups: dict[tuple[str, str], list[Found]] = {}
    for source, cell in found:
        if cell.is_shift:  # nothing is to be found there
            continue
        labels, share = cell.tags.get("labels", "own"), cell.tags.get("label_share", "")
        regime = "" if labels == "own" else f", labels {labels} {share}".rstrip()
        fields = protocol_fields(cell.tags)
        pool = "".join(f", {text}" for text in qualifiers(fields["open_from"], fields["pool"], OWN))
        groups.setdefault((cell.tags["dataset"], cell.tags["protocol"] + pool + regime), []).append((source, cell))
    return tuple(
        _board(dataset, family, groups[dataset, family]) for dataset, family in sorted(groups, key=_board_order)
    )


def _board_order(place: tuple[str, str]) -> tuple[str, int, str]:
    dataset, family = place
    first = family.partition(",")[0]
    return dataset, FAMILY_ORDER.index(first) if first in FAMILY_ORDER else len(FAMILY_ORDER), family


def _board(dataset: str, family: str, found: list[Found]) -> Board:
    protocols = tuple(dict.fromkeys(cell.tags["open_classes"] for _, cell in found))
    entries: dict[str, list[Found]] = {}
    for source, cell in found:
        entries.setdefault(cell.tags.get("settings_key", ""), []).append((source, cell))
    rows = sorted(
        (_row(of, len(protocols)) for of in entries.values()),
        key=lambda row: (row.protocols < len(protocols), -row.metrics["auroc"]),
    )
    ranked, rank = [], 0
    for place, row in enumerate(rows, 1):
        if row.protocols < len(protocols):
            ranked.append(row)
            continue
        tied = ranked and ranked[-1].metrics["auroc"] == row.metrics["auroc"]
        rank = rank if tied else place
        ranked.append(replace(row, rank=rank))
    first = found[0][1]
    return Board(
        dataset, family, _fingerprint(first), first.tags.get("demonstration") == "true", protocols, tuple(ranked)
    )


def _row(found: list[Found], protocols: int) -> Row:
    by_protocol: dict[str, list[CellResult]] = {}
    for _, cell in found:
        by_protocol.setdefault(cell.tags["open_classes"], []).append(cell)
    metrics = {
        name: statistics.fmean(statistics.fmean(cell.metrics[name] for cell in cells) for cells in by_protocol.values())
        for name in METRICS
        if all(name in cell.metrics for _, cell in found)
    }
    seeds = [{cell.tags["seed"] for cell in cells} for cells in by_protocol.values()]
    std = None
    if len(seeds[0]) > 1 and all(of == seeds[0] for of in seeds):
        std = statistics.stdev(
            statistics.fmean(cell.metrics["auroc"] for _, cell in found if cell.tags["seed"] == seed)
            for seed in seeds[0]
        )
    first = found[0][1]
    return Row(
        None,
        first.tags["method"],
        first.tags.get("settings_key", ""),
        str(first.params.get("method.version", "")),
        tuple(dict.fromkeys(source for source, _ in found)),
        metrics,
        std,
        len(set.union(*seeds)),
        len(found),
        len(by_protocol),
    )


# -- as text -----------------------------------------------------------------------------------------------------------

HEADS = (
    "rank",
    "method",
    "AUROC",
    "FPR@TPR95",
    "OSCR",
    "closed acc.",
    "seeds",
    "cells",
    "protocols",
    "settings",
    "from",
)


ON_WIDE_TERMINALS = ("OSCR", "closed acc.", "settings")
"""Columns that a narrow terminal goes without; the files have them."""


def title(board: Board) -> str:
    """A board's heading."""
    notes = ["control: no face is open, AUROC is of flipped labels"] * (", labels flipped" in board.family)
    notes += ["rendered for demonstration: says nothing of real faces"] * board.demonstration
    count = f"{len(board.protocols)} protocol{'s' * (len(board.protocols) > 1)}"
    said = "; ".join([count, f"data {board.fingerprint[:12]}", *notes])
    return f"{dataset_name(board.dataset)}, {board.family} ({said})"


def shown_rows(board: Board) -> list[list[str]]:
    """The rows as texts under HEADS; a method that has several settings is told apart by `settings`."""
    rows = []
    for row in board.rows:
        values = [f"{row.metrics[name]:.3f}" if name in row.metrics else "·" for name in METRICS]
        values[0] += f" ± {row.std:.3f}" if row.std is not None else ""
        rows.append(
            [
                str(row.rank) if row.rank else "–",
                method_name(row.method),
                *values,
                str(row.seeds),
                str(row.cells),
                f"{row.protocols} of {len(board.protocols)}",
                row.settings_key[:8],
                ", ".join(row.sources),
            ]
        )
    return rows


def to_markdown(board: Leaderboard) -> str:
    """The whole of it as Markdown, names escaped."""
    lines = [
        "# Leaderboard",
        "",
        "Mean over protocols of the means over seeds, from one computation of each cell. A row without a "
        "rank lacks protocols that others have. Ranks say nothing of significance.",
        "",
    ]
    for each in board.boards:
        lines += [f"## {markdown_escape(title(each))}", "", *pipe_table(HEADS, shown_rows(each)), ""]
    if board.shared:
        lines += ["## Cells that several have computed", "", *pipe_table(SHARED_HEADS, shared_rows(board)), ""]
    if board.left_out:
        lines += ["## Not merged", "", *pipe_table(LEFT_OUT_HEADS, left_out_rows(board)), ""]
    lines += [f"- {markdown_escape(note)}" for note in board.notes]
    return "\n".join(lines).rstrip() + "\n"


SHARED_HEADS = ("cell", "AUROC", "agreement", "largest difference of a metric", "what differs otherwise")
LEFT_OUT_HEADS = ("from", "cells", "for example", "why")


def shared_rows(board: Leaderboard) -> list[list[str]]:
    """Cells that several have, the furthest apart first."""
    return [
        [
            each.cell,
            "; ".join(f"{name}: {value:.6f}" for name, value in each.values.items()),
            each.agreement,
            f"{each.gap:.2g}",
            each.circumstances or "nothing that is logged",
        ]
        for each in board.shared
    ]


def left_out_rows(board: Leaderboard) -> list[list[str]]:
    """Cells that are on no board."""
    return [[each.source, str(each.cells), each.example, each.reason] for each in board.left_out]


def to_frame(board: Leaderboard) -> pd.DataFrame:
    """One row a row of a board, full precision, texts as spreadsheet_safe gives them."""
    rows = [
        {
            "dataset": each.dataset,
            "family": each.family,
            "fingerprint": each.fingerprint,
            "rank": row.rank,
            "method": row.method,
            "settings_key": row.settings_key,
            "method_version": row.method_version,
            **{name: row.metrics.get(name) for name in METRICS},
            "auroc_std": row.std,
            "seeds": row.seeds,
            "cells": row.cells,
            "protocols": row.protocols,
            "of_protocols": len(each.protocols),
            "sources": "; ".join(row.sources),
        }
        for each in board.boards
        for row in each.rows
    ]
    return spreadsheet_safe(pd.DataFrame(rows).astype({"rank": "Int64"} if rows else {}))


def to_json(board: Leaderboard) -> dict[str, Any]:
    """The whole of it for scripts."""
    return asdict(board)
