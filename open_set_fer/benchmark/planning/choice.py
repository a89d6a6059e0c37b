"""What a run chooses of a profile: seeds, labels, protocols, and which methods run on each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from open_set_fer.benchmark.planning.aliases import label_of
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.protocols.protocol import FAMILIES, Family, Protocol, enumerate_protocols, opening
from open_set_fer.benchmark.protocols.pseudo_labels import Regime
from open_set_fer.console import log
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, FaceSet, Outline
from open_set_fer.errors import SuiteError
from open_set_fer.methods.contract import Method, scores_others
from open_set_fer.plugins import nearest


def chosen_seeds(profile: Profile, seeds: Sequence[int]) -> Sequence[int]:
    """These seeds, or the profile's; SuiteError for a seed outside the range that torch accepts."""
    seeds = seeds or profile.seeds
    for seed in (seed for seed in seeds if not 0 <= seed < 2**32):
        fault = f"seed {seed} is not between 0 and {2**32 - 1}: torch would take it for another one"
        raise SuiteError(fault, "choose another with --seed, or under `seeds` in the profile")
    return seeds


def planned_protocols(
    profile: Profile,
    regime: Regime | None,
    families: tuple[Family, ...],
    protocols: Mapping[str, list[Protocol]],
    methods: dict[str, Method],
    is_controlled: Callable[[Protocol], bool],
    controlled: dict[str, Method],
) -> list[tuple[str, Protocol, dict[str, Method]]]:
    """Data set, protocol and the methods to run on it, in the order they run; the controls of a data set last.

    regime: in place of the profile's. families: those to warn of if a data set has none of their protocols.
    protocols: by data set. controlled: methods of the controls.
    """
    planned: list[tuple[str, Protocol, dict[str, Method]]] = []
    for name, chosen in protocols.items():
        settled = _settled(profile, regime, chosen)
        for family in families:
            if not any(protocol.family == family for protocol in settled):
                log.warning("%s has no protocol of family %s among those chosen", name, family)
        planned += [(name, protocol, _able(protocol, methods)) for protocol in settled]
        planned += [
            (name, _controlled(profile, protocol, control), controlled)
            for protocol in chosen
            if controlled and is_controlled(protocol)
            for control in profile.protocols.control_regimes
        ]
    return planned


def _settled(profile: Profile, regime: Regime | None, protocols: list[Protocol]) -> list[Protocol]:
    """These protocols with the profile's twins and pools, under the pseudo-label setting `regime` or the profile's."""
    protocols = [protocol.counting(profile.protocols.twins) for protocol in protocols]
    if profile.protocols.open_from == "test":
        protocols = [protocol.on_test_split() for protocol in protocols]
    if profile.protocols.pools:
        protocols = [protocol.on(pool) for protocol in protocols for pool in profile.protocols.pools]
    return [protocol.under(regime or profile.protocols.regime) for protocol in protocols]


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


def chosen_protocols(
    profile: Profile,
    open_classes: tuple[str, ...],
    families: tuple[Family, ...],
    face_sets: Mapping[str, FaceSet | Outline],
    all_pairs: bool = False,
    all_triples: bool = False,
) -> dict[str, list[Protocol]]:
    """The protocols of each data set that open `open_classes`, or else the profile's list, if it has one.

    Either may name classes that only one of the data sets has. --all-pairs and --all-triples ask for more than the
    profile's list, which therefore does not restrict them.
    """
    options = families, profile.protocols.all_pairs or all_pairs, profile.protocols.all_triples or all_triples
    enumerated = {name: enumerate_protocols(faces.classes, *options) for name, faces in face_sets.items()}
    if open_classes:
        every = [protocol for protocols in enumerated.values() for protocol in protocols]
        choices = {protocol.choice for text in open_classes for protocol in opening(every, text)}
        return {name: [p for p in protocols if p.choice in choices] for name, protocols in enumerated.items()}
    is_listed = listed(profile.protocols.open_classes, face_sets)
    whole = ["pairs"] * all_pairs + ["triples"] * all_triples
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


def chosen_families(profile: Profile, names: tuple[str, ...]) -> tuple[Family, ...]:
    for name in names:
        if name not in FAMILIES:
            fix = f"families: {', '.join(FAMILIES)}; a single open class is chosen with --open"
            raise SuiteError(f"unknown protocol {name!r}{nearest(name, FAMILIES)}", fix)
    return tuple(f for f in FAMILIES if f in names) if names else tuple(profile.protocols.families)
