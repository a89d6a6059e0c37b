"""PostHoc: closed forms and references of the detectors, their signs, and one forward pass for the whole family."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch import nn

from open_set_fer.benchmark.planning.settings import build_settings
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import OpenSetTask
from open_set_fer.methods.posthoc import PostHoc
from open_set_fer.testing import PlainContext, task_and_context

DETECTORS = typing.get_args(typing.get_type_hints(PostHoc)["detector"])
NO_SIGN = ("scale", "lts", "rankfeat")
"""Detectors that take activations concentrated in few features for open faces, or maps of one pixel for nothing."""
K, D = 3, 8


class Pixels(nn.Module):
    """A network whose features are the pixels of (N, 8, 1, 1) images; logit k is pixel k / 20 plus a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(D, K)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(K, D) / 20 + 1e-4 * torch.arange(K * D).view(K, D))
            self.fc.bias.copy_(torch.tensor([0.01, 0.0, -0.01]))
        self.std = torch.full((1, 1, 1, 1), 0.25)
        self.batches = 0

    def prepare(self, images):
        return images.float()

    def feature_map(self, x):
        self.batches += 1
        return x

    def forward(self, x):
        return self.fc(self.feature_map(x).mean(dim=(2, 3)))


def pixels(n_train=900, n_closed=60, n_open=40):
    """Closed class k: pixel k bright, all others faintly noisy. Open: the pixels no class uses, and faint besides."""
    rng = np.random.default_rng(0)

    def closed(n):
        labels = np.arange(n) % K
        images = rng.integers(0, 12, (n, D))
        images[np.arange(n), labels] += rng.integers(150, 200, n)
        return images, labels

    train, labels = closed(n_train)
    known, _ = closed(n_closed)
    unknown = rng.integers(0, 12, (n_open, D))
    unknown[:, K:] += rng.integers(20, 40, (n_open, D - K))
    test = np.concatenate([known, unknown]).astype(np.uint8)[:, :, None, None]
    task = OpenSetTask(train.astype(np.uint8)[:, :, None, None], labels, test, ("a", "b", "c"), 0)
    network = Pixels().eval()
    with torch.no_grad():
        logits = network(network.prepare(torch.from_numpy(test))).numpy()
    network.batches = 0
    return task, PlainContext(network, logits), np.r_[np.zeros(n_closed), np.ones(n_open)]


def detect(task, context, detector, **settings):
    return PostHoc(detector, **settings).detect(task, context)


def arrays(task, context):
    """Features (M, D), (N, D) and logits (M, K), (N, K) in float64."""
    fc = context._model.network.fc
    weight, bias = fc.weight.detach().double().numpy(), fc.bias.detach().double().numpy()
    train, test = (images[:, :, 0, 0].astype(np.float64) for images in (task.train_images, task.test_images))
    return train, test, train @ weight.T + bias, context._model.test_logits.astype(np.float64)


def energy(logits, t=1.0):
    return -t * np.log(np.exp(logits / t).sum(axis=1))


@pytest.mark.parametrize("detector", DETECTORS)
def test_finite_right_shape_and_higher_for_unknown(detector):
    task, context, is_open = pixels()
    detection = detect(task, context, detector)
    score = detection.unknown_score
    assert score.shape == (100,)
    assert score.dtype == np.float64
    assert np.isfinite(score).all()
    assert (detection.predicted_class == context._model.test_logits.argmax(axis=1)).all()
    if detector not in NO_SIGN:
        assert roc_auc_score(is_open, score) > 0.9
    assert (detect(task, context, detector).unknown_score == score).all()
    assert torch.get_default_dtype() == torch.float32


def test_features_are_extracted_once_for_the_family():
    task, context, _ = pixels(n_train=480)
    network = context._model.network
    for detector in ("max_logit", "energy", "entropy"):
        detect(task, context, detector)
    assert network.batches == 0  # the closed-set model's own test logits
    for detector in (d for d in DETECTORS if d not in ("odin", "rankfeat")):
        detect(task, context, detector)
    assert network.batches == 2  # one batch of training images, one of test images
    detect(task, context, "odin")
    assert network.batches == 4
    detect(task, context, "rankfeat")
    assert network.batches == 5


