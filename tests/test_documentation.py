"""docs/methods.md has a section on each method, of the version that it is of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from open_set_fer import plugins

SECTIONS = dict(
    re.findall(
        r"^## (\S+) \(version (\d+)\)$", (Path(__file__).parents[1] / "docs/methods.md").read_text("utf-8"), re.M
    )
)


@pytest.mark.parametrize("name", sorted(plugins.available(plugins.METHODS)))
def test_each_method_is_described_in_its_present_version(name):
    method = plugins.load(plugins.METHODS, name)
    if method.__module__.startswith("open_set_fer."):
        assert SECTIONS.get(name) == str(method.version)
