"""The default MLflow store of a home: the SQLite file <home>/mlflow.db and the folder <home>/artifacts.

MLflow's own way would leave a home unusable in two cases, fixed here:

* Its tables are made in dozens of steps. A kill between two of them leaves a file that MLflow can neither use nor
  complete, so the store is made under another name and renamed when it is whole.
* Artifact locations are absolute. After a home was moved or copied they would point into the old one, so they are set
  to where the home lies now.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from open_set_fer.console import log
from open_set_fer.errors import SuiteError

PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))
"""Columns of MLflow's tables that say where artifacts lie."""
DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
SIDE_FILES = ("-journal", "-wal", "-shm")
"""Endings of what SQLite keeps beside a database; without it, or with another's, the database is damaged."""
FULL = ("database or disk is full", "No space left on device")
"""Messages of SQLite and the system when the disk has no room."""


def database_uri(path: Path) -> str:
    """MLflow's address of a SQLite file, whatever characters its path has."""
    from sqlalchemy import URL

    uri = URL.create("sqlite", database=str(path)).render_as_string()
    # Of a `sqlite:///` address MLflow creates the parent folder without decoding %3F and the like: a stray folder.
    return uri if uri == f"sqlite:///{path}" else uri.replace("sqlite:", "sqlite+pysqlite:", 1)


def artifact_root(home: Path) -> str:
    """Where the artifacts of a home lie."""
    return (home.resolve() / ARTIFACTS).as_uri()


def is_writable(home: Path) -> bool:
    """Whether the store of this home can be written, or made if there is no home yet."""
    database = home / DATABASE
    place = home
    while not place.exists():
        place = place.parent
    return os.access(place, os.W_OK | os.X_OK) and (not database.exists() or os.access(database, os.W_OK))


def prepare(home: Path) -> None:
    """Make a missing store, set a half-made one aside, follow a moved home. Hold the write lock."""
    home = home.resolve()
    database = home / DATABASE
    if database.exists() and not _is_whole(database):
        aside = database.with_name(f"{DATABASE}.half-made")
        _remove(database, SIDE_FILES)
        os.replace(database, aside)
        log.warning("%s was half-made and held no run: set aside as %s", database, aside.name)
    if not database.exists():
        _create(home, database)
    follow(database, artifact_root(home))


def follow(database: Path, root: str, announce: bool = True) -> None:
    """Set the artifact locations in `database` to `root`, where the artifacts of the home lie now."""
    experiments = (
        "SELECT DISTINCT artifact_location FROM experiments "
        "WHERE name LIKE 'open-set-fer/%' AND artifact_location LIKE 'file:%/artifacts' AND artifact_location != ?"
    )
    with _opened(database) as db:
        moved = [place for (place,) in db.execute(experiments, (root,))]
        for old in moved:
            for table, column in PLACES:
                db.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                    f"WHERE {column} = :old OR substr({column}, 1, length(:old) + 1) = :old || '/'",
                    {"old": old, "new": root},
                )
    for old in moved if announce else ():
        log.info("this home was moved or copied from %s; its artifacts are now read from and written to %s", old, root)


def copy_to_read(home: Path, folder: Path) -> Path:
    """Copy the database of a home that cannot be written into `folder`, to read it there; returns the copy."""
    database, copy = home.resolve() / DATABASE, folder / DATABASE
    if not database.exists():
        raise SuiteError(f"{home} cannot be written and holds no MLflow store", "choose another folder with --home")
    for end in ("", *SIDE_FILES):
        if (source := database.with_name(DATABASE + end)).exists():
            shutil.copyfile(source, copy.with_name(DATABASE + end))
    if not _is_whole(copy):
        raise SuiteError(f"{database} is half-made and holds no run", "make its folder writable and run again")
    follow(copy, artifact_root(home), announce=False)
    return copy


