"""The Jinja environment of the package's templates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(**filters: Callable[..., Any]) -> Environment:
    """Environment that finds templates by their path in the package; values are escaped in all but Markdown."""
    environment = Environment(
        loader=PackageLoader("open_set_fer", "."),
        autoescape=lambda name: not (name or "").endswith(".md.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    return environment
