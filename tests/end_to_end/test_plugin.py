"""A third party's package adds a method: one file, found by its entry point, run by the CLI, shown in tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.test_run import osfer

pytestmark = pytest.mark.slow
PACKAGE = Path(__file__).parents[2] / "examples" / "osfer-margin"


def test_an_installed_package_adds_a_method(tmp_path):
    site, source = tmp_path / "site", tmp_path / "source"
    source.mkdir()
    for file in PACKAGE.glob("*.*"):  # a copy, so that building leaves nothing in the checkout
        (source / file.name).write_bytes(file.read_bytes())
    assert len((PACKAGE / "osfer_margin.py").read_text("utf-8").splitlines()) < 40
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--target",
            str(site),
            str(source),
        ],
        check=True,
    )
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_osfer_margin.py"],
        cwd=source,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert "3 passed" in tested.stdout, tested.stdout
    home = tmp_path / "home"
    listed = osfer("list", home=home, PYTHONPATH=str(site))
    assert "margin" in listed.stdout
    done = osfer("run", "--profile", "smoke", "--method", "baseline,margin", home=home, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    report = osfer("report", "--profile", "smoke", home=home, PYTHONPATH=str(site))
    assert report.returncode == 0, report.stderr
    table = (home / "report" / "smoke" / "tables" / "table1_synthetic.md").read_text("utf-8")
    assert "| margin |" in table
    everything = osfer("plan", "--profile", "smoke", "--method", "all", home=home, PYTHONPATH=str(site))
    assert "margin" in everything.stdout
