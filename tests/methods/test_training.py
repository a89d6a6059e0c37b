"""Schedules, augmentation, label-noise selection and weights: numbers, not only shapes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.stats import norm

from open_set_fer.errors import SuiteError
from open_set_fer.methods.augmentation import flip_or_noise, random_erase
from open_set_fer.methods.backbones import build_network
from open_set_fer.methods.label_noise import clean_probability, fallback_notes, select_clean
from open_set_fer.methods.recipe import BackboneSettings
from open_set_fer.methods.training import (
    batches,
    epoch_learning_rate,
    evaluate,
    evaluate_with_batch_statistics,
    sample_losses,
)
from open_set_fer.methods.weights import load_weights, read_checkpoint


def test_cyclic_learning_rate_by_epoch():
    rates = [epoch_learning_rate(2e-4, 0.9, epoch, 10) for epoch in range(40)]
    assert rates[0] == rates[10] == rates[20] == rates[30] == 2e-4
    np.testing.assert_allclose(rates[:10], 2e-4 * 0.9 ** np.arange(10), rtol=1e-12)
    assert rates[10:20] == rates[:10]
    plain = [epoch_learning_rate(2e-4, 0.9, epoch) for epoch in range(40)]
    np.testing.assert_allclose(plain, 2e-4 * 0.9 ** np.arange(40), rtol=1e-12)


def test_batches_cover_every_index_once_but_for_a_last_single_one():
    indices = torch.arange(3, 24)
    seen = torch.cat(list(batches(indices, 5, torch.Generator().manual_seed(0))))
    assert len(seen) == len(set(seen.tolist())) == 20
    assert set(seen.tolist()) < set(indices.tolist())


def test_random_erase_makes_one_rectangle_of_the_stated_area():
    x = torch.ones(4000, 1, 48, 48)
    y = random_erase(x, torch.Generator().manual_seed(0), probability=0.5)
    hit = (y == 0).any(dim=3).any(dim=2).any(dim=1)
    assert abs(hit.float().mean().item() - 0.5) < 0.03
    holes = (y[hit, 0] == 0).float()
    rows, columns = holes.amax(2).sum(1), holes.amax(1).sum(1)
    assert torch.equal(holes.sum((1, 2)), rows * columns)  # a full rectangle
    area = holes.mean((1, 2))
    assert area.min() > 0.01
    assert area.max() < 0.27
    assert abs(area.mean().item() - 0.135) < 0.01
    assert torch.equal(random_erase(x, torch.Generator(), probability=0.0), x)


def test_flip_or_noise_shares_and_variance():
    x = torch.linspace(-1, 1, 32).expand(4000, 1, 8, 32)
    y = flip_or_noise(x, torch.tensor(0.25), torch.Generator().manual_seed(0))
    flipped = torch.isclose(y, x.flip(-1)).all(dim=(1)).flatten(1).all(1)
    same = (y == x).flatten(1).all(1)
    assert abs(flipped.float().mean().item() - 0.25) < 0.03
    assert abs(same.float().mean().item() - 0.5) < 0.03
    noise = (y - x)[~flipped & ~same] * 0.25 * 255
    assert noise.var().item() == pytest.approx(30, rel=0.02)


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


def test_selection_guards():
    losses = np.array([0.1, 0.1, 0.2, 0.1, 3.0, 3.1, 2.9, 3.0])
    kept, lost = select_clean(losses, np.array([0, 1, 0, 1, 0, 1, 0, 1]))
    assert kept.tolist() == [True] * 4 + [False] * 4
    assert lost == ()
    kept, lost = select_clean(losses, np.array([0, 0, 0, 0, 1, 1, 0, 0]))
    assert kept.all()
    assert lost == (1,)
    names = ("anger", "disgust", "fear")
    assert fallback_notes([(), (1,), (2, 1), (1,)], names) == [
        "selection fell back to all samples in 3 of 4 selections (lost: disgust, fear)"
    ]
    assert fallback_notes([(), ()], names) == []
    assert clean_probability(np.full(5, 0.7)).tolist() == [1.0] * 5


def test_batch_statistics_in_scoring_leave_the_network_as_it_was():
    network = build_network(BackboneSettings("small", width=4), 3, 1, 0)
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), dtype=np.uint8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" in name}
    logits = evaluate_with_batch_statistics(network, images, batch_size=20)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items())
    network.train()
    with torch.no_grad():
        expected = network(network.prepare(torch.from_numpy(images))).numpy()
    assert logits == pytest.approx(expected, abs=1e-6)
    # After training mode the running statistics have moved; evaluation mode uses them and gives something else.
    assert np.abs(evaluate(network, images) - expected).max() > 1e-3


def test_sample_losses_in_float64():
    logits = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, 1, 2])
    wide = logits.astype(np.float64)
    by_hand = np.log(np.exp(wide).sum(1)) - wide[np.arange(7), labels]
    np.testing.assert_allclose(sample_losses(logits, labels), by_hand, rtol=1e-12)


# -- foreign weights ------------------------------------------------------------------------------------------------


def torchvision_state() -> dict[str, torch.Tensor]:
    import torchvision

    return torchvision.models.resnet18(weights=None).state_dict()


@pytest.mark.parametrize("form", ["pth", "state_dict", "module", "safetensors", "pkl"])
def test_weights_arrive_whatever_the_format(tmp_path, form):
    state = torchvision_state()
    path = tmp_path / f"weights.{form if form in ('safetensors', 'pkl') else 'pth'}"
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    elif form == "pkl":
        path.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in state.items()}))
    else:
        prefix = "module." if form == "module" else ""
        content = {prefix + name: tensor for name, tensor in state.items()}
        torch.save({"state_dict": content, "epoch": 3} if form == "state_dict" else content, path)
    network = build_network(BackboneSettings("resnet18", stem="face"), 6, 3, seed=0)
    fresh = network.fc.weight.clone()
    report = load_weights(network, path)
    assert torch.equal(network.stages[3][1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.equal(network.stem[1].running_mean, state["bn1.running_mean"])
    assert torch.equal(network.fc.weight, fresh)  # the classifier stays fresh
    assert report["missing"] == report["misshapen"] == []
    assert sorted(report["unexpected"]) == ["fc.bias", "fc.weight"]


class Malicious:
    """A pickle that would write a file if anything executed it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_nothing_in_a_malicious_checkpoint_is_executed(tmp_path, suffix):
    victim = tmp_path / "executed"
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": Malicious(victim)}, path)
    else:
        path.write_bytes(pickle.dumps({"conv1.weight": Malicious(victim)}))
    with pytest.raises(SuiteError, match="not a file of plain tensors"):
        read_checkpoint(path)
    assert not victim.exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({name: t for name, t in torchvision_state().items() if name.startswith(("conv1", "layer1"))}, path)
    network = build_network(BackboneSettings("resnet18"), 6, 3, seed=0)
    with pytest.raises(SuiteError, match=r"fills \d+ of the network's \d+ tensors; first missing"):
        load_weights(network, path)
    with pytest.raises(SuiteError, match="no checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(SuiteError, match="no pretrained weights"):
        build_network(BackboneSettings("small", weights=str(path)), 6, 1, seed=0)
