"""Files and folders that are whole or absent, whenever the process is killed or the power fails."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from open_set_fer.errors import SuiteError, summary

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".parquet")
"""Endings of tables."""


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole: readers see the old content or the new.

    It is written as `<path without its ending>.new`, then renamed.
    """
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet where the name ends so, else as CSV; without its index."""
    if path.suffix.lower() == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder `<target>.partial` that takes the place of `target` when the block ends.

    Everything is on the disk before the rename. An error removes what was written and leaves an older `target` as it
    was; a kill leaves at most `<target>.partial` and `<target>.old`, which the next call removes.
    """
    partial, old = (target.with_name(f"{target.name}.{ending}") for ending in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(partial, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def package_file(text: str) -> Path:
    """A path; or `package:file`, a file that an installed package ships. SuiteError for a package that is not there."""
    package, _, name = text.partition(":")
    if not name or not re.fullmatch(r"\w\w+", package):  # C:\\models is a path
        return Path(text)
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        fault = f"{text} is a file of the package {package}, which is not installed"
        raise SuiteError(fault, f"pip install {package.replace('_', '-')}")
    return Path(spec.origin).parent / name


def look_here() -> None:
    """Let modules be imported from the current folder, as `python my_network.py` would import them there."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def source_file(name: str) -> Path:
    """File of the module of `package.module:function`; SuiteError where it cannot be imported."""
    look_here()
    try:
        spec, reason = find_spec(name.partition(":")[0]), "no such module"
    except Exception as error:  # what a package's own code raises
        spec, reason = None, summary(error)
    if spec is None or not spec.has_location or spec.origin is None:
        fix = "name it as package.module:function, importable where osfer runs (PYTHONPATH, or pip install)"
        raise SuiteError(f"backbone {name!r} cannot be imported: {reason}", fix)
    return Path(spec.origin)


def writable(home: Path) -> Path:
    """The folder of results, created where it is not there yet; raises SuiteError where nothing can be written."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SuiteError(
            f"cannot create the folder {home}: {error.strerror}", "name another one with --home"
        ) from error
    if not os.access(home, os.W_OK):
        raise SuiteError(f"cannot write into the folder {home}", "name another one with --home")
    return home
