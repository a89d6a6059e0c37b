"""Conditions under which `ours-plus` is of use: ours_plus.md, a row a kind of pool of the profile `ours-plus-study`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, FPR_AT_TPR95, auroc
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.pool import SHIFT
from open_set_fer.benchmark.protocols.protocol import qualifiers
from open_set_fer.benchmark.protocols.pseudo_labels import Regime
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.results import FINISHED, Results, load, method_order
from open_set_fer.studies.provenance import versions_of
from open_set_fer.studies.writing import write_page

PROFILE = "ours-plus-study"
HELD_OUT = "curve.held_out_auroc"  # metric of `ours-plus`: AUROC of held-out pool images over held-out known ones


@dataclass(frozen=True)
class Arm:
    """Values of one method on one kind of pool, by seed.

    flagged: fraction of shifted faces rejected at the threshold that accepts 95 % of the unshifted ones. untested:
    AUROC without the method's test whether pool and known images differ. separability: the AUROC of that test.
    fell_back: number of seeds in which the energy was the score.
    """

    planned: int
    auroc: list[float]
    flagged: list[float]
    untested: list[float]
    separability: list[float]
    fell_back: int

    @property
    def seeds(self) -> str:
        """Number of finished seeds, of the planned ones where some are missing."""
        return f"{len(self.auroc)}" if len(self.auroc) == self.planned else f"{len(self.auroc)} of {self.planned}"


def write(home: Path, out: Path, methods: Iterable[str] | None = None, seeds: Iterable[int] | None = None) -> Path:
    """Write out/ours_plus.md from the MLflow store of `home`; SuiteError without a finished cell.

    methods, seeds: those that count as missing where no run has planned them yet (default: the profile's).
    """
    profile = load_profile(PROFILE)
    tracker = Tracker(home, PROFILE, create=False)
    results = load(tracker)
    metrics = {run.info.run_id: run.data.metrics for run in tracker.cells()}
    held_out = {run_id: values[HELD_OUT] for run_id, values in metrics.items() if HELD_OUT in values}
    methods = method_order([*results.cells["method"], *(profile.default_methods if methods is None else methods)])
    seeds = sorted({*map(int, results.cells["seed"]), *(profile.seeds if seeds is None else seeds)})
    tested = set(results.cells.loc[results.cells["run_id"].isin(held_out), "method"])
    kinds: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for (family, _), cells in results.cells.groupby(["protocol", "open_classes"], sort=False):
        arms = {name: _arm(results, cells[cells["method"] == name], held_out, len(seeds)) for name in methods}
        kinds[family == SHIFT].append({"pool": pool_of(cells), "arms": arms})
    every_arm = [arm for rows in kinds.values() for row in rows for arm in row["arms"].values()]
    content = {
        "profile": PROFILE,
        "methods": methods,
        "testing": [name for name in methods if name in tested],
        "open": kinds[False],
        "shifts": kinds[True],
        "open_classes": ", ".join(dict.fromkeys(results.cells["choice"])),
        "datasets": ", ".join(results.datasets),
        "seeds": seeds,
        "missing": sum(arm.planned - len(arm.auroc) for arm in every_arm),
        "planned": sum(arm.planned for arm in every_arm),
        "warnings": [w.about(methods) for name in results.datasets for w in results.warnings_for(name, methods)],
    }
    return write_page("ours_plus", out / "ours_plus.md", content, {}, versions_of(results, results.cells))


def pool_of(cells: pd.DataFrame) -> str:
    cell = cells.iloc[0]
    texts = qualifiers(cell["open_from"], cell["pool"], Regime(cell["labels"], cell["label_share"]))
    return ", ".join(texts) or "the whole pool"


def _arm(results: Results, cells: pd.DataFrame, held_out: dict[str, float], planned: int) -> Arm:
    """Finished cells of one method on one kind of pool, of `planned` seeds."""
    done = cells[cells["status"] == FINISHED]
    cells_tested = [cell for cell in done.to_dict("records") if cell["run_id"] in held_out]
    untested = [_untested(results, cell) if cell["notes"] else cell[AUROC.name] for cell in cells_tested]
    areas, fell_back = [held_out[c["run_id"]] for c in cells_tested], sum(bool(c["notes"]) for c in cells_tested)
    return Arm(planned, list(done[AUROC.name]), list(1 - done[FPR_AT_TPR95.name]), untested, areas, fell_back)


def _untested(results: Results, cell: dict[Hashable, Any]) -> float:
    """AUROC of a cell that fell back to the standardised energy, had the pool's logits been added."""
    scores = results.scores(cell["run_id"])
    if scores is None or "pool_logit" not in scores:
        return float("nan")
    weight = float(results.params[cell["run_id"]]["method.energy_weight"])
    joined = scores["pool_logit"] + weight * scores["unknown_score"]
    return auroc(scores["is_open"].to_numpy(dtype=bool), joined.to_numpy(dtype=np.float64))