def test_logit_scores_closed_forms():
    task, context, _ = pixels()
    logits = arrays(task, context)[3]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(detect(task, context, "max_logit").unknown_score, -logits.max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(detect(task, context, "energy").unknown_score, energy(logits), rtol=1e-12)
    warm = detect(task, context, "energy", energy_temperature=2.0).unknown_score
    np.testing.assert_allclose(warm, energy(logits, 2.0), rtol=1e-12)
    np.testing.assert_allclose(detect(task, context, "entropy").unknown_score, -(p * np.log(p)).sum(axis=1), rtol=1e-10)


def held_out(task, n=90):
    """The task with held-out faces: other noise, darker by half, so that they are told from training images."""
    rng = np.random.default_rng(5)
    labels = np.arange(n) % K
    images = rng.integers(0, 12, (n, D))
    images[np.arange(n), labels] += rng.integers(40, 90, n)
    images = images.astype(np.uint8)[:, :, None, None]
    return dataclasses.replace(task, held_out_images=images, held_out_labels=labels)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def linear(context):
    fc = context._model.network.fc
    return fc.weight.detach().double().numpy(), fc.bias.detach().double().numpy()


@pytest.mark.parametrize("holds_out", [True, False])
def test_kl_matching_is_fitted_on_held_out_faces_or_says_so(holds_out):
    task, context, _ = pixels()
    _, _, fitted, test = arrays(task, context)
    if holds_out:
        task = held_out(task)
        weight, bias = linear(context)
        fitted = task.held_out_images[:, :, 0, 0] @ weight.T + bias
    q, p = softmax(fitted), softmax(test)
    typical = np.stack([q[fitted.argmax(axis=1) == k].mean(axis=0) for k in range(K)])
    divergence = (p[:, None] * (np.log(p)[:, None] - np.log(typical)[None])).sum(axis=2)
    detection = detect(task, context, "kl_matching")
    np.testing.assert_allclose(detection.unknown_score, divergence.min(axis=1), rtol=1e-8, atol=1e-12)
    assert [note[:37] for note in detection.notes] == ["kl_matching is fitted on the training"] * (not holds_out)


def test_temperature_scaling_is_calibrated_on_held_out_faces():
    task, context, _ = pixels()
    task = held_out(task)
    labels = task.held_out_labels.copy()
    labels[::7] = (labels[::7] + 1) % K  # or the coldest temperature would be the best
    task = dataclasses.replace(task, held_out_labels=labels)
    weight, bias = linear(context)
    logits = task.held_out_images[:, :, 0, 0] @ weight.T + bias
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 20_001))
    losses = [-np.log(softmax(logits / t)[np.arange(len(labels)), labels]).mean() for t in grid]
    expected = -softmax(arrays(task, context)[3] / grid[int(np.argmin(losses))]).max(axis=1)
    score = detect(task, context, "temperature_scaling").unknown_score
    np.testing.assert_allclose(score, expected, atol=1e-4)


def test_held_out_faces_are_scored_as_the_scorer_scores_them():
    task, context, _ = pixels()
    task = held_out(task)
    for detector in DETECTORS:
        detection = detect(task, context, detector)
        if detector in ("odin", "rankfeat"):
            assert detection.held_out_score is None
            continue
        again = detection.scorer.score(task.held_out_images).unknown_score
        np.testing.assert_allclose(detection.held_out_score, again, rtol=1e-5, atol=1e-5, err_msg=detector)


