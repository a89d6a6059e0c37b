"""Shared parts of the write-ups: numbers as displayed and the written page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from open_set_fer.reports.data.names import dataset_name, method_name
from open_set_fer.studies.provenance import Versions, last_line
from open_set_fer.templates import templates


def number(mean: float | None, std: float | None = None, digits: int = 3) -> str:
    """Mean and deviation as displayed: '0.612 ± 0.008', '0.612' without a deviation, a dash without a value."""
    if mean is None or np.isnan(mean):
        return "—"
    return f"{mean:.{digits}f}" + ("" if std is None or np.isnan(std) else f" ± {std:.{digits}f}")


def over_seeds(values: Sequence[float]) -> str:
    """Mean and deviation of a sample, one value a seed, as displayed."""
    if not values:
        return number(None)
    return number(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def write_page(
    study: str, path: Path, content: Mapping[str, Any], figures: Mapping[str, Figure], versions: Versions
) -> Path:
    """Render the study's template into `path`, its versions as the last line, and save the figures beside it by name.

    versions: of the cells on the page; empty if it rests on none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(path.with_name(name), dpi=130)
    environment = templates(number=number, over_seeds=over_seeds, dataset=dataset_name, method=method_name)
    text = environment.get_template(f"studies/{study}/page.md.jinja").render(content)
    path.write_text(f"{text.rstrip()}\n\n{last_line(versions)}", "utf-8")
    return path
