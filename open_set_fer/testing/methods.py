"""Conformance test of methods, with a small task and a context without a runner."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from open_set_fer import plugins
from open_set_fer.benchmark.evaluation.scores import check_detection, checked_curves, checked_extras, checked_notes
from open_set_fer.benchmark.execution.isolation import content_digest, read_only, seeded
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import ClosedSetModel, Detection, Method, OpenSetTask, Scorer, Scores, states
from open_set_fer.methods.shared.backbones import Network, build_network
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings
from open_set_fer.methods.shared.scorers import plans, rebuild, tensors
from open_set_fer.methods.shared.training import evaluate, pooled_features, train_closed_set
from open_set_fer.testing.plugin import check_plugin, require

T = TypeVar("T")

UPSIDE_DOWN = 0.2
"""AUROC on easily distinguished faces below which a score is taken to have the wrong sign."""


class PlainContext:
    """A context (`methods.contract.Context`) without progress bars and clocks."""

    def __init__(self, network: Network, test_logits: NDArray[np.float32], width: int = 4, seed: int = 0) -> None:
        """width: of the small network in `backbone`."""
        self.backbone = BackboneSettings("small", width=width)
        self.closed_set = ClosedSetSettings()
        self.device = torch.device("cpu")
        self.generator = torch.Generator().manual_seed(seed)
        self.reported: dict[int, NDArray[np.float64]] = {}
        self._model = ClosedSetModel(network, test_logits)
        self._features: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def closed_set_model(self, task: OpenSetTask) -> ClosedSetModel:
        return self._model

    def progress(self, steps: Iterable[T], description: str) -> Iterable[T]:
        return steps

    def report(self, epoch: int, scores: Callable[[], NDArray[np.floating[Any]]]) -> None:
        """Compute the scores, so that a report that changes the training shows."""
        self.reported[epoch] = np.asarray(scores(), dtype=np.float64)

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def features(self, task: OpenSetTask) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pooled features (M, D) and (N, D) of training and test images, computed once."""
        if self._features is None:
            train, test = (pooled_features(self._model.network, x) for x in (task.train_images, task.test_images))
            self._features = read_only(train), read_only(test)
        return self._features

    def held_out_features(self, task: OpenSetTask) -> NDArray[np.float32] | None:
        """Pooled features (R, D) of the held-out faces; None for a task without."""
        if task.held_out_images is None:
            return None
        return read_only(pooled_features(self._model.network, task.held_out_images))


def bright_bars(n: int, classes: int, seed: int, size: int = 24) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Easily distinguished images uint8 (n, 1, size, size) and labels (n,). Class k has a bright bar at height k."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = rng.integers(0, 90, (n, 1, size, size), dtype=np.uint8)
    step = size // classes
    for row, label in enumerate(labels):
        images[row, 0, label * step : label * step + step] += 120
    return images, labels.astype(np.int64)


def task_and_context(
    pseudo_labels: NDArray[np.int64] | None = None, n: int = 96, classes: int = 3, seed: int = 0
) -> tuple[OpenSetTask, PlainContext, NDArray[np.int64]]:
    """A task on bright bars without open faces, a context, and the true classes (n,).

    The context's network is untrained; its logits predict `pseudo_labels`, by default the truth.
    """
    train, train_labels = bright_bars(60, classes, seed)
    test, truth = bright_bars(n, classes, seed + 1)
    network = build_network(BackboneSettings("small", width=4), classes, 1, seed).eval()
    logits = np.full((n, classes), -3.0, dtype=np.float32)
    logits[np.arange(n), truth if pseudo_labels is None else pseudo_labels] = 3.0
    names = tuple(f"class {k}" for k in range(classes))
    return OpenSetTask(train, train_labels, test, names, seed), PlainContext(network, logits, seed=seed), truth


