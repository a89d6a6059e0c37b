"""Networks: the seed's weights, right gradients with two threads, and no shape that oneDNN crashes on."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from open_set_fer.methods.shared.backbones import StridedPointwise, build_network, draw_seed, seeded
from open_set_fer.methods.shared.recipe import BackboneSettings
from tests.methods.gradients import networks

KINDS = ("small", "shallow", "gan", "resnet18", "resnet50")


# Waiting threads sleep: on a busy machine spinning ones make this ten times as slow.
# ReLUs that rounding turns make a deep network's float32 gradients differ by 4 %, with torch's own convolutions too.
@pytest.mark.parametrize(
    ("kind", "batches", "bound"),
    [
        ("small", "3,7", 0.01),
        pytest.param("small", "2,33", 0.01, marks=pytest.mark.slow),
        pytest.param("shallow", "3,7", 0.01, marks=pytest.mark.slow),
        pytest.param("gan", "3,7,33", 0.01, marks=pytest.mark.slow),
        pytest.param("resnet18", "3,7", 0.1, marks=pytest.mark.slow),
        pytest.param("resnet50", "3,7", 0.1, marks=pytest.mark.slow),
    ],
)
def test_gradients_with_two_threads_are_those_of_float64(kind, batches, bound):
    done = subprocess.run(
        [sys.executable, "-m", "tests.methods.gradients", kind, batches],
        env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, f"died with {done.returncode}: {done.stderr}"
    errors = json.loads(done.stdout)
    assert errors
    assert {name: error for name, error in errors.items() if not error < bound} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_no_network_has_a_strided_pointwise_convolution_of_onednn(kind):
    for name, network, _ in networks(kind):
        plain = [m for m in network.modules() if isinstance(m, nn.Conv2d) and not isinstance(m, StridedPointwise)]
        assert not [m for m in plain if m.kernel_size == (1, 1) and m.stride != (1, 1)], name


def face_resnet50(seed: int) -> dict[str, torch.Tensor]:
    """Random tensors with the names and shapes of the VGGFace2 checkpoint, its classifier cut to ten identities."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, norm: str, outputs: int, inputs: int, side: int) -> None:
        scale = (2 / (inputs * side * side)) ** 0.5
        state[f"{name}.weight"] = torch.randn(outputs, inputs, side, side, generator=generator) * scale
        for part, least in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2), ("running_var", 0.8)):
            state[f"{norm}.{part}"] = least + 0.4 * torch.rand(outputs, generator=generator)

    convolution("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for layer, (blocks, planes) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 1):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            for number, (outputs, taken, side) in enumerate(
                ((planes, inputs, 1), (planes, planes, 3), (4 * planes, planes, 1)), 1
            ):
                convolution(f"{name}.conv{number}", f"{name}.bn{number}", outputs, taken, side)
            if block == 0:
                convolution(f"{name}.downsample.0", f"{name}.downsample.1", 4 * planes, inputs, 1)
            inputs = 4 * planes
    state["fc.weight"], state["fc.bias"] = torch.randn(10, 2048, generator=generator), torch.zeros(10)
    return state


