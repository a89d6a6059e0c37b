"""Inventory for the command line: profiles, methods, data sets, protocols."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

from open_set_fer import plugins
from open_set_fer.benchmark.planning.aliases import ALIASES
from open_set_fer.benchmark.planning.profile import built_in_labels, load_profile
from open_set_fer.benchmark.planning.profile_files import profile_names
from open_set_fer.benchmark.protocols.protocol import FAMILIES, PAPER_PAIRS, PAPER_TRIPLES


def inventory() -> dict[str, list[Any]]:
    """Content of `osfer list`; packages with an unusable entry point are under `broken`, with the reason."""
    profiles = {name: load_profile(name) for name in profile_names()}
    labels: dict[str, list[str]] = {}
    for name, profile in profiles.items():
        for label in profile.method_labels():
            labels.setdefault(label, []).append(name)
    methods, datasets = plugins.available(plugins.METHODS), plugins.available(plugins.DATASETS)
    no_data = plugins.broken(plugins.DATASETS)
    return {
        "profiles": [
            {"name": name, "description": profile.description, "default_methods": profile.default_methods}
            for name, profile in profiles.items()
        ],
        "methods": [
            {
                "name": label,
                "description": profiles[names[0]].about(label),
                "profiles": ["all"] if len(names) == len(profiles) else names,
                "package": _package(methods[label]) if label in methods else "open-set-fer",
                "aliases": [name for name, of in ALIASES.items() if of == label],
            }
            for label, names in sorted(labels.items(), key=lambda item: item[0] not in built_in_labels())
        ],
        "datasets": [
            {
                "name": name,
                "description": (plugins.load(plugins.DATASETS, name).__doc__ or "").strip().partition("\n")[0],
                "package": _package(point),
            }
            for name, point in sorted(datasets.items())
            if name not in no_data
        ],
        "broken": [
            {"name": name, "reason": fault} for name, fault in (plugins.broken(plugins.METHODS) | no_data).items()
        ],
        "families": list(FAMILIES),
        "pairs": ["+".join(group) for group in PAPER_PAIRS],
        "triples": ["+".join(group) for group in PAPER_TRIPLES],
    }


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
