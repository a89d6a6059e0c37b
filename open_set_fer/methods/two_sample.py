"""Classifier two-sample test as a detector: a linear probe of pool against known faces on frozen features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from open_set_fer.methods.contract import Context, Detection, OpenSetTask, Scorer, Scores
from open_set_fer.methods.shared.lazy import backbones, training
from open_set_fer.methods.shared.two_samples import linear_probe, two_samples
from open_set_fer.ranges import Folds


@dataclass(frozen=True, eq=False)
class ProbeScorer(Scorer):
    """Mean over the folds' probes of p(pool) on the features of the network `closed_set`.

    arrays: `weights` (folds, D) and `offsets` (folds,), for features as they are.
    """

    repeats = False

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Score each face by its features alone."""
        network = self.networks["closed_set"]
        features = training.pooled_features(network, images)
        logits = features @ self.arrays["weights"].T + self.arrays["offsets"]
        return Scores(expit(logits).mean(axis=1), training.softmax(training.evaluate(network, images)))


@dataclass(frozen=True)
class TwoSample:
    """Baseline of `ours-plus`: same folds, same known faces, but frozen features and a linear classifier.

    Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR 2017.
    """

    name = "two-sample"
    version = 1
    sees_pool = True
    scores_others = True
    scorer = ProbeScorer

    folds: Folds = 2
    """Each pool image is scored by the probe not fitted on its fold."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by the out-of-fold probability that an image is from the pool."""
        model = context.closed_set_model(task)
        rng = np.random.default_rng(backbones.draw_seed(context.generator))
        with context.phase("train"):
            of_train, of_test = context.features(task)
            pool, known = two_samples(task, model, self.folds)
            features = of_test if task.pool_images is None else training.pooled_features(model.network, pool.images)
            if task.known_images is not None:
                of_train = training.pooled_features(model.network, known.images)
            probe = linear_probe(pool, known, features, of_train, rng)
        weights, offsets = probe.on_raw_features()
        scorer = ProbeScorer({"closed_set": model.network}, {"weights": weights, "offsets": offsets})
        score = expit(probe.pool) if task.pool_images is None else scorer.score(task.test_images).unknown_score
        return Detection(score, model.pseudo_labels, scorer=scorer)
