"""Running a study: Optuna over the settings that a profile lists under [search], outside the test split.

Optuna's storage keeps the study (studies.py); every trial is made of cells like any other, logged to the experiment
`open-set-fer/<profile>-tuning` and read back from there, so a trial whose worker died costs what it had not finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import filelock
import numpy as np
from optuna.samplers import BaseSampler

from open_set_fer.benchmark.evaluation.intermediate_scores import Listener
from open_set_fer.benchmark.execution.signals import Stop, stopped_by_signals
from open_set_fer.benchmark.planning.cells import Selection, listed, make_plan
from open_set_fer.benchmark.planning.keys import digest
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.planning.profile_tables import Range
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.protocols.protocol import (
    FAMILIES,
    Protocol,
    enumerate_protocols,
    opening,
    without_open_class,
)
from open_set_fer.benchmark.protocols.pseudo_labels import SHARES, Regime
from open_set_fer.benchmark.tuning.study import (
    AREAS,
    STAMP,
    Objective,
    Storage,
    Study,
    choice,
    put_back,
    taken_up,
    unwarned,
)
from open_set_fer.console import log
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError, masked, summary

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState

    from open_set_fer.benchmark.execution.options import RunOptions


Sampler = Literal["tpe", "random", "gp", "grid"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
Pruner = Literal["none", "hyperband"]
PRUNERS: tuple[Pruner, ...] = get_args(Pruner)
TRIALS = 6
"""Without --trials; a grid is done whole."""
GRID_STEPS = 50
"""Whole numbers that a range may stand for in a grid."""
HELD_OUT = 5
"""One in so many training images of each class is the pool of a study, where the data set has no split `valid`."""
POLL_SECONDS = 0.5
DEATHS = 3
"""Workers that may die in a trial's values; then it counts as failed: a cell that kills its process must not kill all of them."""


@dataclass(frozen=True)
class Search:
    """How a study goes on.

    trials: of each label, in all; None: TRIALS, or the whole grid. timeout: seconds, between trials. pruner: 'hyperband' stops
    trials by the AUROC of their first cell while it trains.
    """

    trials: int | None = None
    sampler: Sampler = "tpe"
    timeout: float | None = None
    pruner: Pruner = "none"


class _Failed(Exception):
    """A trial whose cells failed."""


