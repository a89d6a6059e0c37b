"""Running a study: Optuna over the settings that a profile lists under [search], outside the test split.

Optuna's storage keeps the study (storage.py); every trial is made of cells like any other, logged to the experiment
`open-set-fer/<profile>-tuning` and read back from there, so a trial that is tried again finds its finished cells.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import optuna
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from open_set_fer.benchmark.execution.signals import Stop, stopped_by_signals
from open_set_fer.benchmark.planning.profile_tables import Range
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.tuning.plan import StudyPlan
from open_set_fer.benchmark.tuning.storage import Storage, try_again, unwarned
from open_set_fer.benchmark.tuning.study import AREAS, Study, choice, without_retried
from open_set_fer.benchmark.tuning.trials import ReadsNoLabel, TrialFailed, Trials
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, masked

if TYPE_CHECKING:
    from open_set_fer.benchmark.execution.options import RunOptions

Sampler = Literal["tpe", "random", "gp", "grid"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
Pruner = Literal["none", "hyperband"]
PRUNERS: tuple[Pruner, ...] = get_args(Pruner)
TRIALS = 6
"""Without --trials; a grid is done whole."""
GRID_STEPS = 50
"""Whole numbers that a range may stand for in a grid."""


@dataclass(frozen=True)
class Search:
    """How a study goes on.

    trials: of each label, in all; None: TRIALS, or the whole grid. timeout: seconds, between trials.
    pruner: 'hyperband' stops trials by the value of their first cell while it trains.
    """

    trials: int | None = None
    sampler: Sampler = "tpe"
    timeout: float | None = None
    pruner: Pruner = "none"


def tune(
    plan: StudyPlan, search: Search, home: Path, options: RunOptions, command: str, storage: Storage | None = None
) -> Study:
    """Work on a study of one label until it has its trials; the first one has the profile's own settings.

    The objective is the mean over the chosen protocols and seeds of AUROC of open faces; with 'control' of sensitivity
    S, for methods that learn from labels: the AUROC, within the assigned label, of flipped true labels of closed faces;
    with 'test' of AUROC on the profile's protocols and test split.
    Other processes may work on the same study; a trial of a process that died is tried again.
    """
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker

    study = open_study(plan, search, (storage or Storage.of("", home)).open())
    tracker = Tracker(home, f"{plan.profile.name}-tuning")
    parent = tracker.open_study(study.study_name, _tags(plan, study.study_name, command))
    study.set_user_attr("run_id", parent)
    trials = Trials(plan, search.pruner, study, tracker, parent, home, options, command)
    with stopped_by_signals() as stop:
        try:
            work(study, search, trials.measure, stop)
        finally:
            stop.closing = True
            if not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                tracker.end_study(parent)
    result = Study.of(study)
    if not any(trial.state in ("finished", "pruned", "running") for trial in result.trials):
        raise SuiteError(f"every trial of {plan.label} failed", "see the errors above")
    return result


def open_study(plan: StudyPlan, search: Search, backend: optuna.storages.BaseStorage) -> optuna.Study:
    """Create or load the study, write down what it is, and queue the profile's own values if they are new."""
    sampler, pruner, name = sampler_of(search.sampler, plan.space), pruner_of(search.pruner, plan), plan.name()
    start = name.rpartition(".")[0] + "."
    earlier = [other for other in optuna.get_all_study_names(backend) if other.startswith(start)]
    if earlier and name not in earlier:
        text = "%s: the profile, its [search] table, the data or the cells changed since %s: this is a new study, %s"
        log.warning(text, plan.label, earlier[-1], name)
    study = optuna.create_study(
        storage=backend, study_name=name, sampler=sampler, pruner=pruner, direction="maximize", load_if_exists=True
    )
    with unwarned():
        study.set_metric_names([AREAS[plan.objective]])  # else optuna-dashboard calls it "Objective 0"
    attributes = {
        "profile": plan.profile.name,
        "label": plan.label,
        "objective": plan.objective,
        "own": plan.start,
        "chosen": plan.chosen,
        "dataset": plan.selection.datasets[0],
        "started": time.time(),
        "experiment": f"{plan.profile.name}-tuning",
        "choices": {key: space for key, space in plan.space.items() if isinstance(space, list)},
        **plan.stamp,
    }
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    if search.sampler != "grid":
        study.enqueue_trial({key: choice(value) for key, value in plan.start.items()}, skip_if_exists=True)
    return study


