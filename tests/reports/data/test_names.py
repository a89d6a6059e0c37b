"""Display names of methods and data sets."""

from __future__ import annotations

import pytest

from open_set_fer import plugins
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data import names
from open_set_fer.reports.data.names import METHODS, dataset_name, limit_notes, method_name, origin_differs


def test_names():
    assert (method_name("eow"), method_name("ours-online"), method_name("mine")) == ("EOW", "Ours (online)", "mine")
    assert (dataset_name("rafdb"), dataset_name("mine")) == ("RAF-DB", "mine")
    assert len(set(METHODS.values())) == len(METHODS)


def test_data_sets_whose_splits_differ_by_origin():
    assert [origin_differs(name) for name in ("affectnet", "ferplus", "mine")] == [True, False, False]


def test_a_limit_is_said_once_of_a_method_and_its_variants_and_of_no_other():
    [note] = limit_notes(["ours", "ours-plus-plain", "ours-plus"])
    assert note.startswith("Ours-plus asks what sets the pool apart")
    assert limit_notes(["ours-plus-plain"]) == [note]
    assert limit_notes(["ours", "ours-online", "ours-plusher"]) == []


def test_a_data_sets_title_is_its_classs_and_a_broken_one_is_shown_as_typed(monkeypatch: pytest.MonkeyPatch):
    def load(group: str, name: str) -> type:
        if name == "broken":
            raise SuiteError("cannot import it")
        return type("Faces", (), {"name": name} | ({"title": "My Faces"} if name == "titled" else {}))

    monkeypatch.setattr(plugins, "load", load)
    names._facts.cache_clear()
    assert [dataset_name(name) for name in ("titled", "untitled", "broken")] == ["My Faces", "untitled", "broken"]
    names._facts.cache_clear()
