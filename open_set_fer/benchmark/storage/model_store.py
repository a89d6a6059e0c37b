"""Closed-set models shared between homes: a folder behind any fsspec URL (s3://, gs://, file://, memory://)."""

from __future__ import annotations

from pathlib import Path

from open_set_fer.benchmark.storage.connection import public_address
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, summary
from open_set_fer.files import write_whole


class ModelStore:
    """Files by name under one URL. A store that does not answer costs a warning: models are trained here then."""

    def __init__(self, url: str) -> None:
        """SuiteError: fsspec knows no such kind of address, or lacks the package for it."""
        import fsspec

        self.name = public_address(url)
        try:
            self._files, self._folder = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SuiteError(
                f"--store {self.name} cannot be used: {summary(error)}",
                "an fsspec URL such as s3://bucket/models (pip install s3fs) or file:///shared/models",
            ) from error

    def fetch(self, path: Path) -> bool:
        """Copy the stored file of this name to `path`, whole or not at all; False for no such file."""
        try:
            content = self._files.cat_file(f"{self._folder}/{path.name}")
        except FileNotFoundError:
            return False
        except Exception as error:  # each kind of store has its own
            log.warning("the store %s does not give %s: %s", self.name, path.name, summary(error))
            return False
        write_whole(path, content)
        return True

    def share(self, path: Path, replace: bool = False) -> None:
        """Copy `path` into the store, visible once it is whole, where it is not there yet or to be replaced."""
        target = f"{self._folder}/{path.name}"
        try:
            if not replace and self._files.exists(target):
                return
            self._files.makedirs(self._folder, exist_ok=True)
            with self._files.transaction, self._files.open(target, "wb") as file:
                file.write(path.read_bytes())
        except Exception as error:
            log.warning("the store %s does not take %s: %s", self.name, path.name, summary(error))
