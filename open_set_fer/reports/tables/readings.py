"""Sentences on label-based methods: what sensitivity S and added information I mean for each."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from open_set_fer.benchmark.evaluation.delong import Estimate
from open_set_fer.benchmark.protocols.pseudo_labels import CONTROLS, PLAIN, REFERENCE
from open_set_fer.reports.data.results import Results
from open_set_fer.reports.tables.controls import Information, controls_of, information_of, interval_text, start_alike

COUNTER = "label-frequency"


def reading(results: Results, dataset: str, method: str) -> str:
    """What S and I mean for a label-based method, in one sentence; '' for any other."""
    if not results.states(method, "label_based"):
        return ""
    name, controls = results.title(method), controls_of(results, dataset, method)
    if method == COUNTER:
        return f"{name}: looks at no face; its AUROC is what the histogram of assigned labels gives by itself."
    control = next((control for control in controls if control.value is not None), None)
    if control is None or control.value is None:
        command = _command(results, dataset, method)
        return f"{name}: control not run, so whether it finds wrong labels is not known: {command}."
    sensitivity = f"S {control.number}{' ' * bool(control.spread)}{control.spread}"
    if method == REFERENCE:
        return f"{name}: a ceiling without a pass mark ({sensitivity}): it asks a model that has seen right labels."
    found = next((control for control in controls if control.verdict), control)
    sensitivity = f"S {found.number}{' ' * bool(found.spread)}{found.spread}"
    if found.verdict == "blind":
        return f"{name}: blind: it does not find wrong labels ({sensitivity}); its AUROC is no evidence on the method."
    adds = _adds(information_of(results, dataset, method))
    if found.verdict == "weak" and found.gap is not None:
        gap = f"less that of small-loss: {found.gap.value:+.3f} {interval_text(found.gap)}"
        return f"{name}: weak: it finds fewer wrong labels than plain training does ({sensitivity}, {gap}){adds}."
    if found.verdict is None:
        return f"{name}: {sensitivity} without an interval, so there is no verdict{adds}."
    unpaired = "" if found.gap is not None or method == PLAIN else "; not compared with small-loss"
    if not start_alike(results, method, PLAIN):
        unpaired += ", whose network starts otherwise"
    return f"{name}: sensitive: it finds wrong labels ({sensitivity}{unpaired}){adds}."


def _adds(information: Information) -> str:
    if information.value is None or information.error is None:
        return ""
    text = f"I {information.number} {information.spread}"
    if Estimate(information.value, information.error).interval()[1] < 0.5:
        return f"; among faces that the closed-set model finds alike it ranks open ones below closed ones ({text})"
    if information.gap is None:
        return f"; {text} on open faces, not compared with that of the closed-set model's own loss"
    gap = information.gap
    more = f"less that of the model's loss: {gap.value:+.3f} {interval_text(gap)}"
    adds = "adds" if gap.interval()[0] > 0 else "adds nothing"
    return f"; on open faces its score {adds} to the closed-set model's own ({text}, {more})"


def readings(results: Results, dataset: str, methods: Iterable[str]) -> list[str]:
    """The sentences of the label-based methods among these."""
    return [text for method in methods if (text := reading(results, dataset, method))]


def _command(results: Results, dataset: str, method: str) -> str:
    """The command that computes a method's control, and small-loss beside it."""
    labels = ",".join(dict.fromkeys([method, PLAIN]))
    command = ["osfer", "run", "--profile", results.profile, "--dataset", dataset, "--method", labels]
    return f"`{shlex.join([*command, '--labels', CONTROLS[0]])}`"
