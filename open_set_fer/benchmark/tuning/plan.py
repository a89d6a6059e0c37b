"""The cells of a study's trials: the faces and protocols on which a label's values are compared."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from open_set_fer.benchmark.planning.cells import Cell, Selection, make_plan
from open_set_fer.benchmark.planning.choice import listed
from open_set_fer.benchmark.planning.keys import digest
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.planning.profile_tables import Range
from open_set_fer.benchmark.protocols import protocol as rules
from open_set_fer.benchmark.protocols.protocol import Protocol, opening
from open_set_fer.benchmark.protocols.pseudo_labels import SHARES, Regime
from open_set_fer.benchmark.tuning.study import STAMP, Objective
from open_set_fer.datasets.faceset import UNUSED, FaceSet
from open_set_fer.errors import SuiteError

HELD_OUT = 5
"""One in so many training images of each class is the pool of a study if the data set has no split `valid`."""


@dataclass(frozen=True)
class StudyPlan:
    """What a study is, and the cells of its trials.

    profile: with flipped true labels if the objective is 'control'. start: its own values of the searched settings.
    selection: data set, label and seeds. chosen: how the best values are chosen, in words.
    """

    profile: Profile
    label: str
    objective: Objective
    start: dict[str, Any]
    selection: Selection
    protocols: list[Protocol]
    chosen: str
    cache: Path

    @classmethod
    def of(
        cls, profile: Profile, label: str, selection: Selection, cache: Path, objective: Objective = "auroc"
    ) -> StudyPlan:
        """Choose faces and protocols; SuiteError for a wrong [search] entry or an objective that does not fit.

        The selection names one data set, and the classes that are open if not the objective's own choice.
        """
        start, open_classes = profile.searched(label), selection.open_classes
        (dataset,) = selection.datasets
        faces = profile.dataset(dataset).load(cache)
        if objective != "test":
            faces = validation_faces(faces)
        if objective == "control":
            profile, protocols, chosen = control_study(faces, profile, open_classes)
        elif profile.protocols.regime.is_control:
            fault = f"the profile's labels are '{profile.protocols.labels}': there is no open face to find"
            raise SuiteError(fault, "tune with --objective control")
        else:
            choose = reported_study if objective == "test" else study_protocols
            protocols, chosen = choose(faces, profile, open_classes)
        seeds = selection.seeds or tuple(profile.seeds)
        selection = Selection((dataset,), methods=(label,), seeds=seeds)
        return cls(profile, label, objective, start, selection, protocols, chosen, cache)

    @property
    def space(self) -> dict[str, list[Any] | Range]:
        """Values to choose from, by setting."""
        return self.profile.search[self.label]

    @property
    def stamp(self) -> dict[str, str]:
        """Tag and attribute of everything that was chosen on the test split."""
        return {"stamp": STAMP} if self.objective == "test" else {}

    def cells(self, values: dict[str, Any]) -> tuple[Profile, list[Cell], dict[str, FaceSet]]:
        """The profile with these values, its cells and their data sets."""
        stamp, view = (f"{STAMP}: ", None) if self.objective == "test" else ("", validation_faces)
        tried = self.profile.with_values(self.label, values).model_copy(
            update={"selection": f"{stamp}a trial of a study: {self.chosen}"}
        )
        return tried, *make_plan(tried, self.selection, self.cache, view, self.protocols)

    def name(self) -> str:
        """Name the study by a digest of the space and of everything else that a trial depends on."""
        first = {key: space[0] if isinstance(space, list) else space.low for key, space in self.space.items()}
        _, cells, _ = self.cells(first)
        spaces = {key: space if isinstance(space, list) else space.model_dump() for key, space in self.space.items()}
        suffix = digest([spaces, sorted(cell.key for cell in cells)])[:8]
        return f"{self.profile.name}.{self.label}.{self.objective}.{suffix}"


def validation_faces(faces: FaceSet) -> FaceSet:
    """The faces with `valid`, or every fifth training image of a class, as pool in place of the test split.

    The faces of the test split are left out, and none is held out: a task would lend its method the labels of `valid`.
    """
    split = faces.split.astype("<U6")
    split[faces.split == "test"] = UNUSED
    if np.any(faces.split == "valid"):
        split[faces.split == "valid"] = "test"
    else:
        for label in range(len(faces.classes)):
            split[np.flatnonzero((faces.split == "train") & (faces.labels == label))[::HELD_OUT]] = "test"
    fingerprint = hashlib.sha256(f"faces of a study (1/{HELD_OUT}) of {faces.fingerprint}".encode()).hexdigest()
    return dataclasses.replace(faces, split=split, fingerprint=fingerprint)


def study_protocols(faces: FaceSet, profile: Profile, open_classes: tuple[str, ...]) -> tuple[list[Protocol], str]:
    """Protocols to study on and their description; by default those that the profile does not report."""
    every = rules.enumerate_protocols(faces.classes, rules.FAMILIES, True, True)
    open_in_tables = {name for protocol in _reported(faces, profile) for name in protocol.open}
    if open_classes:
        protocols = [protocol for text in open_classes for protocol in opening(every, text)]
    else:
        unreported = [protocol for protocol in every if not open_in_tables & set(protocol.open)]
        protocols = [protocol for protocol in unreported if protocol.family in ("compound", "contempt")]
    if not protocols:
        raise _nothing_unreported(faces, every, open_in_tables)
    words = f"chosen with {_labels(protocols)} open, on faces outside the test split"
    reported = sorted({name for protocol in protocols for name in protocol.open} & open_in_tables)
    if reported:
        # A table's pool has an open class's training faces too, and the study has scored those.
        words += f" ({', '.join(reported)}: open in the tables as well, on some of the same faces)"
    return protocols, words


def control_study(
    faces: FaceSet, profile: Profile, open_classes: tuple[str, ...]
) -> tuple[Profile, list[Protocol], str]:
    """The profile under a control, the one protocol to study on, and its description: without open faces."""
    if open_classes:
        raise SuiteError(f"the control opens no class, --open names {', '.join(open_classes)}", "leave --open out")
    own = profile.protocols.regime
    regime = own if own.labels == "flipped-true" else Regime("flipped-true", SHARES["flipped-true"])
    changes: dict[str, Any] = {"labels": regime.labels, "label_share": regime.share, "pools": [], "open_from": "both"}
    controlled = profile.model_copy(update={"protocols": profile.protocols.model_copy(update=changes)})
    words = (
        f"chosen by the positive control ({100 * regime.share:g}% of the true labels flipped, sensitivity S: the AUROC "
        "of finding them among faces of one label) without any open face, on faces outside the test split"
    )
    return controlled, [rules.without_open_class(faces.classes)], words


def reported_study(faces: FaceSet, profile: Profile, open_classes: tuple[str, ...]) -> tuple[list[Protocol], str]:
    """The profile's own protocols, to be studied on the test split, and their description."""
    protocols = _reported(faces, profile)
    if open_classes:
        protocols = [protocol for text in open_classes for protocol in opening(protocols, text)]
    return protocols, f"on the tables' own faces with {_labels(protocols)} open"


def _reported(faces: FaceSet, profile: Profile) -> list[Protocol]:
    """The protocols of the profile's tables."""
    table = profile.protocols
    every = rules.enumerate_protocols(faces.classes, tuple(table.families), table.all_pairs, table.all_triples)
    return list(filter(listed(table.open_classes, {faces.name: faces}), every))


def _nothing_unreported(faces: FaceSet, every: list[Protocol], open_in_tables: set[str]) -> SuiteError:
    """The fault that a study has no open class by default."""
    usual = [protocol for protocol in every if protocol.family in ("compound", "contempt")]
    fault = "those that it has are open in the profile's tables" if usual else "it has none of them"
    unreported = [name for name in rules.base_classes(faces.classes) if name not in open_in_tables]
    fix = "name one with --open; the suggested `selection` will say that it is a reported one"
    if unreported:
        fix = f"name a class with --open; those that the tables do not open: {', '.join(unreported)}"
    return SuiteError(f"{faces.name}: a study opens contempt or the compound expressions, and {fault}", fix)


def _labels(protocols: list[Protocol]) -> str:
    return ", ".join(protocol.label for protocol in protocols)