def test_gen_and_gradients_of_the_linear_layer_closed_forms():
    task, context, _ = pixels()
    _, test, _, logits = arrays(task, context)
    p = softmax(logits)
    bounded = np.clip(p, 1e-7, 1 - 1e-7)
    gen = detect(task, context, "gen", gen_gamma=0.3).unknown_score
    np.testing.assert_allclose(gen, (bounded**0.3 * (1 - bounded) ** 0.3).mean(axis=1), rtol=1e-8)

    p = softmax(test @ linear(context)[0].T + linear(context)[1])
    expected = -np.abs(p - 1 / K).sum(axis=1) * np.abs(test).sum(axis=1)  # d loss / d W = (p - u) z'
    np.testing.assert_allclose(detect(task, context, "gradnorm").unknown_score, expected, rtol=1e-8)
    # d loss / d logits = K p - 1 for the binary cross-entropy, -sum log p; the bias adds 1 to the features' norm
    by_logit = ((K * p - 1) ** 2).sum(axis=1)
    expected = -by_logit * ((test**2).sum(axis=1) + 1)
    np.testing.assert_allclose(detect(task, context, "grad_uncertainty").unknown_score, expected, rtol=1e-6)


def test_rectified_pruned_and_scaled_activations_against_numpy():
    task, context, _ = pixels()
    train, test, _, _ = arrays(task, context)
    weight, bias = linear(context)

    low, high = np.quantile(train, [0.5, 0.9])
    rectified = np.where(test < low, 0, np.minimum(test, high))
    vra = detect(task, context, "vra", vra_lower=0.5, vra_upper=0.9).unknown_score
    np.testing.assert_allclose(vra, energy(rectified @ weight.T + bias), rtol=1e-10)

    top = np.sort(test, axis=1)[:, ::-1]
    kept = np.where(test >= top[:, 3:4], test, 0)  # half of eight
    ratio = test.sum(axis=1) / top[:, :4].sum(axis=1)
    exact = (kept > 0).sum(axis=1) == 4  # without ties at the fourth
    ash = detect(task, context, "ash", ash_percentile=0.5).unknown_score
    expected = energy(kept * np.exp(ratio)[:, None] @ weight.T + bias)
    assert exact.mean() > 0.7
    np.testing.assert_allclose(ash[exact], expected[exact], rtol=1e-10)
    scale = detect(task, context, "scale", scale_percentile=0.5).unknown_score
    np.testing.assert_allclose(scale, energy(test * np.exp(ratio)[:, None] @ weight.T + bias), rtol=1e-10)
    lts = detect(task, context, "lts", lts_share=0.5).unknown_score
    np.testing.assert_allclose(lts, energy((test @ weight.T + bias) * ratio[:, None] ** 2), rtol=1e-10)


def test_nnguide_fdbd_nci_and_pnml_against_numpy():
    task, context, _ = pixels()
    train, test, train_logits, _ = arrays(task, context)
    weight, bias = linear(context)
    logits = test @ weight.T + bias
    unit, unit_train = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (test, train))

    nearest = np.sort(unit @ (unit_train * -energy(train_logits)[:, None]).T, axis=1)[:, -5:]
    nnguide = detect(task, context, "nnguide", nnguide_k=5).unknown_score
    np.testing.assert_allclose(nnguide, nearest.mean(axis=1) * energy(logits), rtol=1e-5)

    mean, best = train.mean(axis=0), logits.argmax(axis=1)
    apart = [
        np.mean([(logits[n, b] - logits[n, c]) / np.linalg.norm(weight[b] - weight[c]) for c in range(K) if c != b])
        for n, b in enumerate(best)
    ]
    fdbd = detect(task, context, "fdbd").unknown_score
    np.testing.assert_allclose(fdbd, -np.array(apart) / np.linalg.norm(test - mean, axis=1), rtol=1e-4)

    centred = (test - mean) / np.linalg.norm(test - mean, axis=1, keepdims=True)
    expected = -(centred * weight[best]).sum(axis=1) - 0.01 * np.abs(test).sum(axis=1)
    np.testing.assert_allclose(detect(task, context, "nci", nci_alpha=0.01).unknown_score, expected, rtol=1e-5)

    p = softmax(unit @ weight.T + bias)
    inner = np.einsum("nd,de,ne->n", unit, np.linalg.pinv(unit_train.T @ unit_train), unit)
    regret = np.log((p / (p + (1 - p) * p ** (inner / (1 + inner))[:, None])).sum(axis=1)) / np.log(K)
    np.testing.assert_allclose(detect(task, context, "pnml").unknown_score, regret, rtol=1e-3)