def face_feature_map(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """What the VGGFace2 repository's ResNet-50 computes of prepared images, written out: stride in the first 1x1."""

    def unit(x: torch.Tensor, name: str, norm: str, stride: int, padding: int) -> torch.Tensor:
        x = F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    x = F.max_pool2d(F.relu(unit(x, "conv1", "bn1", 2, 3)), 3, 2, ceil_mode=True)
    for layer, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            name, stride = f"layer{layer}.{block}", 2 if block == 0 and layer > 1 else 1
            out = F.relu(unit(x, f"{name}.conv1", f"{name}.bn1", stride, 0))
            out = F.relu(unit(out, f"{name}.conv2", f"{name}.bn2", 1, 1))
            out = unit(out, f"{name}.conv3", f"{name}.bn3", 1, 0)
            x = unit(x, f"{name}.downsample.0", f"{name}.downsample.1", stride, 0) if block == 0 else x
            x = F.relu(out + x)
    return x


def test_the_face_checkpoint_computes_what_its_own_network_does(tmp_path):
    state = face_resnet50(0)
    path = tmp_path / "resnet50_ft_weight.pkl"
    path.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in state.items()}, protocol=2))
    images = torch.randint(0, 256, (2, 3, 75, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    face, plain = (
        build_network(BackboneSettings("resnet50", stem=stem, weights=str(path)), 6, 3, 0).eval()
        for stem in ("face", "torchvision")
    )
    with torch.inference_mode():
        expected = face_feature_map(state, face.prepare(images))
        scale = float(expected.abs().max())
        torch.testing.assert_close(face.feature_map(face.prepare(images)), expected, rtol=1e-4, atol=1e-4 * scale)
        other = plain.feature_map(plain.prepare(images))
    assert other.shape == expected.shape
    assert float((other - expected).abs().max()) > 0.1 * scale


def test_same_seed_same_weights_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    a, b, c = (build_network(BackboneSettings(), 6, 1, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.fc.weight, c.fc.weight)


def test_the_shallow_networks_stages():
    """1.5 and 3 times the stem's width, and at 48 px a last map of 6x6, as the small network's."""
    network = build_network(BackboneSettings("shallow", width=32), 6, 1, 0).eval()
    x = torch.zeros(2, 1, 48, 48)
    shapes = [tuple(network.to_stage(x, stage).shape[1:]) for stage in range(3)]
    assert shapes == [(32, 24, 24), (48, 12, 12), (96, 6, 6)]
    assert network.widths == [48, 96]


def test_mixed_precision_computes_stem_and_stages_alone_in_bfloat16():
    """Against the same blocks by hand: convolutions of rounded numbers, all else as it is."""
    network = build_network(BackboneSettings(width=8, precision="mixed"), 6, 1, 0).eval()
    full = build_network(BackboneSettings(width=8), 6, 1, 0).eval()
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    images = torch.randint(0, 256, (5, 1, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    x = full.prepare(images)
    given = network.prepare(images)
    assert given.dtype == torch.float32
    assert torch.equal(given, x)
    hidden = network.to_stage(x, 1)
    found = network.from_stage(hidden, 1).detach()
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == len([m for m in full.modules() if isinstance(m, nn.Conv2d)])
    assert {hidden.dtype, found.dtype, network.classify(found).dtype} == {torch.float32}
    assert torch.equal(network.classify(found), full.classify(found))  # the linear layer is not rounded
    expected = full.feature_map(x).detach()
    error = float((found - expected).norm() / expected.norm())
    assert 1e-4 < error < 0.02, error
    rounded = [nn.Parameter(p.bfloat16().float()) for p in full.stem.parameters()]
    by_hand = F.conv2d(x.bfloat16().float(), rounded[0], stride=2, padding=1).bfloat16().float()
    torch.testing.assert_close(network.to_stage(x, 0), full.stem[1:](by_hand), rtol=0.02, atol=0.02)


def test_mixed_precision_trains_float32_weights():
    gradients = []
    for precision in ("full", "mixed"):
        network = build_network(BackboneSettings(width=8, precision=precision), 3, 1, 0).train()
        images = torch.randint(0, 256, (12, 1, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        F.cross_entropy(network(network.prepare(images)), torch.arange(12) % 3).backward()
        assert {p.grad.dtype for p in network.parameters()} == {torch.float32}
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    full, mixed = gradients
    assert 0.0 < float((mixed - full).norm() / full.norm()) < 0.2


def test_seeds_are_the_generators():
    generator = torch.Generator().manual_seed(3)
    seeds = [draw_seed(generator) for _ in range(3)]
    generator.manual_seed(3)
    assert seeds == torch.randint(2**62, (3,), generator=generator).tolist()
    assert len(set(seeds)) == 3


def test_seeded_layers_repeat_and_the_global_generator_goes_on_as_if_nothing_was():
    before = torch.random.get_rng_state()
    layers = []
    for seed in (5, 5, 6):
        with seeded(seed):
            layers.append(torch.nn.Linear(3, 2).weight)
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[0], layers[2])
    assert torch.equal(torch.random.get_rng_state(), before)
