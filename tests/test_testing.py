"""The conformance test: every registered method passes it, and each way of breaking the contract is named."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
import pytest
import torch

from open_set_fer import plugins
from open_set_fer.benchmark.planning.profile import built_in_labels, load_profile
from open_set_fer.methods.contract import Detection
from open_set_fer.methods.shared.scorers import ConfidenceScorer
from open_set_fer.testing import check_method

SMOKE = load_profile("smoke")
# On 90 training images knn's 50th neighbour is one of another class, and ours needs more than two epochs.
CHANGES: dict[str, dict[str, Any]] = {"knn": {"knn_k": 3}}
NO_SIGN = {"ours", "ours-online", "ours-balanced", "co-teaching", "cleanlab"}


@pytest.mark.parametrize("label", built_in_labels())
def test_every_built_in_label_keeps_the_contract(label):
    check_method(replace(SMOKE.method(label), **CHANGES.get(label, {})), sign=label not in NO_SIGN)


def test_every_registered_method_is_behind_a_label():
    ours = {n for n, point in plugins.available(plugins.METHODS).items() if point.value.startswith("open_set_fer.")}
    assert ours == {SMOKE.method(label).name for label in built_in_labels()}


@dataclass(frozen=True)
class Sound:
    """Keeps the contract; what inherits from it breaks it at one place."""

    name = "sound"
    version = 1
    weight: float = 1.0

    def detect(self, task, context):
        model = context.closed_set_model(task)
        return Detection(-self.weight * model.test_logits.max(axis=1), model.pseudo_labels)

    def changed(self, task, context, **parts):
        return replace(Sound.detect(self, task, context), **parts)


@dataclass(frozen=True)
class Kept(Sound):
    """A sound method with a sound scorer."""

    scorer = ConfidenceScorer

    def detect(self, task, context):
        model = context.closed_set_model(task)
        scorer = ConfidenceScorer({"classifier": model.network}, settings={"score": "max_logit"})
        return self.changed(task, context, scorer=scorer)


def test_a_scorer_must_repeat_the_method_and_be_known_to_its_class():
    assert check_method(Kept()).scorer is not None
    with pytest.raises(AssertionError, match="other scores than `detect`"):
        check_method(Kept(weight=2.0))
    Nameless = type("Nameless", (Kept,), {"scorer": None})
    with pytest.raises(AssertionError, match="`scorer = ConfidenceScorer`"):
        check_method(Nameless())


def breaking(message):
    """Marks the `detect` of a broken method with the message that it must get."""

    def mark(detect):
        return pytest.param(type("Broken", (Sound,), {"detect": detect}), message, id=detect.__name__)

    return mark


@breaking(r"returns a tuple, not a Detection")
def no_detection(self, task, context):
    return np.zeros(96), np.zeros(96, int)


@breaking(r"returned \(3,\) scores and \(96,\) classes for \(96,\) test images")
def short(self, task, context):
    return self.changed(task, context, unknown_score=np.zeros(3))


@breaking("unknown_score is of type object")
def odd_type(self, task, context):
    return self.changed(task, context, unknown_score=np.array([None] * 96))


@breaking("1 of 96 unknown scores are NaN or infinite")
def not_finite(self, task, context):
    return self.changed(task, context, unknown_score=np.r_[np.nan, np.zeros(95)])


@breaking(r"predicted classes must be integers in 0\.\.2")
def no_class(self, task, context):
    return self.changed(task, context, predicted_class=np.full(96, 3))


@breaking("predicted_class is of type float64, not integers")
def half_a_class(self, task, context):
    return self.changed(task, context, predicted_class=np.zeros(96))


@breaking("scores open faces lower than closed ones .* HIGHER must mean more likely unknown")
def upside_down(self, task, context):
    return self.changed(task, context, unknown_score=context.closed_set_model(task).test_logits.max(axis=1))


@breaking("gives other numbers for the same seed")
def chance(self, task, context):
    return self.changed(task, context, unknown_score=np.random.default_rng().random(96))


@breaking("gives other numbers for the same seed")
def chance_in_extras(self, task, context):
    return self.changed(task, context, extras={"chance": np.random.default_rng().random(96)})


@breaking("draws from the global random numbers")
def global_python(self, task, context):
    return self.changed(task, context, curves={"loss": [random.random()]})


@breaking("draws from the global random numbers")
def global_numpy(self, task, context):
    return self.changed(task, context, unknown_score=np.random.rand(96))  # noqa: NPY002


@breaking("draws from the global random numbers")
def global_torch(self, task, context):
    return self.changed(task, context, unknown_score=torch.rand(96).numpy())


@breaking("writes to the task's arrays")
def writes(self, task, context):
    torch.from_numpy(task.test_images)[0] = 0
    return Sound.detect(self, task, context)


@breaking("curve 'loss' is no list of numbers")
def curve(self, task, context):
    return self.changed(task, context, curves={"loss": [[1.0, 2.0]]})


@breaking(r"extra 'two' has shape \(96, 2\)")
def extra(self, task, context):
    return self.changed(task, context, extras={"two": np.zeros((96, 2))})


BROKEN = [value for value in list(globals().values()) if isinstance(value, type(pytest.param(0)))]


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize(("kind", "message"), BROKEN)
def test_what_is_wrong_is_named(kind, message):
    check_method(Sound())
    with pytest.raises(AssertionError, match=message):
        check_method(kind())


@dataclass
class Fluid:
    name = "fluid"
    version = 1

    def detect(self, task, context): ...


@dataclass(frozen=True)
class Unnamed:
    version = 1

    def detect(self, task, context): ...


@dataclass(frozen=True)
class Dated(Sound):
    start: date = date(2024, 1, 1)


@dataclass(frozen=True)
class Listed(Sound):
    start: list[tuple[int, ...]] = field(default_factory=lambda: [(1,)])
    inner: Any = (1, 2)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Sound, "it is a class: give an instance"),
        (Fluid(), "Fluid is no frozen dataclass whose fields are its settings"),
        (Unnamed(), "Unnamed has no `name` of type str"),
        (Dated(), "its settings cannot be written in a profile"),
        (Listed(), "its settings, read from a profile, are others"),
    ],
)
def test_what_is_wrong_with_the_class_is_named(method, message):
    with pytest.raises(AssertionError, match=message):
        check_method(method)
