"""Report of a study from its storage: its trials, the values to take and why, and Optuna's figures."""

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

MOST = 3  # settings in slices and contours: the most important ones, so that they can be read
FEWEST = 4  # finished trials that it takes to tell importance
FIGURES = {
    "history": "{area} of each trial of {label}, and the best so far",
    "slice": "{area} against each setting of {label}",
    "importance": "share of each setting of {label} in what {area} varies by",
    "contour": "{area} over pairs of settings of {label}",
    "epochs": "{area} of each trial of {label} while it trained",
}
"""Alternative text of each figure."""


@dataclass(frozen=True)
class StudyReport:
    """The files of a study, the text first. importance: share of each setting, if it can be told."""

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
    figures: dict[str, str] = {}
    files: list[Path] = []
    for name, draw in _drawings(optuna_study, study, importance).items():
        for earlier in folder.glob(f"{name}.*"):
            earlier.unlink()
        try:
            files += _save(draw, folder / name, study)
            figures[name] = f"![{FIGURES[name].format(area=study.area, label=study.label)}]({name}.png)"
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            figures[name] = f"not drawn: {str(error).strip().splitlines()[0]}"
    text = folder / "study.md"
    text.write_text(_text(study, importance, figures), "utf-8")
    return StudyReport(study, folder, [text, *files], importance)


def importance_of(study: optuna.Study) -> dict[str, float]:
    """Share of each setting in the objective's variance (seeded fANOVA), largest first; empty for few trials."""
    from optuna import importance

    if len(Study.of(study).finished) < FEWEST:
        return {}
    try:
        shares = importance.get_param_importances(study, evaluator=importance.FanovaImportanceEvaluator(seed=0))
    except (ValueError, RuntimeError):
        return {}
    return {name: float(share) for name, share in shares.items() if math.isfinite(share)}


def _drawings(study: optuna.Study, read: Study, importance: dict[str, float]) -> dict[str, Callable[[], Any]]:
    from optuna.visualization import matplotlib as plots

    settings = [*importance, *(key for key in read.own if key not in importance)][:MOST]
    drawings: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study, target_name=read.area),
        "slice": lambda: plots.plot_slice(study, params=settings, target_name=read.area),
    }
    if len(read.own) > 1:
        drawings["importance"] = lambda: _draw_importance(study, bool(importance))
        drawings["contour"] = lambda: plots.plot_contour(study, params=settings, target_name=read.area)
    if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        drawings["epochs"] = lambda: plots.plot_intermediate_values(study)
    return drawings


def _draw_importance(study: optuna.Study, is_known: bool) -> Any:
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as plots

    if not is_known:
        raise ValueError("too few finished trials to tell which setting matters")
    return plots.plot_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


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
            corners = [axis.get_position() for axis in np.ravel(axes)]
            columns, rows = (len({round(getattr(corner, side), 2) for corner in corners}) for side in ("x0", "y0"))
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


def _text(study: Study, importance: dict[str, float], figures: dict[str, str]) -> str:
    stamp = f"**{STAMP}: these numbers are not to be compared with any table.**\n\n" * (study.objective == "test")
    lines = [f"# Study {study.name}\n", f"{stamp}{study.label}, {study.area}: {study.selection}.\n"]
    if study.finished:
        best, words = study.best(), study.verdict().words
        lines.append(f"Trial {best.number}: {study.area} {spread_of(best)}. {words[0].upper()}{words[1:]}.\n")
    if study.chooses:
        lines += ["| setting | best | yours | importance |", "|---|---|---|---|"]
        for key, own in study.own.items():
            share = f"{importance[key]:.2f}" if key in importance else "not known"
            lines.append(f"| `{key}` | {json.dumps(best.values.get(key))} | {json.dumps(own)} | {share} |")
    lines += ["", f"| trial | {' | '.join(f'`{key}`' for key in study.own)} | {study.area} |"]
    lines.append("|---" * (len(study.own) + 2) + "|")
    for trial in study.trials:
        values = " | ".join(json.dumps(trial.values.get(key)) for key in study.own)
        lines.append(f"| {trial.number} | {values} | {spread_of(trial)} |")
    basis = "standard deviation over seeds and protocols, [ ] the 95 % interval over faces of a single cell"
    lines += ["", f"± is the {basis}."]
    for name, figure in figures.items():
        lines += ["", f"## {name}", "", figure]
    return "\n".join(lines) + "\n"
