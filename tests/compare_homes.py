"""Compare two homes cell by cell: `python -m tests.compare_homes HOME HOME`; exit code 1 if they differ.

Keys, scores and metrics must be the same to the last bit; times and memory are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

OF_THE_RUN = ("seconds.", "peak_mib.")


def differences(first: Path, second: Path) -> list[str]:
    """One line for each cell that only one of the homes has, or whose scores or metrics differ."""
    homes = [{path.parent.name: path.parent for path in home.glob("results/*/result.json")} for home in (first, second)]
    lines = [f"{key}: in one home only" for key in sorted(homes[0].keys() ^ homes[1].keys())]
    for key in sorted(homes[0].keys() & homes[1].keys()):
        tables = [pd.read_parquet(home[key] / "scores.parquet") for home in homes]
        if not tables[0].equals(tables[1]):
            lines.append(f"{key}: scores differ")
        metrics = [json.loads((home[key] / "result.json").read_text("utf-8"))["metrics"] for home in homes]
        for name in sorted(metrics[0].keys() | metrics[1].keys()):
            values = [numbers.get(name) for numbers in metrics]
            if not name.startswith(OF_THE_RUN) and values[0] != values[1]:
                lines.append(f"{key}: {name} {values[0]} and {values[1]}")
    return lines


if __name__ == "__main__":
    first, second = map(Path, sys.argv[1:])
    lines = differences(first, second)
    cells = len(list(first.glob("results/*/result.json")))
    print(*lines, f"{cells} cells, {len(lines)} differences", sep="\n")
    sys.exit(bool(lines))
