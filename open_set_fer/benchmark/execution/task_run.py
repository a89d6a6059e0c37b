"""One cell: its method is run on its task, what it returns is measured, and the result is written to disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.intermediate_scores import Listener, Reading, columns_of, epoch_metrics, listened
from open_set_fer.benchmark.evaluation.metrics import cell_metrics
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.execution.context import TaskContext
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.protocols.protocol import Split, make_task, split_faces
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, lent_logits
from open_set_fer.benchmark.storage.checkpoints import closed_set_path
from open_set_fer.benchmark.storage.detectors import Description, Source, describe_scorer, write_detector
from open_set_fer.benchmark.storage.features import FEATURES_TAG
from open_set_fer.benchmark.storage.kept import MODELS_TAG
from open_set_fer.benchmark.storage.model_store import ModelStore
from open_set_fer.benchmark.storage.provenance import host_tags
from open_set_fer.benchmark.storage.results_dir import checked_curves, checked_notes, score_table, write_result
from open_set_fer.console import log
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.errors import summary
from open_set_fer.methods.contract import ClosedSetModel, Detection, OpenSetTask, Scorer
from open_set_fer.methods.shared.backbones import Network
from open_set_fer.methods.shared.training import evaluate, pooled_features


@dataclass(frozen=True)
class Workplace:
    """What the cells of one (data set, protocol, seed) share in memory: the task, its truth, and the lent context."""

    faces: FaceSet
    split: Split
    task: OpenSetTask
    context: TaskContext

    @classmethod
    def of(cls, cell: Cell, faces: FaceSet, home: Path, device: torch.device, store: str = "") -> Workplace:
        """The workplace of the cell and of all others of its group; store: URL where closed-set models are shared."""
        split = split_faces(faces, cell.protocol, cell.seed)
        task = make_task(faces, cell.protocol, split, cell.seed)
        shared = ModelStore(store) if store else None
        return cls(faces, split, task, TaskContext(closed_set_path(home, cell), cell.recipe, cell.seed, device, shared))

    def make_closed_set_model(self) -> None:
        """Train the closed-set model, where its file is not there yet."""
        self.context.make_closed_set_model(self.task)

    def compute(
        self,
        cell: Cell,
        folder: Path,
        keep_features: bool = False,
        listener: Listener | None = None,
        keep_model: bool = False,
    ) -> CellResult:
        """Detect, measure, and write the result into `folder` in one move.

        keep_features: with the features of the method's network. keep_model: with what scores single faces.
        listener: hears of what the method reports while it trains, and may stop it: Pruned is raised then.
        """
        self.context.backbone = cell.recipe.own_backbone or cell.recipe.backbone
        started, start = time.time(), time.perf_counter()
        reading = Reading(len(self.split.truth), cell.read_at, listener is not None)
        with (
            listened(reading, self.split.truth < 0, listener),
            self.context.cell(cell.method.name, self.task, self._lent_logits, reading),
        ):
            detection = cell.method.detect(self.task, self.context)
            total = time.perf_counter() - start
            features = self._features(cell, detection.network) if keep_features else None
            kept = self.kept(cell, detection) if keep_model else None
        truth, classes = self.split.truth, self.task.closed_classes
        answers, given = self.context.answers(self.task), self.context.given_labels(self.task)
        test = self.split.test
        origin = self.faces.split[test]
        metrics = cell_metrics(
            truth, detection.unknown_score, detection.predicted_class, answers, len(classes), given, origin
        )
        metrics["seconds.total"] = total
        metrics |= {f"seconds.{name}": value for name, value in self.context.seconds.items()}
        metrics |= {f"peak_mib.{name}": value for name, value in self.context.peak_mib.items()}
        notes = checked_notes(detection.notes)
        if notes:
            log.warning("%s: %s", cell, "; ".join(notes))
        result = CellResult(
            metrics,
            checked_curves(detection.curves),
            host_tags(str(self.context.device))
            | {"threads": str(torch.get_num_threads()), "reads_labels": str(self.context.was_read).lower()}
            | ({FEATURES_TAG: "none" if features is None else "kept"} if keep_features else {})
            | ({MODELS_TAG: "none" if kept is None else "kept"} if keep_model else {}),
            notes,
            started,
            started + total,
            cell_result.EVALUATION,
        )
        true_class = np.array(self.faces.classes)[self.faces.labels[test]]
        scores = score_table(self.faces.ids[test], truth, true_class, classes, detection, answers, given, origin)
        scores = scores.assign(**columns_of(reading.kept))
        metrics |= epoch_metrics(scores)
        write_result(folder, result, scores, features, kept and (lambda place: write_detector(place, *kept)))
        return result

    def kept(self, cell: Cell, detection: Detection) -> tuple[Description, Scorer] | None:
        """What a detector of the cell is made of; None, with a word, where its method scores no single face."""
        if detection.scorer is None or cell.protocol.regime != OWN:
            why = "its labels are not the model's own" if detection.scorer else "its method scores no single face"
            log.info("%s: %s, so no model is kept", cell, why)
            return None
        source = Source(
            dataset=cell.dataset,
            fingerprint=self.faces.fingerprint,
            open_classes=list(cell.protocol.open),
            seed=cell.seed,
            key=cell.key,
            closed_set_key=cell.closed_set_key,
            demonstration=self.faces.demonstration,
        )
        try:
            described = describe_scorer(
                detection.scorer,
                cell.method,
                cell.label,
                self.task.closed_classes,
                self.task.test_images.shape[1:],
                source,
            )
        except Exception as error:  # what another package's scorer holds is not worth the cell
            log.warning("%s: no model is kept: %s", cell, summary(error))
            return None
        return described, detection.scorer

    def _features(self, cell: Cell, network: Network | None) -> NDArray[np.float32] | None:
        """(N, D) pooled features of the test images by the network that the method named."""
        if network is None:
            log.info("%s: the method names no network, so no features are kept", cell)
            return None
        try:
            return pooled_features(network, self.task.test_images)
        except Exception as error:  # a figure is not worth the cell
            log.warning("%s: no features are kept: %s", cell, summary(error))
            return None

    def _lent_logits(self, model: ClosedSetModel) -> NDArray[np.float32]:
        """What the cells' label regime makes of the model's logits."""
        return lent_logits(
            model.test_logits, self.split.change, lambda rows: evaluate(model.network, self.faces.images[rows])
        )
