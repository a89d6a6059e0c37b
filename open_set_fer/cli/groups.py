"""Groups of options: dataclasses whose fields a command takes as its options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from open_set_fer import plugins
from open_set_fer.cli.options import (
    AddressOption,
    AllPairsOption,
    AllTriplesOption,
    BackendOption,
    CellTimeoutOption,
    DatasetOption,
    DeviceOption,
    FaceArtifactsOption,
    GpusOption,
    JobsOption,
    KeepFeaturesOption,
    KeepModelsOption,
    LabelShareOption,
    LabelsOption,
    MethodOption,
    OpenOption,
    ProfileOption,
    ProtocolOption,
    SeedOption,
    StoreOption,
    ThreadsOption,
    WeightsOption,
    parts,
)
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, masked

if TYPE_CHECKING:
    from open_set_fer.benchmark.execution.options import RunOptions
    from open_set_fer.benchmark.planning.cells import Selection
    from open_set_fer.benchmark.planning.profile import Profile


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the fields of its dataclass parameters as options, for typer."""
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    groups = {name: hints[name] for name in signature.parameters if is_dataclass(hints[name])}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            types = get_type_hints(groups[name], include_extras=True)
            parameters += [_parameter(field, types[field.name]) for field in fields(groups[name])]
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name, field.default) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**made, **given)

    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def _parameter(field: Field[Any], annotation: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@dataclass(frozen=True)
class CellOptions:
    """Which cells: a profile and a selection of it."""

    profile: ProfileOption = ""
    dataset: DatasetOption = ""
    protocol: ProtocolOption = ""
    open_classes: OpenOption = ""
    method: MethodOption = ""
    seed: SeedOption = ""
    all_pairs: AllPairsOption = False
    all_triples: AllTriplesOption = False
    labels: LabelsOption = ""
    label_share: LabelShareOption = None
    weights: WeightsOption = ""

    def load(self) -> Profile:
        """The profile named, else the one of the data sets."""
        from open_set_fer.benchmark.planning.profile import load_profile
        from open_set_fer.benchmark.planning.profile_files import default_profile

        return load_profile(default_profile(self.profile, parts(self.dataset)), self.weights)

    def selection(self) -> Selection:
        """The cells chosen; raises SuiteError for a seed that is no number and for an unknown pseudo-label setting."""
        from open_set_fer.benchmark.planning.aliases import label_of
        from open_set_fer.benchmark.planning.cells import Selection
        from open_set_fer.benchmark.planning.profile_tables import regime_named

        methods = tuple(map(label_of, parts(self.method)))
        if "all" in methods:
            for fault in plugins.broken(plugins.METHODS).values():
                log.warning("left out: %s", fault)
        return Selection(
            parts(self.dataset),
            parts(self.protocol),
            parts(self.open_classes),
            methods,
            read_seeds(self.seed),
            self.all_pairs,
            self.all_triples,
            regime_named(self.labels, self.label_share),
        )


def read_seeds(text: str) -> tuple[int, ...]:
    """The seeds of --seed; SuiteError for what is no list of whole numbers."""
    try:
        return tuple(int(part) for part in parts(text))
    except ValueError as error:
        raise SuiteError(f"--seed {text!r} is not a list of whole numbers", "for example --seed 0,1,2") from error


@dataclass(frozen=True)
class ComputeOptions:
    """How cells are computed, and what is kept of them; the fields are those of RunOptions."""

    device: DeviceOption = "auto"
    threads: ThreadsOption = None
    jobs: JobsOption = None
    cell_timeout: CellTimeoutOption = None
    backend: BackendOption = "local"
    address: AddressOption = ""
    gpus: GpusOption = 0.0
    store: StoreOption = ""
    keep_features: KeepFeaturesOption = False
    keep_models: KeepModelsOption = False
    allow_face_artifacts: FaceArtifactsOption = False

    def checked(self) -> RunOptions:
        """The options; SuiteError where they do not fit together, or where the store cannot be used."""
        from open_set_fer.benchmark.execution.options import RunOptions
        from open_set_fer.benchmark.storage.checkpoints import ModelStore

        if self.backend not in ("local", "ray"):
            raise SuiteError(f"unknown backend {self.backend!r}", "choose local or ray")
        if self.backend == "local" and (self.address or self.gpus):
            raise SuiteError("--address and --gpus are for a Ray cluster", "add --backend ray, or leave them out")
        if self.store:
            ModelStore(self.store)
        return RunOptions(**asdict(self))

    def arguments(self) -> list[str]:
        """The options of `osfer run` that make this group, without passwords."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {field.name: given[field.name] for field in fields(self) if given[field.name] != field.default}
        texts: list[str] = []
        for name, value in changed.items():
            texts += [f"--{name.replace('_', '-')}"] + [masked(str(value))] * (value is not True)
        return texts
