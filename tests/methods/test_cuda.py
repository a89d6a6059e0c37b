"""Every method on device `cuda`, without a card: a tensor on the wrong device fails, and the numbers are the CPU's."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.task_run import TaskRun
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import built_in_labels, load_profile
from open_set_fer.benchmark.storage.results_dir import Record
from open_set_fer.methods import eow
from open_set_fer.methods.contract import Detection, Method, OpenSetTask
from open_set_fer.methods.shared import augmentation, training
from open_set_fer.methods.shared.backbones import Network, build_network
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings, Input
from open_set_fer.methods.shared.scorers import plans, rebuild, tensors
from open_set_fer.methods.shared.unfinished import Unfinished
from open_set_fer.testing.methods import PlainContext, task_and_context
from tests.card import WrongDevice, card

SMOKE = load_profile("smoke")
CHANGES: dict[str, dict[str, Any]] = {"knn": {"knn_k": 3}, "cleanlab": {"folds": 2}}
SWITCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "ours, every switch": (
        "ours-online",
        {
            "balanced": True,
            "noise_probability": 0.0,
            "score_augmented": True,
            "score_batch_norm": "batch",
            "score_epochs": "cycles",
            "score_networks": "second",
        },
    ),
    "ours, the last cycle": ("ours", {"score_epochs": "last_cycle", "pretrained_stages": 2}),
    "eow, towards": ("eow", {"sgld_direction": "towards"}),
    "proser, any pair": ("proser", {"mix_different_only": False, "dummies": 3}),
    "dias, as published": ("dias", {"warm_start": False, "copycat_statistics": False, "erase_probability": 0.5}),
    "dias, adam": ("dias", {"optimizer": "adam", "dropout": 0.0}),
}
CASES = {label: (label, CHANGES.get(label, {})) for label in built_in_labels()} | SWITCHES
RECIPE = ClosedSetSettings(epochs=1, batch_size=32, augmentation="geometry")  # the card draws other noise


RECIPE = replace(RECIPE, targets="votes")


def task_of_colour() -> tuple[OpenSetTask, NDArray[np.int64]]:
    """A small task with votes and held-out faces, and the test faces' labels."""
    task, _, labels = task_and_context(n=24, classes=3)
    held_out = {"held_out_images": task.train_images[::2].copy(), "held_out_labels": task.train_labels[::2]}
    return replace(task, train_votes=np.eye(3, dtype=np.uint8)[task.train_labels] * 7 + 1, **held_out), labels


def trained(device: str, recipe: ClosedSetSettings = RECIPE, **backbone: Any) -> Network:
    """The closed-set model of the task, trained on the device."""
    task, _ = task_of_colour()
    network = build_network(BackboneSettings("small", width=4, **backbone), 3, 1, 0).to(device)
    generator = torch.Generator().manual_seed(0)
    given = task.train_images, task.train_labels, recipe, generator, lambda steps, _: steps, task.train_votes
    training.train_closed_set(network, *given)
    return network.eval().requires_grad_(False)


@cache
def model() -> Network:
    """The closed-set model that methods are lent, on the CPU."""
    return trained("cpu", ClosedSetSettings(epochs=20, batch_size=16, learning_rate=5e-3, lr_decay=1.0))


def detect(method: Method, device: str, **changes: Any) -> Detection:
    """A detection on the task, with the scores of its scorer after saving and loading."""
    task, labels = task_of_colour()
    task = replace(task, **changes)
    network = copy.deepcopy(model()).to(device)
    context = PlainContext(network, np.eye(3, dtype=np.float32)[labels])
    context.backbone, context.device, context.closed_set = network.settings, torch.device(device), RECIPE
    detection = method.detect(task, context)
    if (scorer := detection.scorer) is None:
        return detection
    again = rebuild(type(scorer), plans(scorer), tensors(scorer), scorer.settings, torch.device(device))
    return replace(detection, extras=detection.extras | {"again": again.score(task.test_images).unknown_score})


def check(method: Method, **changes: Any) -> None:
    """Assert that a method gives the same numbers on the card and on the CPU."""
    with card() as device:
        found = detect(method, "cuda", **changes)
        assert found.network is None or next(found.network.parameters()).device.type == "cuda"
    assert device.operations > 0
    expected = detect(method, "cpu", **changes)
    assert found.extras.keys() == expected.extras.keys()
    pairs = [(found.extras[name], expected.extras[name]) for name in expected.extras]
    for one, other in [(found.unknown_score, expected.unknown_score), *pairs]:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)  # the order of sums may differ


@pytest.mark.parametrize("case", CASES)
def test_every_method_computes_on_a_card_what_it_computes_on_the_cpu(case):
    label, settings = CASES[case]
    check(replace(SMOKE.method(label), **settings))


def test_faces_to_learn_from_beside_those_to_score():
    task, _ = task_of_colour()
    for label in ("ours-plus", "two-sample"):
        check(SMOKE.method(label), pool_images=task.train_images[:20], known_images=task.train_images[20:])


