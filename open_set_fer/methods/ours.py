"""Ours: open-set FER as noisy-label detection (the AAAI-24 paper's method).

The closed-set model gives every test image a pseudo label. Two fresh networks train on those labels; attention-map
consistency, a cyclic learning rate and mutual selection of clean samples keep them from memorising the wrong labels,
which most open faces have. The loss against the pseudo label is the open-set score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from open_set_fer.methods.contract import Context, Detection, OpenSetTask, Scorer, Scores
from open_set_fer.methods.shared.lazy import learners, training
from open_set_fer.methods.shared.scorers import on_scale, scale_of, standardise
from open_set_fer.ranges import BatchSize, Epochs, NotNegative, Positive, Share, Stages

if TYPE_CHECKING:
    from open_set_fer.methods.shared.backbones import Network


@dataclass(frozen=True, eq=False)
class StreamScorer(Scorer):
    """Losses of the online rounds' networks against the closed-set model's prediction.

    networks: `closed_set`, and `round_<r>_<i>`. settings: `rounds`, for each the names of its `networks`, and `mean`
    and `deviation` of the losses it scored, which set its scale. A new face gets the mean over both rounds; a face of
    the task got the round that had not trained on it.
    """

    repeats = False

    def score(self, images: NDArray[np.uint8]) -> Scores:
        """Average over the rounds."""
        logits = training.evaluate(self.networks["closed_set"], images)
        score = self.by_round(images, logits.argmax(axis=1)).mean(axis=0)
        return Scores(score, training.softmax(logits))

    def by_round(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each round's scores (rounds, N) against these labels."""
        rounds = []
        for part in self.settings["rounds"]:
            logits = [training.evaluate(self.networks[name], images) for name in part["networks"]]
            losses = [training.sample_losses(values, labels) for values in logits]
            rounds.append(on_scale(np.mean(losses, axis=0), part))
        return np.array(rounds)


