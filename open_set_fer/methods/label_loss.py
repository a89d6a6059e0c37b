"""Label loss: the closed-set model's loss against assigned labels. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.methods.shared.lazy import training
from open_set_fer.methods.shared.scorers import ConfidenceScorer


@dataclass(frozen=True)
class LabelLoss:
    """Untrained reference: s = loss of the closed-set model against the image's pseudo label.

    If the pseudo labels are the model's predictions, it ranks as the maximum softmax probability does. In any other
    pseudo-label setting, a method that learns from the labels must beat it to be worth its training.
    """

    name = "label-loss"
    version = 1
    label_based = True
    scorer = ConfidenceScorer

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by the loss of logits computed from the images."""
        model = context.closed_set_model(task)
        labels = model.pseudo_labels
        logits = training.evaluate(model.network, task.test_images)
        # The only label of a new face is the model's prediction.
        scorer = ConfidenceScorer({"classifier": model.network}, settings={"score": "loss"})
        losses = training.sample_losses(logits, labels)
        extras = {"pseudo_label": labels}
        return Detection(losses, model.predictions, extras=extras, network=model.network, scorer=scorer)
