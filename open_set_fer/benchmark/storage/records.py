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
        tags = {name: str(value) for name, value in cell.coordinates().items()} | cell.protocol.tags()
        tags |= {"closed_set_key": cell.closed_set_key, "settings_key": cell.settings_key()}
        tags |= {fact: str(states(cell.method, fact)).lower() for fact in FACTS}
        tags |= {"profile": profile.name, "selection": profile.selection}
        recipe = cell.recipe.content()
        parts = {
            "method": {"name": cell.method.name, "version": cell.method.version, **settings_of(cell.method)},
            "closed_set": recipe["closed_set"],
            "backbone": recipe["backbone"],
            **cell.recipe.own_content(),
            "dataset": settings_of(profile.dataset(cell.dataset)),
        }
        params = {f"{part}.{name}": str(value) for part, values in parts.items() for name, value in values.items()}
        data = DataUsed(faces.name, faces.fingerprint, faces.counts())
        tags["demonstration"] = str(faces.demonstration).lower()
        return cls(tags, params, data, canonical(cell.content), profile.text)
