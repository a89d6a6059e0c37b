"""Profiles: TOML files that say which data sets, protocols, methods, seeds and training settings a benchmark run has."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import pydantic
from pydantic import Field, PrivateAttr

from open_set_fer import plugins
from open_set_fer.benchmark.planning.settings import build_settings, describe, settings_of
from open_set_fer.benchmark.protocols.pool import OpenFrom, Pool
from open_set_fer.benchmark.protocols.protocol import Family
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, SHARES, Control, Labels, Regime
from open_set_fer.datasets.faceset import DataSet
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Method
from open_set_fer.methods.shared.recipe import BackboneSettings, ClosedSetSettings


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class Protocols(_Strict):
    """families: in order. open_classes: only protocols that open these ('surprise', 'surprise+fear'); empty: all.

    pools: each protocol once for every entry, on a test pool of that size and share of open faces, or of another kind (see
    `protocols.Pool`); empty: the whole pool.
    open_from: 'test' leaves the open faces of the train split out of the pool. labels: which outputs of the closed-set
    model a method gets, with label_share where they are not the image's own (see `labels.Regime`). controls: the positive
    controls that the plan has too, for its label-based methods and `label-loss`; control_classes: on the protocols that
    open these; empty: on all of the plan's.
    """

    families: Annotated[list[Family], Field(min_length=1)]
    open_classes: list[str] = []
    pools: list[Pool] = []
    all_pairs: bool = False
    all_triples: bool = False
    open_from: OpenFrom = "both"
    labels: Labels = "own"
    label_share: Annotated[float, Field(gt=0, le=1)] | None = None
    controls: list[Control] = []
    control_classes: list[str] = []

    @property
    def regime(self) -> Regime:
        """The label regime of every protocol."""
        return regime_of(self.labels, self.label_share)

    @property
    def control_regimes(self) -> list[Regime]:
        """The regimes of the plan's control cells, each once."""
        return [Regime(labels, SHARES[labels]) for labels in dict.fromkeys(self.controls)]

    def check(self, regime: Regime) -> None:
        """SuiteError where a label regime does not go with the rest."""
        if regime.is_control and self.pools:
            raise SuiteError(f"protocols: labels '{regime.labels}' have no open faces, pools need some", "take one out")
        if regime != OWN and any(pool.shift or pool.scored == "others" for pool in self.pools):
            raise SuiteError(
                f"protocols: labels '{regime.labels}' are of open faces in the pool, and of nothing else",
                "take labels, or the pools with a shift or with others scored, out",
            )
        if regime != OWN and (self.open_from == "test" or any(pool.open_from == "test" for pool in self.pools)):
            raise SuiteError(
                f"protocols: labels '{regime.labels}' have nothing to do with open faces of the test split",
                "take labels or open_from out",
            )

    @pydantic.model_validator(mode="after")
    def _checked(self) -> Protocols:
        self.check(self.regime)
        if self.controls and self.regime.is_control:
            raise SuiteError(f"protocols: labels '{self.labels}' are a control themselves", "take controls out")
        if self.control_classes and not self.controls:
            raise SuiteError("protocols: control_classes without controls", 'for example controls = ["flipped"]')
        return self


def regime_of(labels: Labels, share: float | None) -> Regime:
    """The regime of these labels, with its own share where None is given; SuiteError for a share that it cannot have."""
    if labels == "own" and share is not None:
        raise SuiteError("label_share has no meaning for the images' own labels", "choose other labels, or no share")
    if labels.startswith("flipped") and share == 1:
        raise SuiteError("label_share 1 leaves no label as it is", "choose less")
    return OWN if labels == "own" else Regime(labels, SHARES[labels] if share is None else share)


