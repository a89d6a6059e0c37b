"""Where the runs are stored: the address of MLflow's store, and how long a tracking server is waited for."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from open_set_fer.benchmark.storage import sqlite_store as store
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, TrackingAway, masked, summary

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
TRACKING_KINDS = {"http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql"}
RETRIES, BACKOFF, TIMEOUT = (f"MLFLOW_HTTP_REQUEST_{end}" for end in ("MAX_RETRIES", "BACKOFF_FACTOR", "TIMEOUT"))
REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED")


def set_mlflow_defaults() -> None:
    """Turn off telemetry, progress bars and long waits for a dead server, unless the environment says otherwise."""
    defaults = {RETRIES: "3", BACKOFF: "1", TIMEOUT: "30"}  # MLflow's let a request to a dead server take four minutes
    defaults |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    for variable, value in (defaults | {"GIT_PYTHON_REFRESH": "quiet"}).items():
        os.environ.setdefault(variable, value)
    # With a server it writes each run's address, login included, to standard output, where --json writes its object.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # It prints a hundred lines of SQL and traceback for an error. It also raises the error, which is reported in one
    # line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def tracking_wait() -> float:
    """Seconds to wait for a tracking server: OSFER_TRACKING_WAIT, 20 unless set."""
    text = os.environ.get("OSFER_TRACKING_WAIT", "20")
    with suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    raise SuiteError(f"OSFER_TRACKING_WAIT={text!r} is no number of seconds", "for example OSFER_TRACKING_WAIT=60")


@contextmanager
def brief_requests() -> Iterator[None]:
    """Within this, MLflow's requests do not try again, and wait five seconds at most."""
    before = {name: os.environ.pop(name, None) for name in (RETRIES, TIMEOUT)}
    os.environ.update({RETRIES: "0", TIMEOUT: "5"})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def connect(uri: str) -> MlflowClient:
    """The client of a store; SuiteError if its database has no driver here, or cannot be used."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return MlflowClient(uri)
    except ModuleNotFoundError as error:
        raise SuiteError(
            f"the database {public_address(uri)} needs the Python package {error.name}, which is not installed",
            "install it into this environment, or use an MLflow server in front of the database: see docs/cluster.md",
        ) from error
    except (MlflowException, SQLAlchemyError) as error:
        if uri.startswith("sqlite:///"):
            raise  # the store of a home says what is wrong with it
        raise SuiteError(
            f"the database {public_address(uri)} cannot be used: {summary(error)}", "check MLFLOW_TRACKING_URI"
        ) from error


def first_answer(uri: str, question: Callable[[], T], wait: float | None) -> T:
    """`question()` to a store that may not answer yet; TrackingAway after the wait, SuiteError if it refuses."""
    from mlflow.exceptions import MlflowException, RestException

    if not uri.startswith(("http://", "https://")):
        try:
            return question()
        except MlflowException as error:
            if not is_remote(uri):
                raise
            fault = f"the tracking server {public_address(uri)} cannot be used: {summary(error)}"
            raise SuiteError(fault, "check MLFLOW_TRACKING_URI") from error
    seconds = tracking_wait() if wait is None else wait
    end, announced = time.monotonic() + seconds, False
    while True:
        try:
            with brief_requests():
                return question()
        except MlflowException as error:
            # Of an answer that is no JSON, as a login page's, MLflow makes no RestException.
            if isinstance(error, RestException) or error.error_code in REFUSALS:
                fix = "check MLFLOW_TRACKING_URI and its login (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)"
                raise SuiteError(f"the tracking server {public_address(uri)} refuses: {summary(error)}", fix) from error
            if time.monotonic() >= end:
                raise TrackingAway(
                    f"the tracking server {public_address(uri)} does not answer (waited {seconds:g} s)",
                    "start it or correct MLFLOW_TRACKING_URI; OSFER_TRACKING_WAIT says how many seconds to wait",
                ) from error
        if not announced:
            log.info("the tracking server %s does not answer; waiting up to %g s for it", public_address(uri), seconds)
            announced = True
        time.sleep(min(1.0, max(0.05, end - time.monotonic())))


def tracking_uri(home: Path, configured: str | None = None) -> tuple[str, str | None]:
    """Tracking URI and, for the default local store of `home`, where artifacts go.

    configured: an address, '' for the default store; None: what MLFLOW_TRACKING_URI says.
    """
    name = "MLFLOW_TRACKING_URI=" if configured is None else ""
    if configured is None:
        configured = os.environ.get("MLFLOW_TRACKING_URI")
    if not configured:
        return store.database_uri(home.resolve() / store.DATABASE), store.artifact_root(home)
    try:
        parts = urlsplit(configured)
        kind = parts.scheme.partition("+")[0]
        # A server has a host, a database file a path.
        complete = bool(parts.hostname) if is_remote(configured) else bool(parts.netloc or parts.path.strip("/"))
        plugins = {point.name for point in entry_points(group="mlflow.tracking_store")}
        is_supported = kind in TRACKING_KINDS | plugins
    except ValueError:
        complete = is_supported = False
    if not (is_supported and complete) and configured != "databricks":
        raise SuiteError(
            f"{name}{public_address(configured)!r} is no address of a tracking server or database",
            "set it to http://host:port, https://..., sqlite:////folder/mlflow.db or another database's URI; "
            "unset it to use mlflow.db in --home",
        )
    return configured, None


def is_remote(uri: str) -> bool:
    """True for a tracking server, which serves an MLflow page."""
    return uri == "databricks" or urlsplit(uri).scheme in ("http", "https", "databricks")


def called(uri: str) -> str:
    """Name of the store for messages."""
    return "the tracking server" if is_remote(uri) else "the store"


def public_address(uri: str) -> str:
    """An address without user name and password, to print."""
    return masked(uri).replace("***@", "", 1)