def test_a_gaussian_a_class_against_scipy():
    task, context, _ = pixels()
    train, test, _, _ = arrays(task, context)
    of = [train[task.train_labels == k] for k in range(K)]
    spreads = [np.cov(each.T, bias=True) + 1e-6 * np.eye(D) for each in of]
    logs = [
        multivariate_normal(each.mean(axis=0), spread).logpdf(test) for each, spread in zip(of, spreads, strict=True)
    ]
    expected = -logsumexp(np.stack(logs) + np.log(1 / K), axis=0)
    np.testing.assert_allclose(detect(task, context, "gmm").unknown_score, expected, rtol=1e-8)


def test_rankfeat_removes_the_first_singular_part_of_the_last_feature_map():
    task, context, _ = task_and_context()
    network = context._model.network
    with torch.inference_mode():
        maps = network.feature_map(network.prepare(torch.from_numpy(task.test_images))).double().numpy()
    flat = maps.reshape(*maps.shape[:2], -1)
    u, s, v = np.linalg.svd(flat, full_matrices=False)
    rest = flat - s[:, :1, None] * u[:, :, :1] @ v[:, :1]
    weight, bias = linear(context)
    expected = energy(rest.mean(axis=2) @ weight.T + bias)
    np.testing.assert_allclose(detect(task, context, "rankfeat").unknown_score, expected, rtol=1e-4, atol=1e-5)


def test_knn_is_the_distance_to_the_kth_neighbour_on_the_unit_sphere():
    task, context, _ = pixels()
    train, test, _, _ = arrays(task, context)
    train, test = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (train, test))
    for k in (1, 50):
        distances = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(train).kneighbors(test)[0]
        score = detect(task, context, "knn", knn_k=k).unknown_score
        np.testing.assert_allclose(score, distances[:, -1], rtol=1e-7, atol=1e-9)


def test_mahalanobis_and_relative_mahalanobis_against_numpy():
    task, context, _ = pixels()
    train, test, _, _ = arrays(task, context)
    means = np.stack([train[task.train_labels == k].mean(axis=0) for k in range(K)])
    within = train - means[task.train_labels]
    spread = train - train.mean(axis=0)

    def squared(difference, centred):  # the library's covariance is a sum, with a ridge of 1e-6
        precision = np.linalg.inv(centred.T @ centred + 1e-6 * np.eye(D))
        return np.einsum("nd,de,ne->n", difference, precision, difference)

    by_class = np.stack([squared(test - mean, within) for mean in means])
    np.testing.assert_allclose(detect(task, context, "mahalanobis").unknown_score, by_class.min(axis=0) / 2, rtol=1e-9)
    relative = (by_class - squared(test - train.mean(axis=0), spread)).min(axis=0)
    np.testing.assert_allclose(detect(task, context, "relative_mahalanobis").unknown_score, relative, rtol=1e-8)


def test_react_dice_she_and_vim_against_numpy():
    task, context, _ = pixels()
    train, test, train_logits, _ = arrays(task, context)
    fc = context._model.network.fc
    weight, bias = fc.weight.detach().double().numpy(), fc.bias.detach().double().numpy()
    clipped = np.minimum(test, np.percentile(train, 80))
    react = detect(task, context, "react", react_percentile=0.8).unknown_score
    np.testing.assert_allclose(react, energy(clipped @ weight.T + bias), rtol=1e-10)

    contribution = train.mean(axis=0) * weight
    kept = np.where(contribution > np.quantile(contribution, 0.7), weight, 0)
    dice = detect(task, context, "dice", dice_p=0.7).unknown_score
    np.testing.assert_allclose(dice, energy(test @ kept.T + bias), rtol=1e-6)  # pytorch-ood keeps float32 weights

    right = train_logits.argmax(axis=1) == task.train_labels
    patterns = np.stack([train[right & (task.train_labels == k)].mean(axis=0) for k in range(K)])
    nearest = (test @ weight.T + bias).argmax(axis=1)
    she = detect(task, context, "she").unknown_score
    np.testing.assert_allclose(she, -(test * patterns[nearest]).sum(axis=1), rtol=1e-10)

    origin = -np.linalg.pinv(weight) @ bias
    _, vectors = np.linalg.eigh((train - origin).T @ (train - origin))
    residual = vectors[:, : D - 3]
    alpha = train_logits.max(axis=1).mean() / np.linalg.norm((train - origin) @ residual, axis=1).mean()
    virtual = alpha * np.linalg.norm((test - origin) @ residual, axis=1)
    vim = detect(task, context, "vim", vim_dimension=3).unknown_score
    np.testing.assert_allclose(vim, virtual + energy(test @ weight.T + bias), rtol=1e-3, atol=1e-3)  # float32 inside