def check_method(method: Method, sign: bool = True) -> Detection:
    """Assert in seconds that a method keeps the contract; returns its detection.

    method: an instance with quick settings: `check_method(Margin(epochs=1))`. sign: also assert that open faces,
    which are easily distinguished here, do not have the lower scores; False for a method that needs more than 90
    small images to learn anything.

    Raises AssertionError naming the fault: name, version and settings; shape, type and range of the result; other
    numbers for the same seed; random numbers other than the context's; writing to the task's arrays; a score that
    depends on the other test faces without `sees_pool = True`; a scorer that gives other scores than the method, or
    cannot be saved.
    """
    check_plugin(method, plugins.METHODS)
    task, model, is_open = _task_with_an_open_class()
    detection = _detect(method, task, model, global_seed=0)
    _check_detection(detection, task)
    _check_random_numbers(method, task, model, detection)
    if detection.scorer is not None:
        _check_scorer(method, detection.scorer, task, detection)
    if not states(method, "sees_pool"):
        _check_inductive(method, task, model, detection)
    if sign:
        _check_sign(np.asarray(detection.unknown_score), is_open)
    return detection


@cache
def _task_with_an_open_class() -> tuple[OpenSetTask, ClosedSetModel, NDArray[np.bool_]]:
    """A task with an open class of bright bars, a trained closed-set model, the open mask."""
    train, train_labels = bright_bars(120, 4, 0)
    test, truth = bright_bars(96, 4, 1)
    order = np.random.default_rng(2).permutation(len(test))
    test, truth = test[order], truth[order]
    train, train_labels = train[train_labels < 3], train_labels[train_labels < 3]
    network = build_network(BackboneSettings("small", width=4), 3, 1, 0)
    recipe = ClosedSetSettings(epochs=12, batch_size=16, learning_rate=3e-3, lr_decay=1.0)
    train_closed_set(network, train, train_labels, recipe, torch.Generator().manual_seed(0), lambda steps, _: steps)
    network.eval().requires_grad_(False)
    for array in (train, train_labels, test):
        read_only(array)
    task = OpenSetTask(train, train_labels, test, ("low", "middle", "high"), 0)
    return task, ClosedSetModel(network, read_only(evaluate(network, test))), truth == 3


def _detect(method: Method, task: OpenSetTask, model: ClosedSetModel, global_seed: int) -> Detection:
    """Detect with the global random numbers starting from `global_seed`."""
    before = content_digest(task)
    context = PlainContext(copy.deepcopy(model.network), model.test_logits)
    with seeded(global_seed):
        detection = method.detect(task, context)
    if content_digest(task) != before:
        _task_with_an_open_class.cache_clear()
        raise AssertionError("writes to the task's arrays, which other methods share: let it copy them first")
    return detection


def _check_random_numbers(method: Method, task: OpenSetTask, model: ClosedSetModel, first: Detection) -> None:
    if _same(first, _detect(method, task, model, global_seed=1)):
        return
    require(
        not _same(first, _detect(method, task, model, global_seed=0)),
        "draws from the global random numbers of Python, NumPy or torch: take context.generator, for fresh layers "
        "within backbones.seeded(draw_seed(context.generator)) of methods.shared",
    )
    raise AssertionError("gives other numbers for the same seed: every random number must be context.generator's")


def _check_sign(score: NDArray[Any], is_open: NDArray[np.bool_]) -> None:
    auroc = roc_auc_score(is_open, score)
    require(
        auroc >= UPSIDE_DOWN,
        f"scores open faces lower than closed ones (AUROC {auroc:.2f}): HIGHER must mean more likely unknown "
        "(sign=False for a method that cannot know better on so few images)",
    )


def _check_inductive(method: Method, task: OpenSetTask, model: ClosedSetModel, whole: Detection) -> None:
    """Assert that half of the test faces get the same scores as among all of them."""
    half = slice(0, len(task.test_images), 2)
    part = replace(task, test_images=read_only(task.test_images[half].copy()))
    part_model = replace(model, test_logits=read_only(model.test_logits[half].copy()))
    scores = np.asarray(_detect(method, part, part_model, global_seed=0).unknown_score, dtype=np.float64)
    require(
        _close(scores, np.asarray(whole.unknown_score, dtype=np.float64)[half]),
        "gives a face another score when other faces are missing from the pool: state `sees_pool = True` in the class, "
        "and the reports show it among the transductive methods",
    )