def _tags(plan: StudyPlan, name: str, command: str) -> dict[str, str]:
    """Tags of the study's run; the description repeats some, as the run's page cuts tags short."""
    stamp = "".join(f"**{text}.** " for text in plan.stamp.values())
    return {
        "study": name,
        "objective": plan.objective,
        "profile": plan.profile.name,
        "method": plan.label,
        "selection": plan.chosen,
        "command": command,
        **plan.stamp,
        "mlflow.note.content": f"{stamp}Settings of `{plan.label}`, {plan.chosen}.\n\nEach child run is a trial, and "
        f"its child runs are the cells of which `objective` is the mean {AREAS[plan.objective]}; here the step of "
        f"`objective` is the trial's number. Optuna calls the study `{name}`.\n\nStarted with `{masked(command)}`.",
    }


def work(study: optuna.Study, search: Search, measure: Callable[[optuna.Trial], float], stop: Stop) -> None:
    """Begin trials until there are enough or the time is over."""
    end = math.inf if search.timeout is None else time.monotonic() + search.timeout

    def objective(trial: optuna.Trial) -> float:
        if search.sampler != "grid":
            # Seeded by the trial's number, no restart and no second worker draws the same values again.
            study.sampler = sampler_of(search.sampler, {}, trial.number)
        try:
            return measure(trial)
        except (optuna.TrialPruned, TrialFailed, ReadsNoLabel):
            raise
        except BaseException:  # Ctrl-C, or a server that is away
            unfinished = study.trials[trial.number]
            if unfinished.state == TrialState.RUNNING:
                stop.closing = True
                try_again(study, unfinished)
            raise

    while count := trials_to_begin(study, search):
        rest = end - time.monotonic()
        if rest <= 0:
            log.info("%s: the time of --timeout is over", study.study_name)
            return
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        enough = MaxTrialsCallback(len(study.get_trials(deepcopy=False, states=done)) + count, done)
        seconds = None if search.timeout is None else rest
        try:
            study.optimize(objective, count, seconds, catch=(TrialFailed,), callbacks=[enough])
        except ValueError as error:
            if "Cannot tell" not in str(error):
                raise
            log.warning("%s: another worker took up a trial, as this one gave no sign of life", study.study_name)


def trials_to_begin(study: optuna.Study, search: Search) -> int:
    """Number of trials that are missing; those that wait count, those that run do not."""
    with unwarned():
        optuna.storages.fail_stale_trials(study)
    trials = without_retried(study.get_trials(deepcopy=False))
    states = Counter(trial.state for trial in trials)
    waiting = states[TrialState.WAITING]
    most = search.trials or TRIALS
    if isinstance(study.sampler, optuna.samplers.GridSampler):
        if study.sampler.is_exhausted(study):
            return waiting
        most = search.trials or sys.maxsize
    return max(waiting, most - states[TrialState.COMPLETE] - states[TrialState.PRUNED] - states[TrialState.FAIL])


def sampler_of(name: Sampler, space: dict[str, list[Any] | Range], seed: int = 0) -> optuna.samplers.BaseSampler:
    """Optuna's sampler; `space` is that of a grid."""
    from optuna import samplers

    if name == "grid":
        return samplers.GridSampler(grid_of(space), seed=0)
    if name == "gp":
        with unwarned():
            return samplers.GPSampler(seed=seed)
    return samplers.TPESampler(seed=seed) if name == "tpe" else samplers.RandomSampler(seed=seed)


def grid_of(space: dict[str, list[Any] | Range]) -> dict[str, list[Any]]:
    """The values of a grid; SuiteError for a range that is no short list of whole numbers."""
    grid: dict[str, list[Any]] = {}
    for key, values in space.items():
        if isinstance(values, list):
            grid[key] = [choice(value) for value in values]
        elif isinstance(values.low, int) and isinstance(values.high, int) and values.high - values.low < GRID_STEPS:
            grid[key] = list(range(values.low, values.high + 1))
        else:
            raise SuiteError(f"a grid cannot have the range of {key}", f"list its values: {key} = [...]")
    return grid


def pruner_of(name: Pruner, plan: StudyPlan) -> optuna.pruners.BasePruner:
    """Optuna's pruner, by the most epochs of a training; SuiteError for a method without epochs."""
    from optuna import pruners

    if name == "none":
        return pruners.NopPruner()
    space, epochs = plan.space.get("epochs"), settings_of(plan.profile.method(plan.label)).get("epochs")
    if not isinstance(epochs, int):
        raise SuiteError(f"{plan.label} does not train by epochs, so nothing of it can be pruned", "leave --pruner out")
    most = epochs if space is None else max(space) if isinstance(space, list) else int(space.high)
    return pruners.HyperbandPruner(min_resource=1, max_resource=most)
