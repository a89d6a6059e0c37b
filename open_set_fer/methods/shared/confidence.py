"""The scorer of methods whose score is a classifier's confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from open_set_fer.methods.shared.lazy import training
from open_set_fer.methods.shared.scorer import Scorer, Scores


@dataclass(frozen=True, eq=False)
class ConfidenceScorer(Scorer):
    """What the logits of one network, `classifier`, say: settings `score` is 'msp', 'max_logit' or 'loss'.

    'loss' is the cross-entropy against the network's own answer.
    """

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """By the classifier's logits alone."""
        logits = training.evaluate(self.networks["classifier"], images)
        probabilities = training.softmax(logits)
        if self.settings["score"] == "max_logit":
            score = -logits.max(axis=1).astype(np.float64)
        elif self.settings["score"] == "loss":
            score = training.sample_losses(logits, logits.argmax(axis=1))
        else:
            score = -probabilities.max(axis=1)
        return Scores(score, probabilities)
