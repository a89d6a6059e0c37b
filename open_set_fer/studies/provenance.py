"""Versions that a written page rests on: its last line, a comment with JSON, compared with the present ones.

A page of other versions shows numbers that the suite no longer computes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from open_set_fer.benchmark.evaluation.result import EVALUATION
from open_set_fer.benchmark.planning.keys import Recipe, digest, settings_key
from open_set_fer.benchmark.planning.profile import Profile, load_profile
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data.results import FINISHED, Results

Versions = dict[str, Any]
LINE = re.compile(r"<!-- versions: (\{.*\}) -->\s*\Z")


def versions_of(results: Results, shown: pd.DataFrame) -> Versions:
    """Profile, evaluation, digest of data sets and protocols, and by method label version and settings of its runs.

    shown: the rows of `results.cells` that the page is about. Version and settings are the runs' own: several if the
    runs differ.
    """
    done = shown[shown["status"] == FINISHED]
    methods = {
        str(label): {
            "version": _texts(results.params[run].get("method.version", "") for run in rows["run_id"]),
            "settings": _texts(rows["settings_key"]),
        }
        for label, rows in done.groupby("method", sort=True)
    }
    return _common(load_profile(results.profile), sorted(set(done["dataset"]))) | {"methods": methods}


def present_versions(written: Versions) -> Versions:
    """What `versions_of` would give today for a page with the same profile, data sets and labels."""
    profile = load_profile(written["profile"])
    methods = {}
    for label in written["methods"]:
        try:
            method = profile.method(label)
        except SuiteError:
            methods[label] = {"version": "no such label", "settings": "no such label"}
            continue
        methods[label] = {"version": str(method.version), "settings": _settings_key(profile, label)}
    return _common(profile, list(written["datasets"])) | {"methods": methods}


def stale(page: str) -> list[str]:
    """What differs between the versions in a page's last line and the present ones; empty for a page without runs."""
    match = LINE.search(page)
    if match is None:
        return ["its last line has no versions"]
    written = json.loads(match[1])
    if not written:
        return []
    before, now = (_flat(versions) for versions in (written, present_versions(written)))
    return [f"{name}: {before.get(name)}, now {now.get(name)}" for name in now if before.get(name) != now[name]]


def last_line(versions: Versions) -> str:
    """The line that `stale` reads."""
    return f"<!-- versions: {json.dumps(versions, sort_keys=True)} -->\n"


def _common(profile: Profile, datasets: list[str]) -> Versions:
    settings = {name: digest(settings_of(profile.dataset(name)))[:16] for name in datasets}
    protocols = digest(profile.protocols.model_dump(mode="json"))[:16]
    return {"profile": profile.name, "evaluation": EVALUATION, "datasets": settings, "protocols": protocols}


def _settings_key(profile: Profile, label: str) -> str:
    """The tag `settings_key` of a cell that this profile plans under a label."""
    method = profile.method(label)
    recipe = Recipe(profile.backbone_settings(), profile.closed_set_settings(label), profile.own_backbone(label))
    content = {"method": method.name, "method_version": method.version, "settings": settings_of(method)}
    return settings_key(content | {"closed_set": recipe.content(), **recipe.own_content()})


def _texts(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def _flat(versions: Versions, above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in versions.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat
