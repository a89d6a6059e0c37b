"""A learner starts where it is told to."""

from __future__ import annotations

import torch

from open_set_fer.methods.learners import Learner
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
