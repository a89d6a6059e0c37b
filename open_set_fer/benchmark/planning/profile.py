"""Profiles: data sets, protocols, methods, seeds and training settings of a benchmark run, from TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, cast

import pydantic
from pydantic import Field, PrivateAttr

from open_set_fer import plugins
from open_set_fer.benchmark.planning import profile_files
from open_set_fer.benchmark.planning.profile_tables import Protocols, Range, Space, Strict
from open_set_fer.benchmark.planning.settings import build_settings, describe, settings_of
from open_set_fer.benchmark.protocols.pool import Pool
from open_set_fer.datasets.faceset import DataSet
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Method
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings


class Profile(Strict):
    """One profile; `methods` maps the label used in tables to settings, on top of the built-in labels of methods.toml.

    Besides settings an entry may have `method` (where it differs from the label), `like` (a label whose entry it starts
    from), a table `closed_set` (changes of the closed-set recipe) and a table `backbone` (of the networks that the
    method trains itself; the closed-set model keeps the profile's).
    """

    description: Annotated[str, Field(min_length=1)]
    selection: Annotated[str, Field(min_length=1)]
    """Where the hyperparameters come from; the report prints it."""
    seeds: Annotated[list[int], Field(min_length=1)]
    datasets: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    default_datasets: list[str] = []
    """Data sets without --dataset; empty: all listed ones."""
    protocols: Protocols
    default_methods: Annotated[list[str], Field(min_length=1)]
    methods: dict[str, dict[str, Any]] = {}
    backbone: dict[str, Any] = {}
    closed_set: dict[str, Any] = {}
    checkpoints: dict[str, str] = {}
    """Checkpoints of the source, by backbone: runs without them warn."""
    with_weights: dict[str, dict[str, Any]] = {}
    """Changes of labels' entries where [backbone] has weights."""
    read_at: list[Annotated[int, Field(ge=1)]] = []
    """Epochs after which intermediate scores are kept, too."""
    search: dict[str, dict[str, Space]] = {}
    """Search space of `osfer tune`, by label: a setting, or closed_set.setting, and its values or range."""

    _name: str = PrivateAttr("")
    _text: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """Name of its file and of its MLflow experiment."""
        return self._name

    @property
    def text(self) -> str:
        """The TOML that it was read from."""
        return self._text

    def named(self, name: str, text: str) -> Profile:
        """This profile with its name and TOML text."""
        self._name, self._text = name, text
        return self

    def backbone_settings(self) -> BackboneSettings:
        """The validated [backbone] table, with the input of [closed_set]."""
        return self._backbone(self.backbone, "backbone")

    def _backbone(self, values: dict[str, Any], where: str) -> BackboneSettings:
        if "input" in values:
            raise SuiteError(f"unknown key {where}.input", "write it as `input` under [closed_set]")
        return replace(build_settings(BackboneSettings, values, where), input=self.closed_set_settings().input)

    def closed_set_settings(self, label: str = "") -> ClosedSetSettings:
        """The validated [closed_set] table, with the label's changes."""
        changes = self._entry(label).get("closed_set", {})
        if not isinstance(changes, dict):
            raise SuiteError(f"methods.{label}.closed_set is no table", "for example closed_set = { epochs = 1 }")
        where = f"methods.{label}.closed_set" if changes else "closed_set"
        return build_settings(ClosedSetSettings, {**self.closed_set, **changes}, where)

    def own_backbone(self, label: str) -> BackboneSettings | None:
        """Settings of the networks that a label's method trains itself; None where they are the profile's.

        The entry's table is laid over [backbone], but another network does not take its weights.
        """
        changes = self._entry(label).get("backbone", {})
        if not isinstance(changes, dict):
            raise SuiteError(f"methods.{label}.backbone is no table", 'for example backbone = { name = "resnet50" }')
        given = dict(self.backbone)
        if changes.get("name", given.get("name")) != given.get("name"):
            given.pop("weights", None)
        own = self._backbone({**given, **changes}, f"methods.{label}.backbone")
        return None if own == self.backbone_settings() else own

    def fresh_starts(self, labels: Iterable[str]) -> list[str]:
        """Sentences on checkpoints of the source that these labels do not start from."""
        without: dict[str, list[str]] = {}
        for label in labels:
            backbone = self.own_backbone(label) or self.backbone_settings()
            if backbone.name in self.checkpoints and not backbone.weights:
                without.setdefault(backbone.name, []).append(label)
        return [
            f"{name} starts from fresh weights, in the source from {self.checkpoints[name]}: {', '.join(names)} cannot "
            f"be compared with the published numbers; give that checkpoint with --weights {name}=PATH"
            for name, names in without.items()
        ]

    def _entry(self, label: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
        """The label's entry with its `method`, on top of the built-in entry or of its `like`."""
        entry = dict(self.methods.get(label, {}))
        if self.backbone.get("weights"):
            entry |= self.with_weights.get(label, {})
        if "method" not in entry and "like" not in entry:
            entry = built_in_labels().get(label, {}) | entry
            entry.pop("about", None)
        like = entry.pop("like", None)
        if like is None:
            return {"method": label} | entry
        if like not in self.known_labels() or like in (label, *above):
            fault = "is like itself in the end" if like in (label, *above) else "is no label"
            fault = f"methods.{label}.like: {like!r} {fault}{plugins.nearest(like, set(self.known_labels()) - {like})}"
            raise SuiteError(fault, "name a label of this profile or a built-in one: see `osfer list`")
        return self._entry(like, (*above, label)) | entry

    def method(self, label: str) -> Method:
        """The method behind a label, built from its settings; an installed method needs no entry in the profile."""
        known = self.known_labels()
        if label not in known:
            raise SuiteError(
                f"unknown method {label!r}{plugins.nearest(label, known)}", f"known: {', '.join(sorted(known))}"
            )
        values = self._entry(label)
        name = values.pop("method")
        values.pop("closed_set", None)
        values.pop("backbone", None)
        return cast(Method, build_settings(plugins.load(plugins.METHODS, name), values, f"methods.{label}"))

    def about(self, label: str) -> str:
        """One line on a label: the built-in description, what its entry changes, or the method's own first line."""
        entry = self.methods.get(label, {})
        model = entry.get("like", entry.get("method"))
        if model is not None:
            changes = [f"{key} = {json.dumps(value)}" for key, value in entry.items() if key not in ("like", "method")]
            return f"{model} with {', '.join(changes)}" if changes else f"the same as {model}"
        if label in built_in_labels():
            return str(built_in_labels()[label]["about"])
        return (plugins.load(plugins.METHODS, label).__doc__ or "").strip().partition("\n")[0]

    def searched(self, label: str) -> dict[str, Any]:
        """The present values of the settings that `osfer tune` may change; raises SuiteError naming a wrong entry."""
        if label not in self.search:
            fix = f"write a [search.{label}] table into the profile; it has: {', '.join(self.search) or 'none'}"
            raise SuiteError(f"nothing to tune for {label!r}{plugins.nearest(label, self.search)}", fix)
        settings = settings_of(self.method(label))
        shared = {f"closed_set.{name}": value for name, value in asdict(self.closed_set_settings(label)).items()}
        present = settings | shared
        for key, space in self.search[label].items():
            if key not in present:
                raise SuiteError(
                    f"unknown key search.{label}.{key}{plugins.nearest(key, present)}", f"known: {', '.join(present)}"
                )
            value = present[key]
            if not (value in space if isinstance(space, list) else space.holds(value)):
                fix = "a study starts from the profile's settings: admit that value"
                raise SuiteError(f"search.{label}.{key} does not hold the profile's own value {value!r}", fix)
            for candidate in space if isinstance(space, list) else (space.low, space.high):
                try:
                    tried = self.with_values(label, {key: candidate})
                    tried.method(label)
                    tried.closed_set_settings(label)
                except SuiteError as error:
                    raise SuiteError(f"search.{label}.{key}: {error}") from error
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

    def dataset(self, name: str) -> DataSet:
        """The data set of this name, built from its settings in the profile; raises SuiteError if not listed."""
        kind = plugins.load(plugins.DATASETS, name)
        if name not in self.datasets:
            raise SuiteError(
                f"the profile does not list data set {name}: its image size and channels, and the settings of methods, "
                "would be another one's",
                f"{profile_files.profiles_with(name)}; or write a profile with a table [datasets.{name}]",
            )
        return cast(DataSet, build_settings(kind, self.datasets[name], f"datasets.{name}"))

    def known_labels(self) -> set[str]:
        """Every valid method label."""
        return {*self.methods, *built_in_labels(), *plugins.available(plugins.METHODS)}

    def method_labels(self) -> list[str]:
        """The labels that `all` stands for: the built-in ones, this profile's own, usable installed methods."""
        behind = {entry.get("method") for entry in built_in_labels().values()}
        installed = sorted(set(plugins.available(plugins.METHODS)) - behind)
        usable = [name for name in installed if name not in plugins.broken(plugins.METHODS)]
        return list(dict.fromkeys([*built_in_labels(), *self.methods, *usable]))


@cache
def built_in_labels() -> dict[str, dict[str, Any]]:
    """Entries of the labels that every profile has, each with `about`, in the order of tables."""
    return tomllib.loads((files("open_set_fer.benchmark.planning") / "methods.toml").read_text("utf-8"))


def load_profile(name_or_path: str, weights: str = "") -> Profile:
    """A built-in profile or one from a TOML file; raises SuiteError naming file and key.

    weights: a checkpoint that replaces [backbone] weights; `resnet50=PATH` is for every network of that name, and
    several of this form are separated by commas.
    """
    path = Path(name_or_path)
    is_file = path.suffix.lower() == ".toml"
    where = str(path) if is_file else f"profile {name_or_path}"
    text = profile_files.own_text(path) if is_file else profile_files.profile_text(name_or_path)
    try:
        values = profile_files.profile_values(text)
        if weights:
            profile_files.give_weights(values, weights)
        profile = Profile.model_validate(values).named(path.stem, text)
        _check(profile)
    except pydantic.ValidationError as error:
        raise SuiteError(f"{where}: {_fault(error)}") from error
    except SuiteError as error:
        raise SuiteError(f"{where}: {error}") from error
    return profile


def _check(profile: Profile) -> None:
    """Build everything that the profile names; raises SuiteError naming the key at fault."""
    profile.backbone_settings()
    profile.closed_set_settings()
    for label, entry in profile.methods.items():
        if label != label.strip() or not label.isprintable() or label in ("", "all") or "," in label:
            fix = "a label is a word without commas or line breaks, and not `all`"
            raise SuiteError(f"methods: {label!r} cannot be a label", fix)
        for key in ("like", "method"):
            if not isinstance(entry.get(key, ""), str):
                raise SuiteError(f"methods.{label}.{key}: {entry[key]!r} is not a name", 'for example like = "ours"')
        profile.method(label)
        profile.closed_set_settings(label)
        profile.own_backbone(label)
    trained = profile.model_copy(update={"backbone": {**profile.backbone, "weights": "any"}})
    for label in profile.with_weights:
        trained.method(label)
    for label in profile.default_methods:
        known = {*profile.known_labels(), "all"}
        if label not in known:
            raise SuiteError(
                f"default_methods: unknown method {label!r}{plugins.nearest(label, known)}", "see `osfer list`"
            )
    for dataset in [*profile.datasets, *profile.default_datasets]:
        profile.dataset(dataset)
    for label in profile.search:
        profile.searched(label)


def _fault(error: pydantic.ValidationError) -> str:
    """The fault to fix first, with its fix: an unknown key, which explains a missing one, else the first."""
    unknown = next((fault for fault in error.errors() if fault["type"] == "extra_forbidden"), None)
    if unknown is None:
        return f"{describe(error, '')}\n  fix: give the key a value of the type and range named"
    place = unknown["loc"]
    inner: dict[Any, type[pydantic.BaseModel]] = {"protocols": Pool if "pools" in place else Protocols}
    table = inner.get(place[0], Range) if len(place) > 1 else Profile
    key, known = str(place[-1]), [*table.model_fields, *["base"] * (table is Profile)]
    return (
        f"unknown key {'.'.join(map(str, place))}{plugins.nearest(key, known)}\n  fix: known keys: {', '.join(known)}"
    )
