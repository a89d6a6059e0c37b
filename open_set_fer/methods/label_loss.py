"""Label loss: what the closed-set model itself says against the label that an image is given. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.methods.shared.lazy import training
from open_set_fer.methods.shared.scorers import ConfidenceScorer


@dataclass(frozen=True)
class LabelLoss:
    """s = cross-entropy of the closed-set model's output for the image against the image's pseudo label.

    Under own labels the label is the output's largest class, so the ranking is that of the maximum softmax probability.
    Under any other label regime it is the reference: a method that learns from the labels has earned its training where
    it beats this.
    """

    name = "label-loss"
    version = 1
    label_based = True
    scorer = ConfidenceScorer

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by the loss of the model's own logits, computed from the images."""
        model = context.closed_set_model(task)
        labels = model.pseudo_labels
        logits = training.evaluate(model.network, task.test_images)
        # An unseen face has no label but the model's own.
        scorer = ConfidenceScorer({"classifier": model.network}, settings={"score": "loss"})
        losses = training.sample_losses(logits, labels)
        return Detection(
            losses, model.predictions, extras={"pseudo_label": labels}, network=model.network, scorer=scorer
        )
