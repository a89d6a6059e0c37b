"""What MLflow runs of a logged model (models from code): a copy of this file lies in the model, the code is the suite's."""

import mlflow

from open_set_fer.benchmark.storage.logged_models import FaceScorer

mlflow.models.set_model(FaceScorer())
