"""The last line of written pages, and the pages under docs/ against the suite's present versions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from open_set_fer import studies
from open_set_fer.benchmark.planning.cells import Selection, dry_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.studies import provenance
from open_set_fer.studies.provenance import LINE, last_line, present_versions, stale, versions_of
from open_set_fer.studies.writing import number

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS / f"{name.replace('-', '_')}.md" for name in studies.STUDIES)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_in_the_repository_is_of_the_present_versions(page):
    if page.exists():  # it may be absent until it is computed again
        assert stale(page.read_text("utf-8")) == []


def test_every_page_with_versions_is_one_of_a_study():
    assert {path for path in DOCS.rglob("*.md") if LINE.search(path.read_text("utf-8"))} <= set(PAGES)


@dataclass
class Made:
    """Results of profile smoke as far as versions go."""

    profile: str
    cells: pd.DataFrame
    params: dict


def results(version: str = "") -> Made:
    cells, _ = dry_plan(load_profile("smoke"), Selection(methods=("baseline", "ours")), Path("none"))
    rows = [
        {
            "run_id": str(i),
            "status": "finished",
            "dataset": cell.dataset,
            "method": cell.label,
            "settings_key": cell.settings_key(),
        }
        for i, cell in enumerate(cells)
    ]
    params = {str(i): {"method.version": version or str(cell.method.version)} for i, cell in enumerate(cells)}
    return Made("smoke", pd.DataFrame(rows), params)


def page(made: Made) -> str:
    return f"# A page\n\n{last_line(versions_of(made, made.cells))}"


def test_a_page_of_the_present_versions_is_not_stale():
    written = json.loads(LINE.search(page(results()))[1])
    assert set(written["methods"]) >= {"baseline", "ours"}
    assert written == present_versions(written)
    assert stale(page(results())) == []
    assert stale("# A page without runs\n\n" + last_line({})) == []
    assert stale("# An old page\n") == ["its last line has no versions"]


def test_what_changed_since_is_named(monkeypatch):
    assert stale(page(results("0"))) != []
    assert all(fault.startswith("methods.") and ".version: 0, now " in fault for fault in stale(page(results("0"))))
    text = page(results())
    renamed = text.replace('"ours"', '"ours-of-old"')
    assert any("methods.ours-of-old.version" in fault and "no such label" in fault for fault in stale(renamed))
    made = results()
    made.cells.loc[made.cells["method"] == "ours", "settings_key"] = "other"
    assert [fault.split(":")[0] for fault in stale(page(made))] == ["methods.ours.settings"]
    monkeypatch.setattr(provenance, "EVALUATION", 99)
    assert stale(text)[0].startswith("evaluation: ")


def test_other_data_or_protocols_make_a_page_stale(monkeypatch):
    text, profile = page(results()), load_profile("smoke")
    protocols = profile.protocols.model_copy(update={"open_from": "test"})
    monkeypatch.setattr(provenance, "load_profile", lambda name: profile.model_copy(update={"protocols": protocols}))
    assert any(fault.startswith("protocols: ") for fault in stale(text))
    (name, settings), *_ = profile.datasets.items()
    changed = profile.model_copy(update={"datasets": {name: settings | {"image_size": 40}}})
    monkeypatch.setattr(provenance, "load_profile", lambda name: changed)
    assert any(fault.startswith(f"datasets.{name}: ") for fault in stale(text))


def test_numbers_as_displayed():
    assert number(0.6124, 0.0081) == "0.612 ± 0.008"
    assert number(0.6124) == "0.612"
    assert number(float("nan")) == number(None) == "—"
    assert number(0.6124, float("nan"), digits=2) == "0.61"