def test_odin_moves_towards_the_predicted_class():
    """For a linear network the input's gradient is known: epsilon / std x sign of the predicted class's gradient."""
    task, context, _ = pixels()
    _, test, _, logits = arrays(task, context)
    weight = context._model.network.fc.weight.detach().double().numpy()
    bias = context._model.network.fc.bias.detach().double().numpy()
    t, epsilon = 10.0, 0.5
    p = np.exp(logits / t) / np.exp(logits / t).sum(axis=1, keepdims=True)
    gradient = (p - np.eye(K)[logits.argmax(axis=1)]) @ weight
    moved = (test - epsilon / 0.25 * np.sign(gradient)) @ weight.T + bias
    expected = -(np.exp(moved / t) / np.exp(moved / t).sum(axis=1, keepdims=True)).max(axis=1)
    score = detect(task, context, "odin", odin_temperature=t, odin_epsilon=epsilon).unknown_score
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def weibull_tail(distances, size):
    """OSDN's model of a class: LibMR's translation, then maximum likelihood by the equation of the shape."""
    tail = np.sort(distances)[-size:]
    x = tail - tail[0] + 10_000
    relative = x / x.max()

    def slope(shape):
        powers = relative**shape
        return (powers * np.log(relative)).sum() / powers.sum() - 1 / shape - np.log(relative).mean()

    shape = brentq(slope, 1e2, 1e9)
    scale = x.max() * np.mean(relative**shape) ** (1 / shape)
    return lambda d: -np.expm1(-np.exp(np.minimum(shape * np.log((d - tail[0] + 10_000) / scale), 700)))


def test_openmax_against_the_formulas_of_osdn():
    task, context, _ = pixels()
    _, _, train, test = arrays(task, context)
    labels = task.train_labels

    def eucos(logits, centre):
        cosine = [1 - logit @ centre / np.linalg.norm(logit) / np.linalg.norm(centre) for logit in logits]
        return np.linalg.norm(logits - centre, axis=1) / 200 + cosine

    centres = [train[labels == k].mean(axis=0) for k in range(K)]
    tails = [weibull_tail(eucos(train[labels == k], centres[k]), 20) for k in range(K)]
    expected = []
    for logits in test:
        revised = logits.copy()
        for i, k in enumerate(np.argsort(-logits)[:2]):
            revised[k] *= 1 - (2 - i) / 2 * tails[k](eucos(logits[None], centres[k])[0])
        both = np.exp(np.r_[(logits - revised).sum(), revised])
        expected.append(both[0] / both.sum())
    score = detect(task, context, "openmax", openmax_alpha=2).unknown_score
    np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-6)


def test_openmax_scores_each_face_alone():
    task, context, _ = pixels()
    whole = detect(task, context, "openmax").unknown_score
    alone = dataclasses.replace(task, test_images=task.test_images[:1])
    single = PlainContext(context._model.network, context._model.test_logits[:1])
    np.testing.assert_allclose(detect(alone, single, "openmax").unknown_score, whole[:1], rtol=1e-12)


