"""Sentences of captions and footnotes."""

from __future__ import annotations

import pandas as pd

from open_set_fer.benchmark.protocols.pseudo_labels import Labels
from open_set_fer.reports.data.names import limit_notes
from open_set_fer.reports.data.results import FAILED, MISSING, Results
from open_set_fer.reports.tables.means import PARTIAL, Block, Entry, Row
from open_set_fer.reports.tables.readings import readings

BOLD = (
    "Bold: best of its row; underlined: second best of three or more; both by the displayed mean alone, which says "
    "nothing of significance"
)
FPR_POSITIVE = (
    "FPR@TPR95: closed faces are positive; the share of open faces accepted where 95 % of the closed ones are."
)
AVERAGE_PRECISION = "average precision (no trapezoids)"
ABOUT = {
    "auroc": "open against closed faces; the same whichever is positive",
    "fpr_at_tpr95": "closed faces are positive: share of open faces accepted where 95 % of the closed ones are",
    "fpr_at_tpr95_open": "open faces are positive, as in papers on OOD detection: share of closed faces rejected where "
    "95 % of the open ones are",
    "aupr_open": f"open faces are positive: {AVERAGE_PRECISION}",
    "aupr_closed": f"closed faces are positive: {AVERAGE_PRECISION}",
    "auroc_within_label": "pairs of faces with one assigned label alone, so that the labels' histogram tells nothing",
    "added_information": "pairs of faces with one assigned label and decile of the closed-set model's own loss alone; "
    "that loss itself is above 0.5 here, as deciles are coarse",
    "auroc_no_twins": "without faces whose content occurs elsewhere in the pool or in the training images",
    "open_set_accuracy": "over the closed classes and unknown, at the threshold that accepts 95 % of held-out closed "
    "faces",
    "open_set_f1": "macro F1 over the closed classes and unknown, at the same threshold as open-set accuracy",
    "closed_accuracy": "of the method's own classes on closed test faces",
    "closed_set_accuracy": "of the shared closed-set model on closed test faces",
    "auroc_low": "lower end of the 95 % interval over faces (DeLong), not over seeds",
    "auroc_high": "upper end of the 95 % interval over faces (DeLong), not over seeds",
}
"""What a metric is, for tooltips, by its name."""
SIDE_NOTE = (
    "Model accuracy: of the closed-set model on closed test faces; closed accuracy: of the method's own classes. "
    "Entropy: of the closed-set model's labels on open and on closed faces, 1 when spread evenly over the closed "
    "classes. From, to: 95 % interval over faces (DeLong, twins as one), not over seeds. AUROC within label: pairs of "
    "faces with one assigned label; added information: also with one decile of the closed-set model's own loss. AUROC "
    "without twins: without faces whose content occurs again. AUROC test split, train split: open faces of that split "
    "alone; AUROC right class: correctly classified closed faces alone. Positive: closed faces in FPR@TPR95 and AUPR "
    f"closed, open ones in FPR@TPR95, open positive, and AUPR open. AUPR: {AVERAGE_PRECISION}; share open: the AUPR "
    "open of chance. Open-set accuracy, macro F1: over the closed classes and unknown, at the threshold that accepts "
    "95 % of held-out closed faces. Seconds: of one cell."
)
SHIFT_NOTE = (
    "No face is unknown. A method that is robust to the shift has an AUROC of 0.5, shifted over unshifted faces, and "
    "accepts 0.95 of the shifted faces at the threshold that accepts 95 % of the unshifted ones."
)
BY_ORIGIN = (
    "AUROC of transductive methods: open faces of the test split alone, as those of the train split differ from the "
    "closed test faces by origin too; the other measures are of all open faces."
)
ALL_ORIGINS = (
    "Open faces of both splits, so that all methods are compared on the same faces: of transductive methods the other "
    "tables have the AUROC of open faces of the test split alone."
)
SETTINGS: dict[Labels, tuple[str, str]] = {
    "released": (
        "labels as released",
        "Open faces of the train split have the outputs for random training images, as the released code pairs them",
    ),
    "concentrated": (
        "labels concentrated",
        "Open faces all have the closed class that most of them got from the closed-set model (the comparison group of "
        "Figure 6)",
    ),
    "spiked": (
        "positive control: labels flipped in the pool",
        "Closed faces of the pool alone: what is to be found are flipped labels, not open faces",
    ),
    "flipped-true": (
        "positive control: true labels flipped",
        "Closed faces with their true labels alone: what is to be found are labels flipped at random, not open faces",
    ),
}
"""Pseudo-label settings as part of a title, and as a sentence of a caption."""


