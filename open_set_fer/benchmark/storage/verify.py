"""Verification of a result: its key from its settings, its names from its key, its metrics from its scores."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation import result as cell_result
from open_set_fer.benchmark.evaluation.metrics import OF_THE_RUN
from open_set_fer.benchmark.evaluation.result import CellResult
from open_set_fer.benchmark.planning.keys import digest, settings_key
from open_set_fer.benchmark.protocols.protocol import Protocol
from open_set_fer.benchmark.storage.mlflow_reader import DIGEST_LENGTH, PROTOCOL_FIELDS
from open_set_fer.benchmark.storage.reevaluate import measured

TOLERANCE = 1e-9
"""Between a metric that was logged and the same one recomputed from the scores."""


def faults_of(result: CellResult, scores: pd.DataFrame, content: dict[str, Any] | None) -> list[str]:
    """Contradictions in a result, one sentence each.

    content: what the cell's key is the digest of; None: only the metrics are verified.
    """
    faults = [] if content is None else _key_faults(result, content) or _score_faults(scores, content)
    return faults or _metric_faults(result, scores)


def _key_faults(result: CellResult, content: dict[str, Any]) -> list[str]:
    """Differences between the content and the key, tags, params and data set."""
    if digest(content) != result.tags["cell_key"]:
        return ["its cell key is not the digest of its settings"]
    model = content["closed_set"]
    protocol = Protocol.of_content(content["protocol"], tuple(model["closed_classes"]))
    own = content.get("own_backbone")
    tags = {
        "dataset": content["dataset"],
        "protocol": protocol.family,
        "open_classes": protocol.label,
        "seed": str(model["seed"]),
        **dict.fromkeys(PROTOCOL_FIELDS, ""),
        **protocol.tags(),
        "settings_key": settings_key(content),
    }
    parts = {
        "method": {"name": content["method"], "version": content["method_version"], **content["settings"]},
        "closed_set": model["closed_set"],
        "backbone": model["backbone"],
        **({"own_backbone": own} if own else {}),
    }
    settings = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    logged = {name: text for name, text in result.params.items() if not name.startswith(("dataset.", "cell."))}
    other = {name: (result.tags.get(name), text) for name, text in tags.items() if result.tags.get(name, "") != text}
    faults = [f"its tag {name} is {own!r}, its key says {text!r}" for name, (own, text) in other.items()]
    faults += [
        f"its setting {name} is {logged.get(name)!r}, its key says {settings.get(name)!r}"
        for name in sorted(logged.keys() | settings.keys())
        # Params are cut, and their tuples have become lists in JSON.
        if name not in logged
        or name not in settings
        or str(logged[name])[:6000] not in [str(form)[:6000] for form in (settings[name], _with_tuples(settings[name]))]
    ]
    if result.data and result.data.fingerprint[:DIGEST_LENGTH] != model["fingerprint"][:DIGEST_LENGTH]:
        faults.append("its data set's fingerprint is not the one of its key")
    return faults


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _score_faults(scores: pd.DataFrame, content: dict[str, Any]) -> list[str]:
    """Scores of other classes than the key names."""
    closed = set(content["closed_set"]["closed_classes"])
    protocol = Protocol.of_content(content["protocol"], tuple(content["closed_set"]["closed_classes"]))
    is_open = scores["is_open"].to_numpy(dtype=bool)
    truth, true_class = scores["truth"].to_numpy(), scores["true_class"].to_numpy()
    faults = []
    for column in ("predicted_class", "closed_set_class", "given_class"):
        if column in scores and (foreign := sorted(set(scores[column]) - closed)):
            faults.append(f"its scores have {column} {foreign[0]!r}, which is not closed")
    if not set(truth[~is_open]) <= closed or not set(truth[is_open]) <= {"open"}:
        faults.append("its scores have a truth that is neither a closed class nor open")
    if not protocol.has_open:
        if not set(true_class) <= closed:
            faults.append("its scores have faces of a class that is not closed")
    elif not set(true_class[is_open]) <= set(protocol.open) or (truth != true_class)[~is_open].any():
        faults.append("which faces of its scores are open is not what its key says")
    if scores["id"].duplicated().any():
        faults.append(f"its scores have the face {scores['id'][scores['id'].duplicated()].iloc[0]!r} twice")
    return faults


def _metric_faults(result: CellResult, scores: pd.DataFrame) -> list[str]:
    """Metrics that differ from those of the scores; those of another evaluation cannot be compared."""
    if result.evaluation > (own := cell_result.EVALUATION):
        return [f"evaluation {result.evaluation} measured it, this suite has {own}: update the suite"]
    again = measured(result, scores).metrics
    if not result.is_current:
        return []
    return [
        f"its {name} is {result.metrics.get(name, 'missing')}, its scores give {again.get(name, 'none')}"
        for name in {**result.metrics, **again}  # the main ones come first
        if not name.startswith(OF_THE_RUN) and not _same(result.metrics.get(name), again.get(name))
    ]


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=0, abs_tol=TOLERANCE) or (math.isnan(a) and math.isnan(b))
