"""No method can reach the truth: one that hunts through all it is given finds nothing better than chance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from open_set_fer.benchmark.execution.task_run import TaskRun
from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile


def reachable(root: Any, depth: int = 8) -> Iterator[Any]:
    """Every object behind attributes, slots, containers, closures and array bases, modules' globals excepted."""
    seen: set[int] = set()
    stack = [(root, 0)]
    while stack:
        item, level = stack.pop()
        if id(item) in seen or level > depth or isinstance(item, type(np)):
            continue
        seen.add(id(item))
        yield item
        inside: list[Any] = []
        if isinstance(item, dict):
            inside += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            inside += list(item)
        elif isinstance(item, np.ndarray):
            inside.append(item.base)
        inside += list(getattr(item, "__dict__", {}).values())
        inside += [getattr(item, name, None) for name in getattr(type(item), "__slots__", ())]
        inside += [cell.cell_contents for cell in getattr(item, "__closure__", None) or ()]
        inside.append(getattr(item, "__self__", None))
        stack += [(thing, level + 1) for thing in inside if thing is not None]


@pytest.fixture
def shared(tmp_path):
    cells, face_sets = make_plan(load_profile("smoke"), Selection(), tmp_path / "cache")
    place = TaskRun.of(cells[0], face_sets["synthetic"], tmp_path, torch.device("cpu"))
    return place.faces, place.task, place.split, place.context


def test_a_hunter_finds_no_labels(shared):
    faces, task, split, context = shared
    context.closed_set_model(task)
    is_open = split.truth < 0
    n = len(is_open)
    found = list(reachable(task)) + list(reachable(context))
    vectors = {}
    for item in found:
        if isinstance(item, torch.Tensor):
            item = item.detach().numpy()
        if isinstance(item, np.ndarray) and item.ndim and len(item) == n and item.ndim == 1:
            vectors[id(item)] = item
        assert not isinstance(item, np.memmap), "a memory map leads to the data set's files"
        assert item is not faces
        if isinstance(item, str):
            assert faces.fingerprint not in item
            assert "cache" not in item
    for vector in vectors.values():
        score = roc_auc_score(is_open, vector.astype(float))
        assert 0.4 < score < 0.6, "a vector as long as the test pool that knows the open faces"
    assert set(vars(task)) == {
        "train_images",
        "train_labels",
        "test_images",
        "closed_classes",
        "seed",
        "train_votes",
        "pool_images",
        "known_images",
        "held_out_images",
        "held_out_labels",
    }


def test_order_of_the_pool_tells_nothing_even_with_the_seed(shared):
    _faces, task, split, _context = shared
    is_open = split.truth < 0
    n = len(is_open)
    guesses = [np.arange(n)]
    for generator in (np.random.default_rng(task.seed), np.random.RandomState(task.seed)):
        order = generator.permutation(n)
        guesses += [order, np.argsort(order)]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(task.seed)).numpy()
    for guess in [*guesses, order, np.argsort(order)]:
        # The open faces are appended to the pool: whoever undoes the shuffle has an AUROC near one.
        assert 0.35 < roc_auc_score(is_open, guess) < 0.65
