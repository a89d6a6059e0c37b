"""Provenance of a number: suite, libraries and machine."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import tomllib
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path

from open_set_fer.version import __version__

NAME = "open-set-fer"
PACKAGE = Path(__file__).resolve().parents[2]


@cache
def git_commit() -> str:
    """The suite's commit, '-dirty' when its checkout has changes; 'unknown' for a wheel from an index.

    A wheel in an environment inside another project's repository must not take that project's commit for its own.
    """
    return _checkout_commit(PACKAGE) or _installed_commit(PACKAGE) or "unknown"


def _checkout_commit(package: Path) -> str:
    """The commit when the folder above the package is the suite's checkout and tracks its files, else ''."""
    root = package.parent
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text("utf-8")).get("project", {})
        if project.get("name") != NAME or Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root:
            return ""
        _git(root, "ls-files", "--error-unmatch", f"{package.name}/__init__.py")
        return _git(root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    # GIT_DIR and the like, set inside a hook, would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def _installed_commit(package: Path) -> str:
    """The commit that pip noted when it installed the package from a repository, else ''."""
    try:
        installed: Distribution = distribution(NAME)
        if Path(str(installed.locate_file(package.name))).resolve() != package:  # another installation's
            return ""
        origin = json.loads(installed.read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, OSError, ValueError):
        return ""
    return str(origin.get("vcs_info", {}).get("commit_id", ""))[:12]


@cache
def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


_version = cache(version)
"""The version of a package; looking it up takes longer than all other tags of a cell."""


def host_tags(device: str = "cpu") -> dict[str, str]:
    """Tags of the machine and the libraries that computed a run; `gpu` only for a CUDA device."""
    tags = {
        "version": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "cpu": cpu_model(),
        "host": socket.gethostname(),
        "device": f"{device} ({platform.machine()})",
    }
    if device.startswith("cuda"):
        import torch

        tags["gpu"] = torch.cuda.get_device_name(device)
    return tags
