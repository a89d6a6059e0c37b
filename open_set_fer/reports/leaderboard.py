"""Ranking of the cells of several people: what can be merged, what cannot and why, and where they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pandas as pd

from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.agreement import largest_gap
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.protocols.protocol import qualifiers
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.benchmark.protocols.pseudo_labels import OWN as NO_CHANGE
from open_set_fer.benchmark.storage.mlflow_reader import COORDINATES, IMPORTED_FROM, Reader
from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.reports.data.results import FAMILY_ORDER, OWN, protocol_fields
from open_set_fer.reports.tables.text import markdown_escape, pipe_table, spreadsheet_safe

CLOSE = 1e-6  # between two people's values of one cell: what another order of sums may make
METRICS = {"auroc": "AUROC", "fpr_at_tpr95": "FPR@TPR95", "oscr": "OSCR", "closed_accuracy": "closed acc."}
"""Means that a row shows, with their heads."""
CIRCUMSTANCES = ("cpu", "gpu", "device", "threads", "torch", "version")
INTRODUCTION = (
    "Mean over protocols of the means over seeds, from one computation of each cell. A row without a rank lacks "
    "protocols that others have. Ranks say nothing of significance."
)
Section = tuple[str, list[str], list[list[str]]]  # Title, heads and rows of a table of texts


@dataclass(frozen=True)
class Leaderboard:
    """Cells of several sources.

    boards: the ranking of each data set and family, one row a method with one set of settings. shared: cells that
    several people have computed, the furthest apart first. left_out: how many of a source are on no board, and why.
    """

    boards: list[pd.DataFrame]
    shared: pd.DataFrame
    left_out: pd.DataFrame

    def sections(self) -> Iterator[Section]:
        """Tables of texts: the boards, then what is shared and what is left out."""
        for board in self.boards:
            yield _title(board), *_board_texts(board)
        for title, frame in (("Cells that several have computed", self.shared), ("Not merged", self.left_out)):
            if len(frame):
                yield title, list(frame.columns), frame.astype(str).to_numpy().tolist()

    def to_markdown(self) -> str:
        """The leaderboard as Markdown, names escaped."""
        lines = ["# Leaderboard", "", INTRODUCTION, ""]
        for title, heads, rows in self.sections():
            lines += [f"## {markdown_escape(title)}", "", *pipe_table(heads, rows), ""]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """The rows of all boards, full precision, texts as spreadsheet_safe gives them."""
        return spreadsheet_safe(pd.concat(self.boards)) if self.boards else pd.DataFrame()


def stored_leaderboard(tracker: Reader) -> Leaderboard | None:
    """The leaderboard of an experiment; None if all of its cells are of one source."""
    runs = [run for run in tracker.cells() if run.info.status == "FINISHED"]
    runs += tracker.outdated() + tracker.replicates()
    cells = [tracker.read_cell(run, with_curves=False) for run in runs]
    return leaderboard(cells) if len({cell.tags.get(IMPORTED_FROM, OWN) for cell in cells}) > 1 else None


def leaderboard(cells: list[CellResult]) -> Leaderboard:
    """The leaderboard of these cells; of several computations of a cell the first counts."""
    frame = pd.DataFrame([_row(cell) for cell in cells])
    left_out = []
    for rule in (_other_evaluation, _other_data, partial(_older, what="backbone"), partial(_older, what="method")):
        reasons = pd.Series(rule(frame), frame.index, dtype=object)
        left_out.append(frame[reasons != ""].assign(reason=reasons))
        frame = frame[reasons == ""]
    first = frame.drop_duplicates("cell_key")
    ranked = first.loc[[not cell.is_shift for cell in first["result"]]]
    boards = [_board(board) for _, board in ranked.groupby(["dataset", "family"], sort=False)]
    return Leaderboard(sorted(boards, key=_order), _shared(frame), _listed(pd.concat(left_out)))


def _row(cell: CellResult) -> dict[str, object]:
    tags, params = cell.tags, cell.params
    labels, share = tags.get("labels", "own"), tags.get("label_share", "")
    fields = protocol_fields(tags)
    pool = "".join(f", {text}" for text in qualifiers(fields["open_from"], fields["pool"], NO_CHANGE))
    pool += ", each face once" if fields["twins"] == "once" else ""
    return {
        "source": tags.get(IMPORTED_FROM, OWN),
        "result": cell,
        "title": f"{' '.join(tags[name] for name in COORDINATES[:-1])} seed {tags['seed']}",
        **{name: tags[name] for name in ("cell_key", "dataset", "open_classes", "method", "settings_key")},
        "name": method_name(tags["method"], params),
        "seed": tags["seed"],
        "family": tags["protocol"] + pool + ("" if labels == "own" else f", labels {labels} {share}".rstrip()),
        "evaluation": cell.evaluation,
        "fingerprint": cell.data.fingerprint if cell.data else "unknown",
        "demonstration": tags.get("demonstration") == "true",
        "backbone_kind": f"{params.get('backbone.name')} {params.get('backbone.stem')}",
        "backbone_version": int(params.get("backbone.version", 0)),
        "method_kind": str(params.get("method.name")),
        "method_version": int(params.get("method.version", 0)),
        **{name: cell.metrics.get(name) for name in METRICS},
    }


def _other_evaluation(cells: pd.DataFrame) -> list[str]:
    """Reasons against merging each cell, '' to merge it; as of the following rules."""
    here = cell_result.EVALUATION
    fixes = {True: "`osfer reevaluate` brings them up to date", False: "update this suite"}
    return [
        f"measured by evaluation {version}, this suite has {here}: {fixes[version < here]}" * (version != here)
        for version in cells["evaluation"]
    ]


def _other_data(cells: pd.DataFrame) -> list[str]:
    counts = {name: Counter(group) for name, group in cells.groupby("dataset")["fingerprint"]}
    reasons = []
    for name, fingerprint in zip(cells["dataset"], cells["fingerprint"], strict=True):
        most, count = counts[name].most_common(1)[0]
        text = f"data fingerprint {fingerprint[:12]}; {count} cells on {name} have {most[:12]}"
        reasons.append(text * (fingerprint != most))
    return reasons


def _older(cells: pd.DataFrame, what: str) -> list[str]:
    kinds, versions = cells[f"{what}_kind"], cells[f"{what}_version"]
    versions_of_kinds = zip(versions, kinds, versions.groupby(kinds).transform("max"), strict=True)
    reason = f"{what} version {{}} of {{}}, the newest here is {{}}"
    return [reason.format(here, kind, last) * (here != last) for here, kind, last in versions_of_kinds]


def _listed(left_out: pd.DataFrame) -> pd.DataFrame:
    groups = left_out.groupby(["source", "reason"], sort=False)["title"].agg(["size", "first"]).reset_index()
    groups.columns = pd.Index(["source", "reason", "cells", "for example"])
    return groups[["source", "cells", "for example", "reason"]]


def _shared(cells: pd.DataFrame) -> pd.DataFrame:
    groups = [group for _, group in cells.groupby("cell_key", sort=False) if len(group) > 1]
    rows = sorted(map(_shared_row, groups), key=lambda row: -float(row["largest difference of a metric"]))
    return pd.DataFrame(rows)


def _shared_row(computations: pd.DataFrame) -> dict[str, str]:
    results: list[CellResult] = list(computations["result"])
    gap = max(largest_gap(a, b) for a in results for b in results)
    areas = zip(computations["source"], computations["auroc"], strict=True)
    texts = {name: list(dict.fromkeys(c.tags.get(name, "unknown") for c in results)) for name in CIRCUMSTANCES}
    differing = [f"{name} {', '.join(values)}" for name, values in texts.items() if len(values) > 1]
    return {
        "cell": computations["title"].iloc[0],
        "AUROC": "; ".join(f"{source}: {value:.6f}" for source, value in areas),
        "agreement": "equal" if gap == 0 else "within 1e-6" if gap <= CLOSE else "differs",
        "largest difference of a metric": f"{gap:.2g}",
        "what differs otherwise": "; ".join(differing) or "nothing that is logged",
    }


def _order(board: pd.DataFrame) -> tuple[str, int, str]:
    dataset, family = board.iloc[0][["dataset", "family"]]
    return dataset, [*FAMILY_ORDER, first := family.partition(",")[0]].index(first), family


def _board(cells: pd.DataFrame) -> pd.DataFrame:
    count = cells["open_classes"].nunique()
    board = pd.DataFrame([_entry(entry) for _, entry in cells.groupby("settings_key", sort=False)])
    board["of_protocols"] = count
    complete = board["protocols"] == count
    board["rank"] = board["auroc"].where(complete).rank(method="min", ascending=False).astype("Int64")
    lacking = board.assign(lacking=~complete).sort_values(["lacking", "auroc"], ascending=[True, False], kind="stable")
    return lacking.drop(columns="lacking").reset_index(drop=True)


def _entry(cells: pd.DataFrame) -> dict[str, object]:
    by_protocol = cells.groupby("open_classes", sort=False)
    seeds = by_protocol["seed"].agg(frozenset)
    spread = cells.groupby("seed")["auroc"].mean().std() if seeds.nunique() == 1 and len(seeds.iloc[0]) > 1 else None
    shared = ["dataset", "family", "fingerprint", "demonstration", "method", "name", "settings_key", "method_version"]
    return {
        **cells.iloc[0][shared],
        **{name: by_protocol[name].mean().mean() if cells[name].notna().all() else None for name in METRICS},
        "auroc_std": spread,
        "seeds": cells["seed"].nunique(),
        "cells": len(cells),
        "protocols": len(seeds),
        "source": ", ".join(dict.fromkeys(cells["source"])),
    }


def _title(board: pd.DataFrame) -> str:
    dataset, family, fingerprint, demonstration = board.iloc[0][["dataset", "family", "fingerprint", "demonstration"]]
    count = board["of_protocols"].iloc[0]
    notes = [f"{count} protocol{'s' if count > 1 else ''}", f"data {fingerprint[:12]}"]
    is_control = any(f", labels {labels}" in family for labels in CONTROLS)
    notes += ["control: no face is open, AUROC is of flipped labels"] * is_control
    notes += ["synthetic data: says nothing about real faces"] * bool(demonstration)
    return f"{dataset_name(dataset)}, {family} ({'; '.join(notes)})"


def _board_texts(board: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    heads = ["rank", "method", *METRICS.values(), "seeds", "cells", "protocols", "settings", "source"]
    rows = []
    for row in board.to_dict("records"):
        values = ["·" if pd.isna(row[name]) else f"{row[name]:.3f}" for name in METRICS]
        values[0] += "" if pd.isna(row["auroc_std"]) else f" ± {row['auroc_std']:.3f}"
        counts = [str(row["seeds"]), str(row["cells"]), f"{row['protocols']} of {row['of_protocols']}"]
        rank = "–" if pd.isna(row["rank"]) else str(row["rank"])
        rows.append([rank, row["name"], *values, *counts, row["settings_key"][:8], row["source"]])
    return heads, rows
