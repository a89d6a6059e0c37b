"""The effect study: why `ours` does what it does on FERPlus at CPU scale, written from MLflow.

Rows come from four experiments: `effect-study` (one factor at a time, contempt open), `effect-study-pool` (size and
balance of the test pool), `ferplus-cpu` (the reported classes) and `ferplus-cpu-tuning` (the search for the defaults).
For a score on pseudo labels it separates two things that a raw AUROC mixes: what the pseudo label's frequency alone
gives, and what the score gives among faces of the same pseudo label.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from open_set_fer.errors import SuiteError
from open_set_fer.reports.query import method_order

if TYPE_CHECKING:
    from open_set_fer.benchmark.tracking import Tracker


@dataclass(frozen=True)
class Dissection:
    """What a score on pseudo labels rests on.

    auroc: of the score. prior: AUROC of -log of the pseudo label's share of the pool alone. within: AUROC of the score's rank
    among faces of the same pseudo label. correlation: Spearman's, of the score with -log share.
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
"""What the tables average over seeds; the dissection's are missing for methods whose scores need no pseudo label."""


def write_effect_study(study: Tracker, pools: Tracker, reported: Tracker, tuning: Tracker, out: Path) -> Path:
    """Write out/effect_study.md and its figure; raises SuiteError when the study has no finished cell."""
    factors = cell_rows(study)
    if factors.empty:
        raise SuiteError("the effect study has no finished cell", "osfer run --profile effect-study")
    final, pooled = cell_rows(reported), cell_rows(pools)
    out.mkdir(parents=True, exist_ok=True)
    _figure(pd.concat([factors, final])).savefig(out / "effect_study.png", dpi=130)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("open_set_fer.reports", "."), trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["number"] = number
    text = environment.get_template("effect_study.md.jinja").render(
        search=search_rows(tuning),
        factors=_over_seeds(factors, ["method"]),
        pools=_over_seeds(pooled, ["open", "method"]),
        classes=_classes(final),
        means=_means(final),
    )
    path = out / "effect_study.md"
    path.write_text(text, "utf-8")
    return path


def cell_rows(tracker: Tracker) -> pd.DataFrame:
    """One row a cell, of several runs of the same coordinates the newest: open, method, seed, metrics, dissection."""
    newest = {
        (run.data.tags["open_classes"], run.data.tags["method"], run.data.tags["seed"]): run
        for run in tracker.cells()
        if run.info.status == "FINISHED"
    }
    rows: list[dict[str, Any]] = []
    for (opened, method, seed), run in newest.items():
        metrics = {name: value for name, value in run.data.metrics.items() if not name.startswith("curve.")}
        scores = tracker.read_scores(run.info.run_id)
        parts = asdict(dissect(scores)) if "pseudo_label" in scores else {}
        rows.append({**metrics, **parts, "open": opened, "method": method, "seed": int(seed)})
    return pd.DataFrame(rows).reindex(columns=sorted({*COLUMNS, *(rows[0] if rows else ())}))


def search_rows(tracker: Tracker) -> list[dict[str, Any]]:
    """For each label that was tuned: trials, AUROC of the first and of the best one, and what the best one had."""
    runs = [run for run in tracker.cells() if run.info.status == "FINISHED"]
    rows = []
    for label in method_order(run.data.tags["method"] for run in runs):
        own = [run for run in runs if run.data.tags["method"] == label]
        best = max(own, key=lambda run: run.data.metrics["auroc"])
        varied = [name for name in best.data.params if len({run.data.params.get(name) for run in own}) > 1]
        values = ", ".join(f"{name.removeprefix('method.')} {_short(best.data.params[name])}" for name in varied)
        first, last = own[0].data.metrics["auroc"], best.data.metrics["auroc"]
        rows.append({"method": label, "trials": len(own), "first": first, "best": last, "values": values})
    return rows


def _short(text: str) -> str:
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text


def number(mean: float | None, std: float | None = None, digits: int = 3) -> str:
    """'0.612 ± 0.008', '0.612' where there is one seed, a dash where there is nothing."""
    if mean is None or np.isnan(mean):
        return "—"
    return f"{mean:.{digits}f}" + ("" if std is None or np.isnan(std) else f" ± {std:.{digits}f}")


def _over_seeds(rows: pd.DataFrame, by: list[str]) -> list[dict[str, Any]]:
    """Mean, deviation (of a sample) and number of seeds of every group, in the order they come."""
    if rows.empty:
        return []
    groups = rows.groupby(by, sort=False)
    table = groups[list(COLUMNS)].mean()
    table["std"], table["within_std"], table["seeds"] = groups["auroc"].std(), groups["within"].std(), groups.size()
    return [{str(key): value for key, value in row.items()} for row in table.reset_index().to_dict("records")]


def _classes(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """For each open class the groups of `_over_seeds` by method, and the entropy of open faces' pseudo labels."""
    if rows.empty:
        return []
    entropy = rows.groupby("open")["pseudo_label_entropy_open"].mean()
    groups = _over_seeds(rows, ["open", "method"])
    return [
        {
            "open": opened,
            "entropy": float(entropy[opened]),
            **{g["method"].replace("-", "_"): g for g in groups if g["open"] == opened},
        }
        for opened in dict.fromkeys(rows["open"])
    ]


def _means(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean AUROC over the open classes of each seed; its mean and deviation over the seeds that have every class."""
    if rows.empty:
        return []
    wanted = rows["open"].nunique()
    found = []
    for method in method_order(rows["method"]):
        by_seed = rows[rows["method"] == method].groupby("seed")["auroc"].agg(["mean", "size"])
        whole = by_seed.loc[by_seed["size"] == wanted, "mean"]
        found.append(
            {"method": method, "mean": whole.mean(), "std": whole.std(), "seeds": len(whole), "begun": len(by_seed)}
        )
    return found


def _figure(rows: pd.DataFrame) -> Figure:
    """Raw AUROC of `ours` and its variants against that of the pseudo label's frequency alone."""
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.add_subplot()
    chosen = rows[rows["method"].str.startswith("ours") & rows["prior"].notna()]
    for name, marker, colour in (
        ("ours, reported classes", "s", "#0072B2"),
        ("variants of ours, contempt", "o", "#E69F00"),
        ("ours-plus, reported classes", "^", "#009E73"),
    ):
        kind = name.partition(",")[0]
        if kind == "variants of ours":
            points = chosen[chosen["open"] == "contempt"]
        else:
            points = chosen[(chosen["open"] != "contempt") & (chosen["method"] == kind)]
        if len(points):
            axes.scatter(points["prior"], points["auroc"], marker=marker, color=colour, s=22, alpha=0.8, label=name)
    low, high = 0.3, 0.95
    axes.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=0)
    axes.set(xlabel="AUROC of the pseudo label's frequency alone", ylabel="AUROC of the score")
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=9)
    return figure