@dataclass(frozen=True)
class Ours:
    """Label-noise detection by loss, consistency and mutual selection (paper, Section 3).

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
    noise_probability: Share = 0.0
    """Of Gaussian noise (variance 30 on the 0-255 scale), for each image, in training (the authors' notebook: 0.5)."""
    clean_threshold: Share = 0.5
    """Probability above which a sample counts as clean."""
    attention: bool = True
    """Attention-map consistency; without it λ is 0."""
    cycle_lr: bool = True
    """Reset the learning rate every cycle."""
    cycle_training: bool = True
    """Two networks that select each other's clean samples; without it, one network trains on all samples."""
    pretrained_stages: Stages = 0
    """Stem and this many stages start from the closed-set model instead of fresh weights (0, none: the paper)."""
    balanced: bool = False
    """Weigh the cross-entropy in training so that every pseudo class counts the same (not in the paper)."""
    variant: Literal["offline", "online"] = "offline"
    """'offline' trains on all test images and scores them; 'online' scores images it never trained on (Table 4): the
    networks train on one half of the pool and score the other, then the halves change places. Scores are standardised
    within each half, as two trainings have two scales of loss."""
    score_networks: Literal["both", "first", "second"] = "both"
    """Mean loss over both networks, or the loss of one."""
    score_epochs: Literal["last", "last_cycle", "cycles"] = "last"
    """The loss of the last epoch, its mean over the epochs of the last cycle, or over the last epochs of every cycle
    (networks in different states, which the cyclic rate provides)."""
    score_batch_norm: Literal["running", "batch"] = "running"
    """Score by the running statistics (evaluation mode, the paper), or by each batch's statistics."""
    score_augmented: bool = False
    """Score noisy and erased images, as in training (the authors' notebook), instead of plain images (the paper)."""

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by the networks' mean loss against the pseudo labels; the detection's network is the last trained."""
        model = context.closed_set_model(task)
        labels = model.pseudo_labels
        score = np.empty(len(labels))
        half = np.arange(len(labels)) % 2 == 0  # the runner has shuffled the order
        online = self.variant == "online"
        rounds = [(half, ~half), (~half, half)] if online else [(slice(None), slice(None))]
        trained = []
        with context.phase("train"):
            for stream, scored in rounds:
                trained.append(_Training(self, task, context, labels, stream, scored))
                score[scored] = trained[-1].run()
        scorer = None
        if online:
            if (self.score_epochs, self.score_batch_norm, self.score_augmented) == ("last", "running", False):
                scales = [scale_of(score[scored]) for _, scored in rounds]
                scorer = self._scorer(model.network, trained, scales)
            score = standardise(score, half)
        curves = {name: [value for part in trained for value in part.curves[name]] for name in trained[0].curves}
        notes = learners.guard_notes([lost for part in trained for lost in part.selections], task.closed_classes)
        network = self._scoring(trained[-1])[-1]
        return Detection(score, labels, curves, {"pseudo_label": labels}, notes, network, scorer)

    def is_scored(self, epoch: int, cycle: range) -> bool:
        """Whether the losses after this epoch of this cycle are part of the score."""
        in_last_cycle, at_cycles_end = cycle.stop == self.epochs, epoch == cycle.stop - 1
        if self.score_epochs == "cycles":
            return at_cycles_end
        return in_last_cycle and (at_cycles_end or self.score_epochs == "last_cycle")

    def combined(self, scores: list[list[NDArray[np.float64]]]) -> NDArray[np.float64]:
        """Scores (n,) from each network's losses."""
        by_network = np.array([np.mean(values, axis=0) for values in scores])
        if self.score_networks == "both" or len(scores) == 1:
            return np.asarray(by_network.mean(axis=0))
        return np.asarray(by_network[0 if self.score_networks == "first" else 1])

    def _scoring(self, trained: _Training) -> list[Network]:
        """The networks of one training whose losses are the score."""
        networks = [learner.network for learner in trained.pair]
        if len(networks) == 2 and self.score_networks != "both":
            return networks[:1] if self.score_networks == "first" else networks[1:]
        return networks

    def _scorer(self, closed_set: Network, trained: list[_Training], scales: list[dict[str, float]]) -> StreamScorer:
        networks, rounds = {"closed_set": closed_set}, []
        for number, (part, scale) in enumerate(zip(trained, scales, strict=True), 1):
            scoring = enumerate(self._scoring(part), 1)
            named = {f"round_{number}_{index}": network for index, network in scoring}
            networks |= named
            rounds.append({"networks": list(named), **scale})
        return StreamScorer(networks, settings={"rounds": rounds})


class _Training:
    """Training on the test images of `stream`, and scoring of those of `scored`.

    curves, selections (the classes that each lost), and the scores (n,) that `run` returns are its results.
    """

    def __init__(
        self,
        method: Ours,
        task: OpenSetTask,
        context: Context,
        pseudo_labels: NDArray[np.int64],
        stream: NDArray[np.bool_] | slice,
        scored: NDArray[np.bool_] | slice,
    ) -> None:
        self.method, self.context, self.seed = method, context, task.seed
        self.images, self.labels = task.test_images[stream], pseudo_labels[stream]
        self.scored_images, self.scored_labels = task.test_images[scored], pseudo_labels[scored]
        classes, channels = len(task.closed_classes), self.images.shape[1]
        pretrained = context.closed_set_model(task).network, method.pretrained_stages
        self.pair = [
            learners.Learner(context, classes, channels, method.batch_size, method.weight_decay, *pretrained)
            for _ in range(2 if method.cycle_training else 1)
        ]
        counts = np.maximum(np.bincount(self.labels, minlength=classes), 1)
        self.recipe = learners.Recipe(
            method.erase_probability,
            method.consistency_weight if method.attention else 0.0,
            method.noise_probability,
            len(self.labels) / (classes * counts) if method.balanced else None,
        )
        self.selected_by = [np.ones(len(self.labels), dtype=bool)] * len(self.pair)
        self.losses: list[list[NDArray[np.float64]]] = [[] for _ in self.pair]
        self.curves: dict[str, list[float]] = {}
        self.selections: list[tuple[int, ...]] = []

    def run(self) -> NDArray[np.float64]:
        """Train all cycles."""
        method, context = self.method, self.context
        starts = range(0, method.epochs, method.cycle_length)
        cycles = [range(start, min(start + method.cycle_length, method.epochs)) for start in starts]
        for cycle in context.progress(cycles, f"{method.name}: cycles"):
            for index in range(len(self.pair)):
                self._train_cycle(index, cycle)
                if len(self.pair) == 2 and (cycle.stop < method.epochs or index == 0):
                    self._select(index)
            if method.variant == "offline" and method.score_epochs != "last_cycle":
                context.report(cycle.stop, self._intermediate_scores)
        return method.combined(self.losses)

    def _train_cycle(self, index: int, cycle: range) -> None:
        method, learner = self.method, self.pair[index]
        period = method.cycle_length if method.cycle_lr else 0
        # The other network's last selection: all samples only for the very first network (paper, Section 3).
        selected = self.selected_by[(index + 1) % len(self.pair)]
        for epoch in self.context.progress(cycle, f"{method.name}: network {index + 1}"):
            rate = training.epoch_learning_rate(method.learning_rate, method.lr_decay, epoch, period)
            loss = learner.train_epoch(self.images, self.labels, selected, rate, self.recipe)
            self.curves.setdefault(f"loss_{index + 1}", []).append(loss)
            if method.is_scored(epoch, cycle):
                self.losses[index].append(self._losses(learner))

    def _select(self, index: int) -> None:
        losses = self.pair[index].losses(self.images, self.labels)
        selected, lost = learners.select_clean(losses, self.labels, self.method.clean_threshold, self.seed)
        self.selected_by[index] = selected
        self.curves.setdefault(f"clean_share_by_{index + 1}", []).append(float(selected.mean()))
        self.selections.append(lost)

    def _losses(self, learner: learners.Learner) -> NDArray[np.float64]:
        method = self.method
        augmentation = (method.noise_probability, method.erase_probability) if method.score_augmented else None
        by_batch = method.score_batch_norm == "batch"
        return learner.losses(self.scored_images, self.scored_labels, by_batch, augmentation)

    def _intermediate_scores(self) -> NDArray[np.float64]:
        """Scores if training ended now; the learners' random numbers stay as they were."""
        scores = []
        for values, learner in zip(self.losses, self.pair, strict=True):
            state = learner.generator.get_state()
            scores.append(values or [self._losses(learner)])
            learner.generator.set_state(state)
        return self.method.combined(scores)
