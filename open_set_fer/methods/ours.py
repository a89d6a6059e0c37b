"""Ours: open-set FER as noisy-label detection (the AAAI-24 paper's method).

The closed-set model gives every test image a pseudo label. Two fresh networks train on those labels; attention-map
consistency, a cyclic learning rate and mutual selection of clean samples keep them from memorising the wrong ones, which
open faces mostly have. The loss against the pseudo label is the open-set score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.methods.shared.label_noise import guard_notes, select_clean
from open_set_fer.methods.shared.lazy import learners, training
from open_set_fer.methods.shared.scaling import on_scale, scale_of, standardise
from open_set_fer.methods.shared.scorer import Scorer, Scores
from open_set_fer.ranges import BatchSize, Epochs, NotNegative, Positive, Share, Stages

if TYPE_CHECKING:
    from open_set_fer.methods.shared.backbones import Network


@dataclass(frozen=True, eq=False)
class StreamScorer(Scorer):
    """The online networks: each round's loss against the closed-set model's answer, on the scale of the images it scored.

    networks: `closed_set`, and `round_<r>_<i>`. settings: `rounds`, for each the names of its `networks`, and `mean` and
    `deviation` of the losses that it scored. A face gets the mean over both rounds; those of the task got the one round that
    had not trained on them.
    """

    repeats = False

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """The mean over the rounds."""
        logits = training.evaluate(self.networks["closed_set"], images)
        score = self.by_round(images, logits.argmax(axis=1)).mean(axis=0)
        return Scores(score, training.softmax(logits))

    def by_round(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """(rounds, N): each round's score against these labels."""
        rounds = []
        for part in self.settings["rounds"]:
            losses = [
                training.sample_losses(training.evaluate(self.networks[name], images), labels)
                for name in part["networks"]
            ]
            rounds.append(on_scale(np.mean(losses, axis=0), part))
        return np.array(rounds)


