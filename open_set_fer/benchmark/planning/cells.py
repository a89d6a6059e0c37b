"""The plan: every cell of a profile, with its key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from open_set_fer.benchmark.planning.aliases import label_of
from open_set_fer.benchmark.planning.keys import Recipe, content_digest, digest, settings_key
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.protocols.protocol import FAMILIES, Family, Protocol, enumerate_protocols, opening
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, PLAIN, REFERENCE, Regime
from open_set_fer.console import log
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, DataSet, FaceSet, Outline
from open_set_fer.errors import SuiteError, some
from open_set_fer.methods.contract import Method, scores_others, states
from open_set_fer.plugins import nearest

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

    def group(self) -> tuple[str, Protocol, int, str]:
        """Cells of one group share a task and a closed-set model."""
        return self.dataset, self.protocol, self.seed, self.closed_set_key


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
    seeds, families = _seeds(profile, selection), _families(profile, selection.families)
    methods = {label: profile.method(label) for label in method_labels(profile, selection.methods)}
    has_controls = given is None and selection.regime is None and bool(profile.protocols.controls)
    label_based = {label: method for label, method in methods.items() if has_controls and states(method, "label_based")}
    compared = {label: profile.method(label) for label in (REFERENCE, PLAIN)}
    controlled = label_based | compared if label_based else {}
    for line in profile.fresh_starts(methods):
        log.warning(line)
    backbone = profile.backbone_settings()
    recipes = {
        label: Recipe(backbone, profile.closed_set_settings(label), profile.own_backbone(label))
        for label in methods | controlled
    }
    names = selection.datasets or profile.default_datasets or profile.datasets
    for name in names:
        for recipe in recipes.values():
            recipe.check_networks(getattr(profile.dataset(name), "channels", 3))
    face_sets = {name: find(name) for name in names}
    chosen = _chosen(profile, selection, families, face_sets)
    if selection.regime is not None:
        profile.protocols.check(selection.regime)
    for recipe in {recipe.closed_set: recipe for recipe in recipes.values() if recipe.closed_set.model}.values():
        for name, protocols in chosen.items():
            _check_model(recipe, given or protocols, getattr(profile.dataset(name), "channels", 3))
    is_controlled = listed(profile.protocols.control_classes, face_sets)
    planned: list[tuple[str, Protocol, dict[str, Method]]] = []
    for name in face_sets:
        protocols = _settled(profile, selection, given or chosen[name])
        for family in (selection.families if selection.open_classes else families) if given is None else ():
            if not any(protocol.family == family for protocol in protocols):
                log.warning("%s has no protocol of family %s among those chosen", name, family)
        planned += [(name, protocol, _able(protocol, methods)) for protocol in protocols]
        planned += [
            (name, _controlled(profile, protocol, control), controlled)
            for protocol in chosen[name]
            if controlled and is_controlled(protocol)
            for control in profile.protocols.control_regimes
        ]
    _say_controls(planned, label_based)
    every = methods | controlled
    columns = {label: _Column.of(method, recipes[label], profile.read_at) for label, method in every.items()}
    cells = [
        _cell(face_sets[name].fingerprint, (name, protocol, label, seed), columns[label])
        for name, protocol, able in planned
        for seed in seeds
        for label in able
    ]
    if not cells:
        raise _nothing_to_run(profile, selection, face_sets)
    return cells, face_sets


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


def _check_model(recipe: Recipe, protocols: list[Protocol], channels: int) -> None:
    """Raise SuiteError where the closed-set model that a profile names does not fit, before anything is computed.

    A model that knows open classes is warned of.
    """
    from open_set_fer.methods.shared.trained import trained_state  # takes torch

    closed = tuple(dict.fromkeys(name for protocol in protocols for name in protocol.closed))
    settings = recipe.closed_set
    trained_state(settings.model, recipe.backbone, settings.classes, closed, channels)
    known = [protocol.label for protocol in protocols if set(protocol.open) & set(settings.classes)]
    if known:
        log.warning(
            "closed_set.model was trained on the open classes of %d of %d protocols (%s): their cells say nothing "
            "about open sets; name a model without these classes, and its protocol with --open or open_classes",
            len(known),
            len(protocols),
            some(known),
        )


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


def _seeds(profile: Profile, selection: Selection) -> Sequence[int]:
    seeds = selection.seeds or profile.seeds
    for seed in (seed for seed in seeds if not 0 <= seed < 2**32):
        fault = f"seed {seed} is not between 0 and {2**32 - 1}: torch would take it for another one"
        raise SuiteError(fault, "choose another with --seed, or under `seeds` in the profile")
    return seeds


def _settled(profile: Profile, selection: Selection, protocols: list[Protocol]) -> list[Protocol]:
    """These protocols with the profile's twins and pools, under the pseudo-label setting of selection or profile."""
    protocols = [protocol.counting(profile.protocols.twins) for protocol in protocols]
    if profile.protocols.open_from == "test":
        protocols = [protocol.on_test_split() for protocol in protocols]
    if profile.protocols.pools:
        protocols = [protocol.on(pool) for protocol in protocols for pool in profile.protocols.pools]
    regime = selection.regime or profile.protocols.regime
    return [protocol.under(regime) for protocol in protocols]