@pytest.mark.parametrize(
    "changes", [{}, {"schedule": "one_cycle", "targets": "labels", "augmentation": "flip_or_noise"}]
)
def test_the_closed_set_model_is_trained_on_a_card(changes):
    recipe = replace(RECIPE, epochs=1, **changes)
    with card():
        state = {name: tensor.cpu() for name, tensor in trained("cuda", recipe).state_dict().items()}
    for name, tensor in trained("cpu", recipe).state_dict().items():
        # The card draws its own noise.
        torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-2 if changes else 1e-6)


def test_noise_is_drawn_on_the_card():
    x, std = torch.zeros(64, 1, 16, 16), torch.ones(1)
    with card():
        random = torch.Generator().manual_seed(0)
        for change in (augmentation.flip_or_noise, partial(augmentation.add_noise, probability=0.5)):
            noisy = change(x.to("cuda"), std.to("cuda"), generator=random).cpu()
            assert 0.1 < float((noisy.flatten(1).std(dim=1) > 0).float().mean()) < 0.7


def test_mixed_precision_computes_the_stages_in_bfloat16_and_everything_else_in_float32():
    seen = []
    with card():
        network = build_network(BackboneSettings("small", width=4, precision="mixed"), 3, 1, 0).to("cuda")
        network.stages[0].register_forward_hook(lambda module, given, result: seen.append(result.dtype))
        logits = network(network.prepare(torch.zeros(4, 1, 24, 24, dtype=torch.uint8)))
        logits.square().mean().backward()
        assert (logits.dtype, logits.device.type) == (torch.float32, "cuda")
        assert {parameter.grad.dtype for parameter in network.parameters()} == {torch.float32}
        trained("cuda", replace(RECIPE, epochs=1), precision="mixed")
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_and_scaled_images_on_a_card(name):
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 40, 40), dtype=np.uint8)
    settings = BackboneSettings(name, stem="face", input=Input(size=32, mean=(0.5,), sd=(0.2,)))
    with card():
        found = training.evaluate(build_network(settings, 3, 1, 0).to("cuda"), images)
    np.testing.assert_allclose(found, training.evaluate(build_network(settings, 3, 1, 0), images), rtol=1e-4, atol=1e-5)


def test_a_cell_is_computed_and_written_on_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(Unfinished, "after_epoch", lambda self, state: state())  # fake tensors cannot be pickled
    profile = load_profile("smoke")
    cells, faces = make_plan(profile, Selection(methods=("ours-plus",)), tmp_path / "cache")
    with card():
        run = TaskRun.of(cells[0], faces["synthetic"], tmp_path, torch.device("cuda"))
        record = Record.of(cells[0], profile, faces["synthetic"])
        result = run.compute(tmp_path / "cell", record, RunOptions(keep_features=True, keep_models=True))
    assert result.tags["device"].startswith("cuda")
    assert 0 < result.metrics["auroc"] < 1
    assert (tmp_path / "cell/model").is_dir()


def erasing_mask_on_the_cpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(augmentation, "random_erase", lambda x, *_: x.masked_fill(torch.ones(len(x), 1, 1, 1) > 0, 0.0))


def buffer_indexed_on_the_card(patch: pytest.MonkeyPatch) -> None:
    store = eow.ReplayBuffer.store
    patch.setattr(eow.ReplayBuffer, "store", lambda self, where, samples: store(self, where.to("cuda"), samples))


def generator_of_the_cpu(patch: pytest.MonkeyPatch) -> None:
    def noise(x: torch.Tensor, scale: float, generator: torch.Generator) -> torch.Tensor:
        return scale * torch.randn(x.shape, generator=generator, device=x.device)

    patch.setattr(eow, "_noise_like", noise)


def network_left_on_the_cpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.nn.Linear, "to", lambda layer, device: layer)


def logits_read_without_a_copy(patch: pytest.MonkeyPatch) -> None:
    def evaluate(network: Network, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return network(network.prepare(training.as_tensor(images))).numpy()

    patch.setattr(training, "evaluate", evaluate)


@pytest.mark.parametrize(
    ("label", "mistake", "error"),
    [
        ("co-teaching", erasing_mask_on_the_cpu, FakeTensorDeviceMismatchError),
        ("eow", buffer_indexed_on_the_card, WrongDevice),
        ("eow", generator_of_the_cpu, WrongDevice),
        ("proser", network_left_on_the_cpu, FakeTensorDeviceMismatchError),
        ("label-loss", logits_read_without_a_copy, RuntimeError),
    ],
)
def test_a_mistake_that_the_cpu_does_not_notice_fails_on_the_card(label, mistake, error, monkeypatch):
    method = SMOKE.method(label)
    model()
    mistake(monkeypatch)
    if mistake is not buffer_indexed_on_the_card:
        detect(method, "cpu")
    with card(), pytest.raises(error):
        detect(method, "cuda")
