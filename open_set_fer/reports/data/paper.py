"""The paper's published numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from open_set_fer.reports.data.names import method_name

KEY = ["dataset", "protocol", "open_classes", "method", "metric"]
USUAL_DATASET, DATASET_OF_FAMILY = "rafdb", {"contempt": "affectnet"}
"""Data sets whose published numbers are shown beside a data set without."""

ABLATION = {
    "baseline": "none",
    "ours-attention-only": "attention",
    "ours-attention-resets": "attention+cycle_lr",
    "ours": "attention+cycle_lr+cycle_training",
}
"""The four rows of Table 5: label, and parts switched on, as in paper_results.csv."""

PRINTED_AS = {"rafdb_compound": "rafdb"}  # names in the paper: RAF-DB with its compound faces is RAF-DB there


@cache
def paper_results() -> pd.DataFrame:
    """Columns table, dataset, protocol, open_classes ('mean' for a mean row), method, metric, value, note."""
    return pd.read_csv(Path(__file__).parent / "paper_results.csv", keep_default_na=False, dtype={"value": float})


@cache
def _by_key() -> dict[Any, float]:
    frame = paper_results().drop_duplicates(KEY)  # a number in several tables of the paper is the same in each
    return {tuple(key): float(value) for *key, value in frame[[*KEY, "value"]].itertuples(index=False)}


def paper_value(dataset: str, protocol: str, open_classes: str, method: str, metric: str) -> float | None:
    """The published number, None where the paper has none."""
    return _by_key().get((PRINTED_AS.get(dataset, dataset), protocol, open_classes, method, metric))


def figure6_value(labels: str) -> float | None:
    """Published AUROC of ours in Figure 6 under a pseudo-label setting (RAF-DB, surprise open), or None."""
    names = {"own": "ours", "concentrated": "ours-concentrated-pseudo-labels"}
    frame = paper_results()
    values = frame.loc[(frame["table"] == "figure6") & (frame["method"] == names.get(labels)), "value"]
    return float(values.iloc[0]) if len(values) else None


def paper_rows(dataset: str, protocols: list[str]) -> list[tuple[str, str]]:
    """(protocol, open_classes) of the paper's rows for a data set, in the paper's order, without mean rows."""
    frame, name = paper_results(), PRINTED_AS.get(dataset, dataset)
    rows = frame[(frame["dataset"] == name) & frame["protocol"].isin(protocols) & (frame["open_classes"] != "mean")]
    return list(dict.fromkeys(zip(rows["protocol"], rows["open_classes"], strict=True)))


def unreadable_note() -> str:
    """Sentence on the unreadable rows of the published Table 5."""
    known = set(paper_results().query("table == 'table5'")["method"])
    names = ", ".join(method_name(label) for label, printed in ABLATION.items() if printed not in known)
    return f"Table 5 of Zhang et al.: no number of {names}, whose row is not readable in the source at hand."
