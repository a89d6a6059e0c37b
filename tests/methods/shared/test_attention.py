"""Attention maps and the consistency loss against identities and a float64 NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from open_set_fer.methods.shared.attention import attention_maps, consistency_loss
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.recipe import BackboneSettings


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
