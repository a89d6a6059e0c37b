"""Entry point of a logged model, which holds a copy of this file (MLflow's models from code)."""

import mlflow

from open_set_fer.benchmark.storage.logged_models import FaceScorer

mlflow.models.set_model(FaceScorer())
