"""Keys of cells: unchanged settings keep theirs, or finished cells would be computed again."""

from __future__ import annotations

import json
from pathlib import Path

from open_set_fer.benchmark.planning.cells import Selection, dry_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.protocols.pseudo_labels import OWN
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT, Outline
from open_set_fer.datasets.synthetic.dataset import Synthetic

STORED = Path(__file__).parents[1] / "smoke_keys.json"


def test_smokes_cells_have_the_keys_that_they_always_had(tmp_path, monkeypatch):
    """Stored keys by label, for a data set with a fingerprint of 64 zeros. A key changes only with a raised version."""
    outline = Outline((*BASIC, *COMPOUND, CONTEMPT), "0" * 64, 100)
    monkeypatch.setattr(Synthetic, "outline", lambda self, cache: outline)
    smoke = load_profile("smoke")
    kept = smoke.model_copy(update={"protocols": smoke.protocols.model_copy(update={"twins": "keep"})})
    cells, _ = dry_plan(kept, Selection(methods=("all",)), tmp_path)
    stored = json.loads(STORED.read_text("utf-8"))
    assert len(stored) == 45
    assert {cell.label: [cell.key, cell.settings_key()] for cell in cells if cell.protocol.regime == OWN} == stored
    once, _ = dry_plan(smoke, Selection(methods=("all",)), tmp_path)
    assert not {cell.key for cell in cells} & {cell.key for cell in once}
    assert [cell.closed_set_key for cell in cells] == [cell.closed_set_key for cell in once]
    assert [cell.settings_key() for cell in cells] == [cell.settings_key() for cell in once]
