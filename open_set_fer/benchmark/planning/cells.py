"""The plan: every cell of a profile, with its key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from open_set_fer.benchmark.planning.keys import Recipe, closed_set_content, digest, settings_key
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.protocols.protocol import FAMILIES, Family, Protocol, enumerate_protocols, opening
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, REFERENCE, Regime
from open_set_fer.console import log
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, DataSet, FaceSet, Outline
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Method, scores_others, states
from open_set_fer.plugins import nearest

Faces = TypeVar("Faces", FaceSet, Outline)


@dataclass(frozen=True)
class Cell:
    """One result to compute: (data set, protocol, method, settings, seed) and the key over all it depends on.

    closed_set_key: of the closed-set model that the cell's methods share.
    key: '' in the dry plan of a data set that is not prepared, whose fingerprint nobody knows yet.
    content: what the key is the digest of.
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
        """Epochs after which the scores of a method that reports them are kept, too."""
        return tuple(self.content.get("read_at", ()))

    def coordinates(self) -> dict[str, Any]:
        """What plan.json keeps of a cell."""
        return {
            "dataset": self.dataset,
            "protocol": self.protocol.family,
            "open_classes": self.protocol.label,
            "method": self.label,
            "seed": self.seed,
            "cell_key": self.key,
            **self.protocol.fields(),
        }

    def regime_tags(self) -> dict[str, str]:
        """Tags of its protocol."""
        return self.protocol.tags()

    def settings_key(self) -> str:
        """Hash of the settings alone: cells of one table column must agree on it."""
        return settings_key(self.content)

    def group(self) -> tuple[str, Protocol, int, str]:
        """Cells of one group share a task and a closed-set model."""
        return self.dataset, self.protocol, self.seed, self.closed_set_key


@dataclass(frozen=True)
class Selection:
    """What to keep of a profile; empty means all of it (for methods: the profile's default ones, 'all' for every one)."""

    datasets: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    open_classes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    all_pairs: bool = False
    all_triples: bool = False
    regime: Regime | None = None
    """In place of the profile's label regime."""

    def only(self, cells: list[Cell]) -> Selection:
        """This selection with the methods and open classes of these cells alone, and their control where all are of one."""
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
    """Cells in the order they run, controls last, and the data sets (through `view`, where given), prepared where they are not.

    protocols: in place of those that profile and selection choose; pools, open_from and label regime are the profile's,
        its controls are left out.
    """

    def load(name: str) -> FaceSet:
        faces = profile.dataset(name).load(cache)
        return view(faces) if view else faces

    return _cells(profile, selection, load, protocols)


def dry_plan(profile: Profile, selection: Selection, cache: Path) -> tuple[list[Cell], dict[str, Outline]]:
    """The cells of `make_plan` without decoding an image or writing a file, and what is known of the data sets."""
    return _cells(profile, selection, lambda name: _outline(profile.dataset(name), cache))


def _outline(dataset: DataSet, cache: Path) -> Outline:
    if hasattr(dataset, "outline"):
        outline: Outline = dataset.outline(cache)
        return outline
    faces = dataset.load(cache)  # another package's data set that can do no better
    return Outline(faces.classes, faces.fingerprint, len(faces.images))


