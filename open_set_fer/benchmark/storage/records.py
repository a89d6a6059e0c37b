"""Record of a cell: the tags, params and data that its plan knows of it before it is computed."""

from __future__ import annotations

from dataclasses import dataclass

from open_set_fer.benchmark.evaluation.result import DataUsed
from open_set_fer.benchmark.planning.cells import Cell
from open_set_fer.benchmark.planning.keys import canonical
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.datasets.faceset import FaceSet
from open_set_fer.methods.contract import FACTS, states


@dataclass(frozen=True)
class Record:
    """What a result says of its cell, whichever profile planned it.

    tags: by name, see docs/mlflow.md. params: every setting, flat. key: the JSON that the cell's key is the digest of.
    profile: the TOML of the profile.
    """

    tags: dict[str, str]
    params: dict[str, str]
    data: DataUsed
    key: str
    profile: str

    @classmethod
    def of(cls, cell: Cell, profile: Profile, faces: FaceSet) -> Record:
        """The record of a cell of this profile."""
        return cls(
            _tags(cell, profile, faces),
            _params(cell, profile),
            DataUsed(faces.name, faces.fingerprint, faces.counts()),
            canonical(cell.content),
            profile.text,
        )


def _tags(cell: Cell, profile: Profile, faces: FaceSet) -> dict[str, str]:
    return (
        {name: str(value) for name, value in cell.coordinates().items()}
        | cell.regime_tags()
        | {"closed_set_key": cell.closed_set_key}
        | {fact: str(states(cell.method, fact)).lower() for fact in FACTS}
        | {
            "settings_key": cell.settings_key(),
            "profile": profile.name,
            "selection": profile.selection,
            "demonstration": str(faces.demonstration).lower(),
        }
    )


def _params(cell: Cell, profile: Profile) -> dict[str, str]:
    recipe = cell.recipe.content()
    parts = {
        "method": {"name": cell.method.name, "version": cell.method.version, **settings_of(cell.method)},
        "closed_set": recipe["closed_set"],
        "backbone": recipe["backbone"],
        **cell.recipe.own_content(),
        "dataset": settings_of(profile.dataset(cell.dataset)),
    }
    return {f"{part}.{name}": str(value) for part, values in parts.items() for name, value in values.items()}
