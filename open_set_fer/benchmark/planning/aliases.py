"""OpenOOD's names (Yang et al. 2022; Zhang et al. 2024) of methods that have another label here."""

from __future__ import annotations

from typing import Any

from open_set_fer import plugins
from open_set_fer.errors import SuiteError

ALIASES = {
    "msp": "baseline",
    "mls": "max-logit",
    "ebo": "energy",
    "temp_scaling": "temperature-scaling",
    "klm": "kl-matching",
    "mds": "mahalanobis",
    "rmds": "relative-mahalanobis",
}


def label_of(name: str) -> str:
    """The label that a name stands for; an installed method of that name keeps it.

    >>> label_of("ebo"), label_of("ours")
    ('energy', 'ours')
    """
    return name if name in plugins.available(plugins.METHODS) else ALIASES.get(name, name)


def with_labels(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a profile with labels in place of aliases; SuiteError for an alias that cannot stand there."""
    values = dict(values)
    for table in ("methods", "with_weights", "search"):
        if isinstance(entries := values.get(table), dict):
            values[table] = {label_of(name): _entry(table, name, entry, entries) for name, entry in entries.items()}
    if isinstance(names := values.get("default_methods"), list):
        values["default_methods"] = [label_of(name) if isinstance(name, str) else name for name in names]
    return values


def _entry(table: str, name: str, entry: Any, entries: dict[str, Any]) -> Any:
    """A label's entry, with the label that it is `like`."""
    label = label_of(name)
    is_own = table == "methods" and isinstance(entry, dict) and ("like" in entry or "method" in entry)
    if label != name and (is_own or label in entries):
        fix = f"write [{table}.{label}], or give your own entry another label"
        raise SuiteError(f"{table}.{name}: {name} is OpenOOD's name of {label}", fix)
    if is_own and isinstance(entry.get("like"), str):
        return entry | {"like": label_of(entry["like"])}
    return entry
