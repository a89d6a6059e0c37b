"""What is installed: data files come along, and the wheel alone runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from open_set_fer import __version__

ROOT = Path(__file__).parents[2]


def files_beside_the_code() -> set[Path]:
    return {
        path for path in (ROOT / "open_set_fer").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }


def test_files_beside_the_code_are_in_the_wheel():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    listed = {
        path
        for package, patterns in setup.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    assert files_beside_the_code() == listed
    assert files("open_set_fer").joinpath("py.typed").is_file()


def test_one_version_and_one_licence_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == __version__
    assert re.search(r"^license: (.*)$", citation, re.M)[1] == project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it is made of."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "open_set_fer", source / "open_set_fer", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_installed_alone_computes_and_reports(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {str(path.relative_to(ROOT)) for path in files_beside_the_code()} <= names
    assert {name.split("/")[0] for name in names} == {"open_set_fer", f"open_set_fer-{__version__}.dist-info"}
    assert f"open_set_fer-{__version__}.dist-info/licenses/LICENSE" in names

    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=120)
    python = str(venv / "bin/python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, timeout=300)
    place = sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)})
    shared = [path for path in sys.path if path.endswith("-packages")]  # a .pth there, as of this checkout, is not read
    Path(place, "shared.pth").write_text("\n".join(shared), "utf-8")

    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OSFER", "MLFLOW"))
    }

    def osfer(*words: str) -> str:
        command = [str(venv / "bin/osfer"), *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [python, "-c", "import open_set_fer; print(open_set_fer.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert Path(found.strip()).is_relative_to(venv)
    assert {"demo", "smoke", "paper"} <= {row["name"] for row in json.loads(osfer("list", "--json"))["profiles"]}
    assert json.loads(osfer("run", "-p", "smoke", "-m", "baseline", "--json"))["failed"] == []
    osfer("report", "-p", "smoke")
    assert (tmp_path / "runs/report/smoke/index.html").is_file()
