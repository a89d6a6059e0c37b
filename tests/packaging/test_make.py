"""What `make` would do with another Python, and the lock of tested versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def python(path: Path, version: str) -> Path:
    """A stand-in that answers with a version, as the Makefile asks for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "/usr {version}"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def make(tmp_path):
    """`make -n benchmark` in a checkout whose environment is of Python 3.11 and installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python(tmp_path / ".venv/bin/python", "3.11.7")
    (tmp_path / ".venv/installed").touch()

    def run(*arguments: str, uv: str = "") -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON"))}
        command = ["make", "-n", "benchmark", f"UV={uv}", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)

    return run


def test_an_environment_that_is_there_is_used(make, tmp_path):
    same = python(tmp_path / "same", "3.11.7")
    for arguments in ((), (f"PYTHON={same}",)):
        done = make(*arguments)
        assert done.returncode == 0, done.stderr
        assert "osfer run --profile demo" in done.stdout
        assert "venv --clear" not in done.stdout
        assert "pip install" not in done.stdout


def test_another_python_makes_the_environment_anew(make, tmp_path):
    other = python(tmp_path / "other", "3.12.1")
    done = make(f"PYTHON={other}")
    assert done.returncode == 0, done.stderr
    assert f".venv is of another Python than {other}: it is made anew" in done.stdout
    assert f"{other} -m venv --clear .venv" in done.stdout
    steps = [done.stdout.index(text) for text in ("-m venv", "--constraint constraints.txt", "osfer run")]
    assert steps == sorted(steps)


def test_a_python_that_does_not_run_is_named(make):
    done = make("PYTHON=no-such-python")
    assert done.returncode != 0
    assert "PYTHON=no-such-python does not run" in done.stderr


def test_without_an_environment_it_is_made(make, tmp_path):
    shutil.rmtree(tmp_path / ".venv")
    done = make()
    assert "python3 -m venv --clear .venv" in done.stdout
    assert "--constraint constraints.txt" in done.stdout


def test_what_imports_may_not_compile_pip_does(make, tmp_path):
    shutil.rmtree(tmp_path / ".venv")
    assert "--no-compile --constraint" in make().stdout
    assert "--no-compile" not in make("PYTHONDONTWRITEBYTECODE=1").stdout


def test_uv_installs_the_same_if_it_is_asked_for(make, tmp_path):
    shutil.rmtree(tmp_path / ".venv")
    by_pip, by_uv = make().stdout, make(uv="uv").stdout
    assert "uv pip install --quiet --python .venv/bin/python --constraint constraints.txt --editable" in by_uv
    asked = [text[text.index("--constraint") :].splitlines()[0] for text in (by_pip, by_uv)]
    assert asked[0] == asked[1]
    assert "uv " not in by_pip


def locked() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_the_lock_has_every_dependency_within_its_range_and_nothing_of_one_machine():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *(r for group in project["optional-dependencies"].values() for r in group)]
    versions = locked()
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        assert name == "setuptools" or requirement.specifier.contains(versions[name]), requirement
    assert not any("+" in version or "@" in version for version in versions.values())
    assert not any(name.startswith(("nvidia-", "cuda-", "triton", "open-set-fer")) for name in versions)
    assert not any(str(requirement.specifier) == "" for requirement in map(Requirement, asked))