def _cells(
    profile: Profile,
    selection: Selection,
    find: Callable[[str], Faces],
    given: list[Protocol] | None = None,
) -> tuple[list[Cell], dict[str, Faces]]:
    """The cells, and the data sets that `find` found, once what can be checked without them was."""
    for seed in selection.seeds or profile.seeds:
        if not 0 <= seed < 2**32:
            raise SuiteError(
                f"seed {seed} is not between 0 and {2**32 - 1}: torch would take it for another one",
                "choose another with --seed, or under `seeds` in the profile",
            )
    families = _families(profile, selection.families)
    labels = method_labels(profile, selection.methods)
    methods = {label: profile.method(label) for label in labels}
    has_controls = given is None and selection.regime is None and bool(profile.protocols.controls)
    controlled = _controlled(profile, methods) if has_controls else {}
    for line in profile.fresh_starts(labels):
        log.warning(line)
    backbone = profile.backbone_settings()
    recipes = {
        label: Recipe(backbone, profile.closed_set_settings(label), profile.own_backbone(label))
        for label in methods | controlled
    }
    face_sets = {name: find(name) for name in selection.datasets or profile.default_datasets or profile.datasets}
    enumerated = {
        name: enumerate_protocols(
            faces.classes,
            families,
            profile.protocols.all_pairs or selection.all_pairs,
            profile.protocols.all_triples or selection.all_triples,
        )
        for name, faces in face_sets.items()
    }
    is_wanted = _opened(profile, selection, face_sets, enumerated)
    regime = selection.regime or profile.protocols.regime
    if selection.regime is not None:
        profile.protocols.check(selection.regime)
    is_controlled = listed(profile.protocols.control_classes, face_sets)
    cells: list[Cell] = []
    for name, faces in face_sets.items():
        protocols = given or [p for p in enumerated[name] if is_wanted(p)]
        if profile.protocols.open_from == "test":
            protocols = [p.on_test_split() for p in protocols]
        if profile.protocols.pools:
            protocols = [p.on(pool) for p in protocols for pool in profile.protocols.pools]
        protocols = [p.under(regime) for p in protocols]
        for family in families if given is None else ():
            if not any(p.family == family for p in protocols):
                log.warning("%s has no protocol of family %s among those chosen", name, family)
        controls = [
            protocol.under(control)
            for protocol in enumerated[name]
            if controlled and is_wanted(protocol) and is_controlled(protocol)
            for control in profile.protocols.control_regimes
        ]
        for protocol in protocols + controls:
            able = controlled if protocol in controls else methods
            if protocol.pool and protocol.pool.scored == "others":
                able = {label: method for label, method in methods.items() if scores_others(method)}
                if left_out := sorted(methods.keys() - able.keys()):
                    log.warning("%s: left out, for it scores its pool alone: %s", protocol.label, ", ".join(left_out))
            for seed in selection.seeds or profile.seeds:
                for label, method in able.items():
                    model = closed_set_content(faces.fingerprint, protocol.closed, recipes[label], seed)
                    content = {
                        "dataset": name,
                        "protocol": protocol.content(),
                        "closed_set": model,
                        "method": method.name,
                        "method_version": method.version,
                        "settings": settings_of(method),
                        **recipes[label].own_content(),
                        **({"read_at": profile.read_at} if profile.read_at else {}),
                    }
                    key = faces.fingerprint and digest(content)
                    cells.append(Cell(name, protocol, label, method, seed, recipes[label], digest(model), key, content))
    if not cells:
        raise SuiteError("nothing to run: no protocol of the chosen data sets fits", "see `osfer list`")
    return cells, face_sets


def _controlled(profile: Profile, methods: dict[str, Method]) -> dict[str, Method]:
    """The methods that a control asks something of, with the one that they must reach; empty where there is none."""
    chosen = {label: method for label, method in methods.items() if states(method, "label_based")}
    return chosen | {REFERENCE: profile.method(REFERENCE)} if chosen else {}


def _opened(
    profile: Profile,
    selection: Selection,
    face_sets: Mapping[str, FaceSet | Outline],
    enumerated: dict[str, list[Protocol]],
) -> Callable[[Protocol], bool]:
    """Whether a protocol's open classes are wanted: by the selection, else by the profile's list where it has one.

    Either may name classes that only one of the data sets has. --all-pairs and --all-triples ask for more than the
    profile's list, so it does not hold them back.
    """
    if selection.open_classes:
        known = [p for protocols in enumerated.values() for p in protocols]
        chosen = {p.choice for text in selection.open_classes for p in opening(known, text)}
        return lambda protocol: protocol.choice in chosen
    is_listed = listed(profile.protocols.open_classes, face_sets)
    whole = {"pairs": selection.all_pairs, "triples": selection.all_triples}
    return lambda protocol: is_listed(protocol) or whole.get(protocol.family, False)


def listed(open_classes: list[str], face_sets: Mapping[str, FaceSet | Outline]) -> Callable[[Protocol], bool]:
    """Whether a protocol opens what a profile's list names; an empty list names everything."""
    if not open_classes:
        return lambda protocol: True
    words = [(*BASIC, *COMPOUND, CONTEMPT), *(faces.classes for faces in face_sets.values())]
    known = [p for classes in words for p in enumerate_protocols(classes, FAMILIES, True, True)]
    named = {p.choice for text in open_classes for p in opening(known, text)}
    return lambda protocol: protocol.choice in named


def method_labels(profile: Profile, wanted: Iterable[str]) -> list[str]:
    """Labels to run: the profile's defaults, those named, or every one for 'all'."""
    chosen = list(wanted) or profile.default_methods
    return list(dict.fromkeys(x for name in chosen for x in (profile.method_labels() if name == "all" else [name])))


def _families(profile: Profile, wanted: tuple[str, ...]) -> tuple[Family, ...]:
    for name in wanted:
        if name not in FAMILIES:
            raise SuiteError(
                f"unknown protocol {name!r}{nearest(name, FAMILIES)}",
                f"families: {', '.join(FAMILIES)}; a single open class is chosen with --open",
            )
    return tuple(f for f in FAMILIES if f in wanted) if wanted else tuple(profile.protocols.families)
