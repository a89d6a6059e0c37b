"""Baseline: the closed-set model's confidence.

MSP (Hendrycks and Gimpel 2017), or the maximum logit (Hendrycks et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.methods.shared.lazy import training
from open_set_fer.methods.shared.scorers import ConfidenceScorer


@dataclass(frozen=True)
class Baseline:
    """Closed-set confidence: s = -max softmax (the paper) or -max logit (authors' notebook)."""

    name = "baseline"
    version = 1
    scorer = ConfidenceScorer

    score: Literal["msp", "max_logit"] = "msp"

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by the shared closed-set model."""
        model = context.closed_set_model(task)
        confidence = training.softmax(model.test_logits) if self.score == "msp" else model.test_logits
        scorer = ConfidenceScorer({"classifier": model.network}, settings={"score": self.score})
        held_out = None
        if (features := context.held_out_features(task)) is not None:
            held_out = scorer.of_logits(training.head_logits(model.network, features)).unknown_score
        return Detection(
            -confidence.max(axis=1), model.pseudo_labels, network=model.network, scorer=scorer, held_out_score=held_out
        )
