"""Hyperparameter studies: Optuna over the settings that a profile lists under [search], outside the test split.

Every trial is a cell like any other, logged to the experiment `open-set-fer/<profile>-tuning`. The study itself is kept
nowhere: its sampler is seeded, so the same command suggests the same trials again and reads finished ones from MLflow.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_set_fer.benchmark.plan import Selection, make_plan
from open_set_fer.benchmark.profiles import Profile, Range
from open_set_fer.benchmark.protocols import FAMILIES, Protocol, enumerate_protocols, opening
from open_set_fer.console import log, track
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError

if TYPE_CHECKING:
    import optuna
    import torch

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
) -> Study:
    """Run (or read back) a study of `trials` trials of one label; the first trial has the profile's own settings.

    The objective is the mean AUROC over the chosen protocols and seeds. Optuna's TPE, which draws its first ten trials
    at random.
    """
    import optuna

    from open_set_fer.benchmark.runner import Runner

    start = profile.searched(label)
    faces = validation_faces(profile.dataset(dataset).load(home / "cache"))
    protocols, words = study_protocols(faces, profile, opened)
    families, labels = (tuple(dict.fromkeys(p)) for p in zip(*((p.family, p.label) for p in protocols), strict=True))
    only = Selection((dataset,), families, labels, (label,), seeds, all_pairs=True, all_triples=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial(start)
    done: list[tuple[dict[str, Any], float | None]] = []
    for _ in track(range(trials), f"{label}: trials"):
        trial = study.ask()
        values = {key: _suggest(trial, key, space) for key, space in profile.search[label].items()}
        tried = profile.with_values(label, values).model_copy(update={"selection": f"a trial of a study: {words}"})
        runner = Runner(home, f"{profile_name}-tuning", tried, profile_toml, device)
        cells, face_sets = make_plan(tried, only, home / "cache", validation_faces)
        runner.run(cells, face_sets, command)
        keys = [cell.key for cell in cells]
        finished = runner.tracker.finished_cells()
        auroc = float(np.mean([finished[key]["auroc"] for key in keys])) if set(keys) <= set(finished) else None
        state = optuna.trial.TrialState.COMPLETE if auroc is not None else optuna.trial.TrialState.FAIL
        study.tell(trial, auroc, state)
        done.append((values, auroc))
        log.info("%s trial %d of %d: AUROC %s, %s", label, len(done), trials, auroc and f"{auroc:.3f}", values)
    if all(auroc is None for _, auroc in done):
        raise SuiteError(f"every trial of {label} failed", "see the errors above")
    return Study(label, done, f"{words}, {trials} trials")


def _suggest(trial: optuna.Trial, key: str, space: list[Any] | Range) -> Any:
    if isinstance(space, list):
        return trial.suggest_categorical(key, space)
    if isinstance(space.low, int) and isinstance(space.high, int):
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    return trial.suggest_float(key, space.low, space.high, log=space.log)
