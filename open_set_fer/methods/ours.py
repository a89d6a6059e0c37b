"""Ours: open-set FER as noisy-label detection (the AAAI-24 paper's method).

The closed-set model gives every test image a pseudo label. Two fresh networks train on those labels; attention-map
consistency, a cyclic learning rate and mutual selection of clean samples keep them from memorising the wrong ones, which
open faces mostly have. The loss against the pseudo label is the open-set score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from open_set_fer.methods.contract import Context, Detection, OpenSetTask
from open_set_fer.methods.label_noise import fallback_notes, select_clean
from open_set_fer.ranges import BatchSize, Epochs, NotNegative, Positive, Share, Stages


class Ours:
    """Pseudo labels, attention-map consistency, cyclic learning rate, cycle training (paper, Section 3)."""

    name = "ours"
    version = 1

    @dataclass(frozen=True)
    class Settings:
        """The paper's settings; each part has its switch (Table 5).

        epochs: of each network. cycle_length: epochs between resets of the learning rate and between selections.
        lr_decay: factor an epoch within a cycle. consistency_weight: λ.
        variant: 'offline' trains on all test images and scores them; 'online' scores images it never trained on
        (Table 4): one half of the pool is the stream that the networks train on, the other half is scored, and the
        halves then change places so that every image gets a score.
        pretrained_stages: stem and this many stages start from the closed-set model instead of fresh weights (0: none,
        the paper; not in the paper, see the effect study).
        balanced: weigh the cross-entropy in training so that every pseudo class counts the same (not in the paper either).
        score_networks: mean loss over both networks, or one of them. score_epochs: the loss of the last epoch, or its
        mean over the epochs of the last cycle. score_batch_norm: by the running statistics (evaluation mode, the paper), or by
        each batch's own.
        """

        epochs: Epochs = 40
        cycle_length: Epochs = 10
        batch_size: BatchSize = 128
        learning_rate: Positive = 2e-4
        weight_decay: NotNegative = 1e-4
        lr_decay: Positive = 0.9
        consistency_weight: NotNegative = 5.0
        erase_probability: Share = 0.5
        clean_threshold: Share = 0.5
        attention: bool = True
        cycle_lr: bool = True
        cycle_training: bool = True
        pretrained_stages: Stages = 0
        balanced: bool = False
        variant: Literal["offline", "online"] = "offline"
        score_networks: Literal["both", "first", "second"] = "both"
        score_epochs: Literal["last", "last_cycle"] = "last"
        score_batch_norm: Literal["running", "batch"] = "running"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def detect(self, task: OpenSetTask, context: Context) -> Detection:
        """Score by the mean loss of the networks against the pseudo labels."""
        model = context.closed_set_model(task)
        labels, images = model.pseudo_labels, task.test_images
        curves: dict[str, list[float]] = {}
        selections: list[tuple[int, ...]] = []
        with context.phase("train"):
            if self.settings.variant == "offline":
                score = self._train_and_score(images, labels, images, labels, task, context, curves, selections)
            else:
                score = np.empty(len(labels))
                halves = np.arange(len(labels)) % 2 == 0  # the runner has shuffled the order
                for stream in (halves, ~halves):
                    score[~stream] = self._train_and_score(
                        images[stream],
                        labels[stream],
                        images[~stream],
                        labels[~stream],
                        task,
                        context,
                        curves,
                        selections,
                    )
        notes = fallback_notes(selections, task.closed_classes)
        return Detection(score, labels, curves, {"pseudo_label": labels}, notes)

    def _train_and_score(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        scored_images: NDArray[np.uint8],
        scored_labels: NDArray[np.int64],
        task: OpenSetTask,
        context: Context,
        curves: dict[str, list[float]],
        selections: list[tuple[int, ...]],
    ) -> NDArray[np.float64]:
        """Train on `images` with pseudo `labels`; (N,) mean losses of `scored_images`.

        selections: gets the classes that each selection lost.
        """
        from open_set_fer.methods.learner import Learner, epoch_learning_rate

        s = self.settings
        classes, channels = len(task.closed_classes), images.shape[1]
        pair = [
            Learner(
                context,
                classes,
                channels,
                index,
                s.batch_size,
                s.weight_decay,
                context.closed_set_model(task).network,
                s.pretrained_stages,
            )
            for index in range(2 if s.cycle_training else 1)
        ]
        consistency_weight = s.consistency_weight if s.attention else 0.0
        counts = np.maximum(np.bincount(labels, minlength=classes), 1)
        class_weights = len(labels) / (classes * counts) if s.balanced else None
        everyone = np.ones(len(labels), dtype=bool)
        selected_by = [everyone] * len(pair)
        scores: list[list[NDArray[np.float64]]] = [[] for _ in pair]
        cycles = [range(start, min(start + s.cycle_length, s.epochs)) for start in range(0, s.epochs, s.cycle_length)]
        for epochs in context.progress(cycles, f"{self.name}: cycles"):
            for index, learner in enumerate(pair):
                # In its first cycle a network learns from all samples, later from what the other one selected.
                selected = everyone if epochs.start == 0 else selected_by[(index + 1) % len(pair)]
                for epoch in context.progress(epochs, f"{self.name}: network {index + 1}"):
                    rate = epoch_learning_rate(s.learning_rate, s.lr_decay, epoch, s.cycle_length if s.cycle_lr else 0)
                    loss = learner.train_epoch(
                        images, labels, selected, rate, consistency_weight, s.erase_probability, class_weights
                    )
                    curves.setdefault(f"loss_{index + 1}", []).append(loss)
                    if epoch == s.epochs - 1 or (s.score_epochs == "last_cycle" and epochs.stop == s.epochs):
                        scores[index].append(
                            learner.losses(scored_images, scored_labels, s.score_batch_norm == "batch")
                        )
                if len(pair) == 2 and (epochs.stop < s.epochs or index == 0):
                    losses = learner.losses(images, labels)
                    selected_by[index], lost = select_clean(losses, labels, s.clean_threshold, task.seed)
                    curves.setdefault(f"clean_share_by_{index + 1}", []).append(float(selected_by[index].mean()))
                    selections.append(lost)
        by_network = np.array([np.mean(values, axis=0) for values in scores])
        if s.score_networks == "both" or len(pair) == 1:
            return np.asarray(by_network.mean(axis=0))
        return np.asarray(by_network[0 if s.score_networks == "first" else 1])
