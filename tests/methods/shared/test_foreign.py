"""Networks of timm and of users: cut into stages that give the model's own logits, or refused with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.backbones import build_network, seeded
from open_set_fer.methods.shared.recipe import BackboneSettings
from open_set_fer.methods.shared.trained import trained_state
from open_set_fer.testing import check_backbone


def pixels(n: int, channels: int = 3, size: int = 48) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def plain(classes: int, channels: int) -> nn.Module:
    """A convolutional network as a user may write it."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes),
    )  # fmt: skip


def without_head(classes: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, classes, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def with_two_layers(classes: int, channels: int) -> nn.Module:
    body = [nn.Conv2d(channels, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, classes))


def no_module(classes: int, channels: int) -> int:
    return classes


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:efficientnet_lite0", "timm:regnety_002"])
def test_a_timm_model_is_cut_into_stages_that_give_its_logits(name):
    timm = pytest.importorskip("timm")
    check_backbone(name)
    network = build_network(BackboneSettings(name), 5, 3, 1).eval()
    with seeded(1):
        model = timm.create_model(name.removeprefix("timm:"), num_classes=5).eval()
    x = network.prepare(pixels(3))
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), atol=1e-4, rtol=1e-4)
    assert len(network.stages) == 4


def test_a_model_of_the_users_own_is_cut_and_grey_faces_fit_it():
    network = check_backbone(f"{__name__}:plain", channels=1)
    assert network.widths == [16, 24]
    assert check_backbone(f"{__name__}:plain").channels == 3


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (f"{__name__}:without_head", "no linear layer with 5 outputs"),
        (f"{__name__}:with_two_layers", "cannot be cut"),
        (f"{__name__}:no_module", "returns a int"),
        (f"{__name__}:absent", "cannot be imported"),
        ("timm:resnet1", "did you mean"),
        ("timm:vit_tiny_patch16_224", "cannot be cut"),
        ("timm:convnext_atto", "not those of its linear layer"),
        ("resnet", "unknown backbone 'resnet', did you mean 'resnet"),
        ("timm:hf_hub/somebody/model", "unknown backbone"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(name, fault):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(SuiteError, match=fault):
        build_network(BackboneSettings(name), 5, 3, 0)


CLASSES = ("neutral", "happiness", "surprise", "sadness")


def saved(tmp_path, state: dict[str, torch.Tensor]):
    path = tmp_path / "mine.pth"
    torch.save(state, path)
    return path


def test_a_trained_model_gives_its_own_logits_for_the_closed_classes(tmp_path):
    model = plain(len(CLASSES), 1).eval()
    path = saved(tmp_path, model.state_dict())
    backbone, closed = BackboneSettings(f"{__name__}:plain"), ("sadness", "neutral", "happiness")
    network = build_network(backbone, 3, 1, 0).eval()
    network.load_state_dict(trained_state(path, backbone, CLASSES, closed, 1))
    x = network.prepare(pixels(5, 1))
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x)[:, [3, 0, 1]])


def test_a_model_that_does_not_fit_is_refused_naming_class_tensor_or_number_of_outputs(tmp_path):
    model = plain(len(CLASSES), 1)
    path, backbone = saved(tmp_path, model.state_dict()), BackboneSettings(f"{__name__}:plain")

    def refused(classes=CLASSES, closed=CLASSES[:2], path=path, backbone=backbone) -> str:
        with pytest.raises(SuiteError) as caught:
            trained_state(path, backbone, classes, closed, 1)
        return str(caught.value)

    assert "no hapiness, did you mean 'happiness'" in refused(closed=("hapiness", "neutral"))
    assert "a class twice" in refused(classes=("neutral", "neutral", "anger", "fear"), closed=("neutral",))
    assert "its head has 4 outputs, closed_set.classes names 3" in refused(classes=CLASSES[:3])
    part = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("0.")}
    assert "2 missing (stem.0.weight, stem.0.bias)" in refused(path=saved(tmp_path, part))
    other = refused(path=saved(tmp_path, model.state_dict()), backbone=BackboneSettings("small"))
    assert "does not fit" in other
    wide = {**model.state_dict(), "9.weight": torch.zeros(len(CLASSES), 48)}
    assert "of another shape (fc.weight)" in refused(path=saved(tmp_path, wide)), "its outputs are as many as classes"
    assert "the file's first: 0.weight" in other
