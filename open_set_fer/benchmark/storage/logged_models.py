"""Kept detectors and closed-set models as MLflow logged models, which `mlflow models serve` and the registry take."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray

from open_set_fer.benchmark.storage.detectors import Description, load_detector, read_description
from open_set_fer.benchmark.storage.kept import KeptModel
from open_set_fer.benchmark.storage.provenance import NAME
from open_set_fer.errors import masked
from open_set_fer.version import __version__

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

MODEL_KEY = "model_key"
"""Tag of a logged model: the key of its cell, or of its closed-set model."""

PAGE = """Scores faces (uint8, N x {}): expression, unknown_score (higher: more likely none of the known expressions),
and `p.<class>` for each known class.

Serve it: `mlflow models serve --env-manager local --model-uri models:/MODEL_ID`, with the ID that this page shows.
"""


class FaceScorer(PythonModel):
    """Scores faces, one row each: expression, unknown_score, and each known class's probability as p.<class>."""

    def load_context(self, context: Any) -> None:
        """Read the detector beside the model, with the code that is installed."""
        self.detector = load_detector(Path(context.artifacts["detector"]))

    # MLflow would take type hints for a signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """uint8 (N, C, H, W) -> a table of N rows."""
        classes = self.detector.description.classes
        unknown_score, probabilities = self.detector.score(np.asarray(model_input))
        columns = {"expression": np.array(classes)[probabilities.argmax(axis=1)], "unknown_score": unknown_score}
        return pd.DataFrame(columns | {f"p.{name}": probabilities[:, k] for k, name in enumerate(classes)})


def log_models(
    client: MlflowClient, experiment_id: str, run_id: str, models: list[KeptModel], params: dict[str, str]
) -> None:
    """Log each model that is not logged yet under its key, and name all as the run's outputs; params: of the cell."""
    from mlflow.entities import LoggedModelOutput

    outputs = []
    for model in models:
        matches = client.search_logged_models([experiment_id], filter_string=f"tags.{MODEL_KEY} = '{model.key}'")
        whole = [logged for logged in matches if str(logged.status) in ("READY", "LoggedModelStatus.READY")]
        for half in (logged for logged in matches if logged not in whole):  # of a process that died while it logged
            client.delete_logged_model(half.model_id)
        logged = whole[0] if whole else _log(client, experiment_id, run_id, model, params)
        outputs.append(LoggedModelOutput(logged.model_id, 0))
    if outputs:
        client.log_outputs(run_id, outputs)


def _log(
    client: MlflowClient, experiment_id: str, run_id: str, model: KeptModel, params: dict[str, str]
) -> LoggedModel:
    import mlflow.pyfunc
    from mlflow.models import Model

    description = read_description(model.folder)
    own = {MODEL_KEY: model.key, "mlflow.note.content": PAGE.format("x".join(map(str, description.shape)))}
    tags = {name: masked(text)[:5000] for name, text in (own | model.tags).items()}
    name = re.sub(r"[^\w+\- ]", "-", model.name)[:200]
    logged = client.create_logged_model(experiment_id, name, run_id, tags, params, "open-set expression")
    with tempfile.TemporaryDirectory() as place:
        mlflow.pyfunc.save_model(
            f"{place}/model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"detector": str(model.folder)},
            signature=signature(description),
            input_example=example(description),
            pip_requirements=[f"{NAME}=={__version__}"],
            mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
        )
        client.log_model_artifacts(logged.model_id, f"{place}/model")
    return client.finalize_logged_model(logged.model_id, "READY")


def signature(description: Description) -> ModelSignature:
    """The signature: faces of the detector's size in, one row a face out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    columns: list[ColSpec | TensorSpec] = [ColSpec("string", "expression"), ColSpec("double", "unknown_score")]
    columns += [ColSpec("double", f"p.{name}") for name in description.classes]
    faces = TensorSpec(np.dtype(np.uint8), (-1, *description.shape))
    return ModelSignature(Schema([faces]), Schema(columns))


def example(description: Description) -> NDArray[np.uint8]:
    """One face-sized image (1, C, H, W): a grey gradient, not a real face."""
    channels, height, width = description.shape
    slope = np.linspace(0, 255, height * width, dtype=np.uint8).reshape(1, 1, height, width)
    return np.repeat(slope, channels, axis=1)