@dataclass(frozen=True)
class Ours:
    """Pseudo labels, attention-map consistency, cyclic learning rate, cycle training (paper, Section 3).

    Defaults: the paper's. Each part has its switch (Table 5).
    """

    name = "ours"
    version = 2
    sees_pool, label_based = True, True
    scorer = StreamScorer

    epochs: Epochs = 40
    """Of each network (the paper's 40 may be meant for both)."""
    cycle_length: Epochs = 10
    """Epochs between resets of the learning rate, and between selections of clean samples."""
    batch_size: BatchSize = 128
    learning_rate: Positive = 2e-4
    weight_decay: NotNegative = 1e-4
    lr_decay: Positive = 0.9
    """Factor on the learning rate an epoch, within a cycle."""
    consistency_weight: NotNegative = 5.0
    """λ."""
    erase_probability: Share = 0.5
    """Of random erasing, for each image."""
    noise_probability: Share = 0.0
    """Of Gaussian noise (variance 30 on the 0-255 scale), for each image, in training (the authors' notebook: 0.5)."""
    clean_threshold: Share = 0.5
    """Probability from which on a sample counts as clean."""
    attention: bool = True
    """Attention-map consistency; without it λ is 0."""
    cycle_lr: bool = True
    """The learning rate's resets."""
    cycle_training: bool = True
    """Two networks that select each other's clean samples; without it there is one, and it trains on all."""
    pretrained_stages: Stages = 0
    """Stem and this many stages start from the closed-set model instead of fresh weights (0: none, the paper; not in the
    paper, see the effect study)."""
    balanced: bool = False
    """Weigh the cross-entropy in training so that every pseudo class counts the same (not in the paper either)."""
    variant: Literal["offline", "online"] = "offline"
    """'offline' trains on all test images and scores them; 'online' scores images it never trained on (Table 4): one half
    of the pool is the stream that the networks train on, the other half is scored, and the halves then change places so
    that every image gets a score, standardised within its half: two trainings have two scales of loss."""
    score_networks: Literal["both", "first", "second"] = "both"
    """Mean loss over both networks, or one of them."""
    score_epochs: Literal["last", "last_cycle", "cycles"] = "last"
    """The loss of the last epoch, or its mean over the epochs of the last cycle, or over the last epochs of every cycle (the
    networks in different states that the cyclic rate is there for)."""
    score_batch_norm: Literal["running", "batch"] = "running"
    """By the running statistics (evaluation mode, the paper), or by each batch's own."""
    score_augmented: bool = False
    """Score noisy and erased images, as in training (the authors' notebook), instead of the images as they are (the paper)."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by the mean loss of the networks against the pseudo labels; features are of the network trained last."""
        model = context.closed_set_model(task)
        labels = model.pseudo_labels
        score = np.empty(len(labels))
        curves: dict[str, list[float]] = {}
        selections: list[tuple[int, ...]] = []
        trained: list[list[Network]] = []
        half = np.arange(len(labels)) % 2 == 0  # the runner has shuffled the order
        whole = slice(None)
        online = self.variant == "online"
        rounds = [(half, ~half), (~half, half)] if online else [(whole, whole)]
        with context.phase("train"):
            for stream, scored in rounds:
                score[scored] = self._train_and_score(
                    task, labels, stream, scored, context, curves, selections, trained
                )
        scorer = None
        if online:
            if (self.score_epochs, self.score_batch_norm, self.score_augmented) == ("last", "running", False):
                scorer = self._scorer(model.network, trained, [score[scored] for _, scored in rounds])
            score = standardise(score, half)
        notes = guard_notes(selections, task.closed_classes)
        network = self._scoring(trained[-1])[-1]
        return Detection(score, labels, curves, {"pseudo_label": labels}, notes, network, scorer)

    def _scoring(self, networks: list[Network]) -> list[Network]:
        """Those of one training whose losses are the score."""
        if len(networks) == 2 and self.score_networks != "both":
            return networks[:1] if self.score_networks == "first" else networks[1:]
        return networks

    def _scorer(
        self, closed_set: Network, trained: list[list[Network]], losses: list[NDArray[np.float64]]
    ) -> StreamScorer:
        """From each round's networks and the losses that they scored."""
        networks, rounds = {"closed_set": closed_set}, []
        for number, (pair, values) in enumerate(zip(trained, losses, strict=True), 1):
            named = {f"round_{number}_{index}": network for index, network in enumerate(self._scoring(pair), 1)}
            networks |= named
            rounds.append({"networks": list(named), **scale_of(values)})
        return StreamScorer(networks, settings={"rounds": rounds})

    def _train_and_score(
        self,
        task: OpenSetTask,
        pseudo_labels: NDArray[np.int64],
        stream: NDArray[np.bool_] | slice,
        scored: NDArray[np.bool_] | slice,
        context: Context,
        curves: dict[str, list[float]],
        selections: list[tuple[int, ...]],
        trained: list[list[Network]],
    ) -> NDArray[np.float64]:
        """Train on the test images of `stream` with their pseudo labels; (n,) mean losses of those of `scored`.

        selections: gets the classes that each selection lost. trained: gets the networks.
        """
        images, labels = task.test_images[stream], pseudo_labels[stream]
        scored_images, scored_labels = task.test_images[scored], pseudo_labels[scored]
        classes, channels = len(task.closed_classes), images.shape[1]
        pretrained = context.closed_set_model(task).network, self.pretrained_stages
        pair = [
            learners.Learner(context, classes, channels, index, self.batch_size, self.weight_decay, *pretrained)
            for index in range(2 if self.cycle_training else 1)
        ]
        consistency_weight = self.consistency_weight if self.attention else 0.0
        counts = np.maximum(np.bincount(labels, minlength=classes), 1)
        class_weights = len(labels) / (classes * counts) if self.balanced else None
        as_scored = (self.noise_probability, self.erase_probability) if self.score_augmented else None
        everyone = np.ones(len(labels), dtype=bool)
        selected_by = [everyone] * len(pair)
        scores: list[list[NDArray[np.float64]]] = [[] for _ in pair]
        starts = range(0, self.epochs, self.cycle_length)
        cycles = [range(start, min(start + self.cycle_length, self.epochs)) for start in starts]
        period = self.cycle_length if self.cycle_lr else 0
        for epochs in context.progress(cycles, f"{self.name}: cycles"):
            for index, learner in enumerate(pair):
                # From what the other one selected last: all samples only for the very first network (paper, Section 3).
                selected = selected_by[(index + 1) % len(pair)]
                for epoch in context.progress(epochs, f"{self.name}: network {index + 1}"):
                    rate = training.epoch_learning_rate(self.learning_rate, self.lr_decay, epoch, period)
                    loss = learner.train_epoch(
                        images,
                        labels,
                        selected,
                        rate,
                        consistency_weight,
                        self.erase_probability,
                        class_weights,
                        self.noise_probability,
                    )
                    curves.setdefault(f"loss_{index + 1}", []).append(loss)
                    if self._is_scored(epoch, epochs):
                        scores[index].append(
                            learner.losses(scored_images, scored_labels, self.score_batch_norm == "batch", as_scored)
                        )
                if len(pair) == 2 and (epochs.stop < self.epochs or index == 0):
                    losses = learner.losses(images, labels)
                    selected_by[index], lost = select_clean(losses, labels, self.clean_threshold, task.seed)
                    curves.setdefault(f"clean_share_by_{index + 1}", []).append(float(selected_by[index].mean()))
                    selections.append(lost)
            if self.variant == "offline" and self.score_epochs != "last_cycle":
                context.report(
                    epochs.stop,
                    lambda: self._combined(
                        [
                            kept if kept else [self._unchanged(learner, scored_images, scored_labels, as_scored)]
                            for kept, learner in zip(scores, pair, strict=True)
                        ]
                    ),
                )
        trained.append([learner.network for learner in pair])
        return self._combined(scores)

    def _combined(self, scores: list[list[NDArray[np.float64]]]) -> NDArray[np.float64]:
        """(n,) from each network's losses."""
        by_network = np.array([np.mean(values, axis=0) for values in scores])
        if self.score_networks == "both" or len(scores) == 1:
            return np.asarray(by_network.mean(axis=0))
        return np.asarray(by_network[0 if self.score_networks == "first" else 1])

    def _unchanged(
        self,
        learner: learners.Learner,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        as_scored: tuple[float, float] | None,
    ) -> NDArray[np.float64]:
        """The losses as they would be scored now, the learner's random numbers left as they were."""
        state = learner.generator.get_state()
        losses = learner.losses(images, labels, self.score_batch_norm == "batch", as_scored)
        learner.generator.set_state(state)
        return losses

    def _is_scored(self, epoch: int, cycle: range) -> bool:
        """Whether the losses after this epoch of this cycle are part of the score."""
        in_last_cycle, at_cycles_end = cycle.stop == self.epochs, epoch == cycle.stop - 1
        return {
            "last": in_last_cycle and at_cycles_end,
            "last_cycle": in_last_cycle,
            "cycles": at_cycles_end,
        }[self.score_epochs]
