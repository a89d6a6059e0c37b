"""What a study found: its trials, the values to take and why, and Optuna's figures, from its storage."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_set_fer.benchmark.tuning.study import STAMP, Study, spread_of
from open_set_fer.reports.tables.build import slug

if TYPE_CHECKING:
    import optuna

MOST = 3
"""Settings that slices and contours show: the most important ones, so that they can be read."""


FEWEST = 4
"""Finished trials, below which nothing is said of importance."""


@dataclass(frozen=True)
class StudyReport:
    """What was written. files: of `folder`, the text first. importance: share of each setting, where it can be told."""

    study: Study
    folder: Path
    files: list[Path]
    importance: dict[str, float]


def study_report(optuna_study: optuna.Study, out: Path) -> StudyReport:
    """Write out/<study>/study.md and the figures history, importance, slice, contour (PNG and SVG)."""
    study = Study.of(optuna_study)
    folder = out / slug(study.name)
    folder.mkdir(parents=True, exist_ok=True)
    importance = importance_of(optuna_study)
    drawn: dict[str, str] = {}
    files: list[Path] = []
    for name, draw in _drawings(optuna_study, study, importance).items():
        for old in folder.glob(f"{name}.*"):
            old.unlink()
        try:
            files += _save(draw, folder / name, study)
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            drawn[name] = f"not drawn: {str(error).strip().splitlines()[0]}"
        else:
            drawn[name] = f"![{_alternative(name, study)}]({name}.png)"
    text = folder / "study.md"
    text.write_text(_text(study, importance, drawn), "utf-8")
    return StudyReport(study, folder, [text, *files], importance)


def importance_of(study: optuna.Study) -> dict[str, float]:
    """Share of each setting in what the objective varies by (fANOVA, seeded), the largest first; empty with too few trials."""
    from optuna import importance

    if len(Study.of(study).finished) < FEWEST:
        return {}
    try:
        shares = importance.get_param_importances(study, evaluator=importance.FanovaImportanceEvaluator(seed=0))
    except (ValueError, RuntimeError):
        return {}
    return {name: float(share) for name, share in shares.items() if math.isfinite(share)}


def _drawings(study: optuna.Study, read: Study, importance: dict[str, float]) -> dict[str, Callable[[], Any]]:
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as plots

    shown = [*importance, *(key for key in read.own if key not in importance)][:MOST]
    drawings: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study, target_name=read.area),
        "slice": lambda: plots.plot_slice(study, params=shown, target_name=read.area),
    }
    if len(read.own) > 1:
        drawings["importance"] = lambda: _importances(plots, study, FanovaImportanceEvaluator(seed=0), bool(importance))
        drawings["contour"] = lambda: plots.plot_contour(study, params=shown, target_name=read.area)
    if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        drawings["epochs"] = lambda: plots.plot_intermediate_values(study)
    return drawings


def _importances(plots: Any, study: optuna.Study, evaluator: Any, known: bool) -> Any:
    if not known:
        raise ValueError("too few finished trials to tell which setting matters")
    return plots.plot_param_importances(study, evaluator=evaluator)


def _save(draw: Callable[[], Any], path: Path, study: Study) -> list[Path]:
    """Draw with pyplot, which Optuna does, and write PNG and SVG."""
    import matplotlib as mpl
    import optuna
    from matplotlib import pyplot as plt

    backend = mpl.get_backend()
    plt.switch_backend("Agg")
    try:
        with warnings.catch_warnings(), mpl.rc_context():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", UserWarning)
            axes = draw()
            figure = np.ravel(axes)[0].get_figure()
            columns = max(1, len({round(axis.get_position().x0, 2) for axis in np.ravel(axes)}))
            rows = max(1, len({round(axis.get_position().y0, 2) for axis in np.ravel(axes)}))
            figure.set_size_inches(max(7.0, 3.4 * columns), max(4.2, 3.0 * rows))
            if study.objective == "test":
                figure.text(0.5, 1.03, STAMP, ha="center", va="bottom", color="red", fontsize=12, fontweight="bold")
            names = [path.with_suffix(".png"), path.with_suffix(".svg")]
            for name in names:
                figure.savefig(name, dpi=120, bbox_inches="tight")
            plt.close(figure)
    finally:
        plt.close("all")
        plt.switch_backend(backend)
    return names


def _alternative(name: str, study: Study) -> str:
    return {
        "history": f"{study.area} of each trial of {study.label}, and the best so far",
        "slice": f"{study.area} against each setting of {study.label}",
        "importance": f"share of each setting of {study.label} in what {study.area} varies by",
        "contour": f"{study.area} over pairs of settings of {study.label}",
        "epochs": f"AUROC of each trial of {study.label} while it trained",
    }[name]


def _text(study: Study, importance: dict[str, float], drawn: dict[str, str]) -> str:
    """study.md."""
    stamp = f"**{STAMP}: these numbers are not to be compared with any table.**\n\n" * (study.objective == "test")
    lines = [f"# Study {study.name}\n", f"{stamp}{study.label}, {study.area}: {study.selection}.\n"]
    if study.finished:
        best = study.best()
        lines += [f"Trial {best.number}: {study.area} {spread_of(best)}. {_sentence(study.verdict().words)}\n"]
        lines += ["| setting | best | yours | importance |", "|---|---|---|---|"]
        lines += [
            f"| `{key}` | {json.dumps(best.values.get(key))} | {json.dumps(own)} | "
            + (f"{importance[key]:.2f} |" if key in importance else "not known |")
            for key, own in study.own.items()
        ]
    lines += [
        "",
        f"| trial | {' | '.join(f'`{key}`' for key in study.own)} | {study.area} |",
        "|---" * (len(study.own) + 2) + "|",
    ]
    for trial in study.trials:
        values = " | ".join(json.dumps(trial.values.get(key)) for key in study.own)
        lines.append(f"| {trial.number} | {values} | {spread_of(trial)} |")
    lines += [
        "",
        "± is the standard deviation over seeds and protocols, [ ] the bootstrap interval over faces of a single cell.",
    ]
    for name, shown in drawn.items():
        lines += ["", f"## {name}", "", shown]
    return "\n".join(lines) + "\n"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
