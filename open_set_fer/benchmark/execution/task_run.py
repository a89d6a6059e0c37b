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
from open_set_fer.benchmark.evaluation.intermediate_scores import Listener, Reading, columns_of, epoch_metrics, listened
from open_set_fer.benchmark.evaluation.metrics import cell_metrics
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.evaluation.scores import checked_curves, checked_notes, score_table
from open_set_fer.benchmark.execution.context import Progress, TaskContext
from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, lent_logits
from open_set_fer.benchmark.protocols.task import Split, make_task, split_faces
from open_set_fer.benchmark.storage.checkpoints import ModelStore, closed_set_path, kept_closed_set
from open_set_fer.benchmark.storage.detectors import Description, Source, describe_scorer, write_detector
from open_set_fer.benchmark.storage.kept import FEATURES_TAG, MODEL, MODELS_TAG
from open_set_fer.benchmark.storage.pictures import face_sheet, names_of
from open_set_fer.benchmark.storage.provenance import host_tags
from open_set_fer.benchmark.storage.results_dir import FACES, Record, write_result
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
            listened(reading, self.split.truth < 0, listener),
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
        metrics = self._metrics(detection, total)  # checks what the method returned
        features = self._features(detection.network) if options.keep_features else None
        kept = self._kept(detection) if options.keep_models else None
        notes = [*checked_notes(detection.notes), *self._origin_of_model()]
        if detection.notes:
            log.warning("%s: %s", self.cell, "; ".join(notes))
        scores = self._scores(detection).assign(**columns_of(reading.kept))
        asked = {FEATURES_TAG: features} if options.keep_features else {}
        result = CellResult(
            metrics=metrics | epoch_metrics(scores),
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
                face_sheet(self.faces, self.split.test, scores, str(self.cell), names_of(result)).save(place / FACES)

        write_result(folder, result, scores, record, features, write_more)
        return result

    def measure(self, detection: Detection) -> dict[str, float]:
        """Every metric of a detection of the task's faces."""
        with self.context.lent(self.cell.method.name, self.task, self._lent_logits, Reading(0, [], False)):
            return {name: value for name, value in self._metrics(detection, 0).items() if "." not in name}

    def _origin_of_model(self) -> list[str]:
        """A note on a closed-set model that was trained elsewhere."""
        model = self.cell.recipe.closed_set.model
        digest = self.cell.content["closed_set"]["closed_set"].get("model", "")
        return [f"closed-set model trained elsewhere: {Path(model).name}, SHA-256 {digest[:12]}"] if model else []

    def _metrics(self, detection: Detection, total: float) -> dict[str, float]:
        """Every metric of the cell, with the seconds and memory that it took."""
        metrics = cell_metrics(
            self.split.truth,
            detection.unknown_score,
            detection.predicted_class,
            self.context.predictions(self.task),
            len(self.task.closed_classes),
            self.context.assigned_labels(self.task),
            self.faces.split[self.split.test],
        )
        metrics["seconds.total"] = total
        metrics |= {f"seconds.{name}": value for name, value in self.context.seconds.items()}
        return metrics | {f"peak_mib.{name}": value for name, value in self.context.peak_mib.items()}

    def _scores(self, detection: Detection) -> pd.DataFrame:
        """The table of scores, one row a test image."""
        test = self.split.test
        return score_table(
            self.faces.ids[test],
            self.split.truth,
            np.array(self.faces.classes)[self.faces.labels[test]],
            self.task.closed_classes,
            detection,
            self.context.predictions(self.task),
            self.context.assigned_labels(self.task),
            self.faces.split[test],
        )

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
        """(N, D) pooled features of the test images by the network that the method named."""
        if network is None:
            log.info("%s: the method names no network, so no features are kept", self.cell)
            return None
        try:
            return pooled_features(network, self.task.test_images)
        except Exception as error:  # a figure is not worth the cell
            log.warning("%s: no features are kept: %s", self.cell, summary(error))
            return None

    def _lent_logits(self, model: ClosedSetModel) -> NDArray[np.float32]:
        """The model's logits as the pseudo-label setting changes them."""
        return lent_logits(
            model.test_logits, self.split.change, lambda rows: evaluate(model.network, self.faces.images[rows])
        )
