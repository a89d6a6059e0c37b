"""Studies as they are read back from Optuna's storage, and whether their best values are to be taken.

Free of torch and of the runner.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from open_set_fer.benchmark.evaluation.metrics import AUROC, WITHIN_LABEL, Metric
from open_set_fer.benchmark.tuning.storage import MAX_RETRY, Storage
from open_set_fer.errors import SuiteError, masked

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

Objective = Literal["auroc", "control", "test"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
AREAS: dict[Objective, str] = {"auroc": "AUROC", "control": "sensitivity S", "test": "test AUROC"}
"""Name of each objective's value."""
METRICS: dict[Objective, Metric] = {"auroc": AUROC, "control": WITHIN_LABEL, "test": AUROC}
"""The metric of a cell whose mean is each objective's value."""
CHANCE = 0.5
STAMP = "CHOSEN ON THE TEST SPLIT"
"""On every output of a study whose objective is 'test'."""


@dataclass(frozen=True)
class Trial:
    """A trial, with Optuna's number.

    values: of the searched settings. state: 'finished', 'failed', 'pruned', 'running' or 'waiting'.
    value: the objective. cells: each with cell_key, protocol, seed, run_id, value and its 95 % interval, low and high.
    """

    number: int
    values: dict[str, Any]
    state: str
    value: float | None
    cells: list[dict[str, Any]]
    note: str = ""


@dataclass(frozen=True)
class Study:
    """A study read from its storage; trials in Optuna's order, without unfinished ones that were tried again.

    own: the profile's values when it was last started. chosen: a description of how its best values are chosen.
    parent: its run in MLflow.
    """

    name: str
    profile: str
    label: str
    objective: Objective
    own: dict[str, Any]
    chosen: str
    parent: str
    trials: list[Trial]

    @classmethod
    def of(cls, study: optuna.Study) -> Study:
        """Read Optuna's study."""
        attrs = study.user_attrs
        trials = [_read(trial, attrs.get("choices", {})) for trial in without_retried(study.get_trials(deepcopy=False))]
        facts = {name: attrs[name] for name in ("profile", "label", "objective", "own", "chosen")}
        return cls(study.study_name, **facts, parent=attrs.get("run_id", ""), trials=trials)

    @property
    def finished(self) -> list[Trial]:
        """The trials that have a value."""
        return [trial for trial in self.trials if trial.state == "finished"]

    @property
    def selection(self) -> str:
        """Origin of the best values, as a profile's `selection` should state it."""
        stamp = f"{STAMP}, so not comparable: " * (self.objective == "test")
        nothing = ", nothing chosen: none above chance" * (bool(self.finished) and not self.chooses)
        return f"{stamp}{self.chosen}, {len(self.finished)} trials{nothing}"

    @property
    def area(self) -> str:
        """Name of the objective."""
        return AREAS[self.objective]

    @property
    def chooses(self) -> bool:
        """Whether a trial lies above chance; else its best values are no better than others, and none is chosen."""
        return any(trial.value is not None and trial.value > CHANCE for trial in self.finished)

    def best(self) -> Trial:
        """The finished trial with the highest objective; the earliest among equals. SuiteError without any."""
        if not self.finished:
            raise SuiteError(f"no trial of {self.label} has finished", "see the errors above, or raise --trials")
        return max(self.finished, key=lambda trial: (trial.value, -trial.number))

    def own_trial(self) -> Trial | None:
        """The finished trial of the profile's own values."""
        return next((trial for trial in self.finished if trial.values == self.own), None)

    def verdict(self) -> Verdict:
        """Whether the best values are to be taken."""
        best = self.best()
        if not self.chooses:
            return Verdict(True, None, None, f"nothing chosen: no trial lies above chance ({CHANCE}); keep yours")
        return Verdict.of(best, self.own_trial())


