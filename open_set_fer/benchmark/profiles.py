"""Profiles: TOML files that say which data sets, protocols, methods, seeds and training settings a benchmark run has."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import pydantic

from open_set_fer import plugins
from open_set_fer.benchmark.protocols import Family, Pool
from open_set_fer.benchmark.settings import build_settings, describe
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import BackboneSettings, ClosedSetSettings


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Protocols(_Strict):
    """families: in order. open_classes: only protocols that open these ('surprise', 'surprise+fear'); empty: all.

    pools: each protocol once for every entry, on a test pool of that size and share of open faces; empty: the whole pool.
    """

    families: list[Family]
    open_classes: list[str] = []
    pools: list[Pool] = []
    all_pairs: bool = False
    all_triples: bool = False


class Range(_Strict):
    """low to high, both included: whole numbers where both are; log: uniform in the logarithm."""

    low: int | float
    high: int | float
    log: bool = False

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError("low must not be above high, and above 0 with log")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value is a number of this range."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


def _space_kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "range"


Space = Annotated[
    Annotated[list[Any], pydantic.Tag("list")] | Annotated[Range, pydantic.Tag("range")],
    pydantic.Discriminator(_space_kind),
]


class Profile(_Strict):
    """One profile; `methods` maps the label used in tables to settings.

    Besides settings an entry may have `method` (where it differs from the label), `like` (a label whose entry it starts
    from) and a table `closed_set` (values of a closed-set recipe of its own).
    """

    description: str
    selection: str
    """Where the hyperparameters come from; the report prints it."""
    seeds: list[int]
    datasets: dict[str, dict[str, Any]]
    protocols: Protocols
    default_methods: list[str]
    methods: dict[str, dict[str, Any]]
    backbone: dict[str, Any] = {}
    closed_set: dict[str, Any] = {}
    search: dict[str, dict[str, Space]] = {}
    """What `osfer tune` may change, by label: a setting, or closed_set.setting, and its values or range."""

    def backbone_settings(self) -> BackboneSettings:
        """The validated [backbone] table."""
        return build_settings(BackboneSettings, self.backbone, "backbone")

    def closed_set_settings(self, label: str = "") -> ClosedSetSettings:
        """The validated [closed_set] table, with the label's own values where it has any."""
        own = self._entry(label).get("closed_set", {})
        if not isinstance(own, dict):
            raise SuiteError(f"methods.{label}.closed_set is no table", "for example closed_set = { epochs = 1 }")
        return build_settings(
            ClosedSetSettings, {**self.closed_set, **own}, f"methods.{label}.closed_set" if own else "closed_set"
        )

    def _entry(self, label: str) -> dict[str, Any]:
        """The label's entry, on top of the one that it is like."""
        own = dict(self.methods.get(label, {}))
        if "like" not in own:
            return own
        model = own.pop("like")
        if "like" in self.methods.get(model, {"like": model}):
            raise SuiteError(
                f"methods.{label}.like: {model!r} is no entry that stands alone{plugins.nearest(str(model), self.methods)}",
                "name a label of this profile that is not `like` another one",
            )
        return {"method": model, **self.methods[model], **own}

    def method(self, label: str) -> Any:
        """The method behind a label, built from its settings; an installed method needs no entry in the profile."""
        values = self._entry(label)
        name = values.pop("method", label)
        values.pop("closed_set", None)
        if label not in self.methods and label not in plugins.available(plugins.METHODS):
            known = sorted({*self.methods, *plugins.available(plugins.METHODS)})
            raise SuiteError(f"unknown method {label!r}{plugins.nearest(label, known)}", f"known: {', '.join(known)}")
        kind = plugins.load(plugins.METHODS, name)
        return kind(build_settings(kind.Settings, values, f"methods.{label}"))

    def searched(self, label: str) -> dict[str, Any]:
        """The present values of the settings that `osfer tune` may change; raises SuiteError naming a wrong entry."""
        if label not in self.search:
            raise SuiteError(
                f"nothing to tune for {label!r}{plugins.nearest(label, self.search)}",
                f"write a [search.{label}] table into the profile; it has: {', '.join(self.search) or 'none'}",
            )
        own = asdict(self.method(label).settings)
        shared = {f"closed_set.{name}": value for name, value in asdict(self.closed_set_settings(label)).items()}
        present = own | shared
        for key, space in self.search[label].items():
            if key not in present:
                raise SuiteError(
                    f"unknown key search.{label}.{key}{plugins.nearest(key, present)}", f"known: {', '.join(present)}"
                )
            value = present[key]
            if not (value in space if isinstance(space, list) else space.holds(value)):
                raise SuiteError(
                    f"search.{label}.{key} does not hold the profile's own value {value!r}",
                    "a study starts from the profile's settings: admit that value",
                )
        return {key: present[key] for key in self.search[label]}

    def with_values(self, label: str, values: dict[str, Any]) -> Profile:
        """This profile with other values of a label's settings (or closed_set.setting)."""
        settings = self._entry(label)
        for key, value in values.items():
            if key.startswith("closed_set."):
                settings["closed_set"] = settings.get("closed_set", {}) | {key.removeprefix("closed_set."): value}
            else:
                settings[key] = value
        return self.model_copy(update={"methods": self.methods | {label: settings}})

    def dataset(self, name: str) -> Any:
        """The data set of this name, built from its settings in the profile (or its defaults)."""
        kind = plugins.load(plugins.DATASETS, name)
        return kind(build_settings(kind.Settings, self.datasets.get(name, {}), f"datasets.{name}"))

    def method_labels(self) -> list[str]:
        """Every label: the profile's, then installed methods that it does not mention."""
        used = {self._entry(label).get("method", label) for label in self.methods}
        return [*self.methods, *sorted(set(plugins.available(plugins.METHODS)) - used)]