def test_openmax_fits_on_correctly_classified_images_alone():
    task, context, _ = pixels()
    labels = task.train_labels.copy()
    labels[:3] = (labels[:3] + 1) % K  # wrong labels: the model disagrees, the fit is without these images
    wrong = dataclasses.replace(task, train_labels=labels)
    without = dataclasses.replace(task, train_images=task.train_images[3:], train_labels=task.train_labels[3:])
    score = detect(wrong, context, "openmax").unknown_score
    assert (
        score
        == detect(without, PlainContext(context._model.network, context._model.test_logits), "openmax").unknown_score
    ).all()
    assert ((score >= 0) & (score <= 1)).all()


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_real_network_with_dead_features(detector):
    """An untrained network of the suite, one feature always 0: the ridge keeps the covariance invertible."""
    task, context, _ = task_and_context()
    network = context._model.network
    with torch.no_grad():
        norm = network.stages[-1].body[-1], network.stages[-1].skip[-1]
        for each in norm:
            each.weight[0] = 0.0
            each.bias[0] = -1.0
    if detector in ("openmax", "she"):  # an untrained network has no right answers: give it its own as labels
        with torch.no_grad():
            network.fc.bias.copy_(torch.zeros(3))
            answers = network(network.prepare(torch.from_numpy(task.train_images))).argmax(dim=1).numpy()
        if (np.bincount(answers, minlength=3) < 2).any():
            with pytest.raises(SuiteError, match="fewer than two correctly classified"):
                detect(task, context, detector)
            return
        task = dataclasses.replace(task, train_labels=answers)
    assert np.isfinite(detect(task, context, detector).unknown_score).all()


def test_errors_name_the_detector_and_the_mend():
    task, context, _ = pixels()
    for settings, problem in [
        (("knn", {"knn_k": 5000}), "k=5000"),
        (("knn", {"knn_k": 0}), "n_neighbors"),
        (("vim", {"vim_dimension": 8}), "vim_dimension 8"),
        (("vra", {"vra_lower": 0.9, "vra_upper": 0.5}), "quantiles"),
        (("react", {"react_percentile": 90.0}), "percentile"),
        (("dice", {"dice_p": 1.5}), "fraction"),
    ]:
        with pytest.raises(SuiteError, match=f"detector {settings[0]}.*{problem}.*\n.*fix"):
            detect(task, context, settings[0], **settings[1])
    none_of_c = dataclasses.replace(
        task,
        train_images=task.train_images[task.train_labels < 2],
        train_labels=task.train_labels[task.train_labels < 2],
    )
    with pytest.raises(SuiteError, match="class 2 has fewer than two"):
        detect(none_of_c, PlainContext(context._model.network, context._model.test_logits), "mahalanobis")
    context._model.test_logits[0, 0] = np.nan
    with pytest.raises(SuiteError, match="1 of 100 scores are not finite"):
        detect(task, context, "energy")


def test_unknown_detector_and_published_defaults():
    with pytest.raises(SuiteError, match="detector"):
        build_settings(PostHoc, {"detector": "magic"}, "methods.posthoc")
    for settings in ({"openmax_tail": 1}, {"openmax_alpha": 0}):
        with pytest.raises(SuiteError, match=f"{next(iter(settings))}: .*greater than or equal to"):
            build_settings(PostHoc, settings, "methods.posthoc")
    assert build_settings(PostHoc, {"detector": "knn"}, "methods.posthoc") == PostHoc("knn")
    s = PostHoc()
    assert (s.detector, s.energy_temperature, s.openmax_tail, s.openmax_alpha, s.knn_k) == ("energy", 1.0, 20, 10, 50)
    assert (s.react_percentile, s.dice_p, s.odin_temperature, s.odin_epsilon) == (0.9, 0.9, 1000.0, 0.0014)


def test_the_server_of_processes_has_imported_the_library():
    imports = "import sys, open_set_fer.benchmark.execution.preloaded"
    subprocess.run([sys.executable, "-c", f"{imports}; assert 'pytorch_ood.detector' in sys.modules"], check=True)


def test_missing_pytorch_ood_says_what_to_install(monkeypatch):
    task, context, _ = pixels()
    monkeypatch.setitem(sys.modules, "pytorch_ood", None)
    with pytest.raises(SuiteError, match=r"pip install 'open-set-fer\[posthoc\]'"):
        detect(task, context, "energy")
