"""Areas under ROC curves of several cells as one estimate, from scores: each face is a cluster over seeds and choices.

Pixel-identical faces are one cluster. Two methods on the same cells are compared face by face (DeLong et al. 1988).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation.delong import Area, Estimate, area, difference
from open_set_fer.benchmark.evaluation.metrics import information_strata
from open_set_fer.reports.data.results import FINISHED, Results

Strata = Literal["none", "label", "information"]
"""Pairs of faces that count: all, those of one assigned label, or those of one stratum of added information."""
Score = Literal["unknown_score", "closed_set_loss"]
"""The method's own score, or the closed-set model's loss on the same faces."""
NEEDED = {"none": set(), "label": {"given_class"}, "information": {"given_class", "closed_set_loss"}}
Cell = tuple[str, int]
"""Open classes and seed of a method's cell."""


@dataclass(frozen=True, eq=False)
class CellArea:
    """Area of a cell and its faces. groups: (N,) the face, or its group of twins, in the data set."""

    area: Area
    groups: NDArray[Any]


def cell_areas(
    results: Results, cells: pd.DataFrame, strata: Strata = "none", score: Score = "unknown_score"
) -> dict[Cell, CellArea]:
    """The areas of a method's finished cells whose scores are at hand."""
    done = cells[cells["status"] == FINISHED]
    places = zip(done["open_classes"], done["seed"], done["run_id"], strict=True)
    areas = {(str(label), int(seed)): _cell_area(results, str(run), strata, score) for label, seed, run in places}
    return {cell: found for cell, found in areas.items() if found is not None}


def _cell_area(results: Results, run_id: str, strata: Strata, score: Score) -> CellArea | None:
    if (run_id, strata, score) not in results.areas:
        scores = results.scores(run_id)
        lacks = scores is None or not {"id", score, *NEEDED[strata]} <= set(scores)
        results.areas[run_id, strata, score] = None if scores is None or lacks else _measured(scores, strata, score)
    found: CellArea | None = results.areas[run_id, strata, score]
    return found


def _measured(scores: pd.DataFrame, strata: Strata, score: Score) -> CellArea | None:
    scores = scores.sort_values("id", kind="stable")  # the same faces in the same places, whatever the method
    groups = scores["twin" if "twin" in scores else "id"].to_numpy()
    within = None if strata == "none" else scores["given_class"].to_numpy()
    if strata == "information":
        within = information_strata(scores)
    found = area(scores["is_open"].to_numpy(dtype=bool), scores[score].to_numpy(), within, groups)
    return None if found is None else CellArea(found, groups)


def mean_area(cells: Iterable[CellArea]) -> Area:
    """Mean over cells; its error takes a face in several cells for one cluster."""
    listed = list(cells)
    contributions = np.concatenate([cell.area.contributions for cell in listed]) / len(listed)
    is_open = np.concatenate([cell.area.is_open for cell in listed])
    clusters = np.asarray(pd.factorize(np.concatenate([cell.groups for cell in listed]))[0], dtype=np.int64)
    value = float(np.mean([cell.area.value for cell in listed]))
    mean = Area(value, np.nan, contributions, is_open, clusters)
    constant = Area(0.0, np.nan, np.zeros(len(contributions)), is_open, clusters)
    return Area(value, difference(mean, constant).error, contributions, is_open, clusters)


def mean_gap(areas: dict[Cell, CellArea], others: dict[Cell, CellArea]) -> Estimate | None:
    """Mean of `areas` less that of `others` on the cells that both have; None without one, or on other faces."""
    shared = [cell for cell in areas if cell in others]
    if not shared:
        return None
    try:
        return difference(*(mean_area(each[cell] for cell in shared) for each in (areas, others)))
    except ValueError:  # other faces or flips, as of an external method's pool: not paired
        return None