def profile_names() -> list[str]:
    """Names of the profiles that come with the suite."""
    folder = files("open_set_fer.benchmark") / "profiles"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_profile(name_or_path: str, weights: str = "") -> tuple[str, Profile, str]:
    """(name, profile, its TOML text) of a built-in profile or a TOML file; raises SuiteError naming file and key.

    weights: a checkpoint that takes the place of [backbone] weights.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise SuiteError(f"no profile file {path}", "check the path, or name a built-in profile")
        text, where = path.read_text("utf-8"), str(path)
    elif name_or_path in profile_names():
        text = (files("open_set_fer.benchmark") / "profiles" / f"{name_or_path}.toml").read_text("utf-8")
        where = f"profile {name_or_path}"
    else:
        names = profile_names()
        raise SuiteError(
            f"unknown profile {name_or_path!r}{plugins.nearest(name_or_path, names)}",
            f"known: {', '.join(names)}, or the path of a .toml file",
        )
    try:
        values = tomllib.loads(text)
        if weights:
            values["backbone"] = {**values.get("backbone", {}), "weights": weights}
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{where} is not TOML: {error}", "mend the line it names") from error
    try:
        profile = Profile.model_validate(values)
        profile.backbone_settings()
        profile.closed_set_settings()
        for label in profile.methods:
            profile.method(label)
            profile.closed_set_settings(label)
        for dataset in profile.datasets:
            profile.dataset(dataset)
        for label in profile.search:
            profile.searched(label)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        if fault["type"] == "extra_forbidden":
            inner: dict[Any, type[pydantic.BaseModel]] = {"protocols": Pool if "pools" in fault["loc"] else Protocols}
            table = inner.get(fault["loc"][0], Range) if len(fault["loc"]) > 1 else Profile
            key, known = str(fault["loc"][-1]), list(table.model_fields)
            raise SuiteError(
                f"{where}: unknown key {'.'.join(map(str, fault['loc']))}{plugins.nearest(key, known)}",
                f"known keys: {', '.join(known)}",
            ) from error
        raise SuiteError(f"{where}: {describe(error, '')}", "give the key a value of the type named") from error
    except SuiteError as error:
        raise SuiteError(f"{where}: {error}") from error
    return path.stem, profile, text
