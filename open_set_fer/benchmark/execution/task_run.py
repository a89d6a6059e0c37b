"""Computation of one cell: task, closed-set model, method, metrics, a complete result on disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.decisions import threshold_for
from open_set_fer.benchmark.evaluation.delong import area
from open_set_fer.benchmark.evaluation.intermediate_scores import Listener, Reading, columns_of, epoch_metrics, listened
from open_set_fer.benchmark.evaluation.metrics import auroc, cell_metrics
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.evaluation.scores import checked_curves, checked_notes, score_table
from open_set_fer.benchmark.execution.context import Progress, TaskContext
from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, lent_logits
from open_set_fer.benchmark.protocols.task import Split, face_columns, make_task, split_faces
from open_set_fer.benchmark.storage.checkpoints import ModelStore, closed_set_path, kept_closed_set
from open_set_fer.benchmark.storage.detectors import Description, Source, describe_scorer, write_detector
from open_set_fer.benchmark.storage.kept import FACES, FEATURES_TAG, MODEL, MODELS_TAG
from open_set_fer.benchmark.storage.pictures import face_sheet, names_of
from open_set_fer.benchmark.storage.provenance import host_tags
from open_set_fer.benchmark.storage.results_dir import Record, write_result
from open_set_fer.console import log, track
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import SuiteError, summary
from open_set_fer.methods.contract import ClosedSetModel, Detection, OpenSetTask, Scorer
from open_set_fer.methods.shared.backbones import Network
from open_set_fer.methods.shared.training import evaluate, pooled_features


@dataclass(frozen=True)
class TaskRun:
    """One cell at work: its task and truth, and the context that its method is lent."""

    cell: Cell
    home: Path
    faces: FaceSet
    split: Split
    task: OpenSetTask
    context: TaskContext

    @classmethod
    def of(
        cls, cell: Cell, faces: FaceSet, home: Path, device: torch.device, progress: Progress = track, store: str = ""
    ) -> TaskRun:
        """The task of a cell; store: URL where closed-set models are shared."""
        split = split_faces(faces, cell.protocol, cell.seed)
        task = make_task(faces, cell.protocol, split, cell.seed)
        shared = ModelStore(store) if store else None
        context = TaskContext(closed_set_path(home, cell), cell.recipe, cell.seed, device, progress, shared)
        return cls(cell, home, faces, split, task, context)

    def detect(self, listener: Listener | None = None) -> tuple[Detection, Reading]:
        """Let the method score the task; the listener hears its intermediate scores and may stop it (Pruned)."""
        reading = Reading(len(self.split.truth), self.cell.read_at, listener is not None)
        with (
            listened(reading, self._value, listener),
            self.context.lent(self.cell.method.name, self.task, self._lent_logits, reading),
        ):
            return self.cell.method.detect(self.task, self.context), reading

    def compute(
        self,
        folder: Path,
        record: Record,
        options: RunOptions = RunOptions(),  # noqa: B008 - frozen
        listener: Listener | None = None,
    ) -> CellResult:
        """Detect, measure, and write the complete result into `folder` in one move."""
        started, start = time.time(), time.perf_counter()
        detection, reading = self.detect(listener)
        total = time.perf_counter() - start
        scores = self._scores(detection, reading)  # checks what the method returned
        features = self._features(detection.network) if options.keep_features else None
        kept = self._kept(detection) if options.keep_models else None
        notes = [*checked_notes(detection.notes), *self._origin_of_model()]
        if detection.notes:
            log.warning("%s: %s", self.cell, "; ".join(notes))
        asked = {FEATURES_TAG: features} if options.keep_features else {}
        result = CellResult(
            metrics=self._metrics(scores, self._threshold(detection), total),
            curves=checked_curves(detection.curves),
            tags=record.tags
            | host_tags(str(self.context.device))
            | {"threads": str(torch.get_num_threads()), "reads_labels": str(self.context.was_read).lower()}
            | {tag: "none" if value is None else "kept" for tag, value in asked.items()}
            | ({MODELS_TAG: "none" if kept is None else "kept"} if options.keep_models else {}),
            notes=notes,
            started=started,
            ended=started + total,
            evaluation=cell_result.EVALUATION,
            params=record.params,
            data=record.data,
        )

        def write_more(place: Path) -> None:
            if kept:
                write_detector(place / MODEL, *kept)
            if options.allow_face_artifacts or self.faces.is_rendered:
                shown = self.split.test[self._scored()[0]]
                face_sheet(self.faces, shown, scores, str(self.cell), names_of(result)).save(place / FACES)

        write_result(folder, result, scores, record, features, write_more)
        return result

    def _origin_of_model(self) -> list[str]:
        """Notes on a closed-set model that was trained elsewhere."""
        recipe = self.cell.recipe.closed_set
        if not recipe.model:
            return []
        digest = self.cell.content["closed_set"]["closed_set"].get("model", "")
        notes = [f"closed-set model trained elsewhere: {Path(recipe.model).name}, SHA-256 {digest[:12]}"]
        if known := [name for name in self.cell.protocol.open if name in recipe.classes]:
            notes.append(f"that model was trained on {', '.join(known)}, which is open: the cell says nothing about it")
        return notes

    def _metrics(self, scores: pd.DataFrame, threshold: float | None, total: float) -> dict[str, float]:
        """Every metric of the cell, with the seconds and memory that it took."""
        metrics = cell_metrics(scores, self.task.closed_classes, threshold) | epoch_metrics(scores)
        metrics |= {"seconds.total": total} | ({} if threshold is None else {"threshold": threshold})
        metrics |= {f"seconds.{name}": value for name, value in self.context.seconds.items()}
        return metrics | {f"peak_mib.{name}": value for name, value in self.context.peak_mib.items()}

    def _threshold(self, detection: Detection) -> float | None:
        """The threshold that held-out closed faces set; None where the method cannot score them."""
        cell, images = self.cell, self.task.held_out_images
        if images is None or cell.protocol.regime != OWN or not cell.protocol.has_open:
            return None
        scorer, held_out = detection.scorer, detection.held_out_score
        if held_out is None:
            if scorer is None or not scorer.repeats:
                return None
            held_out = scorer.score(images).unknown_score
        known = np.asarray(held_out, dtype=np.float64)
        if known.shape != images.shape[:1] or not np.isfinite(known).all():
            fault = f"the scores of {len(images)} held-out faces have the shape {known.shape}, or are not finite"
            raise SuiteError(fault, "fix the method: Detection.held_out_score, or the scorer")
        return threshold_for(known)

    def _scored(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the test images that are scored, and their truth; known once the method was lent its outputs."""
        return self.split.scored(self.context.predictions(self.task), self.context.assigned_labels(self.task))

    def _value(self, scores: NDArray[np.float64]) -> float:
        """What a study maximises, of intermediate scores (N,): AUROC, in a control within the assigned label."""
        rows, truth = self._scored()
        if not self.cell.protocol.regime.is_control:
            return auroc(truth < 0, scores[rows])
        within = area(truth < 0, scores[rows], self.context.assigned_labels(self.task)[rows])
        return within.value if within else 0.5

    def _scores(self, detection: Detection, reading: Reading) -> pd.DataFrame:
        """The table of scores, one row a test image that is scored."""
        rows, truth = self._scored()
        of_all = np.full(len(self.split.test), -1)
        of_all[rows] = truth
        table = score_table(
            face_columns(self.faces, self.split),
            of_all,
            self.task.closed_classes,
            detection,
            self.context.predictions(self.task),
            self.context.assigned_labels(self.task),
        )
        loss = {"closed_set_loss": self.context.closed_set_loss(self.task)}
        return table.assign(**loss, **columns_of(reading.kept)).iloc[rows].reset_index(drop=True)

    def _kept(self, detection: Detection) -> tuple[Description, Scorer] | None:
        """Description and fitted scorer for a detector; None, with a log line, if the method scores no single face.

        The closed-set model is kept beside its own file.
        """
        cell = self.cell
        try:
            kept_closed_set(self.home, cell, self.faces)
        except (SuiteError, OSError) as error:
            log.warning("%s: its closed-set model is not kept: %s", cell, summary(error))
        try:
            return self.fitted_scorer(detection)
        except SuiteError as error:
            log.info("%s: %s, so no model is kept", cell, error.message)
        except Exception as error:  # what another package's scorer holds is not worth the cell
            log.warning("%s: no model is kept: %s", cell, summary(error))
        return None

    def fitted_scorer(self, detection: Detection) -> tuple[Description, Scorer]:
        """Description and fitted scorer for a detector; SuiteError if the method scores no single face."""
        cell = self.cell
        if detection.scorer is None:
            raise SuiteError("its method scores no single face")
        if cell.protocol.regime != OWN:
            raise SuiteError("its labels are not the model's own")
        source = Source.of(cell, self.faces, cell.key)
        shape = self.task.test_images.shape[1:]
        described = describe_scorer(detection.scorer, cell.method, cell.label, self.task.closed_classes, shape, source)
        return described, detection.scorer

    def _features(self, network: Network | None) -> NDArray[np.float32] | None:
        """(n, D) pooled features of the scored test images by the network that the method named."""
        if network is None:
            log.info("%s: the method names no network, so no features are kept", self.cell)
            return None
        try:
            return pooled_features(network, self.task.test_images[self._scored()[0]])
        except Exception as error:  # a figure is not worth the cell
            log.warning("%s: no features are kept: %s", self.cell, summary(error))
            return None

    def _lent_logits(self, model: ClosedSetModel) -> NDArray[np.float32]:
        """The model's logits as the pseudo-label setting changes them."""
        return lent_logits(
            model.test_logits, self.split.change, lambda rows: evaluate(model.network, self.faces.images[rows])
        )
