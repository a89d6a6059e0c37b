"""Discovery of methods and data sets through Python entry points."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from open_set_fer.errors import SuiteError

METHODS = "open_set_fer.methods"
DATASETS = "open_set_fer.datasets"


@cache
def _registered(group: str) -> dict[str, dict[str, EntryPoint]]:
    """Entry points by name and value: two values under a name are two packages claiming it."""
    points: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=group):
        points.setdefault(point.name, {}).setdefault(point.value, point)
    return points


def available(group: str) -> dict[str, EntryPoint]:
    """Entry points of `group` by name; nothing is imported, so that one may be broken."""
    return {name: next(iter(points.values())) for name, points in _registered(group).items()}


def broken(group: str) -> dict[str, str]:
    """Faults of the unusable entry points of `group` by name; imports all of them."""
    faults: dict[str, str] = {}
    for name in available(group):
        try:
            load(group, name)
        except SuiteError as error:
            faults[name] = str(error).partition("\n")[0]
    return faults


def load(group: str, name: str) -> Any:
    """Load the class registered as `name`; raises SuiteError naming its fault.

    For an unknown name the error suggests the nearest one. A package that fails on import affects only the commands
    that use it.
    """
    kind = group.rpartition(".")[2].removesuffix("s")
    points = _registered(group)
    if name not in points:
        raise SuiteError(f"unknown {kind} {name!r}{nearest(name, points)}", f"known: {', '.join(sorted(points))}")
    if len(points[name]) > 1:
        raise SuiteError(
            f"two packages register the {kind} {name!r}: {' and '.join(points[name])}",
            "uninstall one of them or rename its entry point",
        )
    (point,) = points[name].values()
    try:
        plugin = point.load()
    except (Exception, SystemExit) as error:
        raise SuiteError(
            f"cannot import the {kind} {name!r} from {point.value}: {type(error).__name__}: {error}",
            "fix, update or uninstall the package that registers it",
        ) from error
    faults = class_faults(plugin, group)
    if faults:
        raise SuiteError(
            f"the {kind} {name!r} from {point.value} {faults[0]}", "see docs/guide/own.md for what it must have"
        )
    return plugin


def class_faults(plugin: Any, group: str) -> list[str]:
    """Faults of a registered object as a method or data set."""
    required = {"name": str, "version": int} if group == METHODS else {"name": str}
    faults = [
        f"has no `{name}` of type {kind.__name__}"
        for name, kind in required.items()
        if not isinstance(getattr(plugin, name, None), kind)
    ]
    if not _is_frozen_dataclass(plugin):
        faults.append("is no frozen dataclass whose fields are its settings")
    elif fields := required.keys() & {field.name for field in dataclasses.fields(plugin)}:
        faults.append(f"has `{min(fields)}` among its settings: give it a value without a type")
    action = "detect" if group == METHODS else "load"
    if not callable(getattr(plugin, action, None)):
        faults.append(f"has no method `{action}`")
    return faults


def _is_frozen_dataclass(item: Any) -> bool:
    return isinstance(item, type) and dataclasses.is_dataclass(item) and bool(item.__dataclass_params__.frozen)  # type: ignore[attr-defined]


def nearest(word: str, names: Iterable[str]) -> str:
    """', did you mean X?' if a known word is close, else an empty string."""
    close = difflib.get_close_matches(word, list(names), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
