"""Runs the cells of a plan: done ones are skipped, results reach the disk before MLflow, a failure stops nobody else."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import torch

from open_set_fer.benchmark.closed_set import TaskContext
from open_set_fer.benchmark.metrics import cell_metrics
from open_set_fer.benchmark.pictures import face_sheet, score_histogram
from open_set_fer.benchmark.plan import Cell
from open_set_fer.benchmark.profiles import Profile
from open_set_fer.benchmark.protocols import Split, make_task, split_faces
from open_set_fer.benchmark.provenance import host_tags
from open_set_fer.benchmark.tracking import Tracker
from open_set_fer.console import bars, log, track
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.methods.contract import ClosedSetSettings, OpenSetTask


@dataclass
class Outcome:
    """What a run did."""

    computed: int = 0
    logged_from_disk: int = 0
    already_done: int = 0
    failed: list[tuple[Cell, str]] = field(default_factory=list)


def choose_device(name: str) -> torch.device:
    """'auto' is a GPU where there is one. The same seed gives the same numbers on one machine."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


class Runner:
    """Computes and logs cells of one profile under `home`.

    allow_face_artifacts: log pictures of faces of every data set, not of the rendered ones alone.
    """

    def __init__(
        self,
        home: Path,
        profile_name: str,
        profile: Profile,
        profile_toml: str,
        device: torch.device,
        allow_face_artifacts: bool = False,
    ) -> None:
        self.home = home
        self.profile_name = profile_name
        self.profile = profile
        self.profile_toml = profile_toml
        self.device = device
        self.allow_face_artifacts = allow_face_artifacts
        self.tracker = Tracker(home, profile_name)

    def run(self, cells: list[Cell], face_sets: dict[str, FaceSet], command: str) -> Outcome:
        """Run what is not done yet; on Ctrl-C finished cells are kept and the parent run is closed as KILLED."""
        outcome = Outcome()
        done = self.tracker.finished_cells()
        open_cells = [cell for cell in cells if cell.key not in done]
        outcome.already_done = len(cells) - len(open_cells)
        plan = [cell.coordinates() for cell in cells]
        if not open_cells:
            self.tracker.record_plan(plan, self.profile_toml, command, str(self.device))
            return outcome
        parent = self.tracker.start_benchmark(plan, self.profile_toml, command, str(self.device))
        status = "KILLED"
        try:
            with bars():
                steps = track(open_cells, "cells", total=len(cells), done=outcome.already_done)
                for _, group in groupby(steps, key=Cell.group):
                    self._run_group(group, face_sets, parent, outcome)
            status = "FAILED" if outcome.failed else "FINISHED"
        finally:
            self.tracker.end(parent, status)
        return outcome

    def _run_group(self, group: Any, face_sets: dict[str, FaceSet], parent: str, outcome: Outcome) -> None:
        """Cells of one (data set, protocol, seed): one task, one closed-set model, in memory until the group ends."""
        shared: tuple[OpenSetTask, Split, TaskContext] | None = None
        for cell in group:
            faces = face_sets[cell.dataset]
            results = self.home / "results"
            results.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(results / f"{cell.key}.lock"):
                if self.tracker.is_finished(cell.key):  # by another process, while this one waited
                    outcome.already_done += 1
                    continue
                try:
                    folder = results / cell.key
                    if folder.is_dir():
                        outcome.logged_from_disk += 1
                    else:
                        if shared is None:
                            shared = self._share(cell, faces)
                        self._compute(cell, faces, *shared, folder)
                        outcome.computed += 1
                except Exception as error:
                    text = traceback.format_exc()
                    outcome.failed.append((cell, str(error).splitlines()[0] if str(error) else type(error).__name__))
                    log.error("failed: %s: %s", _describe(cell), outcome.failed[-1][1])
                    self.tracker.log_failure(parent, self._tags(cell, faces) | host_tags(str(self.device)), text)
                    continue
                self._log(cell, faces, folder, parent)

    def _share(self, cell: Cell, faces: FaceSet) -> tuple[OpenSetTask, Split, TaskContext]:
        split = split_faces(faces, cell.protocol, cell.seed)
        context = TaskContext(
            self.home / "closed_set", cell.closed_set, self.profile.backbone_settings(),
            ClosedSetSettings(**cell.closed_set["closed_set"]), self.device,
        )  # fmt: skip
        return make_task(faces, cell.protocol, split, cell.seed), split, context

    def _compute(
        self, cell: Cell, faces: FaceSet, task: OpenSetTask, split: Split, context: TaskContext, folder: Path
    ) -> None:
        """Detect, measure, and write the result to disk in one move."""
        log.info("%s", _describe(cell))
        context.begin()
        start = time.perf_counter()
        detection = cell.method.detect(task, context)
        total = time.perf_counter() - start
        pseudo_labels = context.closed_set_model(task).pseudo_labels
        metrics = cell_metrics(
            split.truth, detection.unknown_score, detection.predicted_class, pseudo_labels, len(task.closed_classes)
        )
        metrics["seconds.total"] = total
        metrics |= {f"seconds.{name}": value for name, value in context.seconds.items()}
        metrics |= {f"peak_mib.{name}": value for name, value in context.peak_mib.items()}
        for note in detection.notes:
            log.warning("%s: %s", _describe(cell), note)
        result = {
            "tags": host_tags(str(self.device)) | {"notes": json.dumps(detection.notes[:20])},
            "metrics": metrics,
            "curves": detection.curves,
        }
        scores = pd.DataFrame({
            "id": faces.ids[split.test],
            "truth": np.where(split.truth < 0, "open", np.array(task.closed_classes)[split.truth]),
            "true_class": np.array(faces.classes)[faces.labels[split.test]],
            "is_open": split.truth < 0,
            "unknown_score": np.asarray(detection.unknown_score, dtype=np.float64),
            "predicted_class": np.array(task.closed_classes)[np.asarray(detection.predicted_class)],
            **{name: values for name, values in detection.extras.items() if np.shape(values) == split.truth.shape},
        })  # fmt: skip
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        scores.to_parquet(partial / "scores.parquet", index=False)
        (partial / "result.json").write_text(json.dumps(result), "utf-8")
        os.replace(partial, folder)

    def _log(self, cell: Cell, faces: FaceSet, folder: Path, parent: str) -> None:
        """Log a result on disk; tags and settings are this plan's, whichever profile computed it."""
        result = json.loads((folder / "result.json").read_text("utf-8"))
        result["tags"] |= self._tags(cell, faces)
        result["params"] = self._params(cell)
        result["input"] = {"name": faces.name, "fingerprint": faces.fingerprint, "counts": faces.counts()}
        (folder / "profile.toml").write_text(self.profile_toml, "utf-8")
        title = f"{_describe(cell)}: AUROC {result['metrics']['auroc']:.3f}"
        scores = pd.read_parquet(folder / "scores.parquet")
        pictures: dict[str, Any] = {"histogram.png": score_histogram(scores, title)}
        # A licence for faces seldom covers a tracking server; the rendered ones are nobody's.
        if self.allow_face_artifacts or (faces.demonstration and faces.name == "synthetic"):
            pool = split_faces(faces, cell.protocol, cell.seed).test
            pictures["faces.png"] = face_sheet(faces, pool, scores, title)
        self.tracker.log_cell(parent, result, folder, pictures)

    def _tags(self, cell: Cell, faces: FaceSet) -> dict[str, str]:
        tags = {name: str(value) for name, value in cell.coordinates().items()}
        return tags | {
            "settings_key": cell.settings_key(),
            "profile": self.profile_name,
            "selection": self.profile.selection,
            "demonstration": str(faces.demonstration).lower(),
        }

    def _params(self, cell: Cell) -> dict[str, Any]:
        parts = {
            "method": {"name": cell.method.name, "version": cell.method.version, **asdict(cell.method.settings)},
            "closed_set": cell.closed_set["closed_set"],
            "backbone": cell.closed_set["backbone"],
            "dataset": asdict(self.profile.dataset(cell.dataset).settings),
        }
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}


def _describe(cell: Cell) -> str:
    return f"{cell.dataset} {cell.protocol.family} {cell.protocol.label} {cell.label} seed {cell.seed}"