def state(cells: pd.DataFrame, over_seeds: str) -> str:
    """The number of seeds, and of missing and failed cells."""
    per_group = cells.groupby(["protocol", "open_classes", "method"]).size()
    low, high = int(per_group.min()), int(per_group.max())
    if high == 1:
        used = sorted(map(int, set(cells["seed"])))
        seeds = f"One seed ({used[0]})." if len(used) == 1 else "One seed each."
    else:
        seeds = f"{over_seeds} over {high if low == high else f'{low} to {high}'} seeds."
    parts = [f"{count} {status}" for status in (MISSING, FAILED) if (count := (cells["status"] == status).sum())]
    if not parts:
        return seeds
    parts[0] = parts[0].replace(" ", f" of {len(cells)} cells ", 1)
    return f"{seeds} {', '.join(parts)}."


def coverage_notes(results: Results, block: Block, methods: list[str]) -> list[str]:
    """Explanations of † and ‡ in a block."""
    rows, last = [row for row in block.rows if not row.is_mean], block.rows[-1]
    notes = []
    if means := [entry for entry in last.entries if last.is_mean and entry.mark]:
        over = "; ".join(_coverage(results, entry, rows, methods.index(entry.method)) for entry in means)
        notes.append(f"† mean over {over}.")
    marked = [entry for row in rows for entry in row.entries if entry.status == PARTIAL]
    if partial := [f"{results.title(e.method)}, {e.open_classes}: {e.n_cells} of {e.n_planned}" for e in marked]:
        notes.append(f"‡ fewer seeds than planned: {'; '.join(partial)}.")
    return notes


def _coverage(results: Results, mean: Entry, rows: list[Row], column: int) -> str:
    present = [row.entries[column] for row in rows if row.entries[column].value is not None]
    partial = f" ({mean.n_cells} of {mean.n_planned} cells)" if any(e.status == PARTIAL for e in present) else ""
    return f"{len(present)} of {len(rows)} rows{partial} for {results.title(mean.method)}"


def bold_notes(blocks: list[Block], has_groups: bool) -> list[str]:
    """The explanation of bold and underlined numbers, if there are any."""
    entries = [entry for block in blocks for entry in block.entries]
    groups = "; methods of both kinds taken together" * has_groups
    fewer = "; no mean over fewer rows than another method's" * any(entry.mark == "†" for entry in entries)
    return [f"{BOLD}{groups}{fewer}."] if any(entry.best for entry in entries) else []


def sees_notes(results: Results, methods: list[str]) -> list[str]:
    """Which methods need the pool as a whole."""
    pool = [results.title(method) for method in methods if results.states(method, "sees_pool")]
    if not pool:
        return []
    verb = "is" if len(pool) == 1 else "are"
    return [f"{', '.join(pool)} {verb} transductive: a face's score depends on the other test faces."]


def method_notes(results: Results, dataset: str, methods: list[str]) -> list[str]:
    """Settings, limits and controls of the methods, and the methods without numbers in this pseudo-label setting."""
    notes = [*sees_notes(results, methods), *limit_notes(methods), *readings(results, dataset, methods)]
    if left_out := results.left_out.get(dataset):
        names = ", ".join(map(results.title, left_out))
        notes.append(f"Left out: {names}: their scores do not use the labels that these cells change.")
    return notes


def warnings(results: Results, dataset: str, methods: list[str]) -> list[str]:
    """Warnings on the cells of any of the methods."""
    return [f"Warning: {warn.about(methods)}" for warn in results.warnings_for(dataset, methods)]
