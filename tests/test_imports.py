"""Every module can be the first one imported, and no modules import each other in a circle."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter

import grimp
import pytest

# Each module in a fork of its own, which has the suite's dependencies and nothing of the suite.
WALK = """
import os, sys, traceback
import matplotlib.figure, mlflow, optuna, pandas, sklearn.mixture, torch, typer
failed = []
for name in sys.argv[1:]:
    if child := os.fork():
        failed += [name] * (os.waitpid(child, 0)[1] != 0)
        continue
    try:
        __import__(name)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
sys.exit(f"cannot be imported first: {failed}" if failed else 0)
"""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("open_set_fer", cache_dir=None)


def test_every_module_can_be_imported_first(graph):
    done = subprocess.run(
        [sys.executable, "-c", WALK, *sorted(graph.modules)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_import_goes_in_a_circle(graph):
    """Imports inside functions and for types alone count too."""
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()


def test_nothing_of_the_suite_needs_its_helper_for_tests(graph):
    assert graph.find_modules_that_directly_import("open_set_fer.testing") == set()
