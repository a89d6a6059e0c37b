"""The contract: what a context lends is what the contract says, here and in the runner."""

from __future__ import annotations

import inspect

import pytest

from open_set_fer.benchmark.execution.context import TaskContext
from open_set_fer.methods.contract import Context
from open_set_fer.testing import PlainContext

METHODS = [name for name, value in vars(Context).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("kind", [TaskContext, PlainContext])
def test_a_context_has_the_contracts_methods(kind):
    assert len(METHODS) == 6
    for name in METHODS:
        wanted, given = (list(inspect.signature(getattr(owner, name)).parameters) for owner in (Context, kind))
        assert given == wanted, name
