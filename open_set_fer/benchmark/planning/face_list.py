"""The faces of planned cells as a table, for whoever scores them with another program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import Profile
from open_set_fer.benchmark.protocols.task import split_faces
from open_set_fer.console import log
from open_set_fer.datasets.decoding import image_paths
from open_set_fer.errors import SuiteError
from open_set_fer.files import TABLES, writable, write_table


def write_faces(path: Path, profile: Profile, selection: Selection, home: Path) -> int:
    """Write the faces of the chosen protocols as CSV or Parquet, once each; returns the number of rows.

    Columns: dataset, protocol, open, seed, `id`, `file` (its path, where the data set has files), `role` ('train' or
    'pool') and `label`, of training faces alone. Pool faces are in the task's order, which does not tell which are
    open; ids that do are warned of.
    """
    if path.suffix.lower() not in TABLES:
        raise SuiteError(f"{path}: faces are written as {' or '.join(TABLES)}", "end the name with one of these")
    cells, face_sets = make_plan(profile, selection, writable(home) / "cache")
    tasks = {
        (cell.dataset, cell.protocol.label, cell.seed): cell for cell in cells if not cell.protocol.regime.is_control
    }
    parts = []
    for cell in tasks.values():
        faces = face_sets[cell.dataset]
        split = split_faces(faces, cell.protocol, cell.seed)
        labels = np.array([*faces.classes, ""])
        for role, places in (("train", split.train), ("pool", split.test)):
            columns = {
                "dataset": cell.dataset,
                "protocol": cell.protocol.family,
                "open": cell.protocol.label,
                "seed": cell.seed,
                "id": faces.ids[places],
                "role": role,
                "label": labels[faces.labels[places]] if role == "train" else "",
            }
            parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    paths: dict[tuple[str, str], str] = {}
    for name, faces in face_sets.items():
        paths |= {(name, id): path for id, path in image_paths(profile.dataset(name), home / "cache").items()}
        if told := faces.ids_with_class():
            text = (
                "%s: the ids of %d of %d faces name their class, and so tell which are open: hide them from your model"
            )
            log.warning(text, name, told, len(faces.ids))
    if paths:
        table.insert(5, "file", [paths.get(place, "") for place in zip(table["dataset"], table["id"], strict=True)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, table)
    return len(table)
