"""What is installed: data files come along."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_files_beside_the_code_are_in_the_wheel():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    listed = {
        path
        for package, patterns in setup.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    there = {
        path for path in (ROOT / "open_set_fer").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert there == listed
    assert files("open_set_fer").joinpath("py.typed").is_file()
