"""Display names of methods and data sets."""

from __future__ import annotations

import pytest

from open_set_fer import plugins
from open_set_fer.errors import SuiteError
from open_set_fer.reports.names import METHODS, dataset_name, method_name


def test_names():
    assert (method_name("eow"), method_name("ours-online"), method_name("mine")) == ("EOW", "Ours (online)", "mine")
    assert (dataset_name("rafdb"), dataset_name("mine")) == ("RAF-DB", "mine")
    assert len(set(METHODS.values())) == len(METHODS)


def test_a_data_sets_title_is_its_classs_and_a_broken_one_is_shown_as_typed(monkeypatch: pytest.MonkeyPatch):
    def load(group: str, name: str) -> type:
        if name == "broken":
            raise SuiteError("cannot import it")
        return type("Faces", (), {"name": name} | ({"title": "My Faces"} if name == "titled" else {}))

    monkeypatch.setattr(plugins, "load", load)
    dataset_name.cache_clear()
    assert [dataset_name(name) for name in ("titled", "untitled", "broken")] == ["My Faces", "untitled", "broken"]
    dataset_name.cache_clear()
