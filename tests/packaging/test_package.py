"""What is installed: every module can be imported first, and data files come along."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT_EACH_FIRST = """
import importlib, pkgutil, sys
import open_set_fer
names = [module.name for module in pkgutil.walk_packages(open_set_fer.__path__, "open_set_fer.")]
assert len(names) > 50, names
for name in names:
    for loaded in [module for module in sys.modules if module.partition(".")[0] == "open_set_fer"]:
        del sys.modules[loaded]
    importlib.import_module(name)  # fails in a circle that only another order of imports hides
"""


def test_every_module_can_be_the_first_that_is_imported():
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH_FIRST], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_files_beside_the_code_are_in_the_wheel():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    listed = {path for package, patterns in setup.items() for pattern in patterns
              for path in ROOT.joinpath(*package.split(".")).glob(pattern)}  # fmt: skip
    there = {path for path in (ROOT / "open_set_fer").rglob("*")
             if path.is_file() and path.suffix not in (".py", ".pyc")}  # fmt: skip
    assert there == listed
    assert files("open_set_fer").joinpath("py.typed").is_file()
