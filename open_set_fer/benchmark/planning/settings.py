"""Settings from TOML: dictionaries into frozen dataclasses; errors name the key and the closest match."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from textwrap import shorten
from typing import Any, TypeVar

import pydantic

from open_set_fer.errors import SuiteError
from open_set_fer.plugins import nearest

S = TypeVar("S")


def build_settings(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """An instance of dataclass `kind`; raises SuiteError naming `where`.key for an unknown key or a wrong type."""
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise SuiteError(f"unknown key {where}.{key}{nearest(key, known)}", f"known keys: {', '.join(known)}")
        try:
            json.dumps(values[key], allow_nan=False)
        except (TypeError, ValueError) as error:
            fault = f"{where}.{key}: {values[key]} is not a value of a setting"
            raise SuiteError(fault, "no date and no nan or inf") from error
    try:
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except pydantic.ValidationError as error:
        raise SuiteError(describe(error, where), "give the key a value of the type and range named") from error


def settings_of(plugin: Any) -> dict[str, Any]:
    """The settings of a method or data set, by name."""
    return dataclasses.asdict(plugin)


def describe(error: pydantic.ValidationError, where: str) -> str:
    """The first fault of a pydantic error as 'where.key: message (got value)'."""
    fault = error.errors()[0]
    path = ".".join(str(part) for part in (where, *fault["loc"]) if str(part))
    got = "" if fault["type"] == "missing" else f" (got {shorten(repr(fault['input']), 100, placeholder='...')})"
    return f"{path}: {fault['msg']}{got}"
