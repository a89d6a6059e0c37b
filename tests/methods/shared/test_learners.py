"""A learner starts where it is told to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.augmentation import random_erase
from open_set_fer.methods.shared.learners import Learner
from open_set_fer.methods.shared.recipe import BackboneSettings
from open_set_fer.testing import task_and_context


def test_pretrained_stages_start_from_the_closed_set_model():
    task, context, _ = task_and_context()
    network = context.closed_set_model(task).network
    for stages in (0, 2):
        learner = Learner(context, 3, 1, 0, 16, 0.0, network, stages)
        equal = [
            torch.equal(a, b)
            for a, b in zip(learner.network.stages.parameters(), network.stages.parameters(), strict=True)
        ]
        per_stage = [len(list(stage.parameters())) for stage in network.stages]
        assert sum(equal[: sum(per_stage[:stages])]) == sum(per_stage[:stages])
        assert not all(equal[sum(per_stage[:stages]) :])
        assert torch.equal(learner.network.stem[0].weight, network.stem[0].weight) == (stages > 0)


def test_stages_of_another_kind_of_network_are_refused():
    task, context, _ = task_and_context()
    network = context.closed_set_model(task).network
    context.backbone = BackboneSettings("small", width=8)
    assert Learner(context, 3, 1, 0, 16, 0.0, network, 0).network.widths == [8, 16, 32]
    with pytest.raises(SuiteError, match="closed-set model is of another kind"):
        Learner(context, 3, 1, 0, 16, 0.0, network, 2)


def test_losses_of_augmented_images_are_those_of_noisy_and_erased_ones():
    """In evaluation mode, and of the given images where no augmentation is asked for."""
    task, context, truth = task_and_context()
    learner = Learner(context, 3, 1, 0, 16, 0.0)
    learner.network.train()
    state = learner.generator.get_state()
    augmented = learner.losses(task.test_images, truth, augmentation=(1.0, 1.0))
    assert not learner.network.training

    by_hand = torch.Generator()
    by_hand.set_state(state)
    x = (torch.from_numpy(task.test_images.copy()).float() / 255 - 0.5) / 0.25
    torch.rand(96, generator=by_hand)  # which images: all
    x = random_erase(x + torch.randn(x.shape, generator=by_hand) * 30**0.5 / 255 / 0.25, by_hand, 1.0)
    with torch.inference_mode():
        logits = learner.network(x)
        expected = F.cross_entropy(logits.double(), torch.from_numpy(truth), reduction="none")
    np.testing.assert_allclose(augmented, expected.numpy(), rtol=1e-4, atol=1e-5)
    plain = learner.losses(task.test_images, truth)
    assert (plain != augmented).all()
    np.testing.assert_array_equal(plain, learner.losses(task.test_images, truth, augmentation=(0.0, 0.0)))
