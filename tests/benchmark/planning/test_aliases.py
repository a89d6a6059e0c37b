"""OpenOOD's names stand for labels on the command line and in profiles."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from open_set_fer.benchmark.planning.aliases import ALIASES, label_of
from open_set_fer.benchmark.planning.cells import Selection, dry_plan
from open_set_fer.benchmark.planning.profile import built_in_labels, load_profile
from open_set_fer.cli.main import app
from open_set_fer.errors import SuiteError


def written(tmp_path, more: str):
    path = tmp_path / "own.toml"
    path.write_text(f'base = "smoke"\ndescription = "d"\nselection = "s"\n{more}')
    return str(path)


def test_an_alias_stands_for_a_built_in_label():
    assert set(ALIASES.values()) <= set(built_in_labels())
    assert not set(ALIASES) & set(built_in_labels())
    assert [label_of(name) for name in ("msp", "klm", "knn")] == ["baseline", "kl-matching", "knn"]


def test_a_selection_by_alias_has_the_label_of_the_one_method(tmp_path):
    profile = load_profile("smoke")
    by_alias = dry_plan(profile, Selection(methods=("ebo", "energy", "rmds")), tmp_path)[0]
    assert by_alias == dry_plan(profile, Selection(methods=("energy", "relative-mahalanobis")), tmp_path)[0]


def test_a_profile_may_use_aliases(tmp_path):
    text = 'default_methods = ["msp", "mds"]\n[methods.ebo]\nenergy_temperature = 2.0\n[methods.warm]\nlike = "ebo"\n'
    profile = load_profile(written(tmp_path, text))
    assert profile.default_methods == ["baseline", "mahalanobis"]
    assert profile.method("energy").energy_temperature == profile.method("warm").energy_temperature == 2.0
    assert "ebo" not in profile.known_labels()


@pytest.mark.parametrize("text", ['[methods.msp]\nlike = "ours"\n', "[methods.ebo]\n[methods.energy]\n"])
def test_an_alias_cannot_be_another_label(tmp_path, text):
    with pytest.raises(SuiteError, match=r"OpenOOD's name of (baseline|energy)"):
        load_profile(written(tmp_path, text))


def test_list_shows_the_alias_beside_its_label():
    listed = CliRunner().invoke(app, ["list"], env={"COLUMNS": "300"}).output
    assert any("baseline" in line and "msp" in line for line in listed.splitlines())
    methods = json.loads(CliRunner().invoke(app, ["list", "--json"]).output)["methods"]
    assert {alias: row["name"] for row in methods for alias in row["aliases"]} == ALIASES
