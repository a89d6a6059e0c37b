"""Conditions under which `ours-plus` is of use: ours_plus.md, from the cells of the profile `ours-plus-study`.

Each row is a kind of pool: with more or fewer open faces, without any, compared with other closed faces, or of closed
faces with a shift. Missing cells are counted, with the command that computes them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
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
from open_set_fer.studies.writing import write_page

PROFILE = "ours-plus-study"
HELD_OUT = "curve.held_out_auroc"
"""Metric of `ours-plus`: AUROC of held-out pool images over held-out known ones."""


@dataclass(frozen=True)
class Arm:
    """Values of one method on one kind of pool, by seed.

    flagged: fraction of shifted faces rejected at the threshold that accepts 95 % of the unshifted ones. untested:
    AUROC without the method's test whether pool and known images differ. separability: the AUROC of that test.
    fell_back: number of seeds in which the energy was the score.
    """

    planned: int
    auroc: list[float] = field(default_factory=list)
    flagged: list[float] = field(default_factory=list)
    untested: list[float] = field(default_factory=list)
    separability: list[float] = field(default_factory=list)
    fell_back: int = 0

    @property
    def seeds(self) -> str:
        """Number of finished seeds, of the planned ones where some are missing."""
        return f"{len(self.auroc)}" if len(self.auroc) == self.planned else f"{len(self.auroc)} of {self.planned}"


def write(home: Path, out: Path, methods: Iterable[str] | None = None, seeds: Iterable[int] | None = None) -> Path:
    """Write out/ours_plus.md from the MLflow store of `home`.

    methods, seeds: those that count as missing where no run has planned them yet (default: the profile's).

    Raises:
        SuiteError: no cell is finished.
    """
    profile = load_profile(PROFILE)
    tracker = Tracker(home, PROFILE, create=False)
    results = load(tracker)
    held_out = {run.info.run_id: run.data.metrics.get(HELD_OUT) for run in tracker.cells()}
    methods = method_order([*results.cells["method"], *(profile.default_methods if methods is None else methods)])
    seeds = sorted({*map(int, results.cells["seed"]), *(profile.seeds if seeds is None else seeds)})
    testing = [name for name in methods if any(held_out.get(r) is not None for r in _runs(results.cells, name))]
    kinds: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for (family, _), cells in results.cells.groupby(["protocol", "open_classes"], sort=False):
        arms = {name: _arm(results, cells[cells["method"] == name], held_out, len(seeds)) for name in methods}
        kinds[family == SHIFT].append({"pool": pool_of(cells), "arms": arms})
    every_arm = [arm for rows in kinds.values() for row in rows for arm in row["arms"].values()]
    content = {
        "profile": PROFILE,
        "methods": methods,
        "testing": testing,
        "open": kinds[False],
        "shifts": kinds[True],
        "open_classes": ", ".join(dict.fromkeys(results.cells["choice"])),
        "datasets": ", ".join(results.datasets),
        "seeds": seeds,
        "missing": sum(arm.planned - len(arm.auroc) for arm in every_arm),
        "planned": sum(arm.planned for arm in every_arm),
        "warnings": [w.about(methods) for name in results.datasets for w in results.warnings_for(name, methods)],
    }
    return write_page("ours_plus", out / "ours_plus.md", content, {})


def pool_of(cells: pd.DataFrame) -> str:
    """Display text of the pool and pseudo labels of one protocol's cells."""
    cell = cells.iloc[0]
    texts = qualifiers(cell["open_from"], cell["pool"], Regime(cell["labels"], cell["label_share"]))
    return ", ".join(texts) or "the whole pool"


def _runs(cells: pd.DataFrame, method: str) -> Iterable[str]:
    return cells.loc[cells["method"] == method, "run_id"].dropna()


def _arm(results: Results, cells: pd.DataFrame, held_out: dict[str, float | None], planned: int) -> Arm:
    """Finished cells of one method on one kind of pool, of `planned` seeds."""
    done = cells[cells["status"] == FINISHED]
    values: dict[str, list[float]] = {"untested": [], "separability": []}
    fell_back = 0
    for cell in done.to_dict("records"):
        area = held_out.get(cell["run_id"])
        if area is None:
            continue
        values["separability"].append(area)
        fell_back += bool(cell["notes"])
        values["untested"].append(_untested(results, cell) if cell["notes"] else cell[AUROC.name])
    return Arm(planned, list(done[AUROC.name]), list(1 - done[FPR_AT_TPR95.name]), fell_back=fell_back, **values)


def _untested(results: Results, cell: dict[Hashable, Any]) -> float:
    """AUROC of a cell that fell back to the standardised energy, had the pool's logits been added."""
    scores = results.scores(cell["run_id"])
    if scores is None or "pool_logit" not in scores:
        return float("nan")
    weight = float(results.params[cell["run_id"]]["method.energy_weight"])
    joined = scores["pool_logit"] + weight * scores["unknown_score"]
    return auroc(scores["is_open"].to_numpy(dtype=bool), joined.to_numpy(dtype=np.float64))
