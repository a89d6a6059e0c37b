"""Which suite is named as the origin of a number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import open_set_fer
from open_set_fer.benchmark.storage.provenance import host_tags


def test_tags_say_what_computed_without_importing_torch():
    code = (
        "import sys, json; from open_set_fer.benchmark.storage.provenance import host_tags\n"
        "print(json.dumps(host_tags('cpu'))); assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    )
    tags = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert {**tags, "git_commit": ""} == {**host_tags("cpu"), "git_commit": ""}  # one may be writing in the checkout
    assert set(tags) == {"version", "git_commit", "python", "torch", "cpu", "host", "device"}
    assert tags["version"] == open_set_fer.__version__
    assert all(tags.values())


def git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit_seen(site: Path, **environment: str) -> str:
    code = (
        "import open_set_fer; from open_set_fer.benchmark.storage.provenance import git_commit; "
        "print(open_set_fer.__file__); print(git_commit())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site), **environment},
        cwd=site,
        capture_output=True,
        text=True,
        check=True,
    )
    place, commit = done.stdout.splitlines()
    assert Path(place).is_relative_to(site)
    return commit


@pytest.fixture
def other_project(tmp_path: Path) -> Path:
    """Another project's repository, with a commit and a folder of installed packages that holds the suite."""
    project = tmp_path / "project"
    site = project / "lib"
    shutil.copytree(
        Path(open_set_fer.__file__).parent, site / "open_set_fer", ignore=shutil.ignore_patterns("__pycache__")
    )
    info = site / "open_set_fer-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: open-set-fer\nVersion: 0.1.0\n")
    (project / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "theirs")
    return project


def test_a_wheel_in_anothers_repository_does_not_take_its_commit(other_project):
    site = other_project / "lib"
    assert commit_seen(site) == "unknown"
    assert commit_seen(site, GIT_DIR=str(other_project / ".git"), GIT_WORK_TREE=str(site)) == "unknown"
    noted = {"url": "https://x/y.git", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef0123"}}
    (site / "open_set_fer-0.1.0.dist-info" / "direct_url.json").write_text(json.dumps(noted))
    assert commit_seen(site) == "0123456789ab"


def test_the_suites_own_checkout_is_named(other_project):
    site = other_project / "lib"
    (site / "pyproject.toml").write_text('[project]\nname = "open-set-fer"\n')
    assert commit_seen(site) == "unknown"  # a folder of their repository, still
    git(site, "init", "-q")
    git(site, "add", "pyproject.toml")
    git(site, "commit", "-qm", "without the package")
    assert commit_seen(site) == "unknown"
    git(site, "add", ".")
    git(site, "commit", "-qm", "ours")
    own = git(site, "rev-parse", "HEAD")
    assert own.startswith(commit_seen(site))
    assert len(commit_seen(site)) == 12
    (site / "pyproject.toml").write_text('[project]\nname = "open-set-fer"\nversion = "2"\n')
    assert commit_seen(site) == commit_seen(site)[:12] + "-dirty"
