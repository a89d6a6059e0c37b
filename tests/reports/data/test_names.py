"""Display names of methods and data sets."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest

from open_set_fer import plugins
from open_set_fer.errors import SuiteError
from open_set_fer.reports.data import names
from open_set_fer.reports.data.frame import typed_frame
from open_set_fer.reports.data.names import METHODS, dataset_name, limit_notes, method_name, origin_differs


def test_names():
    assert (method_name("eow"), method_name("ours-online"), method_name("mine")) == ("EOW", "Ours (online)", "mine")
    assert method_name("ours-scratch") == "Ours (from scratch)"
    assert (dataset_name("rafdb"), dataset_name("mine")) == ("RAF-DB", "mine")
    assert len(set(METHODS.values())) == len(METHODS)


def test_every_label_of_the_suite_has_a_published_name():
    labels = tomllib.loads((files("open_set_fer.benchmark.planning") / "methods.toml").read_text("utf-8"))
    assert set(labels) <= set(METHODS)


def test_data_sets_whose_splits_differ_by_origin():
    assert [origin_differs(name) for name in ("affectnet", "ferplus", "mine")] == [True, False, False]


def test_what_networks_start_from_is_in_the_name_by_the_settings_of_the_runs():
    params = {
        "a": {"method.name": "ours", "method.pretrained_stages": "4"},
        "b": {"method.name": "ours", "method.pretrained_stages": "0"},
        "c": {"method.name": "ours", "method.pretrained_stages": "4", "method.variant": "online"},
    }
    place = {"dataset": "ferplus", "protocol": "single", "open_classes": "surprise", "status": "finished"}
    runs = [("ours", 0, "a"), ("ours", 1, ""), ("ours-scratch", 0, "b"), ("ours-online", 0, "c"), ("baseline", 0, "")]
    rows = [place | {"method": method, "seed": seed, "run_id": run} for method, seed, run in runs]
    assert typed_frame(rows, params)["title"].tolist() == [
        "Ours (closed-set stages)",
        "Ours (closed-set stages)",  # a cell that is missing
        "Ours (from scratch)",
        "Ours (online, closed-set stages)",
        "Baseline (MSP)",
    ]
    assert typed_frame(rows[:1], params | {"a": params["b"]})["title"].tolist() == ["Ours"]


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
