"""What a data set says of itself, and `osfer data guide`, which prints it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from open_set_fer import plugins
from open_set_fer.cli import data as cli
from open_set_fer.datasets.faceset import facts
from open_set_fer.errors import SuiteError
from tests.datasets.trees import LAYOUTS

NAMES = sorted({name.partition("-")[0] for name in LAYOUTS})


@dataclass(frozen=True)
class Own:
    """Faces of my own.

    Ask me for them.
    """

    name = "own"


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_has_a_title_and_a_guide(name):
    kind = plugins.load(plugins.DATASETS, name)
    assert facts(kind) == facts(kind())
    assert facts(kind).guide == kind.guide
    assert len(kind.guide.splitlines()) > 1
    assert facts(kind).title == kind.title != name


def test_another_packages_data_set_is_told_of_by_its_docstring():
    assert facts(Own).guide == f"own ({__name__}): Faces of my own.\n\nAsk me for them."
    assert (facts(Own).title, facts(Own).published, facts(Own).face_side) == ("own", {}, None)


def test_a_data_set_without_a_docstring():
    @dataclass(frozen=True)
    class Silent:
        name = "silent"
        root: str = ""

    assert facts(Silent).guide == f"silent ({__name__}): its package gives no description."


def test_another_packages_data_set_may_say_more(monkeypatch, capsys):
    class Told(Own):
        guide = "Ask [me]."
        published = {"train": 3}

    monkeypatch.setattr(plugins, "load", lambda group, name: Told)
    assert facts(Told()).published == {"train": 3}
    cli.guide("own")
    assert capsys.readouterr().out == "Ask [me].\n"


def test_a_misspelt_name_is_told_the_nearest():
    with pytest.raises(SuiteError, match="unknown dataset 'synthetc', did you mean 'synthetic'"):
        cli.guide("synthetc")


def test_square_brackets_are_printed(capsys):
    cli.guide("manifest")
    assert "[datasets.manifest]" in capsys.readouterr().out
