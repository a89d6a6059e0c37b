"""Names of files: none leads out of the data set's folder, no two name one file, no link leads to itself."""

from __future__ import annotations

import os

import pytest

from open_set_fer.datasets.listing import file_key, paths_inside
from open_set_fer.errors import SuiteError


def test_names_that_lead_out_of_the_folder(tmp_path):
    root = tmp_path / "set"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.jpg").touch()
    (tmp_path / "out.jpg").touch()
    (root / "in" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (root / "in" / "near.jpg").symlink_to(root / "in" / "a.jpg")
    (root / "away").symlink_to(tmp_path)
    for good in ("in/a.jpg", "in/near.jpg", "in/../in/a.jpg", str(root / "in" / "a.jpg"), "not-there.jpg"):
        assert paths_inside(root, [good], "made") == [os.path.join(root, good)]
    for bad in ("../out.jpg", "in/link.jpg", "away/out.jpg", str(tmp_path / "out.jpg"), "in/..", "..", "/"):
        with pytest.raises(SuiteError, match="leads out of"):
            paths_inside(root, [bad], "made")
    (tmp_path / "linked").symlink_to(root)
    assert paths_inside(tmp_path / "linked", ["in/a.jpg"], "made")


def test_a_link_that_leads_to_itself(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    file_key("made", [f"{tmp_path}/a.png"])
    with pytest.raises(SuiteError, match=r"made: cannot read .*loop\.png: Too many levels of symbolic links"):
        file_key("made", [f"{tmp_path}/a.png", f"{tmp_path}/loop.png"])


def test_two_names_of_one_file(tmp_path):
    root = tmp_path / "set"
    (root / "in").mkdir(parents=True)
    (root / "also").symlink_to(root / "in")
    for other in ("./in/a.jpg", "in/../in/a.jpg", "in//a.jpg", "also/a.jpg"):
        with pytest.raises(SuiteError, match=r"and 'in/a\.jpg' are one file"):
            paths_inside(root, ["in/a.jpg", "in/b.jpg", other], "made")
