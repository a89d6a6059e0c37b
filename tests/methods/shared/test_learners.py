"""Learners start where they are told to; attention maps and clean samples against references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.augmentation import random_erase
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.learners import (
    Learner,
    attention_maps,
    clean_probability,
    consistency_loss,
    guard_notes,
    select_clean,
)
from open_set_fer.methods.shared.recipe import BackboneSettings
from open_set_fer.testing import task_and_context


def test_pretrained_stages_start_from_the_closed_set_model():
    task, context, _ = task_and_context()
    network = context.closed_set_model(task).network
    for stages in (0, 2):
        learner = Learner(context, 3, 1, 16, 0.0, network, stages)
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
    assert Learner(context, 3, 1, 16, 0.0, network, 0).network.widths == [8, 16, 32]
    with pytest.raises(SuiteError, match="closed-set model is of another kind"):
        Learner(context, 3, 1, 16, 0.0, network, 2)


def test_losses_of_augmented_images_are_those_of_noisy_and_erased_ones():
    """In evaluation mode, and of the given images where no augmentation is asked for."""
    task, context, truth = task_and_context()
    learner = Learner(context, 3, 1, 16, 0.0)
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


@pytest.mark.parametrize(
    ("backbone", "size", "map_size"),
    [
        (BackboneSettings("small", width=8), 48, 6),
        (BackboneSettings("resnet18"), 224, 7),
        (BackboneSettings("resnet18", stem="face"), 224, 7),
        (BackboneSettings("resnet50"), 64, 2),
    ],
)
def test_mean_of_the_map_plus_bias_is_the_logit(backbone, size, map_size):
    network = build_network(backbone, classes=6, channels=1, seed=3).eval()
    torch.nn.init.normal_(network.fc.bias)
    x = network.prepare(torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8))
    with torch.no_grad():
        feature_map = network.feature_map(x)
        maps = attention_maps(feature_map, network.fc.weight)
        logits = network(x)
    assert maps.shape == (2, 6, map_size, map_size)
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + network.fc.bias, logits, rtol=1e-4, atol=1e-4)


def test_maps_are_the_weighted_sum_and_give_the_classifier_no_gradient():
    rng = np.random.default_rng(0)
    features, weight = rng.normal(size=(2, 5, 3, 4)), rng.normal(size=(6, 5))
    f = torch.tensor(features, requires_grad=True)
    w = torch.tensor(weight, requires_grad=True)
    maps = attention_maps(f, w)
    by_hand = (weight[None, :, :, None, None] * features[:, None]).sum(axis=2)
    np.testing.assert_allclose(maps.detach().numpy(), by_hand, rtol=1e-12)
    maps.square().sum().backward()
    assert w.grad is None
    assert f.grad is not None


def test_consistency_is_zero_on_mirrored_maps_and_the_mean_square_otherwise():
    rng = np.random.default_rng(1)
    maps, other = rng.normal(size=(2, 3, 6, 5, 7)).astype(np.float64)
    mirrored = torch.tensor(maps[..., ::-1].copy())
    assert consistency_loss(torch.tensor(maps), mirrored).item() == 0.0
    total = 0.0
    for n, k, i, j in np.ndindex(3, 6, 5, 7):
        total += (maps[n, k, i, j] - other[n, k, i, 6 - j]) ** 2
    assert consistency_loss(torch.tensor(maps), torch.tensor(other)).item() == pytest.approx(
        total / maps.size, rel=1e-12
    )


def test_a_mirror_symmetric_network_on_a_symmetric_face_has_no_loss():
    network = build_network(BackboneSettings("small", width=8), 4, 1, seed=0).eval().double()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # symmetric kernels at stride 1 commute with the flip
            module.weight.data = (module.weight.data + module.weight.data.flip(-1)) / 2
            module.stride = (1, 1)
    x = torch.rand(2, 1, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        maps = attention_maps(network.feature_map(x), network.fc.weight)
        flipped = attention_maps(network.feature_map(x.flip(-1)), network.fc.weight)
    assert consistency_loss(maps, flipped).item() < 1e-20


def test_gmm_on_a_known_mixture():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0.3, 0.1, 3000), rng.normal(2.0, 0.3, 1000)
    losses = np.concatenate([low, high])
    posterior = clean_probability(losses)
    weight_low, weight_high = 0.75 * norm.pdf(losses, 0.3, 0.1), 0.25 * norm.pdf(losses, 2.0, 0.3)
    exact = weight_low / (weight_low + weight_high)
    # The covariance floor widens the narrow component a little, so compare where the exact answer is not on the edge.
    assert np.mean((posterior > 0.5) == (exact > 0.5)) > 0.998
    assert np.mean(np.abs(posterior - exact)) < 0.01
    scaled = clean_probability(losses * 7 + 3)  # scaling to [0, 1] makes the unit of the loss irrelevant
    np.testing.assert_allclose(scaled, posterior, atol=1e-6)


def test_the_mixture_is_divide_mixs():
    """The posterior is that of the sources' call; EM settles in two or three steps, so its cap of 10 is seldom met."""
    losses = np.random.default_rng(1).gamma(1.2, 1.0, 400)
    scaled = ((losses - losses.min()) / (losses.max() - losses.min())).reshape(-1, 1)
    mixture = GaussianMixture(n_components=2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=3).fit(scaled)
    np.testing.assert_array_equal(
        clean_probability(losses, 3), mixture.predict_proba(scaled)[:, mixture.means_.argmin()]
    )


def test_selection_guards():
    losses = np.array([0.1, 0.1, 0.2, 0.1, 3.0, 3.1, 2.9, 3.0])
    kept, lost = select_clean(losses, np.array([0, 1, 0, 1, 0, 1, 0, 1]))
    assert kept.tolist() == [True] * 4 + [False] * 4
    assert lost == ()
    kept, lost = select_clean(losses, np.array([0, 0, 0, 0, 1, 1, 0, 0]))
    assert kept.tolist() == [True] * 6 + [False] * 2  # the class without a clean sample, and no other one
    assert lost == (1,)
    kept, lost = select_clean(losses, np.zeros(8, dtype=int), threshold=1.0)  # nothing is clean
    assert kept.all()
    assert lost == (0,)
    names = ("anger", "disgust", "fear")
    assert guard_notes([(), (1,), (2, 1), (1,)], names) == [
        "a class without a clean sample was kept whole in 3 of 4 selections (lost: disgust, fear)"
    ]
    assert guard_notes([(), ()], names) == []
    assert clean_probability(np.full(5, 0.7)).tolist() == [1.0] * 5
