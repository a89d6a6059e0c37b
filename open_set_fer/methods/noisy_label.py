"""Noisy-label family: the label-noise field's detectors on the pseudo labels of `ours`.

Each scores how likely the closed-set model's pseudo label of a test image is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.methods.shared.lazy import F, augmentation, learners, torch, training
from open_set_fer.ranges import BatchSize, Epochs, Folds, NotNegative, Positive, Share


@dataclass(frozen=True)
class NoisyLabel:
    """Label-noise detection on pseudo labels: O2U-net, co-teaching, or cleanlab.

    o2u (Huang et al., ICCV 2019): one network, whose learning rate falls linearly from `learning_rate` to a hundredth
    in each cycle; score = loss averaged over the epochs, each epoch's losses less their mean. co_teaching (Han et
    al., NeurIPS 2018): two networks, each trained on the small-loss part of a batch by the other's losses; score =
    mean loss of both. cleanlab (Northcutt et al., JAIR 2021): out-of-fold probabilities; score = 1 - the library's
    self-confidence label quality.
    """

    name = "noisy-label"
    version = 1
    sees_pool, label_based = True, True

    approach: Literal["o2u", "co_teaching", "cleanlab"] = "o2u"
    epochs: Epochs = 40
    """Of each network."""
    cycle_length: Epochs = 10
    """o2u: epochs of a cycle of the learning rate."""
    ramp_epochs: Epochs = 10
    """co_teaching: epochs over which the fraction of a batch that trains falls from 1 to 1 - `noise_rate`."""
    noise_rate: Share = 0.3
    """co_teaching: assumed fraction of wrong labels."""
    folds: Folds = 5
    """cleanlab: networks; each leaves one fold out and predicts it."""
    batch_size: BatchSize = 128
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-4
    erase_probability: Share = 0.5

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score every test image by how likely its pseudo label is wrong."""
        labels = context.closed_set_model(task).pseudo_labels
        curves: dict[str, list[float]] = {}
        score = {"o2u": self._o2u, "co_teaching": self._co_teaching, "cleanlab": self._cleanlab}[self.approach]
        with context.phase("train"):
            scores = score(task, labels, context, curves)
        return Detection(scores, labels, curves, {"pseudo_label": labels})

    def _learners(self, count: int, task: OpenSetTask, context: Context) -> list[learners.Learner]:
        classes, channels = len(task.closed_classes), task.test_images.shape[1]
        return [learners.Learner(context, classes, channels, self.batch_size, self.weight_decay) for _ in range(count)]

    def _o2u(
        self, task: OpenSetTask, labels: NDArray[np.int64], context: Context, curves: dict[str, list[float]]
    ) -> NDArray[np.float64]:
        (learner,) = self._learners(1, task, context)
        everyone = np.ones(len(labels), dtype=bool)
        recipe = learners.Recipe(self.erase_probability)
        total = np.zeros(len(labels))
        for epoch in context.progress(range(self.epochs), "o2u: epochs"):
            rate = o2u_learning_rate(self.learning_rate, epoch, self.cycle_length)
            loss = learner.train_epoch(task.test_images, labels, everyone, rate, recipe)
            curves.setdefault("loss_1", []).append(loss)
            losses = learner.losses(task.test_images, labels)
            total += losses - losses.mean()
            context.report(epoch + 1, partial(np.true_divide, total, epoch + 1))
        return total / self.epochs

    def _co_teaching(
        self, task: OpenSetTask, labels: NDArray[np.int64], context: Context, curves: dict[str, list[float]]
    ) -> NDArray[np.float64]:
        pair = self._learners(2, task, context)
        data, targets = training.as_tensor(task.test_images), torch.from_numpy(labels)
        generator = pair[0].generator
        for learner in pair:
            training.set_learning_rate(learner.optimizer, self.learning_rate)

        def mean_loss() -> NDArray[np.float64]:
            return np.asarray(np.mean([learner.losses(task.test_images, labels) for learner in pair], axis=0))

        for epoch in context.progress(range(self.epochs), "co-teaching: epochs"):
            share = 1 - self.noise_rate * min(1.0, (epoch + 1) / self.ramp_epochs)
            sums, seen = [0.0, 0.0], 0
            for batch in training.batches(torch.arange(len(labels)), self.batch_size, generator):
                y = targets[batch].to(context.device)
                losses = []
                for learner in pair:
                    learner.network.train()
                    x = learner.network.prepare(data[batch])
                    x = augmentation.random_erase(x, generator, self.erase_probability)
                    losses.append(F.cross_entropy(learner.network(x), y, reduction="none"))
                small = [small_loss(loss.detach(), share) for loss in losses]
                for index, learner in enumerate(pair):
                    training.step(learner.optimizer, losses[index][small[1 - index]].mean())
                    sums[index] += float(losses[index].detach().sum())
                seen += len(batch)
            for index in range(2):
                curves.setdefault(f"loss_{index + 1}", []).append(sums[index] / seen)
            context.report(epoch + 1, mean_loss)
        return mean_loss()

    def _cleanlab(
        self, task: OpenSetTask, labels: NDArray[np.int64], context: Context, curves: dict[str, list[float]]
    ) -> NDArray[np.float64]:
        try:
            from cleanlab.rank import get_label_quality_scores
        except ImportError as error:
            raise SuiteError("the method needs cleanlab", "pip install 'open-set-fer[noise]'") from error
        folds = np.arange(len(labels)) % self.folds  # the runner has shuffled the order
        probabilities = np.zeros((len(labels), len(task.closed_classes)))
        recipe = learners.Recipe(self.erase_probability)
        for fold, learner in enumerate(context.progress(self._learners(self.folds, task, context), "cleanlab: folds")):
            inside = folds != fold
            for epoch in context.progress(range(self.epochs), "cleanlab: epochs"):
                rate = o2u_learning_rate(self.learning_rate, epoch, self.epochs)
                loss = learner.train_epoch(task.test_images, labels, inside, rate, recipe)
                curves.setdefault(f"loss_{fold + 1}", []).append(loss)
            probabilities[~inside] = training.softmax(training.evaluate(learner.network, task.test_images[~inside]))
        quality = get_label_quality_scores(labels, probabilities, method="self_confidence")
        return 1 - np.asarray(quality, dtype=np.float64)


def o2u_learning_rate(highest: float, epoch: int, cycle: int) -> float:
    """O2U-net's cyclic rate (its Eq. 1): linear from `highest` to a hundredth in each cycle."""
    position = (1 + epoch % cycle) / cycle
    return (1 - position) * highest + position * highest / 100


def small_loss(losses: torch.Tensor, share: float) -> torch.Tensor:
    """Indices of the smallest `share` of (n,) losses, at least one."""
    return losses.argsort(stable=True)[: max(1, int(share * len(losses)))]
