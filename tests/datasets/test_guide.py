"""`osfer data guide` and `osfer data preview`: an answer for every data set, one clear error for a path of no use."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from open_set_fer import plugins
from open_set_fer.benchmark.profiles import load_profile
from open_set_fer.cli import data as cli
from open_set_fer.datasets.guide import GUIDES, guide
from open_set_fer.errors import SuiteError

SMOKE = load_profile("smoke")[2]


class Own:
    """Faces of my own.

    Ask me for them.
    """


def test_every_data_set_has_a_guide():
    assert set(plugins.available(plugins.DATASETS)) >= set(GUIDES)
    for name in GUIDES:
        assert guide(name) == GUIDES[name]
        assert len(GUIDES[name].splitlines()) > 1


def test_another_packages_data_set_is_told_of_by_its_docstring(monkeypatch):
    monkeypatch.setattr(plugins, "load", lambda group, name: Own)
    assert guide("own") == f"own ({__name__}): Faces of my own.\n\nAsk me for them."


def test_a_misspelt_name_is_told_the_nearest():
    with pytest.raises(SuiteError, match="unknown dataset 'synthetc', did you mean 'synthetic'"):
        guide("synthetc")


def test_square_brackets_are_printed(capsys):
    cli.guide("manifest")
    assert "[datasets.manifest]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("faces.xyz", r"cannot write a picture as .*faces\.xyz.*\n  mend: end its name with \.png"),
        ("faces", r"cannot write a picture as .*faces: its ending"),
        ("folder", r"folder is a folder\n  mend: name a file in it"),
        ("file/faces.png", r"cannot write .*faces\.png: .*file is a file"),
        ("file/deeper/faces.png", r"cannot write .*faces\.png: .*file is a file"),
    ],
)
def test_a_preview_that_cannot_be_written_is_told_before_anything_is_decoded(tmp_path, monkeypatch, target, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(cli, "_load_dataset", None)  # would raise if called
    with pytest.raises(SuiteError, match=message):
        cli.preview("digits", to=tmp_path / target)


def test_a_preview_on_a_place_that_admits_no_file(tmp_path):
    with pytest.raises(SuiteError, match=r"cannot write /proc/none/faces\.png: No such file"):
        cli.preview("digits", to=Path("/proc/none/faces.png"), home=tmp_path)
    cli.preview("digits", to=tmp_path / "new" / "faces.JPG", home=tmp_path)
    with Image.open(tmp_path / "new" / "faces.JPG") as sheet:
        assert sheet.format == "JPEG"


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("ferplus", "image_size", "0", "greater than or equal to 8"),
        ("rafdb", "image_size", "-1", "greater than or equal to 8"),
        ("rafdb_compound", "image_size", "20000", "less than or equal to 1024"),
        ("affectnet", "image_size", "20000", "less than or equal to 1024"),
        ("manifest", "image_size", "0", "greater than or equal to 8"),
        ("cifar10", "image_size", "0", "greater than or equal to 8"),
        ("digits", "image_size", "0", "greater than or equal to 8"),
        ("digits", "test_share", "1.0", "less than 1"),
        ("synthetic", "image_size", "15", "greater than or equal to 16"),
        ("synthetic", "train_per_class", "-1", "greater than or equal to 0"),
    ],
)
def test_a_setting_out_of_bounds_names_itself(tmp_path, table, key, value, message):
    start = SMOKE.index("[datasets.synthetic]")
    rest = SMOKE.index("\n[", start)
    path = tmp_path / "own.toml"
    path.write_text(f"{SMOKE[:start]}[datasets.{table}]\n{key} = {value}\n{SMOKE[rest:]}", "utf-8")
    with pytest.raises(SuiteError, match=rf"datasets\.{table}\.{key}: .*{message} \(got {value}\)"):
        load_profile(str(path))
