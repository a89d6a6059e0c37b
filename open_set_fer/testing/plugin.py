"""Requirements of both kinds of plugin: attributes, and settings for profiles and logs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from open_set_fer import plugins
from open_set_fer.benchmark.planning.settings import build_settings
from open_set_fer.errors import SuiteError


def require(condition: bool, message: str) -> None:
    """Assert even under `python -O`."""
    if not condition:
        raise AssertionError(message)


def check_plugin(plugin: Any, group: str) -> None:
    """Assert name, version, and settings that a profile reproduces."""
    require(not isinstance(plugin, type), "it is a class: give an instance, with settings that are quick")
    kind = type(plugin)
    faults = plugins.class_faults(kind, group)
    require(not faults, f"{kind.__name__} {'; '.join(faults)}")
    try:
        read_back = build_settings(kind, json.loads(json.dumps(dataclasses.asdict(plugin))), kind.__name__)
    except (SuiteError, TypeError) as error:
        raise AssertionError(f"its settings cannot be written in a profile: {error}") from error
    require(read_back == plugin, f"its settings, read from a profile, are others: {read_back}")
    try:
        hash(plugin)
    except TypeError as error:
        raise AssertionError(f"its settings have a value that can be changed: {error}") from error