def _check_scorer(method: Method, scorer: Scorer, task: OpenSetTask, detection: Detection) -> None:
    """Assert that a scorer repeats the detection's numbers, face by face."""
    kind = type(scorer)
    fault = f"has a scorer of type {kind.__name__}, which its class does not name: `scorer = {kind.__name__}`"
    require(isinstance(scorer, Scorer) and kind is getattr(method, "scorer", None), fault)
    images = task.test_images
    scores = scorer.score(images)
    _check_scores(scores, len(images), len(task.closed_classes))
    if scorer.repeats:
        require(
            _close(scores.unknown_score, np.asarray(detection.unknown_score, dtype=np.float64)),
            "its scorer gives the test images other scores than `detect`: fix it, or state `repeats = False` in its "
            "class and say why",
        )
        fault = "its scorer gives the test images other classes than `detect`"
        require(bool((scores.probabilities.argmax(axis=1) == detection.predicted_class).all()), fault)
    fault = "its scorer gives a face another score when other faces are missing"
    require(_close(scorer.score(images[::2]).unknown_score, scores.unknown_score[::2]), fault)
    fault = "its scorer gives other scores after saving and loading"
    require(_close(_saved(scorer).score(images).unknown_score, scores.unknown_score), fault)


def _check_scores(scores: Scores, n: int, classes: int) -> None:
    shapes = scores.unknown_score.shape, scores.probabilities.shape
    require(shapes == ((n,), (n, classes)), f"its scorer gives arrays of shapes {shapes}, not {(n,), (n, classes)}")
    require(
        all(bool(np.isfinite(values).all()) for values in scores) and np.allclose(scores.probabilities.sum(axis=1), 1),
        "its scorer gives numbers that are not finite, or probabilities that do not add up to one",
    )


def _saved(scorer: Scorer) -> Scorer:
    """Rebuild a scorer from safetensors and JSON."""
    try:
        numbers = safetensors.numpy.load(safetensors.numpy.save(tensors(scorer)))
        settings = json.loads(json.dumps(dict(scorer.settings)))
        return rebuild(type(scorer), plans(scorer), numbers, settings, torch.device("cpu"))
    except (SuiteError, TypeError, safetensors.SafetensorError) as error:
        raise AssertionError(f"its scorer cannot be saved: {error}") from error


def _close(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether scores are equal except for rounding."""
    return np.allclose(one, other, rtol=1e-3, atol=1e-3 * float(np.std(other)))


def _check_detection(detection: Detection, task: OpenSetTask) -> None:
    """Assert types, and what the runner refuses: shapes, ranges, what cannot go to MLflow or into scores.parquet."""
    require(isinstance(detection, Detection), f"returns a {type(detection).__name__}, not a Detection")
    n, score, predicted = len(task.test_images), detection.unknown_score, detection.predicted_class
    columns = ("unknown_score", score, "fiu", "numbers"), ("predicted_class", predicted, "iu", "integers")
    for name, values, kinds, expected in columns:
        kind = np.asarray(values).dtype
        require(kind.kind in kinds, f"{name} is of type {kind}, not {expected}")
    try:
        check_detection(score, predicted, n, len(task.closed_classes))
        checked_curves(detection.curves)
        checked_extras(detection.extras, n)
        checked_notes(detection.notes)
    except SuiteError as error:
        raise AssertionError(str(error)) from error


def _same(one: Detection, other: Detection) -> bool:
    """Whether two detections have the same numbers, bit by bit."""
    first, second = ((it.unknown_score, it.predicted_class, it.extras, it.curves) for it in (one, other))
    try:
        np.testing.assert_equal(first, second)
    except AssertionError:
        return False
    return True