def finished_cells(database: Path, experiment_id: int) -> list[tuple[Any, ...]]:
    """Fields of `mlflow_reader.Finished` of each finished cell of an experiment.

    For `osfer plan`: MLflow's search loads a run with all its tags, 4 ms each, a minute for a plan of 10,000 cells.
    """
    tags = {"kind": "osfer.kind", "cell": "cell_key", "version": "evaluation", "faces": "dataset", "label": "method"}
    metrics = {"area": "auroc", "time": "seconds.total", "closed": "closed_accuracy", "within": "auroc_within_label"}
    tables = dict.fromkeys(tags, "tags") | dict.fromkeys(metrics, "latest_metrics")
    joins = " ".join(
        f"LEFT JOIN {tables[name]} AS {name} ON {name}.run_uuid = runs.run_uuid AND {name}.key = '{key}'"
        for name, key in (tags | metrics).items()
    )
    query = (
        "SELECT cell.value, version.value, faces.value, label.value, area.value, time.value, closed.value, "
        f"within.value FROM runs {joins} "
        "WHERE experiment_id = ? AND status = 'FINISHED' AND lifecycle_stage = 'active' AND kind.value = 'cell'"
    )
    with _opened(database) as db:
        return db.execute(query, (experiment_id,)).fetchall()


def damage(home: Path, error: BaseException) -> SuiteError | None:
    """A clear error if `error` says that mlflow.db is damaged, locked or out of room; None for any other."""
    signs = ("database disk image is malformed", "file is not a database", "malformed database schema")
    sign = next((sign for sign in (*signs, "database is locked", *FULL) if sign in str(error)), None)
    return _clear(home.resolve() / DATABASE, sqlite3.DatabaseError(sign)) if sign else None


def _create(home: Path, database: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    partial = home / f".{DATABASE}.partial"
    _remove(partial, ("", *SIDE_FILES))  # of a killed try
    log.info("making the MLflow store %s, once: some seconds", database)
    try:
        whole = SqlAlchemyStore(database_uri(partial), artifact_root(home))  # type: ignore[no-untyped-call]
        whole.engine.dispose()
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, database)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise SuiteError(
            f"{database} could not be made: {reason}", "see that the disk has room, then repeat the command"
        ) from error
    finally:
        _remove(partial, ("", *SIDE_FILES))


def _remove(database: Path, endings: Iterable[str]) -> None:
    for end in endings:
        database.with_name(database.name + end).unlink(missing_ok=True)


def _is_whole(database: Path) -> bool:
    """Whether MLflow's tables are complete; SuiteError if they are not and hold runs."""
    import mlflow
    from alembic.script import ScriptDirectory

    steps = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    with _opened(database) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        stamps = db.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else []
        stamp = [name for (name,) in stamps]
        runs = db.execute("SELECT count(*) FROM runs").fetchone()[0] if "runs" in tables else 0
    if stamp == steps.get_heads() or runs == 0:
        return stamp == steps.get_heads()
    raise SuiteError(
        f"{database} holds {runs} runs of another MLflow version (tables {stamp}, MLflow {version('mlflow')} wants "
        f"{steps.get_heads()})",
        f"use the MLflow that wrote it, or copy the file and run: mlflow db upgrade '{database_uri(database)}'",
    )


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing database; a transaction that a killed process left open is rolled back by SQLite."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=10)) as db, db:
            yield db
    except sqlite3.Error as error:
        raise _clear(database, error) from error


def _clear(database: Path, error: sqlite3.Error) -> SuiteError:
    if "locked" in str(error):
        return SuiteError(f"another program holds {database}", "end it, then repeat the command")
    if str(error) in FULL:
        return SuiteError(
            f"{database.parent} cannot be written: {error}", "make room on its disk, then repeat the command"
        )
    fix = "put back a copy of the file, or move it away: results on disk are logged again by the same `osfer run`"
    return SuiteError(f"{database} cannot be read: {error}", fix)
