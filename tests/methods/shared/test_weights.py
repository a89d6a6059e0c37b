"""Foreign checkpoints: every format arrives, nothing in one is executed, another network's is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.recipe import BackboneSettings
from open_set_fer.methods.shared.weights import load_weights, read_checkpoint


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


def test_what_torch_says_of_a_pickle_is_not_passed_on(tmp_path):
    torch.save({"state_dict": Malicious(tmp_path / "executed")}, tmp_path / "w.pth")
    with pytest.raises(SuiteError, match="it holds more than tensors") as raised:
        read_checkpoint(tmp_path / "w.pth")
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors"])
def test_an_empty_checkpoint_is_named(tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    path.touch()
    with pytest.raises(SuiteError, match=rf"w\.{suffix} is not a file of plain tensors"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.eye(3).to_sparse(), "a sparse tensor"),
        (torch.full((3,), float("nan")), "NaN or infinite values"),
        (torch.full((3,), float("inf")), "NaN or infinite values"),
        (torch.zeros(3, dtype=torch.complex64), "torch.complex64"),
        (np.array([{}]), "object"),
        (np.array(["a"]), "<U1"),
    ],
)
def test_what_is_no_dense_tensor_of_finite_numbers_is_named(tmp_path, value, kind):
    path = tmp_path / ("w.pkl" if isinstance(value, np.ndarray) else "w.pth")
    if isinstance(value, np.ndarray):
        path.write_bytes(pickle.dumps({"conv1.weight": value}))
    else:
        torch.save({"conv1.weight": value}, path)
    with pytest.raises(SuiteError, match=rf"conv1\.weight holds {kind}, not finite real numbers"):
        read_checkpoint(path)


def test_a_first_layer_for_other_channels_is_refused(tmp_path):
    torch.save(torchvision_state() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "grey.pth")
    network = build_network(BackboneSettings("resnet18"), 6, 3, seed=0)
    with pytest.raises(SuiteError, match=r"conv1\.weight is \(64, 1, 7, 7\), the network's \(64, 3, 7, 7\)"):
        load_weights(network, tmp_path / "grey.pth")


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
