"""The plan: every cell of a profile, with its key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from open_set_fer.benchmark.planning.choice import (
    chosen_families,
    chosen_protocols,
    chosen_seeds,
    listed,
    method_labels,
    planned_protocols,
)
from open_set_fer.benchmark.planning.keys import Recipe, content_digest, digest, settings_key
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.protocols.protocol import Protocol
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, PLAIN, REFERENCE, Regime
from open_set_fer.console import log
from open_set_fer.datasets.faceset import DataSet, FaceSet, Outline
from open_set_fer.errors import SuiteError, some
from open_set_fer.methods.contract import Method, states

Faces = TypeVar("Faces", FaceSet, Outline)


@dataclass(frozen=True)
class Cell:
    """One result to compute: (data set, protocol, method, settings, seed) and the key over all it depends on.

    closed_set_key: of the closed-set model that the cell's methods share.
    key: '' in the dry plan of a data set that is not prepared, whose fingerprint is not known yet.
    content: the key is its digest.
    """

    dataset: str
    protocol: Protocol
    label: str
    method: Method
    seed: int
    recipe: Recipe
    closed_set_key: str
    key: str
    content: dict[str, Any] = field(compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.dataset} {self.protocol.family} {self.protocol.label} {self.label} seed {self.seed}"

    @property
    def read_at(self) -> tuple[int, ...]:
        """Epochs after which the intermediate scores of a method are kept, too."""
        return tuple(self.content.get("read_at", ()))

    def coordinates(self) -> dict[str, Any]:
        """The cell's entry in plan.json."""
        return {
            "dataset": self.dataset,
            "protocol": self.protocol.family,
            "open_classes": self.protocol.label,
            "method": self.label,
            "seed": self.seed,
            "cell_key": self.key,
            **self.protocol.fields(),
        }

    def settings_key(self) -> str:
        """Hash of the settings alone: cells of one table column must agree on it."""
        return settings_key(self.content)


@dataclass(frozen=True)
class Selection:
    """The part of a profile to run; empty: all of it (methods: the profile's defaults, 'all' for every method)."""

    datasets: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    open_classes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    all_pairs: bool = False
    all_triples: bool = False
    regime: Regime | None = None
    """In place of the profile's pseudo-label setting."""

    def only(self, cells: list[Cell]) -> Selection:
        """This selection with the methods and open classes of these cells, and the control that all of them have."""
        regimes = {cell.protocol.regime for cell in cells}
        is_control = len(regimes) == 1 and next(iter(regimes)).is_control
        return replace(
            self,
            regime=next(iter(regimes)) if is_control else self.regime,
            methods=tuple(dict.fromkeys(cell.label for cell in cells)),
            open_classes=tuple(dict.fromkeys("+".join(cell.protocol.open) for cell in cells)),
        )

    def arguments(self) -> list[str]:
        """The options of `osfer run` that make this selection."""
        lists = {
            "--method": self.methods,
            "--open": self.open_classes,
            "--dataset": self.datasets,
            "--protocol": self.families,
            "--seed": self.seeds,
        }
        options = [text for name, values in lists.items() if values for text in (name, ",".join(map(str, values)))]
        if self.regime is not None:
            options += ["--labels", self.regime.labels]
            options += ["--label-share", f"{self.regime.share:g}"] * (self.regime != OWN)
        return options + ["--all-pairs"] * self.all_pairs + ["--all-triples"] * self.all_triples


def make_plan(
    profile: Profile,
    selection: Selection,
    cache: Path,
    view: Callable[[FaceSet], FaceSet] | None = None,
    protocols: list[Protocol] | None = None,
) -> tuple[list[Cell], dict[str, FaceSet]]:
    """Cells in the order they run, controls last, and the prepared data sets (through `view`, where given).

    protocols: in place of those that profile and selection choose; pools, open_from, twins and pseudo-label setting
        are the profile's, its controls are left out.
    """

    def load(name: str) -> FaceSet:
        faces = profile.dataset(name).load(cache)
        return view(faces) if view else faces

    return _cells(profile, selection, load, protocols)


def dry_plan(profile: Profile, selection: Selection, cache: Path) -> tuple[list[Cell], dict[str, Outline]]:
    """The cells of `make_plan` without decoding an image or writing a file, and the outlines of the data sets."""
    return _cells(profile, selection, lambda name: _outline(profile.dataset(name), cache))


def _outline(dataset: DataSet, cache: Path) -> Outline:
    if hasattr(dataset, "outline"):
        return cast(Outline, dataset.outline(cache))
    faces = dataset.load(cache)  # another package's data set without `outline`
    return Outline(faces.classes, faces.fingerprint, len(faces.images))


def _cells(
    profile: Profile, selection: Selection, find: Callable[[str], Faces], given: list[Protocol] | None = None
) -> tuple[list[Cell], dict[str, Faces]]:
    """The cells, and the data sets that `find` returns; it is called after all checks that need no data set."""
    seeds, families = chosen_seeds(profile, selection.seeds), chosen_families(profile, selection.families)
    methods = {label: profile.method(label) for label in method_labels(profile, selection.methods)}
    has_controls = given is None and selection.regime is None and bool(profile.protocols.controls)
    label_based = {label: method for label, method in methods.items() if has_controls and states(method, "label_based")}
    compared = {label: profile.method(label) for label in (REFERENCE, PLAIN)}
    controlled = label_based | compared if label_based else {}
    for line in profile.fresh_starts(methods):
        log.warning(line)
    names = selection.datasets or profile.default_datasets or profile.datasets
    recipes = _recipes(profile, methods | controlled, names)
    face_sets = {name: find(name) for name in names}
    every = selection.all_pairs, selection.all_triples
    protocols = chosen_protocols(profile, selection.open_classes, families, face_sets, *every)
    if selection.regime is not None:
        profile.protocols.check(selection.regime)
    is_controlled = listed(profile.protocols.control_classes, face_sets)
    awaited = families if selection.families or not selection.open_classes else ()
    if given is not None:
        awaited, protocols = (), {name: given or own for name, own in protocols.items()}
    _check_models(profile, recipes, protocols)
    planned = planned_protocols(profile, selection.regime, awaited, protocols, methods, is_controlled, controlled)
    _say_controls(planned, label_based)
    columns = {
        label: _Column.of(method, recipes[label], profile.read_at) for label, method in (methods | controlled).items()
    }
    cells = [
        _cell(face_sets[name].fingerprint, (name, protocol, label, seed), columns[label])
        for name, protocol, able in planned
        for seed in seeds
        for label in able
    ]
    if not cells:
        raise _nothing_to_run(profile, selection, face_sets)
    return cells, face_sets