class Range(_Strict):
    """low to high, both included: whole numbers where both are; log: uniform in the logarithm."""

    low: int | Annotated[float, Field(allow_inf_nan=False)]
    high: int | Annotated[float, Field(allow_inf_nan=False)]
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
    """One profile; `methods` maps the label used in tables to settings, on top of the built-in labels of methods.toml.

    Besides settings an entry may have `method` (where it differs from the label), `like` (a label whose entry it starts
    from), a table `closed_set` (values of a closed-set recipe of its own) and a table `backbone` (of the networks that the
    method makes itself; the closed-set model stays on the profile's).
    """

    description: Annotated[str, Field(min_length=1)]
    selection: Annotated[str, Field(min_length=1)]
    """Where the hyperparameters come from; the report prints it."""
    seeds: Annotated[list[int], Field(min_length=1)]
    datasets: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    default_datasets: list[str] = []
    """What runs without --dataset; empty: all that are listed."""
    protocols: Protocols
    default_methods: Annotated[list[str], Field(min_length=1)]
    methods: dict[str, dict[str, Any]] = {}
    backbone: dict[str, Any] = {}
    closed_set: dict[str, Any] = {}
    checkpoints: dict[str, str] = {}
    """What is started from in the source, by backbone: without it, what runs says so."""
    with_weights: dict[str, dict[str, Any]] = {}
    """What the entries of labels change where [backbone] has weights."""
    read_at: list[Annotated[int, Field(ge=1)]] = []
    """Epochs after which the scores of methods that report them are kept, too: one training is read off at each."""
    search: dict[str, dict[str, Space]] = {}
    """What `osfer tune` may change, by label: a setting, or closed_set.setting, and its values or range."""

    _name: str = PrivateAttr("")
    _text: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """Its own name: that of its file, and of its MLflow experiment."""
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
        """The validated [backbone] table."""
        return build_settings(BackboneSettings, self.backbone, "backbone")

    def closed_set_settings(self, label: str = "") -> ClosedSetSettings:
        """The validated [closed_set] table, with the label's own values where it has any."""
        changes = self._entry(label).get("closed_set", {})
        if not isinstance(changes, dict):
            raise SuiteError(f"methods.{label}.closed_set is no table", "for example closed_set = { epochs = 1 }")
        return build_settings(
            ClosedSetSettings,
            {**self.closed_set, **changes},
            f"methods.{label}.closed_set" if changes else "closed_set",
        )

    def own_backbone(self, label: str) -> BackboneSettings | None:
        """Of the networks that a label's method makes itself; None where it is the profile's.

        The entry's table is laid over [backbone], but another network does not take its weights.
        """
        changes = self._entry(label).get("backbone", {})
        if not isinstance(changes, dict):
            raise SuiteError(f"methods.{label}.backbone is no table", 'for example backbone = { name = "resnet50" }')
        given = dict(self.backbone)
        if changes.get("name", given.get("name")) != given.get("name"):
            given.pop("weights", None)
        own = build_settings(BackboneSettings, {**given, **changes}, f"methods.{label}.backbone")
        return None if own == self.backbone_settings() else own

    def fresh_starts(self, labels: Iterable[str]) -> list[str]:
        """One sentence on each checkpoint that the source starts from and these labels do not."""
        without: dict[str, list[str]] = {}
        for label in labels:
            backbone = self.own_backbone(label) or self.backbone_settings()
            if backbone.name in self.checkpoints and not backbone.weights:
                without.setdefault(backbone.name, []).append(label)
        return [
            f"{name} starts from fresh weights, in the source from {self.checkpoints[name]}: {', '.join(of)} cannot be "
            f"compared with the printed numbers; give that checkpoint with --weights {name}=PATH"
            for name, of in without.items()
        ]

    def _entry(self, label: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
        """The label's entry with its `method`, on top of the built-in one or of the one that it is like."""
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
            raise SuiteError(
                f"methods.{label}.like: {like!r} {fault}{plugins.nearest(like, set(self.known_labels()) - {like})}",
                "name a label of this profile or a built-in one: see `osfer list`",
            )
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
        method: Method = build_settings(plugins.load(plugins.METHODS, name), values, f"methods.{label}")
        return method

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
            raise SuiteError(
                f"nothing to tune for {label!r}{plugins.nearest(label, self.search)}",
                f"write a [search.{label}] table into the profile; it has: {', '.join(self.search) or 'none'}",
            )
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
                raise SuiteError(
                    f"search.{label}.{key} does not hold the profile's own value {value!r}",
                    "a study starts from the profile's settings: admit that value",
                )
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
        """The data set of this name, built from its settings in the profile; raises SuiteError where it lists none."""
        kind = plugins.load(plugins.DATASETS, name)
        if name not in self.datasets:
            raise SuiteError(
                f"the profile does not list data set {name}: its image size and channels, and the settings of methods, would "
                "be another one's",
                f"{profiles_with(name)}; or write a profile with a table [datasets.{name}]",
            )
        dataset: DataSet = build_settings(kind, self.datasets.get(name, {}), f"datasets.{name}")
        return dataset

    def known_labels(self) -> set[str]:
        """Every label that may be typed."""
        return {*self.methods, *built_in_labels(), *plugins.available(plugins.METHODS)}

    def method_labels(self) -> list[str]:
        """The labels that `all` stands for: the built-in ones, this profile's own, installed methods.

        Entry points that cannot be used are left out.
        """
        behind = {entry.get("method") for entry in built_in_labels().values()}
        installed = sorted(set(plugins.available(plugins.METHODS)) - behind)
        usable = [name for name in installed if name not in plugins.broken(plugins.METHODS)]
        return list(dict.fromkeys([*built_in_labels(), *self.methods, *usable]))


@cache
def built_in_labels() -> dict[str, dict[str, Any]]:
    """Entries of the labels that every profile has, each with `about`, in the order of tables."""
    return tomllib.loads((files("open_set_fer.benchmark.planning") / "methods.toml").read_text("utf-8"))


@cache
def _profile_files() -> dict[str, Traversable]:
    """The built-in profiles by name: the benchmark's own, and one or more beside each write-up of `open_set_fer.studies`."""
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
        raise SuiteError(
            f"unknown profile {name!r}{plugins.nearest(name, names)}",
            f"known: {', '.join(names)}, or the path of a .toml file",
        )
    return _profile_files()[name].read_text("utf-8")


def listed_in(*datasets: str) -> list[str]:
    """Names of the built-in profiles that list all of these data sets."""
    lists = {name: _on_base(_parse(profile_text(name)))["datasets"] for name in profile_names()}
    return [name for name, listed in lists.items() if set(datasets) <= set(listed)]


def profiles_with(*datasets: str) -> str:
    """Which built-in profiles list these data sets, as the fix of an error."""
    names = ", ".join(listed_in(*datasets))
    return f"these profiles list it: {names} (--profile)" if names else "no built-in profile lists it"


def load_profile(name_or_path: str, weights: str = "") -> Profile:
    """A built-in profile or one from a TOML file; raises SuiteError naming file and key.

    weights: a checkpoint that takes the place of [backbone] weights; `resnet50=PATH` is for every network of that name,
    and several of this form are separated by commas.
    """
    path = Path(name_or_path)
    is_file = path.suffix.lower() == ".toml"
    text, where = (_own_text(path), str(path)) if is_file else (profile_text(name_or_path), f"profile {name_or_path}")
    try:
        values = _on_base(_parse(text))
        if weights:
            _give_weights(values, weights)
        profile = Profile.model_validate(values).named(path.stem, text)
        _check(profile)
    except pydantic.ValidationError as error:
        raise SuiteError(f"{where}: {_fault(error)}") from error
    except SuiteError as error:
        raise SuiteError(f"{where}: {error}") from error
    return profile


def read_profile(text: str) -> Profile:
    """The profile of a TOML text that a run kept; SuiteError where this suite cannot read it."""
    try:
        return Profile.model_validate(_on_base(_parse(text)))
    except pydantic.ValidationError as error:
        raise SuiteError(f"the profile that the run kept: {_fault(error)}") from error


NETWORKS = get_args(get_type_hints(BackboneSettings)["name"])


def _give_weights(values: dict[str, Any], weights: str) -> None:
    """Write the checkpoints of --weights into the profile's tables."""
    main = values.setdefault("backbone", {})
    own = [entry["backbone"] for entry in values.get("methods", {}).values() if isinstance(entry.get("backbone"), dict)]
    for part in re.split(rf",(?=(?:{'|'.join(NETWORKS)})=)", weights):
        name, _, path = part.partition("=")
        if name not in NETWORKS:
            main["weights"] = part
            continue
        tables = [table for table in (main, *own) if table.get("name", main.get("name")) == name]
        if not tables:
            raise SuiteError(f"--weights: the profile has no network {name}", "name one that it has, or no name")
        for table in tables:
            table["weights"] = path


def _own_text(path: Path) -> str:
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
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"not TOML: {error}", "fix the line it names") from error


def _on_base(values: dict[str, Any]) -> dict[str, Any]:
    """The profile's values on top of those of the built-in profile that it names as `base`.

    Settings (backbone, closed_set, each entry of methods) are laid over the base's key by key; an entry with `like` or
    `method`, and every other key or table, takes the place of the base's. description, selection and search are never taken
    over: what the base says of its hyperparameters need not be true here.
    """
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
    if isinstance(changes.get("methods"), dict):
        merged["methods"] = dict(base.get("methods", {}))
        for label, entry in changes["methods"].items():
            alone = not isinstance(entry, dict) or "like" in entry or "method" in entry
            merged["methods"][label] = entry if alone else merged["methods"].get(label, {}) | entry
    return merged


def _check(profile: Profile) -> None:
    """Build everything that the profile names; raises SuiteError naming the key at fault."""
    profile.backbone_settings()
    profile.closed_set_settings()
    for label, entry in profile.methods.items():
        if label != label.strip() or not label.isprintable() or label in ("", "all") or "," in label:
            raise SuiteError(
                f"methods: {label!r} cannot be a label",
                "a label is a word without commas or line breaks, and not `all`",
            )
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
    """The fault to fix first: an unknown key, which explains a missing one, else the first; with how to fix it."""
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
