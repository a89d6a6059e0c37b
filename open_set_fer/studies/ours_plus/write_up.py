"""When `ours-plus` is of use and when not: docs/ours_plus.md, from the cells of the profile `ours-plus-study`.

Each row is a kind of pool (`protocols.Pool`): with more or fewer open faces, without any, held against other closed faces,
or of closed faces with a shift. What is not measured is said to be missing, with the command that computes it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from open_set_fer.benchmark.evaluation.metrics import AUROC, FPR_AT_TPR95, auroc
from open_set_fer.benchmark.protocols.protocol import qualifiers
from open_set_fer.benchmark.protocols.pseudo_labels import Regime
from open_set_fer.benchmark.protocols.shifts import SHIFT
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.names import method_name
from open_set_fer.reports.data.results import FINISHED, Results, load, method_order
from open_set_fer.studies.effect_study.write_up import number

PROFILE = "ours-plus-study"
HELD_OUT = "curve.held_out_auroc"
"""What `ours-plus` logs: AUROC of held-out pool images over held-out known ones."""


@dataclass(frozen=True)
class Arm:
    """What one method has on one kind of pool: values by seed.

    flagged: share of shifted faces that are taken for unknown at the threshold that accepts 95 % of the unshifted ones.
    untested: AUROC as if the method had not asked whether pool and known images differ. told_apart: its answer. fell_back: seeds
    in which the energy was the score.
    """

    planned: int
    auroc: list[float] = field(default_factory=list)
    flagged: list[float] = field(default_factory=list)
    untested: list[float] = field(default_factory=list)
    told_apart: list[float] = field(default_factory=list)
    fell_back: int = 0

    @property
    def seeds(self) -> str:
        """How many of the planned ones are finished."""
        return f"{len(self.auroc)}" if len(self.auroc) == self.planned else f"{len(self.auroc)} of {self.planned}"


def write_ours_plus_study(
    home: Path, out: Path, profile: str = PROFILE, methods: Iterable[str] = (), seeds: Iterable[int] = ()
) -> Path:
    """Write out/ours_plus.md from the MLflow store of `home`; SuiteError where no cell is finished.

    methods, seeds: those of the profile, which count as missing where no run has planned them yet.
    """
    out.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(home, profile, create=False)
    results = load(tracker)
    held_out = {run.info.run_id: run.data.metrics.get(HELD_OUT) for run in tracker.cells()}
    methods = method_order([*results.cells["method"], *methods])
    seeds = sorted({*map(int, results.cells["seed"]), *seeds})
    testing = [name for name in methods if any(held_out.get(r) is not None for r in _runs(results.cells, name))]
    kinds: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for (family, _), cells in results.cells.groupby(["protocol", "open_classes"], sort=False):
        arms = {name: _arm(results, cells[cells["method"] == name], held_out, len(seeds)) for name in methods}
        kinds[family == SHIFT].append({"pool": pool_of(cells), "arms": arms})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("open_set_fer.studies.ours_plus", "."), trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"number": _mean, "method": method_name}
    every = [arm for rows in kinds.values() for row in rows for arm in row["arms"].values()]
    text = environment.get_template("page.md.jinja").render(
        profile=profile,
        methods=methods,
        testing=testing,
        open=kinds[False],
        shifts=kinds[True],
        opened=", ".join(dict.fromkeys(results.cells["choice"])),
        datasets=", ".join(results.datasets),
        seeds=seeds,
        missing=sum(arm.planned - len(arm.auroc) for arm in every),
        planned=sum(arm.planned for arm in every),
        warnings=[w.about(methods) for name in results.datasets for w in results.warnings_for(name, methods)],
    )
    path = out / "ours_plus.md"
    path.write_text(text, "utf-8")
    return path


def pool_of(cells: pd.DataFrame) -> str:
    """Display text of the pool and pseudo labels of one protocol's cells."""
    cell = cells.iloc[0]
    texts = qualifiers(cell["open_from"], cell["pool"], Regime(cell["labels"], cell["label_share"]))
    return ", ".join(texts) or "the whole pool"


def _runs(cells: pd.DataFrame, method: str) -> Iterable[str]:
    return cells.loc[cells["method"] == method, "run_id"].dropna()


def _arm(results: Results, cells: pd.DataFrame, held_out: dict[str, float | None], planned: int) -> Arm:
    """The finished cells of one method on one kind of pool, of `planned` seeds."""
    done = cells[cells["status"] == FINISHED]
    values: dict[str, list[float]] = {"untested": [], "told_apart": []}
    fell_back = 0
    for cell in done.to_dict("records"):
        area = held_out.get(cell["run_id"])
        if area is None:
            continue
        values["told_apart"].append(area)
        fell_back += bool(cell["notes"])
        values["untested"].append(_untested(results, cell) if cell["notes"] else cell[AUROC.name])
    return Arm(planned, list(done[AUROC.name]), list(1 - done[FPR_AT_TPR95.name]), fell_back=fell_back, **values)


def _untested(results: Results, cell: dict[Hashable, Any]) -> float:
    """AUROC that a cell whose score is the standardised energy would have had with the pool's logits in it."""
    scores = results.scores(cell["run_id"])
    if scores is None or "pool_logit" not in scores:
        return float("nan")
    weight = float(results.params[cell["run_id"]]["method.energy_weight"])
    joined = scores["pool_logit"] + weight * scores["unknown_score"]
    return auroc(scores["is_open"].to_numpy(dtype=bool), joined.to_numpy(dtype=np.float64))


def _mean(values: list[float]) -> str:
    """Mean and deviation over seeds as displayed."""
    if not values:
        return "—"
    return number(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)
