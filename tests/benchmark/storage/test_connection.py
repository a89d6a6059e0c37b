"""The address of the store: what is one, and what is none."""

from __future__ import annotations

import os

import pytest

from open_set_fer.benchmark.storage import connection as server
from open_set_fer.benchmark.storage import mlflow_reader
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.errors import SuiteError
from tests.benchmark.storage.test_tracking import log_cell

pytestmark = pytest.mark.usefixtures("local_store")


@pytest.mark.parametrize(
    "uri",
    ["foo://x", "runs", "/tmp/runs", "file:///tmp/runs", "file://", " ", "http://", "http://[", "sqlite:", "http:x"],
)
def test_an_address_that_is_none_is_one_clear_error(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for act in (lambda: Tracker(tmp_path / "home", "made"), lambda: mlflow_reader.stored_experiments(tmp_path)):
        with pytest.raises(SuiteError, match="is no address of a tracking server or database"):
            act()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "uri", ["https://h:1/mlflow", "sqlite:////x/y.db", "postgresql+psycopg2://u:p@h/d", "databricks"]
)
def test_addresses_that_are_some(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert server.tracking_uri(tmp_path) == (uri, None)


def test_databricks_without_its_login_is_one_clear_error(tmp_path, monkeypatch):
    for variable in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.databrickscfg
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    with pytest.raises(SuiteError, match="the tracking server databricks cannot be used: MlflowException: "):
        Tracker(tmp_path / "home", "made")


def test_a_database_of_ones_own_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/own.db")
    log_cell(Tracker(tmp_path / "home", "made"), tmp_path)
    assert len(Tracker(tmp_path / "home", "made", create=False).cells()) == 1
    assert not (tmp_path / "home" / "mlflow.db").exists()