def _recipes(profile: Profile, methods: Iterable[str], datasets: Iterable[str]) -> dict[str, Recipe]:
    """Recipes by label; SuiteError for a network or a checkpoint that does not fit."""
    backbone = profile.backbone_settings()
    recipes = {
        label: Recipe(backbone, profile.closed_set_settings(label), profile.own_backbone(label)) for label in methods
    }
    for name in datasets:
        for recipe in recipes.values():
            recipe.check_networks(getattr(profile.dataset(name), "channels", 3))
    return recipes


def _check_models(profile: Profile, recipes: Mapping[str, Recipe], protocols: Mapping[str, list[Protocol]]) -> None:
    """Raise SuiteError where a closed-set model that the profile names does not fit, before anything is computed.

    A model that knows open classes is warned of.
    """
    for recipe in {recipe.closed_set: recipe for recipe in recipes.values() if recipe.closed_set.model}.values():
        from open_set_fer.methods.shared.trained import trained_state  # takes torch

        for name, chosen in protocols.items():
            closed = tuple(dict.fromkeys(known for protocol in chosen for known in protocol.closed))
            settings, channels = recipe.closed_set, getattr(profile.dataset(name), "channels", 3)
            trained_state(settings.model, recipe.backbone, settings.classes, closed, channels)
            known = [protocol.label for protocol in chosen if set(protocol.open) & set(settings.classes)]
            if known:
                log.warning(
                    "closed_set.model was trained on the open classes of %d of %d protocols (%s): their cells say "
                    "nothing about open sets; name a model without these classes, and its protocol with --open or "
                    "open_classes",
                    len(known),
                    len(chosen),
                    some(known),
                )


def _say_controls(planned: list[tuple[str, Protocol, dict[str, Method]]], label_based: Mapping[str, Method]) -> None:
    """Say which cells are planned though nothing asked for them by name, and why."""
    controls = [(protocol, methods) for _, protocol, methods in planned if protocol.regime.is_control]
    if label_based and controls:
        kinds = dict.fromkeys(protocol.regime.labels for protocol, _ in controls)
        log.info(
            "%d cells a seed besides are positive controls (%s labels; %s): they measure whether %s can find wrong "
            "labels at all; --labels own leaves them out",
            sum(len(methods) for _, methods in controls),
            " and ".join(kinds),
            ", ".join(dict.fromkeys(label for _, methods in controls for label in methods)),
            ", ".join(label_based),
        )


def _nothing_to_run(profile: Profile, selection: Selection, face_sets: Mapping[str, FaceSet | Outline]) -> SuiteError:
    """The fault that no protocol is left, with the choices that left none."""
    families = ", ".join(selection.families or profile.protocols.families)
    opened = selection.open_classes or tuple(profile.protocols.open_classes)
    fault = f"nothing to run: no protocol of family {families}" + f" opens {', '.join(opened)}" * bool(opened)
    classes = "; ".join(f"{name} has the classes {', '.join(faces.classes)}" for name, faces in face_sets.items())
    source = "--open" if selection.open_classes else "open_classes under [protocols], the base's too,"
    fix = f"change {source} or the families: {classes}" if opened else f"choose other families: {classes}"
    return SuiteError(fault, fix)


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """The texts among settings, in lists and tables too, by name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        inner = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in inner:
            yield from _texts(part, f"{name}.{key}" if name else str(key))


def _files(settings: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that settings name: another content is another cell."""
    texts = dict(_texts(settings, ""))
    paths = {name: text for name, text in texts.items() if ("." in text or "/" in text) and Path(text).is_file()}
    return {name: content_digest(path, name) for name, path in paths.items()}


@dataclass(frozen=True)
class _Column:
    """What all cells of a label have in common: computed once a plan, not once a cell."""

    method: Method
    recipe: Recipe
    model: dict[str, Any]
    content: dict[str, Any]

    @classmethod
    def of(cls, method: Method, recipe: Recipe, read_at: list[int]) -> _Column:
        settings = settings_of(method)
        content = {
            "method": method.name,
            "method_version": method.version,
            "settings": settings,
            **({"files": files} if (files := _files(settings)) else {}),
            **recipe.own_content(),
            **({"read_at": read_at} if read_at else {}),
        }
        return cls(method, recipe, recipe.content(), content)


def _cell(fingerprint: str, place: tuple[str, Protocol, str, int], column: _Column) -> Cell:
    """The cell at `place`: data set, protocol, method label, seed."""
    dataset, protocol, label, seed = place
    model = column.model | {"fingerprint": fingerprint, "closed_classes": list(protocol.closed), "seed": seed}
    content = {"dataset": dataset, "protocol": protocol.content(), "closed_set": model, **column.content}
    key = fingerprint and digest(content)
    return Cell(dataset, protocol, label, column.method, seed, column.recipe, digest(model), key, content)
