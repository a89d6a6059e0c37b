"""DIAS: each loss against NumPy, the two batch-norm sets, the order of the steps, and a whole run."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from open_set_fer.benchmark.planning.settings import build_settings
from open_set_fer.errors import SuiteError
from open_set_fer.methods import dias as module
from open_set_fer.methods.contract import OpenSetTask
from open_set_fer.methods.dias import (
    Dias,
    add_dropout,
    adversarial_loss,
    auxiliary_twin,
    build_gan,
    features,
    pull_distance,
    smoothed_cross_entropy,
)
from open_set_fer.methods.shared.backbones import build_network
from open_set_fer.methods.shared.recipe import BackboneSettings
from open_set_fer.testing import task_and_context

QUICK = {"epochs": 2, "batch_size": 20, "gan_width": 2, "optimizer": "adam", "learning_rate": 3e-3, "dropout": 0.0}


def detect(**settings):
    task, context, truth = task_and_context()
    return Dias(**{**QUICK, **settings}).detect(task, context), truth


def simulator(**settings):
    task, context, _ = task_and_context()
    return module._Simulator(Dias(**{**QUICK, **settings}), task, context)


def batch_norms(network):
    return [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def buffers(network):
    return [b.clone() for norm in batch_norms(network) for b in norm.buffers()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_published_settings():
    s = Dias()
    assert (s.epochs, s.batch_size, s.optimizer, s.learning_rate, s.weight_decay) == (200, 64, "sgd", 0.1, 1e-4)
    assert (s.beta, s.fake_ratio, s.pull_ratio, s.smoothing, s.smoothing2) == (0.1, 0.1, 1.0, 0.5, 1.0)
    assert (s.lr_step, s.gan_learning_rate, s.gan_width, s.erase_probability) == (60, 2e-4, 64, 0.0)
    assert s.dropout == 0.2
    assert (s.copycat_statistics, s.warm_start, s.batches_per_pass) == (True, False, 0)
    nets = simulator(optimizer="sgd")
    assert nets.classifier_optimizer.param_groups[0]["momentum"] == 0.9
    assert nets.generator_optimizer.param_groups[0]["betas"] == (0.5, 0.999)
    with pytest.raises(SuiteError, match="fake_ration"):
        build_settings(Dias, {"fake_ration": 1.0}, "methods.dias")


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_smoothed_cross_entropy_closed_form(strength):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, 4)) * 3, rng.integers(0, 4, 7)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    shares = rng.dirichlet([1.0, 1.0, 1.0, 1.0], 7)
    for given, weights in ((labels, np.eye(4)[labels]), (shares, shares)):
        target = (1 - strength) * weights + strength / 4
        expected = -(target * log_p).sum(axis=1).mean()
        value = smoothed_cross_entropy(torch.from_numpy(logits), torch.from_numpy(given), strength)
        np.testing.assert_allclose(value.item(), expected, rtol=1e-12)


def test_at_full_strength_the_target_is_uniform():
    logits = torch.zeros((3, 5), dtype=torch.float64, requires_grad=True)
    values = [smoothed_cross_entropy(logits, torch.full((3,), k), 1.0) for k in range(5)]
    np.testing.assert_allclose([value.item() for value in values], np.log(5), rtol=1e-12)  # its least value
    values[0].backward()
    assert logits.grad.abs().max() < 1e-15


def test_pull_distance_is_the_mean_over_depths_of_the_mean_absolute_difference():
    rng = np.random.default_rng(1)
    own = [rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 6, 2, 2))]
    others = [rng.normal(size=a.shape) for a in own]
    given = [torch.from_numpy(a).requires_grad_() for a in own]
    targets = [torch.from_numpy(a).requires_grad_() for a in others]
    value = pull_distance(given, targets)
    expected = np.mean([np.abs(a - b).mean() for a, b in zip(own, others, strict=True)])
    np.testing.assert_allclose(value.item(), expected, rtol=1e-12)
    value.backward()
    assert given[0].grad is not None
    assert targets[0].grad is None


def test_adversarial_loss_is_binary_cross_entropy():
    logits = np.array([-2.0, 0.0, 3.0])
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(adversarial_loss(torch.from_numpy(logits), True).item(), -np.log(p).mean())
    np.testing.assert_allclose(adversarial_loss(torch.from_numpy(logits), False).item(), -np.log(1 - p).mean())


@pytest.mark.parametrize("size", [(24, 24), (48, 48), (32, 32), (50, 36), (224, 224), (7, 7)])
def test_the_gan_follows_the_image_size(size):
    generator, discriminator = build_gan(*size, 1, 3, 1, seed=0)
    images = generator(torch.randn(2, module.NOISE, 1, 1))
    assert images.shape[1] == 1
    assert 0 <= images.min() <= images.max() <= 1
    assert all(0 <= made - asked < 32 for made, asked in zip(images.shape[2:], size, strict=True))
    assert discriminator(torch.randn(2, 3, *size)).shape == (2,)
    again, _ = build_gan(*size, 1, 3, 1, seed=0)
    assert same(generator.parameters(), again.parameters())


def test_the_published_gan_at_32_pixels():
    generator, discriminator = build_gan(32, 32, 3, 3, 64, seed=0)
    convolutions = [tuple(m.weight.shape) for m in generator if isinstance(m, torch.nn.ConvTranspose2d)]
    assert convolutions == [(100, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 3, 4, 4)]
    convolutions = [tuple(m.weight.shape) for m in discriminator if isinstance(m, torch.nn.Conv2d)]
    assert convolutions == [(128, 3, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1024, 512, 4, 4)]


def test_generated_images_have_the_normalised_range():
    nets = simulator()
    images = nets.generate(5)
    low, high = nets.classifier.prepare(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)).flatten()
    assert images.shape == (5, 1, 24, 24)
    assert low <= images.min() < images.max() <= high


def test_a_grey_task_on_a_colour_network():
    task, context, _ = task_and_context()
    context.backbone = BackboneSettings("resnet18")
    nets = module._Simulator(Dias(**QUICK), task, context)
    images = nets.generate(2) * nets.classifier.std + nets.classifier.mean
    assert images.shape == (2, 3, 24, 24)
    torch.testing.assert_close(images[:, 0], images[:, 2])
    assert np.isfinite(list(nets.gan_step(torch.arange(4)).values())).all()


def test_the_twin_shares_all_but_batch_norm():
    network = build_network(BackboneSettings("small", width=4), 3, 1, 0)
    twin = auxiliary_twin(network)
    own = {id(p) for norm in batch_norms(network) for p in norm.parameters()}
    twins = {id(p) for norm in batch_norms(twin) for p in norm.parameters()}
    assert not own & twins
    assert {id(p) for p in network.parameters()} - own == {id(p) for p in twin.parameters()} - twins
    x = torch.randn(2, 1, 24, 24)
    torch.testing.assert_close(twin.eval()(x), network.eval()(x))


def test_generated_images_leave_the_main_batch_norm_alone():
    nets = simulator()
    main, auxiliary = buffers(nets.classifier), buffers(nets.twin)
    nets.twin(nets.generate(6))
    assert same(main, buffers(nets.classifier))
    assert not same(auxiliary, buffers(nets.twin))


def test_the_classifier_meets_generated_images_through_the_twin_alone(monkeypatch):
    nets = simulator()
    made, seen = [], {"classifier": [], "twin": []}
    original = nets.generate
    monkeypatch.setattr(nets, "generate", lambda n: made.append(original(n)) or made[-1])
    nets.classifier.register_forward_pre_hook(lambda m, inputs: seen["classifier"].append(inputs[0]))
    nets.twin.register_forward_pre_hook(lambda m, inputs: seen["twin"].append(inputs[0]))
    nets.gan_step(torch.arange(8))
    assert len(made) == 2  # fresh noise for the classifier's step
    assert same(seen["twin"], made)
    assert len(seen["classifier"]) == 1
    before = buffers(nets.twin)
    nets.copycat_step(torch.arange(8))
    assert same(before, buffers(nets.twin))


def test_copycat_statistics():
    """Without them the running statistics are those of the real batch alone; the losses are the same."""
    published, without = simulator(), simulator(copycat_statistics=False)
    first, second = (nets.copycat_step(torch.arange(8)) for nets in (published, without))
    assert first == second
    assert not same(buffers(published.classifier), buffers(without.classifier))
    assert all(norm.momentum == 0.1 for norm in batch_norms(without.classifier))
    plain = simulator()
    _, x, _ = plain._load(torch.arange(8))
    plain.classifier.train()(x)
    running = [(norm.running_mean, norm.running_var) for norm in batch_norms(plain.classifier)]
    for norm, (mean, variance) in zip(batch_norms(without.classifier), running, strict=True):
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance)


def test_losses_of_the_gan_step(monkeypatch):
    """Discriminator: real and generated; generator: BCE - beta x flatness; classifier: CE + beta x flatness."""
    smoothed, adversarial = [], []
    monkeypatch.setattr(module, "smoothed_cross_entropy", record(smoothed, smoothed_cross_entropy))
    monkeypatch.setattr(module, "adversarial_loss", record(adversarial, adversarial_loss))
    losses = simulator(beta=0.3).gan_step(torch.arange(8))
    real, fake, fooled = (value for _, value in adversarial)
    assert [arguments[1] for arguments, _ in adversarial] == [True, False, True]
    np.testing.assert_allclose(losses["discriminator_loss"], real + fake, rtol=1e-6)
    assert [arguments[2] for arguments, _ in smoothed] == [1.0, 0.0, 1.0]
    flat_g, plain, flat_f = (value for _, value in smoothed)
    np.testing.assert_allclose(losses["generator_loss"], fooled - 0.3 * flat_g, rtol=1e-6)
    np.testing.assert_allclose(losses["gan_pass_loss"], plain + 0.3 * flat_f, rtol=1e-6)


def test_losses_of_the_copycat_step(monkeypatch):
    """Copycat: CE + pull; classifier: CE + fake_ratio x mean of final (smoothing2) and two hidden (smoothing) terms."""
    smoothed, pulls = [], []
    monkeypatch.setattr(module, "smoothed_cross_entropy", record(smoothed, smoothed_cross_entropy))
    monkeypatch.setattr(module, "pull_distance", record(pulls, pull_distance))
    losses = simulator(pull_ratio=2.0, fake_ratio=0.4).copycat_step(torch.arange(8))
    assert [arguments[2] for arguments, _ in smoothed] == [0.0, 0.0, 1.0, 0.5, 0.5]
    copycat, plain, *fakes = (value for _, value in smoothed)
    assert losses["pull_distance"] == pulls[0][1]
    np.testing.assert_allclose(losses["copycat_loss"], copycat + 2 * pulls[0][1], rtol=1e-6)
    np.testing.assert_allclose(losses["copycat_pass_loss"], plain + 0.4 * np.mean(fakes), rtol=1e-6)


def record(calls, original):
    def recorded(*arguments):
        value = original(*arguments)
        calls.append((arguments, value.item()))
        return value

    return recorded


@pytest.mark.parametrize("channels", [1, 3])
def test_dropout_zeroes_channels_before_each_block_and_only_in_training(channels):
    """What each block gets: in training some channels are zero and the others are 1 / (1 - p) times as large."""
    network = build_network(BackboneSettings("small", width=8), 3, channels, 0)
    plain = deepcopy(network)
    add_dropout(network, 0.25, torch.Generator().manual_seed(0))
    got, share = [], []
    for module_ in (network.stem, network.stages[0], network.stages[1], network.stages[2]):
        module_.register_forward_pre_hook(lambda _, inputs: got.append(inputs[0].detach().clone()))
    x = torch.rand(40, channels, 24, 24) + 0.5
    network.train()(x)
    image, first, second, third = got
    for before, after in ((plain.train().stages[0](first), second), (plain.stages[1](second), third), (x, image)):
        scale = (after / before).nan_to_num(0.0).amax(dim=(2, 3))
        assert set(scale.mul(3).round(decimals=2).unique().tolist()) <= {0.0, 3.0, 4.0}
        share.append((scale == 0).float().mean().item())
    assert share[0] == pytest.approx(0.25, abs=0.08)
    assert share[1] == pytest.approx(0.25, abs=0.08)
    assert (share[2] == 0) == (channels == 1)  # a grey image is not wiped out
    torch.testing.assert_close(network.from_stage(first, 0).shape, plain.from_stage(first, 0).shape)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network.eval()(x), plain.eval()(x))


def test_features_that_are_handed_in_meet_the_dropout_too():
    nets = simulator(dropout=0.5)
    nets.classifier.train()
    hidden = torch.rand(6, 4, 12, 12)
    assert not torch.equal(nets.classifier.from_stage(hidden, 1), nets.classifier.from_stage(hidden, 1))
    assert np.isfinite([*nets.gan_step(torch.arange(8)).values(), *nets.copycat_step(torch.arange(8)).values()]).all()
    nets.classifier.eval()
    assert torch.equal(nets.classifier.from_stage(hidden, 1), nets.classifier.from_stage(hidden, 1))


@pytest.mark.parametrize(("kind", "after"), [("small", (1, 2)), ("shallow", (0, 1))])
def test_features_are_the_stages_outputs(kind, after):
    network = build_network(BackboneSettings(kind, width=4), 3, 1, 0).eval()
    x = torch.randn(2, 1, 24, 24)
    first, second, last = features(network, x)
    torch.testing.assert_close(first, network.to_stage(x, after[0]))
    torch.testing.assert_close(second, network.to_stage(x, after[1]))
    torch.testing.assert_close(network.classify(last), network(x))


def test_a_run_learns_and_finds_noise():
    """Closed bars against pure noise: predicted right, and the noise scores higher."""
    task, context, truth = task_and_context()
    noise = np.random.default_rng(9).integers(0, 90, (40, 1, 24, 24), dtype=np.uint8)
    images = np.concatenate([task.test_images, noise])
    task = OpenSetTask(task.train_images, task.train_labels, images, task.closed_classes, 0)
    detection = Dias(**{**QUICK, "epochs": 12}).detect(task, context)
    score = detection.unknown_score
    assert score.shape == (136,)
    assert ((score >= -1) & (score <= -1 / 3 + 1e-12)).all()
    assert (detection.predicted_class[:96] == truth).mean() > 0.9
    assert roc_auc_score(np.r_[np.zeros(96), np.ones(40)], score) > 0.9
    assert set(detection.curves) == {
        "discriminator_loss",
        "generator_loss",
        "gan_pass_loss",
        "copycat_loss",
        "pull_distance",
        "copycat_pass_loss",
    }
    assert all(len(curve) == 12 and np.isfinite(curve).all() for curve in detection.curves.values())
    assert detection.curves["copycat_pass_loss"][-1] < detection.curves["copycat_pass_loss"][0]


def test_same_seed_same_scores_and_every_setting_changes_them():
    first = detect(epochs=1)[0].unknown_score
    assert (detect(epochs=1)[0].unknown_score == first).all()
    for change in (
        {"beta": 1.0},
        {"fake_ratio": 1.0},
        {"pull_ratio": 9.0},
        {"smoothing": 0.0},
        {"smoothing2": 0.5},
        {"gan_learning_rate": 1e-2},
        {"gan_width": 3},
        {"optimizer": "sgd"},
        {"weight_decay": 0.1},
        {"erase_probability": 1.0},
        {"dropout": 0.5},
        {"warm_start": True},
        {"copycat_statistics": False},
        {"batches_per_pass": 1},
        {"epochs": 2},
    ):
        assert (detect(**{"epochs": 1, **change})[0].unknown_score != first).any(), change


def test_warm_start_begins_at_the_closed_set_model():
    task, context, _ = task_and_context()
    dias = Dias(epochs=1, learning_rate=0.0, warm_start=True, gan_width=2, batches_per_pass=1)
    nets = module._Simulator(dias, task, context)
    for own, given in zip(nets.classifier.parameters(), context._model.network.parameters(), strict=True):
        assert torch.equal(own, given)
    assert len(list(nets.batches())) == 1


def test_learning_rate_by_epoch(monkeypatch):
    from open_set_fer.methods.shared import training

    rates = []
    monkeypatch.setattr(training, "set_learning_rate", lambda optimizer, rate: rates.append(rate))
    detect(epochs=5, lr_step=2, learning_rate=0.1, optimizer="sgd", batches_per_pass=1)
    np.testing.assert_allclose(rates, np.repeat([0.1, 0.1, 0.01, 0.01, 0.001], 2))


def test_divergence_is_said():
    with pytest.raises(SuiteError, match="diverged"):
        detect(learning_rate=1e30, optimizer="sgd")
