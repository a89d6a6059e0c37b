"""Detectors for photographs, built from a method: fitted scorer, threshold on held-out faces, rule for cropping."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open_set_fer.benchmark.evaluation.decisions import threshold_for
from open_set_fer.benchmark.execution.task_run import TaskRun
from open_set_fer.benchmark.planning.cells import Cell, Selection, make_plan
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.protocols import protocol as protocols
from open_set_fer.benchmark.protocols.protocol import FAMILIES, Protocol
from open_set_fer.benchmark.storage.detectors import Calibration, Description, write_detector
from open_set_fer.console import log
from open_set_fer.datasets.faceset import COMPOUND, CONTEMPT, FaceSet
from open_set_fer.errors import SuiteError
from open_set_fer.photos.find import measure_rule

HELD_OUT = 10  # every tenth training image of a class sets the threshold if the data set has no split `valid`
HELD = f"every {HELD_OUT}th training image of a class, not trained on"
FEWEST_KNOWN = 20  # known faces that a threshold needs at least


def with_valid_split(faces: FaceSet) -> FaceSet:
    """The same faces with a split `valid`: their own, or every tenth training image of a class."""
    if np.any(faces.split == "valid"):
        return faces
    split = faces.split.astype("<U5")
    for label in range(len(faces.classes)):
        split[np.flatnonzero((faces.split == "train") & (faces.labels == label))[::HELD_OUT]] = "valid"
    fingerprint = hashlib.sha256(f"one in {HELD_OUT} held out of {faces.fingerprint}".encode()).hexdigest()
    notes = faces.notes | {HELD: {"valid": int(np.sum(split == "valid"))}}
    return dataclasses.replace(faces, split=split, fingerprint=fingerprint, notes=notes)


def detector_protocol(classes: tuple[str, ...], open_classes: str) -> Protocol:
    """Protocol of a detector, with these open classes; '' for contempt, else compound expressions, else none."""
    every = protocols.enumerate_protocols(classes, FAMILIES, True, True)
    if open_classes:
        return protocols.opening(every, open_classes)[0]
    by_default = [p for p in every if p.open == (CONTEMPT,)] + [p for p in every if set(p.open) <= set(COMPOUND)]
    return by_default[0] if by_default else protocols.without_open_class(classes)


def plan_detector(
    profile: Profile, dataset: str, label: str, open_classes: str, seed: int, cache: Path
) -> tuple[Cell, FaceSet]:
    """Plan the cell of a detector and load its data set, which is prepared first if necessary."""
    plain: dict[str, Any] = {"labels": "own", "label_share": None, "pools": [], "open_from": "both"}
    for backbone in (profile.backbone_settings(), profile.own_backbone(label)):
        if backbone is not None and backbone.is_code:
            fault = f"backbone {backbone.name!r} is code, which the files of a detector must not name"
            raise SuiteError(fault, "choose a backbone of the suite, or timm:NAME")
    profile = profile.model_copy(update={"protocols": profile.protocols.model_copy(update=plain)})
    protocol = detector_protocol(profile.dataset(dataset).load(cache).classes, open_classes)
    selection = Selection(datasets=(dataset,), methods=(label,), seeds=(seed,))
    cells, face_sets = make_plan(profile, selection, cache, with_valid_split, [protocol])
    if len(cells) != 1:
        raise SuiteError(f"--method {label!r} is {len(cells)} methods", "name one")
    return cells[0], face_sets[dataset]


def build_detector(
    cell: Cell, faces: FaceSet, folder: Path, home: Path, device: torch.device, share: float, store: str = ""
) -> Description:
    """Train missing models, calibrate, and write; SuiteError for a transductive method or too few held-out faces."""
    run = TaskRun.of(cell, faces, home, device, store=store)
    names = np.array(faces.classes)[faces.labels]
    known = np.flatnonzero((faces.split == "valid") & np.isin(names, cell.protocol.closed))
    origin = HELD if HELD in faces.notes else "valid"
    if len(known) < FEWEST_KNOWN:
        where = f"split `valid` ({HELD})" if origin == HELD else "split `valid`"
        lack = f"{faces.name} has {len(known)} known faces in {where}, too few to set a threshold on"
        raise SuiteError(lack, f"at least {FEWEST_KNOWN}")
    detection, _ = run.detect()
    try:
        description, scorer = run.fitted_scorer(detection)
    except SuiteError as error:
        fix = "choose an inductive method: baseline, knn, vim, eow, proser, ours-online, ours-plus, ..."
        raise SuiteError(f"method {cell.label!r} scores a pool of faces, not single ones", fix) from error
    log.info("%s: setting the threshold on %d known faces (%s)", cell.label, len(known), origin)
    threshold = threshold_for(scorer.score(np.ascontiguousarray(faces.images[known])).unknown_score, share)
    # Not by the scorer: its parts may have been trained on these faces.
    accepted = detection.unknown_score <= threshold
    is_open = run.split.truth < 0
    calibration = Calibration(
        split=origin,
        share=share,
        faces=len(known),
        accepted_known=float(accepted[~is_open].mean()) if (~is_open).any() else None,
        rejected_open=float((~accepted)[is_open].mean()) if is_open.any() else None,
    )
    more = {"threshold": threshold, "calibration": calibration, "crop": measure_rule(run.task.train_images)}
    whole = description.model_copy(update=more)
    write_detector(folder, whole, scorer)
    return whole