@dataclass(frozen=True)
class Verdict:
    """The best trial against the profile's own values, over the same seeds and protocols.

    keep: whether the profile's own values should stay. gain: mean difference of the objective. spread: its standard
    deviation over seeds and protocols; of a single cell half the 95 % interval of its value; None if neither is known.
    """

    keep: bool
    gain: float | None
    spread: float | None
    words: str

    @classmethod
    def of(cls, best: Trial, own: Trial | None) -> Verdict:
        """Compare two trials."""
        if own is None:
            words = "the profile's own values have not finished, so there is nothing to compare with"
            return cls(False, None, None, words)
        if own.number == best.number:
            return cls(True, 0.0, None, "keep yours: no trial was better")
        mine = {(cell["protocol"], cell["seed"]): cell for cell in own.cells}
        pairs = [(cell, mine[place]) for cell in best.cells if (place := (cell["protocol"], cell["seed"])) in mine]
        gains = np.array([cell["value"] - base["value"] for cell, base in pairs])
        gain = float(gains.mean())
        if len(gains) > 1:
            spread = float(gains.std(ddof=1))
            basis = f"its standard deviation over {len(gains)} cells (seeds and protocols)"
        else:
            low, high = pairs[0][0]["low"], pairs[0][0]["high"]
            spread = float("nan") if low is None or high is None else (high - low) / 2
            basis = "half the 95 % interval over faces of its one cell; more seeds tell more: --seed"
        if not gain > spread:
            return cls(True, gain, spread, f"keep yours: the best is {gain:+.3f} from it, within {spread:.3f}, {basis}")
        return cls(False, gain, spread, f"better than yours by {gain:.3f}, beyond {spread:.3f}, {basis}")


def spread_of(trial: Trial) -> str:
    """A trial's value with its sd over seeds and protocols, or the 95 % interval of its single cell."""
    if trial.value is None:
        return trial.state
    if len(trial.cells) > 1:
        return f"{trial.value:.3f} ± {np.std([cell['value'] for cell in trial.cells], ddof=1):.3f}"
    low, high = (trial.cells[0].get(end) if trial.cells else None for end in ("low", "high"))
    return f"{trial.value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


def stored_studies(storage: Storage, profile: str, labels: tuple[str, ...] = ()) -> list[optuna.Study]:
    """The studies of a profile's labels, the one started last first; SuiteError if there are none."""
    import optuna

    backend = storage.open(create=False)
    items = [item for item in optuna.get_all_study_summaries(backend) if item.user_attrs.get("profile") == profile]
    matches = [item for item in items if not labels or item.user_attrs.get("label") in labels]
    if not matches:
        scope = f"{profile} of {', '.join(labels)}" if labels else profile
        fault = f"no study of profile {scope} in {masked(storage.address)}"
        raise SuiteError(fault, "run `osfer tune` first, or name --storage")
    matches.sort(key=lambda item: item.user_attrs.get("started", 0.0), reverse=True)
    return [optuna.load_study(study_name=item.study_name, storage=backend) for item in matches]


def without_retried(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without unfinished ones whose values were queued again."""
    retried = {number for trial in trials for number in trial.system_attrs.get("retry_history", ())}
    return [trial for trial in trials if trial.number not in retried]


def choice(value: Any) -> Any:
    """A value of a list in [search] as Optuna stores it: lists and tables as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _read(trial: FrozenTrial, choices: dict[str, list[Any]]) -> Trial:
    state = {"COMPLETE": "finished", "FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())
    values = {
        name: next((option for option in choices.get(name, ()) if choice(option) == value), value)
        for name, value in (trial.params or trial.system_attrs.get("fixed_params", {})).items()
    }
    note, retries = trial.user_attrs.get("error", ""), len(trial.system_attrs.get("retry_history", ()))
    if state == "failed" and retries >= MAX_RETRY:
        note = note or f"{retries + 1} workers died in it"
    value = trial.value if state == "finished" else None
    # Studies of earlier versions name the value of a cell after their only metric.
    earlier = {"auroc": "value", "auroc_low": "low", "auroc_high": "high"}
    cells = [{earlier.get(key, key): part for key, part in cell.items()} for cell in trial.user_attrs.get("cells", [])]
    return Trial(trial.number, values, state, value, cells, note)
