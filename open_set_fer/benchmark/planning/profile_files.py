"""Files of profiles: built-in ones by name, a user's own, inheritance by `base`, checkpoints of --weights."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from open_set_fer import plugins
from open_set_fer.benchmark.planning.aliases import with_labels
from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.recipe import BUILT_IN


@cache
def _profile_files() -> dict[str, Traversable]:
    """Built-in profiles by name: those of the benchmark, and those beside each write-up in `open_set_fer.studies`."""
    folders = [files("open_set_fer.benchmark.planning") / "profiles", *(files("open_set_fer") / "studies").iterdir()]
    entries = [entry for folder in folders if folder.is_dir() for entry in folder.iterdir()]
    return {entry.name.removesuffix(".toml"): entry for entry in entries if entry.name.endswith(".toml")}


def profile_names() -> list[str]:
    """Names of the profiles that come with the suite."""
    return sorted(_profile_files())


def profile_text(name: str) -> str:
    """The TOML of a built-in profile; raises SuiteError naming the nearest one."""
    names = profile_names()
    if name not in names:
        fix = f"known: {', '.join(names)}, or the path of a .toml file"
        raise SuiteError(f"unknown profile {name!r}{plugins.nearest(name, names)}", fix)
    return _profile_files()[name].read_text("utf-8")


def listed_in(*datasets: str) -> list[str]:
    """Names of the built-in profiles that list all of these data sets."""
    lists = {name: profile_values(profile_text(name))["datasets"] for name in profile_names()}
    return [name for name, listed in lists.items() if set(datasets) <= set(listed)]


def profiles_with(*datasets: str) -> str:
    """Text of an error's fix: the built-in profiles that list these data sets."""
    names = ", ".join(listed_in(*datasets))
    return f"these profiles list it: {names} (--profile)" if names else "no built-in profile lists it"


def give_weights(values: dict[str, Any], weights: str) -> None:
    """Write the checkpoints of --weights into the profile's tables."""
    main = values.setdefault("backbone", {})
    own = [entry["backbone"] for entry in values.get("methods", {}).values() if isinstance(entry.get("backbone"), dict)]
    for part in re.split(rf",(?=(?:{'|'.join(BUILT_IN)})=)", weights):
        name, _, path = part.partition("=")
        if name not in BUILT_IN:
            main["weights"] = part
            continue
        tables = [table for table in (main, *own) if table.get("name", main.get("name")) == name]
        if not tables:
            raise SuiteError(
                f"--weights: the profile has no network {name}", "name one of its networks, or the path alone"
            )
        for table in tables:
            table["weights"] = path


def own_text(path: Path) -> str:
    """The text of a user's profile file."""
    if not path.is_file():
        raise SuiteError(f"no profile file {path}", "check the path, or name a built-in profile")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"cannot read the profile {path}: {error}", "save it as UTF-8 text") from error
    if path.stem in profile_names() and text != profile_text(path.stem):
        raise SuiteError(
            f"{path} is named like the built-in profile {path.stem}: their results would share one MLflow experiment",
            "rename the file: its name is the profile's",
        )
    return text


def _parse(text: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"not TOML: {error}", "fix the line it names") from error
    return with_labels(values)


def profile_values(text: str) -> dict[str, Any]:
    """The values of a profile's TOML on top of those of the built-in profile that it names as `base`.

    Settings (backbone, closed_set, each entry of methods) and protocols are laid over the base's key by key; an entry
    with `like` or `method`, and every other key or table, replaces the base's. description, selection and search are
    not inherited: what the base says of its hyperparameters need not be true here.
    """
    values = _parse(text)
    if "base" not in values:
        return values
    changes = {key: value for key, value in values.items() if key != "base"}
    if not isinstance(values["base"], str):
        raise SuiteError(f"base: {values['base']!r} is not a name", f"known: {', '.join(profile_names())}")
    base = _parse(profile_text(values["base"]))
    if "base" in base:
        raise SuiteError(f"base: {values['base']} has a base itself", f"name {base['base']}")
    own = {"description", "selection", "search"} | ({"default_datasets"} if "datasets" in changes else set())
    merged = {key: value for key, value in base.items() if key not in own} | changes
    for table in ("backbone", "closed_set"):
        if isinstance(changes.get(table), dict):
            merged[table] = base.get(table, {}) | changes[table]
    if isinstance(changes.get("protocols"), dict):
        merged["protocols"] = _protocols(base.get("protocols", {}), changes["protocols"])
    if isinstance(changes.get("methods"), dict):
        merged["methods"] = dict(base.get("methods", {}))
        for label, entry in changes["methods"].items():
            alone = not isinstance(entry, dict) or "like" in entry or "method" in entry
            merged["methods"][label] = entry if alone else merged["methods"].get(label, {}) | entry
    return merged


def _protocols(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The base's [protocols] with these changes; a key of the base that only explains a changed one goes with it."""
    merged = base | changes
    explained = {"control_classes": not merged.get("controls"), "label_share": "labels" in changes}
    return {key: value for key, value in merged.items() if key in changes or not explained.get(key)}


def default_profile(profile: str, datasets: tuple[str, ...]) -> str:
    """The profile named, else the one for the data sets; SuiteError for neither."""
    name = profile or profile_of(datasets)
    if name is None:
        for dataset in datasets:
            plugins.load(plugins.DATASETS, dataset)  # a misspelt one names the nearest
        fault = f"no profile is named, and there is none for {', '.join(datasets)}"
        raise SuiteError(fault, profiles_with(*datasets))
    return name


def profile_of(datasets: tuple[str, ...]) -> str | None:
    """A data set's own profile (`ferplus-cpu`), else `demo` if it lists all of the data sets."""
    own = f"{datasets[0]}-cpu" if len(datasets) == 1 else ""
    return own if own in profile_names() else "demo" if "demo" in listed_in(*datasets) else None
