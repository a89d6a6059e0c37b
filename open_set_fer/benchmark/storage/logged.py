"""What MLflow holds of a result: its tags, name, data set and pictures; and the means of a run's cells."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.protocols.pool import SHIFT
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS
from open_set_fer.benchmark.storage import mlflow_reader as reader
from open_set_fer.benchmark.storage.kept import FEATURES, FEATURES_TAG, MODEL, MODELS_TAG
from open_set_fer.benchmark.storage.mlflow_reader import EVALUATION
from open_set_fer.errors import masked

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput
    from PIL.Image import Image


def means_of(plan: list[dict[str, Any]], finished: list[reader.Finished]) -> dict[str, float]:
    """Mean AUROC and number of the planned cells that are finished, by method label; controls and shifts apart."""
    done = {cell.key: cell.auroc for cell in finished if cell.is_current}
    aurocs: dict[str, list[float]] = {}
    for cell in plan:
        if cell["cell_key"] in done:
            control = "control." * (cell.get("labels") in CONTROLS)
            control += "shift." * (cell.get("protocol") == SHIFT)
            aurocs.setdefault(f"{control}{metric_part(cell['method'])}", []).append(done[cell["cell_key"]])
    means = {f"auroc.{name}": sum(values) / len(values) for name, values in aurocs.items()}
    return means | {f"cells.{name}": float(len(values)) for name, values in aurocs.items()}


def run_name(tags: dict[str, str]) -> str:
    """What the MLflow UI shows for a cell; its columns are narrow, so what differs comes first."""
    return f"{tags['method']} · {tags['open_classes']} · s{tags['seed']} · {tags['dataset']}"


def cell_tags(result: CellResult, folder: Path) -> dict[str, str]:
    """Tags of a result's run, with its name and description; passwords masked."""
    # An imported cell has neither features nor a model, whatever its tags say.
    lacking = [(FEATURES_TAG, "kept")] * (not (folder / FEATURES).exists())
    lacking += [(MODELS_TAG, "kept")] * (not (folder / MODEL).is_dir())
    own = {name: text for name, text in result.tags.items() if (name, text) not in lacking}
    own |= {"notes": json.dumps(result.notes[:20]), EVALUATION: str(result.evaluation)}
    own |= {"mlflow.runName": run_name(result.tags), "mlflow.note.content": result.description()}
    return {name: masked(str(text))[:5000] for name, text in own.items()}


def png(picture: Image) -> bytes:
    """A picture's PNG.

    In a third of the time of Pillow's default, and no more bytes for a sheet: pixels repeat or are noise.
    """
    written = BytesIO()
    picture.save(written, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return written.getvalue()


def dataset_input(data: DataUsed) -> DatasetInput:
    """The data set as an input of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest, source = data.fingerprint[: reader.DIGEST_LENGTH], json.dumps({"name": data.name})
    dataset = Dataset(data.name, digest, "local", source, profile=json.dumps(data.counts))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "benchmark")])


def metric_part(label: str) -> str:
    """A label as part of a metric's name: what MLflow forbids is replaced, and a digest keeps two labels apart."""
    cleaned = re.sub(r"[^\w.\- ]", "_", label, flags=re.ASCII)
    return cleaned if cleaned == label else f"{cleaned}-{hashlib.sha256(label.encode()).hexdigest()[:4]}"
