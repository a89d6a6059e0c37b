"""Optuna's storage of studies: an SQLite file, a database or a journal file.

Workers give signs of life in an SQLite file or a database; a journal file has none.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from open_set_fer.console import log
from open_set_fer.errors import SuiteError, masked, summary

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

DATABASE = "studies.db"
"""The default storage, under the home."""
FILES = (".db", ".sqlite", ".sqlite3")
HEARTBEAT, GRACE = 15, 60
"""Seconds between two signs of life of a worker, and after the last one until its trial is tried again."""
MAX_RETRY = 2
"""Retries of a trial whose workers died: a cell that kills its process must not kill all of them."""
DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Package on PyPI of each database driver whose module has another name or needs an extra."""


@dataclass(frozen=True)
class Storage:
    """The place of studies. address: as `optuna --storage` and `optuna-dashboard` take it."""

    address: str

    @classmethod
    def of(cls, text: str, home: Path) -> Storage:
        """Read --storage: '' for the home's SQLite file, a database file, journal:PATH or a .log file, or a URL."""
        if not text:
            return cls(f"sqlite:///{home / DATABASE}")
        if text.startswith("journal:") or text.endswith(".log"):
            return cls(text.removeprefix("journal:"))
        if re.match(r"[a-z0-9+]+://", text):
            return cls(text)
        if text.endswith(FILES):
            return cls(f"sqlite:///{text}")
        fix = "a database URL as postgresql://host/studies, a file ending in .db, or journal:PATH for a journal file"
        raise SuiteError(f"--storage {text!r} is no place for studies", fix)

    @property
    def is_journal(self) -> bool:
        """Whether it is Optuna's journal file."""
        return "://" not in self.address

    @property
    def is_file(self) -> bool:
        """Whether it is a journal or an SQLite file."""
        return self.is_journal or self.address.startswith("sqlite:///")

    @property
    def path(self) -> Path:
        """Path of a storage that is a file."""
        return Path(self.address.removeprefix("sqlite:///"))

    def open(self, create: bool = True) -> optuna.storages.BaseStorage:
        """Open Optuna's storage; SuiteError if it cannot be used, or is missing and `create` is False."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        if self.is_file and not create and not self.path.exists():
            raise SuiteError(f"no studies in {self.path}", "run `osfer tune` first, or name their place with --storage")
        try:
            if not self.is_file:
                return self._server()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.is_journal:
                return optuna.storages.JournalStorage(JournalFileBackend(str(self.path)))
            with filelock.FileLock(f"{self.path}.lock"):  # two workers must not both make the tables
                return self._database({"connect_args": {"timeout": 60}})
        except ImportError as error:
            missing = error.__cause__ or error  # Optuna's own error does not name the module
            if not isinstance(missing, ModuleNotFoundError):
                raise self._unusable(error) from error
            package = DRIVERS.get(str(missing.name), str(missing.name))
            raise SuiteError(
                f"the storage {masked(self.address)} needs the Python package {missing.name}, which is not installed",
                f"pip install '{package}', or use a file",
            ) from error
        except Exception as error:
            raise self._unusable(error) from error

    def _database(self, engine_kwargs: dict[str, Any] | None = None) -> optuna.storages.RDBStorage:
        import optuna

        options: dict[str, Any] = {"heartbeat_interval": HEARTBEAT, "grace_period": GRACE}
        options["heartbeat_stale_trial_callback"] = partial(try_again, max_retry=MAX_RETRY)
        with unwarned():
            return optuna.storages.RDBStorage(self.address, engine_kwargs, **options)

    def _server(self) -> optuna.storages.RDBStorage:
        """Try again if another worker makes the tables of a new database at the same time."""
        from sqlalchemy.exc import IntegrityError, ProgrammingError

        for wait in (1, 2, 4):
            with suppress(IntegrityError, ProgrammingError):
                return self._database()
            time.sleep(wait)
        return self._database()

    def _unusable(self, error: Exception) -> SuiteError:
        return SuiteError(
            f"the storage of studies {masked(self.address)} cannot be used: {summary(error)}",
            "see that it is there and lets you in, or name another one with --storage"
            + " (a PostgreSQL address begins with postgresql://)" * self.address.startswith("postgres://"),
        )


def try_again(study: optuna.Study, trial: FrozenTrial, max_retry: int | None = None) -> None:
    """Queue an unfinished trial's values as a new trial, unless they were retried `max_retry` times."""
    import optuna

    with unwarned():
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry)
    earlier = len(trial.system_attrs.get("retry_history", ()))
    retry(study, trial)
    if max_retry is not None and earlier >= max_retry:
        log.error("%s: trial %d failed: %d workers died in it", study.study_name, trial.number, earlier + 1)
    else:
        log.warning("%s: trial %d was left unfinished; its values are tried again", study.study_name, trial.number)


@contextmanager
def unwarned() -> Iterator[None]:
    """Silence Optuna's notes on features that it calls experimental."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
