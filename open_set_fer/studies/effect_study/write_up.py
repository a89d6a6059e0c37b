"""Effect study: why `ours` behaves as it does on FERPlus at CPU scale, written from MLflow.

Experiments: `effect-study` (one factor at a time, contempt open), `effect-study-pool` (size and balance of the pool),
`ferplus-cpu` (the reported classes), `ferplus-cpu-tuning` (the search for the defaults).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.datasets.faceset import CONTEMPT
from open_set_fer.reports.data.results import FINISHED, load, method_order, protocol_order
from open_set_fer.studies.writing import write_page

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Dissection:
    """Parts of a score on pseudo labels.

    auroc: of the score. prior: of -log of the pseudo label's share of the pool alone. within: of the score's rank among
    faces of the same pseudo label. correlation: Spearman's, of the score with -log share.
    """

    auroc: float
    prior: float
    within: float
    correlation: float


def dissect(scores: pd.DataFrame) -> Dissection:
    """Dissect one cell's scores (columns is_open, unknown_score, pseudo_label)."""
    labels, score, is_open = scores["pseudo_label"], scores["unknown_score"], scores["is_open"].to_numpy()
    count = labels.map(labels.value_counts()).to_numpy(dtype=np.float64)
    surprisal = -np.log(count / len(labels))
    within = (score.groupby(labels).rank().to_numpy() - 0.5) / count  # centred: equal scores rank 1/2 in any label
    return Dissection(
        float(roc_auc_score(is_open, score)),
        float(roc_auc_score(is_open, surprisal)),
        float(roc_auc_score(is_open, within)),
        float(spearmanr(score, surprisal).statistic),
    )


COLUMNS = ("auroc", "prior", "within", "correlation", "closed_set_accuracy", "seconds.total")
"""Columns that the tables average over seeds; methods without pseudo labels lack those of the dissection."""


def write(home: Path, out: Path) -> Path:
    """Write out/effect_study.md and its figure from the MLflow store of `home`; SuiteError without finished cells."""
    warnings: list[str] = []
    parts = {"effect-study": "contempt", "effect-study-pool": "single", "ferplus-cpu": "single"}
    factors, pools, final = (cell_rows(Tracker(home, name), family, warnings) for name, family in parts.items())
    content = {
        "search": search_rows(Tracker(home, "ferplus-cpu-tuning")),
        "factors": _over_seeds(factors, ["method"]),
        "pools": _over_seeds(pools, ["open_classes", "method"]),
        "classes": _classes(final),
        "means": _means(final),
        "warnings": warnings,
    }
    return write_page("effect_study", out / "effect_study.md", content, {"effect_study.png": _figure(factors, final)})


def cell_rows(tracker: Tracker, family: str, warnings: list[str]) -> pd.DataFrame:
    """Finished cells of a family with their dissection; the reports' warnings on them are added to `warnings`."""
    results = load(tracker).under("own")
    cells = results.cells[(results.cells["status"] == FINISHED) & (results.cells["protocol"] == family)]
    for dataset, rows in cells.groupby("dataset"):
        methods = list(dict.fromkeys(rows["method"]))
        warnings += [f"{tracker.profile}: {w.about(methods)}" for w in results.warnings_for(str(dataset), methods)]
    parts: list[dict[str, float]] = []
    for run_id in cells["run_id"]:
        scores = tracker.read_scores(run_id)
        parts.append(asdict(dissect(scores)) if "pseudo_label" in scores else {})
    dissected = pd.DataFrame(parts, index=cells.index, columns=[part.name for part in fields(Dissection)])
    return pd.concat([cells, dissected.drop(columns="auroc")], axis=1)


def search_rows(tracker: Tracker) -> list[dict[str, Any]]:
    """Trials, seeds, AUROC of the first and the best trial, and the best values of each label tuned with contempt open.

    A trial is one setting, its AUROC the mean over the seeds. The first had the profile's settings of that time.
    """
    runs = [r for r in tracker.cells() if r.info.status == "FINISHED" and r.data.tags["open_classes"] == CONTEMPT]
    rows = []
    for label in method_order(run.data.tags["method"] for run in runs):
        tried = [run for run in runs if run.data.tags["method"] == label]
        trials: dict[str, list[Run]] = {}  # oldest first
        for run in tried:
            trials.setdefault(run.data.tags["settings_key"], []).append(run)
        auroc = [float(np.mean([run.data.metrics["auroc"] for run in trial])) for trial in trials.values()]
        best = list(trials.values())[int(np.argmax(auroc))][0].data.params
        settings = [name for name in best if not name.startswith("cell.")]
        varied = [name for name in settings if len({run.data.params.get(name) for run in tried}) > 1]
        values = ", ".join(f"{name.removeprefix('method.')} {_short(best[name])}" for name in varied)
        seeds = len({run.data.tags["seed"] for run in tried})
        row = {"method": label, "trials": len(trials), "seeds": seeds, "values": values}
        rows.append(row | {"first": auroc[0], "best": max(auroc)})
    return rows


def _short(text: str) -> str:
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text


def _over_seeds(rows: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    """Mean, deviation (of a sample) and number of seeds of every group, in their order of appearance."""
    groups = rows.groupby(by, sort=False)
    table = groups[list(COLUMNS)].mean()
    table["std"], table["within_std"], table["seeds"] = groups["auroc"].std(), groups["within"].std(), groups.size()
    return [{str(key): value for key, value in row.items()} for row in table.reset_index().to_dict("records")]


def _classes(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Baseline, ours and ours-plus over seeds, and the entropy of open faces' pseudo labels, for each open class."""
    entropy = rows[rows["method"] == "baseline"].groupby("open_classes")["pseudo_label_entropy_open"].mean()
    groups = {(g["open_classes"], g["method"]): g for g in _over_seeds(rows, ["open_classes", "method"])}
    nothing, methods = dict.fromkeys((*COLUMNS, "std", "within_std")), ("baseline", "ours", "ours-plus")
    return [
        {"open": name, "entropy": entropy.get(name), "by": [groups.get((name, m), nothing) for m in methods]}
        for _, name in protocol_order(rows)
    ]


def _means(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean AUROC over the open classes of each seed; its mean and deviation over the seeds that have every class."""
    n_classes = rows["open_classes"].nunique()
    means = []
    for method in method_order(rows["method"]):
        by_seed = rows[rows["method"] == method].groupby("seed")["auroc"].agg(["mean", "size"])
        whole = by_seed.loc[by_seed["size"] == n_classes, "mean"]
        numbers = {"mean": whole.mean(), "std": whole.std(), "seeds": len(whole), "begun": len(by_seed)}
        means.append({"method": method} | numbers)
    return means


def _figure(factors: pd.DataFrame, final: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.add_subplot()
    own = {"ours, reported classes": ("s", "#0072B2", final[final["method"] == "ours"])}
    variants = factors[factors["method"].str.startswith("ours")]
    for name, (marker, colour, rows) in (own | {"ours and its variants, contempt": ("o", "#E69F00", variants)}).items():
        axes.scatter(rows["prior"], rows["auroc"], marker=marker, color=colour, s=22, alpha=0.8, label=name)
    low, high = 0.3, 0.8
    axes.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=0)
    axes.set(xlabel="AUROC of the pseudo label's frequency alone", ylabel="AUROC of the score")
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=9)
    return figure
