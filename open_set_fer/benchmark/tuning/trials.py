"""The trials of a study: each is made of cells, computed by the runner and read back from MLflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from open_set_fer.benchmark.evaluation.intermediate_scores import Listener
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.profile_tables import Range
from open_set_fer.benchmark.tuning.plan import StudyPlan
from open_set_fer.benchmark.tuning.study import AREAS, METRICS, choice
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, summary

if TYPE_CHECKING:
    from open_set_fer.benchmark.execution.options import RunOptions
    from open_set_fer.benchmark.execution.pending import Outcome
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker


class TrialFailed(Exception):
    """A trial whose cells failed."""


class ReadsNoLabel(SuiteError):
    """The method did not read the labels that the control flips."""


def suggest(trial: optuna.Trial, key: str, space: list[Any] | Range) -> Any:
    """A trial's value of a setting."""
    if isinstance(space, list):
        picked = trial.suggest_categorical(key, [choice(value) for value in space])
        return next(value for value in space if choice(value) == picked)
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    return trial.suggest_float(key, space.low, space.high, log=space.log)


@dataclass
class Trials:
    """Computes the trials of a study. parent: the study's run in MLflow."""

    plan: StudyPlan
    pruner: str
    study: optuna.Study
    tracker: Tracker
    parent: str
    home: Path
    options: RunOptions
    command: str
    is_silent: bool = field(default=False, init=False)
    """Whether the present trial's first cell was computed and has reported no scores."""

    def measure(self, trial: optuna.Trial) -> float:
        """Compute a trial's cells; returns the mean of the objective."""
        from open_set_fer.benchmark.execution.runner import Runner

        values = {key: suggest(trial, key, space) for key, space in self.plan.space.items()}
        tried, cells, face_sets = self.plan.cells(values)
        trial.set_user_attr("cells", [_place(cell) for cell in cells])
        self.is_silent = False
        runner = Runner(
            self.home,
            tried.named(f"{tried.name}-tuning", tried.text),
            self.options,
            parent_tags={
                "study": self.study.study_name,
                "trial": str(trial.number),
                "objective": self.plan.objective,
                "mlflow.parentRunId": self.parent,
                "mlflow.runName": f"trial {trial.number} · {self.plan.label}",
                **self.plan.stamp,
            },
            listener=lambda cell: self._listener(trial, values) if cell.key == cells[0].key else None,
        )
        outcome = runner.run(cells, face_sets, self.command)
        trial.set_user_attr("run_id", outcome.run_id)
        runs = {
            run.data.tags["cell_key"]: run for run in runner.connection.tracker.cells() if run.info.status == "FINISHED"
        }
        if outcome.waiting:
            runner.connection.tracker.ping()  # raises TrackingAway: the trial is tried again when the server is back
        runs = {cell.key: runs[cell.key] for cell in cells if cell.key in runs}
        if self.plan.objective == "control" and any(run.data.tags["reads_labels"] == "false" for run in runs.values()):
            error = ReadsNoLabel(
                f"{self.plan.label} reads no label of the closed-set model, so the control has nothing to say of it",
                "tune it with --objective auroc",
            )
            trial.set_user_attr("error", summary(error))
            raise error
        metric = METRICS[self.plan.objective].name
        names = {"value": metric, "low": f"{metric}_low", "high": f"{metric}_high"}
        measured = [
            _place(cell)
            | {"run_id": run.info.run_id}
            | {name: run.data.metrics.get(metric) for name, metric in names.items()}
            for cell in cells
            if (run := runs.get(cell.key))
        ]
        return self._value(trial, values, outcome, measured, len(cells))

    def _value(
        self, trial: optuna.Trial, values: dict[str, Any], outcome: Outcome, cells: list[dict[str, Any]], planned: int
    ) -> float:
        """Log a trial; raises TrialPruned or TrialFailed if it has no value."""
        label, value, cells = self.plan.label, None, [] if outcome.pruned else cells
        if not outcome.pruned:
            trial.set_user_attr("cells", cells)
        if len(cells) == planned:
            value = float(np.mean([cell["value"] for cell in cells]))
        self.tracker.log_trial(self.parent, outcome.run_id, self.study.study_name, trial.number, value, cells)
        if outcome.pruned:
            epoch = outcome.pruned[0][1]
            trial.set_user_attr("pruned", epoch)
            log.info("%s trial %d pruned after epoch %d, %s", label, trial.number, epoch, values)
            raise optuna.TrialPruned
        if value is None:
            fault = outcome.failed[0][1] if outcome.failed else "a cell has no result"
            trial.set_user_attr("error", fault)
            log.info("%s trial %d failed, %s", label, trial.number, values)
            raise TrialFailed(fault)
        if self.is_silent:
            text = "%s reports no scores while it trains: --pruner %s stops none of its trials"
            log.warning(text, label, self.pruner)
            self.pruner, self.is_silent = "none", False  # said once
        log.info("%s trial %d: %s %.3f, %s", label, trial.number, AREAS[self.plan.objective], value, values)
        return value

    def _listener(self, trial: optuna.Trial, values: dict[str, Any]) -> Listener | None:
        """Report a trial's first cell to Optuna by epoch; the profile's own values are never stopped."""
        if self.pruner == "none":
            return None
        self.is_silent = True

        def listen(epoch: int, value: float) -> bool:
            self.is_silent = False
            trial.report(value, epoch)
            return values != self.plan.start and bool(trial.should_prune())

        return listen


def _place(cell: Cell) -> dict[str, Any]:
    return {"cell_key": cell.key, "protocol": cell.protocol.label, "seed": cell.seed}
