"""A fabricated MLflow store with every state a cell can be in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.data.results import Results, load
from open_set_fer.reports.render import MARKER, render
from open_set_fer.reports.tables.build import Table, all_tables

ODD = "my_method & 50% #1"
"""A label with characters that LaTeX and Markdown read as commands."""


@dataclass
class Store:
    """The tracker and what was logged: metrics by (dataset, open_classes, method, seed) of the newest finished run."""

    tracker: Tracker
    folder: Path
    logged: dict[tuple[str, str, str, int], dict[str, float]] = field(default_factory=dict)
    plan: list[dict[str, Any]] = field(default_factory=list)
    parent: str = ""

    @staticmethod
    def key(dataset: str, protocol: str, opened: str, method: str, seed: int, settings: str) -> str:
        return f"{dataset}/{protocol}/{opened}/{method}/{seed}/{settings}"

    def tags(
        self, dataset: str, protocol: str, opened: str, method: str, seed: int, settings: str, commit: str = "c0ffee"
    ) -> dict[str, str]:
        return {
            "cell_key": self.key(dataset, protocol, opened, method, seed, settings),
            "settings_key": settings,
            "dataset": dataset,
            "protocol": protocol,
            "open_classes": opened,
            "method": method,
            "seed": str(seed),
            "profile": "test",
            "selection": "chosen on the test split, λ aside",
            "demonstration": "true" if dataset == "synthetic" else "false",
            "git_commit": commit,
            "host": "node-1",
            "device": "cpu (x86_64)",
            "notes": json.dumps(["few epochs"] if method == "ours" else []),
        }

    def finish(
        self, *coordinates: Any, settings: str = "a", constant: bool = False, commit: str = "c0ffee", gap: float = 1.0
    ) -> None:
        """Log a finished cell with drawn scores and the metrics that scikit-learn gives for them."""
        dataset, _, opened, method, seed = coordinates
        rng = np.random.default_rng([len(self.logged), seed])
        is_open = np.arange(60) % 3 == 0
        scores = np.zeros(60) if constant else rng.normal(size=60) + gap * is_open
        frame = pd.DataFrame(
            {
                "id": [f"face_{i}" for i in range(60)],
                "truth": np.where(is_open, -1, 0),
                "is_open": is_open,
                "unknown_score": scores,
                "predicted_class": 0,
            }
        )
        frame.to_parquet(self.folder / "scores.parquet")
        fpr, tpr, _ = roc_curve(~is_open, -scores)
        metrics = {
            "auroc": float(roc_auc_score(is_open, scores)),
            "fpr_at_tpr95": float(fpr[np.argmax(tpr >= 0.95)]),
            "aupr_open": 0.1 + seed,
            "aupr_closed": 1 / 3,
            "oscr": 0.7,
            "closed_accuracy": 0.9,
            "n_open": 20.0,
            "n_closed": 40.0,
            "seconds.total": 12.34,
            "seconds.train": 10.0,
        }
        if method != ODD:
            metrics["closed_set_accuracy"] = 0.8
        self.logged[dataset, opened, method, seed] = metrics
        result = CellResult(
            metrics,
            {"loss": [2.0, 1.0]},
            self.tags(*coordinates, settings, commit),
            params={"method.epochs": "3" if settings == "a" else "5", "closed_set.epochs": "2"},
            data=DataUsed(
                dataset, "f" * 64, {"train": {"surprise": 1234, "fear": 5}, "test": {"surprise": 6, "fear": 7}}
            ),
        )
        self.tracker.log_cell(self.parent, result, self.folder, {})

    def fail(self, *coordinates: Any, settings: str = "a") -> None:
        """Log a cell that raised."""
        trace = "Traceback (most recent call last):\nValueError: <diverged> & more"
        self.tracker.log_failure(self.parent, self.tags(*coordinates, settings), trace)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Two seeds on three open classes, and one method in every odd state."""
    home = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        made = Store(Tracker(home, "test"), home)
        (home / "profile.toml").write_text("seeds = [0, 1]\n")
        single = [
            ("synthetic", "single", opened, method, seed)
            for opened in ("fear", "surprise", "disgust")  # not the paper's order
            for method in ("ours", "eow", "baseline")
            for seed in (0, 1)
        ]
        others = [
            ("synthetic", "single", "surprise", ODD, 0),
            ("synthetic", "single", "surprise", "dias", 0),
            ("synthetic", "single", "fear", "dias", 0),
            ("synthetic", "single", "surprise", "ours-online", 0),
            ("synthetic", "single", "fear", "ours-no-attention", 0),
            ("synthetic", "compound", "compound", "ours", 0),
            ("ferplus", "single", "surprise", "baseline", 0),
            ("ferplus", "single", "surprise", "ours", 0),
        ]
        never_finished = [("affectnet", "contempt", "contempt", "ours", 0), ("rafdb", "single", "fear", "ours", 0)]
        names = ("dataset", "protocol", "open_classes", "method", "seed")
        planned_settings = {
            single_cell: "b" for single_cell in [("synthetic", "single", "surprise", "baseline", 0), others[1]]
        } | {others[2]: "c"}
        made.plan = [
            dict(zip(names, cell, strict=True)) | {"cell_key": made.key(*cell, planned_settings.get(cell, "a"))}
            for cell in [*single, *others, *never_finished]
        ]
        made.parent = made.tracker.start_benchmark(made.plan, "", "osfer run")
        missing = {("disgust", "eow", 0), ("disgust", "eow", 1), ("fear", "ours", 1)}
        for cell in single:
            if cell[2:] in missing:
                continue
            if cell[2:4] == ("fear", "eow"):
                made.fail(*cell)
            else:
                constant = cell[2:4] == ("disgust", "baseline")
                made.finish(*cell, constant=constant, gap=2.0 if cell[3] == "ours" else 0.5)
        made.finish("synthetic", "single", "surprise", "baseline", 0, settings="b", gap=0.4)
        made.finish("synthetic", "single", "surprise", ODD, 0, commit="c0ffee-dirty")
        made.fail("synthetic", "single", "surprise", "dias", 0)
        made.finish("synthetic", "single", "surprise", "dias", 0, settings="b")
        made.finish("synthetic", "single", "fear", "dias", 0, settings="b")
        made.fail("synthetic", "single", "fear", "dias", 0, settings="c")
        for cell in others[3:]:
            made.finish(*cell)
        made.fail(*never_finished[1])
        made.tracker.end(made.parent, "FINISHED")
        yield made


@pytest.fixture(scope="session")
def results(store: Store) -> Results:
    return load(store.tracker)


@pytest.fixture(scope="session")
def tables(results: Results) -> dict[str, Table]:
    return {table.name: table for table in all_tables(results)}


@pytest.fixture(scope="session")
def rendered(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    stale = {"tables/table9_gone.csv": "stale", "figures/gone.png": "old"}
    for name, text in stale.items():
        (out / name).parent.mkdir()
        (out / name).write_text(text)
    (out / MARKER).write_text("{}")  # as an earlier report leaves it
    assert render(store.tracker, out) == out / "index.html"
    return out
