"""Hyperparameter studies: Optuna over the settings that a profile lists under [search], outside the test split.

Every trial is a cell like any other, logged to the experiment `open-set-fer/<profile>-tuning`. The study itself is kept
nowhere: its sampler is seeded, so the same command suggests the same trials again and reads finished ones from MLflow.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from open_set_fer.benchmark.labels import SHARES, Regime
from open_set_fer.benchmark.plan import Selection, make_plan
from open_set_fer.benchmark.profiles import Profile, Range
from open_set_fer.benchmark.protocols import FAMILIES, Protocol, enumerate_protocols, opening, without_open_class
from open_set_fer.console import log, track
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    import optuna
    import torch

    from open_set_fer.benchmark.runner import Runner

Objective = Literal["auroc", "control"]
HELD_OUT = 5
"""One in so many training images of each class is the pool of a study, where the data set has no split `valid`."""


@dataclass(frozen=True)
class Study:
    """What was tried for one label: (values, mean AUROC or None where it failed) a trial, the profile's own first."""

    label: str
    trials: list[tuple[dict[str, Any], float | None]]
    selection: str
    """Where the best values come from, in the words that a profile's `selection` should have."""

    def best(self) -> dict[str, Any]:
        """The values of the trial with the highest AUROC; the earliest among equals."""
        values, _ = max(self.trials, key=lambda trial: -np.inf if trial[1] is None else trial[1])
        return values


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


def tune(
    profile: Profile,
    profile_name: str,
    profile_toml: str,
    label: str,
    trials: int,
    dataset: str,
    opened: tuple[str, ...],
    seeds: tuple[int, ...],
    home: Path,
    device: torch.device,
    command: str,
    objective: Objective = "auroc",
) -> Study:
    """Run (or read back) a study of `trials` trials of one label; the first trial has the profile's own settings.

    The objective is the mean over the chosen protocols and seeds of AUROC: of open faces, or with 'control' of flipped
    labels of closed faces, for methods that learn from labels. Optuna's TPE, which draws its first ten trials at random.
    """
    import optuna

    from open_set_fer.benchmark.runner import Runner

    start = profile.searched(label)
    faces = validation_faces(profile.dataset(dataset).load(home / "cache"))
    if objective == "control":
        profile, protocols, words = control_study(faces, profile, opened)
    elif profile.protocols.regime.is_control:
        raise SuiteError(
            f"the profile's labels are '{profile.protocols.labels}': there is no open face to find",
            "tune with --objective control",
        )
    else:
        protocols, words = study_protocols(faces, profile, opened)
    only = Selection((dataset,), methods=(label,), seeds=seeds)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial(start)
    done: list[tuple[dict[str, Any], float | None]] = []
    for _ in track(range(trials), f"{label}: trials"):
        trial = study.ask()
        values = {key: _suggest(trial, key, space) for key, space in profile.search[label].items()}
        tried = profile.with_values(label, values).model_copy(update={"selection": f"a trial of a study: {words}"})
        runner = Runner(home, f"{profile_name}-tuning", tried, profile_toml, device)
        cells, face_sets = make_plan(tried, only, home / "cache", validation_faces, protocols)
        runner.run(cells, face_sets, command)
        keys = [cell.key for cell in cells]
        finished = runner.tracker.finished_cells()
        auroc = float(np.mean([finished[key]["auroc"] for key in keys])) if set(keys) <= set(finished) else None
        if objective == "control" and not done:
            _check_reads_labels(runner, keys, label)
        state = optuna.trial.TrialState.COMPLETE if auroc is not None else optuna.trial.TrialState.FAIL
        study.tell(trial, auroc, state)
        done.append((values, auroc))
        log.info("%s trial %d of %d: AUROC %s, %s", label, len(done), trials, auroc and f"{auroc:.3f}", values)
    if all(auroc is None for _, auroc in done):
        raise SuiteError(f"every trial of {label} failed", "see the errors above")
    return Study(label, done, f"{words}, {trials} trials")


def _check_reads_labels(runner: Runner, keys: list[str], label: str) -> None:
    """SuiteError for a method that did not read the labels that the control flips."""
    tags = [run.data.tags for run in runner.tracker.cells()]
    if any(tag.get("reads_labels") == "false" for tag in tags if tag["cell_key"] in keys):
        raise SuiteError(
            f"{label} reads no label of the closed-set model, so the control has nothing to say of it",
            "tune it with --objective auroc",
        )


def _suggest(trial: optuna.Trial, key: str, space: list[Any] | Range) -> Any:
    if isinstance(space, list):
        return trial.suggest_categorical(key, space)
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    return trial.suggest_float(key, space.low, space.high, log=space.log)