def _controlled(profile: Profile, protocol: Protocol, control: Regime) -> Protocol:
    """The protocol under a control, on the splits of the profile's open faces where these are in its pool."""
    on_test_split = control.labels == "spiked" and profile.protocols.open_from == "test"
    protocol = protocol.counting(profile.protocols.twins)
    return (protocol.on_test_split() if on_test_split else protocol).under(control)


def _able(protocol: Protocol, methods: dict[str, Method]) -> dict[str, Method]:
    """The methods that can score the faces of a protocol."""
    if not protocol.pool or protocol.pool.scored != "others":
        return methods
    able = {label: method for label, method in methods.items() if scores_others(method)}
    if left_out := sorted(methods.keys() - able.keys()):
        log.warning("%s: left out, for it scores its pool alone: %s", protocol.label, ", ".join(left_out))
    return able


def _chosen(
    profile: Profile, selection: Selection, families: tuple[Family, ...], face_sets: Mapping[str, FaceSet | Outline]
) -> dict[str, list[Protocol]]:
    """The protocols of each data set that open what the selection names, or else the profile's list, if it has one.

    Either may name classes that only one of the data sets has. --all-pairs and --all-triples ask for more than the
    profile's list, which therefore does not restrict them.
    """
    all_pairs = profile.protocols.all_pairs or selection.all_pairs
    all_triples = profile.protocols.all_triples or selection.all_triples
    options = families, all_pairs, all_triples
    enumerated = {name: enumerate_protocols(faces.classes, *options) for name, faces in face_sets.items()}
    if selection.open_classes:
        every = [protocol for protocols in enumerated.values() for protocol in protocols]
        choices = {protocol.choice for text in selection.open_classes for protocol in opening(every, text)}
        return {name: [p for p in protocols if p.choice in choices] for name, protocols in enumerated.items()}
    is_listed = listed(profile.protocols.open_classes, face_sets)
    whole = ["pairs"] * selection.all_pairs + ["triples"] * selection.all_triples
    return {name: [p for p in ps if is_listed(p) or p.family in whole] for name, ps in enumerated.items()}


def listed(open_classes: list[str], face_sets: Mapping[str, FaceSet | Outline]) -> Callable[[Protocol], bool]:
    """Predicate of protocols that open what a profile's list names; an empty list names everything."""
    if not open_classes:
        return lambda protocol: True
    names = [(*BASIC, *COMPOUND, CONTEMPT), *(faces.classes for faces in face_sets.values())]
    every = [protocol for classes in names for protocol in enumerate_protocols(classes, FAMILIES, True, True)]
    choices = {protocol.choice for text in open_classes for protocol in opening(every, text)}
    return lambda protocol: protocol.choice in choices


def method_labels(profile: Profile, names: Iterable[str]) -> list[str]:
    """Labels to run: the profile's defaults, those named, or every label for 'all'."""
    chosen = [label_of(name) for name in names] or profile.default_methods
    return list(dict.fromkeys(x for name in chosen for x in (profile.method_labels() if name == "all" else [name])))


def _families(profile: Profile, names: tuple[str, ...]) -> tuple[Family, ...]:
    for name in names:
        if name not in FAMILIES:
            fix = f"families: {', '.join(FAMILIES)}; a single open class is chosen with --open"
            raise SuiteError(f"unknown protocol {name!r}{nearest(name, FAMILIES)}", fix)
    return tuple(f for f in FAMILIES if f in names) if names else tuple(profile.protocols.families)