class _ByNumber(BaseSampler):
    """A sampler made anew for every trial, seeded with its number: neither a restart nor a second worker draws the same again."""

    def __init__(self, sampler: Sampler, space: dict[str, list[Any] | Range]) -> None:
        self._name, self._space = sampler, space
        self._number, self._inner = -1, self._make(0)

    def _make(self, number: int) -> BaseSampler:
        from optuna import samplers

        if self._name == "grid":
            return samplers.GridSampler(grid_of(self._space), seed=0)
        if self._name == "gp":
            return samplers.GPSampler(seed=number)
        return samplers.TPESampler(seed=number) if self._name == "tpe" else samplers.RandomSampler(seed=number)

    def _for(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            self._number, self._inner = trial.number, self._make(trial.number)
        return self._inner

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._for(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._for(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._for(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        if self._name != "grid":  # it does nothing but stop the study, which counts for itself when the grid is done
            self._for(trial).after_trial(study, trial, state, values)


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


def validation_faces(faces: FaceSet) -> FaceSet:
    """The same faces with the test split out of use: `valid`, or every fifth training image of a class, is in its place."""
    split = faces.split.astype("<U5")
    split[faces.split == "test"] = "valid"
    if np.any(faces.split == "valid"):
        split[faces.split == "valid"] = "test"
    else:
        for label in range(len(faces.classes)):
            split[np.flatnonzero((faces.split == "train") & (faces.labels == label))[::HELD_OUT]] = "test"
    fingerprint = hashlib.sha256(f"validation faces (1/{HELD_OUT}) of {faces.fingerprint}".encode()).hexdigest()
    return dataclasses.replace(faces, split=split, fingerprint=fingerprint)


def study_protocols(faces: FaceSet, profile: Profile, opened: tuple[str, ...]) -> tuple[list[Protocol], str]:
    """The protocols to study on, and the words for it; without `opened` those that the profile does not report."""
    every = enumerate_protocols(faces.classes, FAMILIES, True, True)
    of_tables = enumerate_protocols(
        faces.classes, tuple(profile.protocols.families), profile.protocols.all_pairs, profile.protocols.all_triples
    )
    opened_in_tables = {name for p in of_tables for name in p.open}
    if opened:
        chosen = [p for text in opened for p in opening(every, text)]
    else:
        chosen = [p for p in every if p.family in ("compound", "contempt") and not opened_in_tables & set(p.open)]
    if not chosen:
        raise SuiteError(
            f"every class of {faces.name} that could be open is in the profile's tables",
            "name one with --open; the suggested `selection` will say that it is a reported one",
        )
    words = f"chosen with {', '.join(p.label for p in chosen)} open, on faces outside the test split"
    reported = sorted({name for p in chosen for name in p.open} & opened_in_tables)
    if reported:
        # A table's pool has an open class's training faces too, and the study has scored those.
        words += f" ({', '.join(reported)}: open in the tables as well, on some of the same faces)"
    return chosen, words


def control_study(faces: FaceSet, profile: Profile, opened: tuple[str, ...]) -> tuple[Profile, list[Protocol], str]:
    """The profile under a control, the one protocol to study on, and the words for it: no open face is looked at."""
    if opened:
        raise SuiteError(f"the control opens no class, --open names {', '.join(opened)}", "leave --open out")
    own = profile.protocols.regime
    regime = own if own.is_control else Regime("flipped", SHARES["flipped"])
    changes: dict[str, Any] = {"labels": regime.labels, "label_share": regime.share, "pools": [], "open_from": "both"}
    controlled = profile.model_copy(update={"protocols": profile.protocols.model_copy(update=changes)})
    what = "true labels" if regime.labels == "flipped-true" else "labels"
    words = (
        f"chosen by the positive control ({100 * regime.share:g}% of the {what} flipped at random, the AUROC of finding "
        "them) without any open face, on faces outside the test split"
    )
    return controlled, [without_open_class(faces.classes)], words


def reported_study(faces: FaceSet, profile: Profile, opened: tuple[str, ...]) -> tuple[list[Protocol], str]:
    """The profile's own protocols, to be studied on the test split, and the words for it."""
    chosen = enumerate_protocols(
        faces.classes, tuple(profile.protocols.families), profile.protocols.all_pairs, profile.protocols.all_triples
    )
    if opened:
        chosen = [p for text in opened for p in opening(chosen, text)]
    else:
        chosen = list(filter(listed(profile.protocols.open_classes, {faces.name: faces}), chosen))
    return chosen, f"on the tables' own faces with {', '.join(p.label for p in chosen)} open"


def tune(
    profile: Profile,
    label: str,
    search: Search,
    dataset: str,
    opened: tuple[str, ...],
    seeds: tuple[int, ...],
    home: Path,
    options: RunOptions,
    command: str,
    objective: Objective = "auroc",
    storage: Storage | None = None,
) -> Study:
    """Work on a study of one label until it has its trials; the first one has the profile's own settings.

    The objective is the mean over the chosen protocols and seeds of AUROC: of open faces, or with 'control' of flipped
    labels of closed faces, for methods that learn from labels; with 'test' on the profile's protocols and the test split.
    Other processes may work on the same study; of one that died the trial is taken up.
    """
    worker = _Worker(
        profile,
        label,
        search,
        dataset,
        opened,
        seeds,
        home,
        options,
        command,
        objective,
        storage or Storage.of("", home),
    )
    with stopped_by_signals() as stop:
        try:
            worker.work(stop)
        finally:
            stop.closing = True
            worker.close()
    study = Study.of(worker.study)
    if not any(trial.state in ("finished", "pruned", "running") for trial in study.trials):
        raise SuiteError(f"every trial of {label} failed", "see the errors above")
    return study


class _Worker:
    """One process that works on a study."""

    def __init__(
        self,
        profile: Profile,
        label: str,
        search: Search,
        dataset: str,
        opened: tuple[str, ...],
        seeds: tuple[int, ...],
        home: Path,
        options: RunOptions,
        command: str,
        objective: Objective,
        storage: Storage,
    ) -> None:
        import optuna

        from open_set_fer.benchmark.storage.mlflow_writer import Tracker

        self.start = profile.searched(label)
        self.space = profile.search[label]
        self.view = None if objective == "test" else validation_faces
        faces = profile.dataset(dataset).load(home / "cache")
        faces = self.view(faces) if self.view else faces
        if objective == "control":
            profile, protocols, self.chosen = control_study(faces, profile, opened)
        elif profile.protocols.regime.is_control:
            raise SuiteError(
                f"the profile's labels are '{profile.protocols.labels}': there is no open face to find",
                "tune with --objective control",
            )
        elif objective == "test":
            protocols, self.chosen = reported_study(faces, profile, opened)
        else:
            protocols, self.chosen = study_protocols(faces, profile, opened)
        self.only = Selection((dataset,), methods=(label,), seeds=seeds)
        self.profile, self.protocols, self.label = profile, protocols, label
        self.search, self.objective = search, objective
        self.command = command
        self.home, self.options, self.storage = home, options, storage
        self.sampler = _ByNumber(search.sampler, self.space)
        self.name = f"{profile.name}.{label}.{objective}.{self._digest()}"
        self.tracker = Tracker(home, f"{profile.name}-tuning")
        self.lock: filelock.BaseFileLock | None = None
        self.is_silent: bool | None = None
        """Whether the trial's first cell has reported nothing while it trained; None where nobody listened."""
        self.is_said = False
        self._asking = ExitStack()
        self.backend = backend = storage.open()
        with storage.asking(backend):
            self._say_other_studies(backend)
            self.study = optuna.create_study(
                storage=backend,
                study_name=self.name,
                sampler=self.sampler,
                pruner=self._pruner(),
                direction="maximize",
                load_if_exists=True,
            )
            with unwarned():
                self.study.set_metric_names([AREAS[objective]])  # else optuna-dashboard says "Objective 0"
            self.parent = self.tracker.open_study(
                self.name,
                {
                    "study": self.name,
                    "objective": objective,
                    "profile": profile.name,
                    "method": label,
                    "selection": self.chosen,
                    "command": command,
                    **({"stamp": STAMP} if objective == "test" else {}),
                    "mlflow.note.content": self._description(),  # the run's page shows tags cut short
                },
            )
            for key, value in {
                "profile": profile.name,
                "label": label,
                "objective": objective,
                "own": self.start,
                "chosen": self.chosen,
                "run_id": self.parent,
                "dataset": dataset,
                "started": time.time(),
                "experiment": f"{profile.name}-tuning",
                "choices": {key: space for key, space in self.space.items() if isinstance(space, list)},
                **({"stamp": STAMP} if objective == "test" else {}),  # optuna-dashboard shows it
            }.items():
                self.study.set_user_attr(key, value)
            if search.sampler != "grid":
                self._queue_own()

    def _description(self) -> str:
        stamp = f"**{STAMP}.** " * (self.objective == "test")
        return (
            f"{stamp}Settings of `{self.label}`, {self.chosen}.\n\nEach child run is a trial, and its child runs are the cells of which "
            f"`objective` is the mean AUROC; here the step of `objective` is the trial's number. Optuna calls the study `{self.name}`.\n\n"
            f"Started with `{masked(self.command)}`."
        )

    def _pruner(self) -> optuna.pruners.BasePruner:
        """By epochs, of which a training has as many as the settings or the search allow; SuiteError where it has none."""
        from optuna import pruners

        if self.search.pruner == "none":
            return pruners.NopPruner()
        space, epochs = self.space.get("epochs"), settings_of(self.profile.method(self.label)).get("epochs")
        if not isinstance(epochs, int):
            raise SuiteError(
                f"{self.label} does not train by epochs, so nothing of it can be pruned", "leave --pruner out"
            )
        most = epochs if space is None else max(space) if isinstance(space, list) else int(space.high)
        return pruners.HyperbandPruner(min_resource=1, max_resource=most)

    def _cells(self, values: dict[str, Any]) -> tuple[Profile, list[Any], dict[str, FaceSet]]:
        stamp = f"{STAMP}: " * (self.objective == "test")
        tried = self.profile.with_values(self.label, values).model_copy(
            update={"selection": f"{stamp}a trial of a study: {self.chosen}"}
        )
        return tried, *make_plan(tried, self.only, self.home / "cache", self.view, self.protocols)

    def _digest(self) -> str:
        """Of the space, and of all that a trial depends on besides: another study has another name."""
        first = {key: space[0] if isinstance(space, list) else space.low for key, space in self.space.items()}
        _, cells, _ = self._cells(first)
        spaces = {key: space if isinstance(space, list) else space.model_dump() for key, space in self.space.items()}
        return digest([spaces, sorted(cell.key for cell in cells)])[:8]

    def _say_other_studies(self, backend: Any) -> None:
        import optuna

        names = optuna.get_all_study_names(backend)
        same = [name for name in names if name.startswith(f"{self.profile.name}.{self.label}.{self.objective}.")]
        if same and self.name not in same:
            log.warning(
                "%s: the profile, its [search] table, the data or the chosen cells changed since %s: this is a new study, %s",
                self.label,
                same[-1],
                self.name,
            )

    def _queue_own(self) -> None:
        """The profile's own values are tried first, where they were not yet."""
        own = {key: choice(value) for key, value in self.start.items()}
        for trial in self.study.get_trials(deepcopy=False):
            if own in (trial.params, trial.system_attrs.get("fixed_params")):
                return
        self.study.enqueue_trial(own)

    def work(self, stop: Stop) -> None:
        """Trials until there are enough; waits for those of other workers, to take up what they leave."""
        end = None if self.search.timeout is None else time.monotonic() + self.search.timeout
        waited = False
        while end is None or time.monotonic() < end:
            stop.check()
            with ExitStack() as self._asking:
                self._asking.enter_context(self.storage.asking(self.backend))
                self._take_up_lost()
                trials = self.study.get_trials(deepcopy=False)
                if not self._is_enough(trials):
                    waited = False
                    self.study.optimize(self._try, n_trials=1, catch=(_Failed,))
                    continue
            running = [trial.number for trial in trials if trial.state.name == "RUNNING"]
            if not running:
                return
            if not waited:
                waited = True
                log.info("%s: nothing else to do: waiting for trials %s of other workers", self.label, running)
            with nullcontext():
                time.sleep(POLL_SECONDS)
        log.info("%s: the time of --timeout is over", self.label)

    def _is_enough(self, trials: list[FrozenTrial]) -> bool:
        """Whether each trial that was asked for has begun."""
        counted = [trial for trial in trials if is_counted(trial)]
        is_grid = self.search.sampler == "grid"
        most = self.search.trials or (sys.maxsize if is_grid else TRIALS)
        if len(counted) >= most:
            return True
        if not is_grid or any(trial.state.name == "WAITING" for trial in trials):
            return False
        taken = {trial.system_attrs["grid_id"] for trial in counted if "grid_id" in trial.system_attrs}
        return len(taken) >= math.prod(map(len, grid_of(self.space).values()))

    def _take_up_lost(self) -> None:
        """Queue again what a worker left unfinished that died or was stopped."""
        import optuna

        states = optuna.trial.TrialState
        silent: set[int] = set()
        if not self.storage.is_file and isinstance(self.backend, optuna.storages.RDBStorage):
            silent = set(self.backend._get_stale_trial_ids(self.study._study_id))
        trials = self.study.get_trials(deepcopy=False)
        retried = taken_up(trials)
        for trial in trials:
            # One that is queued again and still RUNNING was left between the two halves of `put_back`.
            if trial.number in retried and trial.state != states.RUNNING:
                continue
            lost = trial.state == states.FAIL and "error" not in trial.user_attrs
            if trial.state == states.RUNNING and self.storage.is_file:
                lock = self.storage.lock_of(self.name, trial.number)
                try:
                    lock.acquire(blocking=False)
                except filelock.Timeout:
                    continue
                lock.release()
                lost = True
            lost = lost or (trial.state == states.RUNNING and trial._trial_id in silent)
            died = trial.system_attrs.get("retry_history", ())
            if lost and trial.number in retried:
                put_back(self.study, trial)
            elif lost and trial.state == states.RUNNING and len(died) + 1 >= DEATHS:
                error = f"{DEATHS} workers died in it"
                log.error("%s: trial %d failed: %s", self.label, trial.number, error)
                self.backend.set_trial_user_attr(trial._trial_id, "error", error)
                self.study.tell(trial.number, state=states.FAIL)
            elif lost:
                log.warning("%s: trial %d was left unfinished; its values are tried again", self.label, trial.number)
                put_back(self.study, trial)

    def _try(self, trial: optuna.Trial) -> float:
        """One trial: the mean AUROC of its cells."""
        import optuna

        from open_set_fer.benchmark.execution.runner import Runner

        self.lock = self.storage.lock_of(self.name, trial.number)
        with self.lock:
            self._asking.close()
            values = {key: _suggest(trial, key, space) for key, space in self.space.items()}
            tried, cells, face_sets = self._cells(values)
            tags = {
                "study": self.name,
                "trial": str(trial.number),
                "objective": self.objective,
                "mlflow.parentRunId": self.parent,
                "mlflow.runName": f"trial {trial.number} · {self.label}",
                **({"stamp": STAMP} if self.objective == "test" else {}),
            }
            trial.set_user_attr(
                "cells", [{"cell_key": cell.key, "protocol": cell.protocol.label, "seed": cell.seed} for cell in cells]
            )
            runner = Runner(
                self.home,
                tried.named(f"{self.profile.name}-tuning", self.profile.text),
                self.options,
                parent_tags=tags,
                listener=lambda cell: self._listener(trial, values) if cell.key == cells[0].key else None,
            )
            try:
                outcome = runner.run(cells, face_sets, self.command)
                runs = {
                    run.data.tags["cell_key"]: run for run in runner.tracker.cells() if run.info.status == "FINISHED"
                }
                if outcome.waiting:
                    runner.tracker.ping()  # says that the server is away: the trial is taken up when it is back
                if self.objective == "control":
                    _check_reads_labels([runs[cell.key] for cell in cells if cell.key in runs], self.label)
            except SuiteError as error:
                if "reads no label" in error.message:
                    trial.set_user_attr("error", summary(error))
                raise
            if outcome.pruned:
                trial.set_user_attr("pruned", outcome.pruned[0][1])
                trial.set_user_attr("run_id", outcome.run_id)
                self.tracker.log_trial(self.parent, outcome.run_id, self.name, trial.number, None, [])
                log.info(
                    "%s trial %d pruned after epoch %d, %s", self.label, trial.number, outcome.pruned[0][1], values
                )
                raise optuna.TrialPruned
            measured = [
                {
                    "cell_key": cell.key,
                    "protocol": cell.protocol.label,
                    "seed": cell.seed,
                    "run_id": runs[cell.key].info.run_id,
                }
                | {name: runs[cell.key].data.metrics.get(name) for name in ("auroc", "auroc_low", "auroc_high")}
                for cell in cells
                if cell.key in runs
            ]
            trial.set_user_attr("cells", measured)
            trial.set_user_attr("run_id", outcome.run_id)
            if len(measured) < len(cells):
                fault = outcome.failed[0][1] if outcome.failed else "a cell has no result"
                trial.set_user_attr("error", fault)
                self.tracker.log_trial(self.parent, outcome.run_id, self.name, trial.number, None, measured)
                log.info("%s trial %d failed, %s", self.label, trial.number, values)
                raise _Failed(fault)
            self._say_silent()
            auroc = float(np.mean([cell["auroc"] for cell in measured]))
            self.tracker.log_trial(self.parent, outcome.run_id, self.name, trial.number, auroc, measured)
            log.info("%s trial %d: AUROC %.3f, %s", self.label, trial.number, auroc, values)
            return auroc

    def _listener(self, trial: optuna.Trial, values: dict[str, Any]) -> Listener | None:
        """Reports a trial's first cell to Optuna: the step is the epoch. The profile's own values are never stopped."""
        if self.search.pruner == "none":
            return None
        self.is_silent = True

        def listen(epoch: int, auroc: float) -> bool:
            self.is_silent = False
            trial.report(auroc, epoch)
            return values != self.start and bool(trial.should_prune())

        return listen

    def _say_silent(self) -> None:
        """Once, that the pruner has nothing to go by."""
        if self.is_silent and not self.is_said:
            self.is_said = True
            log.warning(
                "%s reports no scores while it trains: --pruner %s stops none of its trials",
                self.label,
                self.search.pruner,
            )

    def close(self) -> None:
        """Put back what this worker was at, and close the study's run unless others are at it."""
        with self.storage.asking(self.backend):
            self._take_up_lost()
            others = any(trial.state.name == "RUNNING" for trial in self.study.get_trials(deepcopy=False))
        if not others:
            self.tracker.end_study(self.parent)


def is_counted(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: not one that waits, nor one that was left unfinished."""
    name = trial.state.name
    return name in ("COMPLETE", "PRUNED", "RUNNING") or (name == "FAIL" and "error" in trial.user_attrs)


def _check_reads_labels(runs: list[Any], label: str) -> None:
    """SuiteError for a method that did not read the labels that the control flips."""
    if any(run.data.tags.get("reads_labels") == "false" for run in runs):
        raise SuiteError(
            f"{label} reads no label of the closed-set model, so the control has nothing to say of it",
            "tune it with --objective auroc",
        )


def _suggest(trial: optuna.Trial, key: str, space: list[Any] | Range) -> Any:
    if isinstance(space, list):
        picked = trial.suggest_categorical(key, [choice(value) for value in space])
        return next(value for value in space if choice(value) == picked)
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    return trial.suggest_float(key, space.low, space.high, log=space.log)
