"""Several processes work on one study, and one of them is killed: no trial is lost, no cell is computed twice."""

from __future__ import annotations

import re
import signal
import time
from contextlib import suppress

import optuna
import pytest
import sqlalchemy

from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.benchmark.tuning.storage import Storage
from open_set_fer.benchmark.tuning.study import Study, stored_studies
from open_set_fer.errors import SuiteError

pytestmark = pytest.mark.slow
ENTRIES = """
[methods.slow]
method = "harmful"
what = "sleep2"
[search.slow]
number = [0, 1, 2, 3, 4, 5]
"""
HANG = 300
"""Seconds that only a hang reaches."""


def wait_for(condition):
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end, "a hang"
        time.sleep(0.1)


@pytest.mark.parametrize(("storage", "done_before"), [("", 0), ("journal", 0), ("", 5)])
def test_a_killed_worker_loses_no_trial_and_no_cell_is_computed_twice(place, storage, done_before):
    """`done_before`: trials of the second worker before the first is killed; after 5, the grid's last one is lost."""
    place.write(ENTRIES)
    storage = storage and f"journal:{place.root / 'studies.log'}"
    where = Storage.of(storage, place.home)
    command = ["tune", "-m", "slow", "--open", "surprise", "--sampler", "grid", "--storage", storage]

    def numbers(state):
        """Numbers of the trials in a state."""
        with suppress(SuiteError, optuna.exceptions.StorageInternalError, KeyError):  # not there yet, or half made
            return [trial.number for trial in Study.of(stored_studies(where, "own")[0]).trials if trial.state == state]
        return []

    first = place.start(*command, OSFER_SLEEP="500")  # so that it is in the midst of its trial when it is killed
    wait_for(lambda: numbers("running") and list((place.home / "results").glob("*.started")))
    (killed,) = numbers("running")
    second = place.start(*command)
    wait_for(lambda: len(numbers("finished")) >= done_before and len(numbers("running")) > 1)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    if not storage:  # instead of a minute's wait
        with where.open().engine.begin() as connection:
            update = "UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour') WHERE trial_id = :killed"
            connection.execute(sqlalchemy.text(update), {"killed": killed + 1})
    text, _ = second.communicate(timeout=HANG)
    assert second.returncode == 0, text
    study = stored_studies(where, "own")[0]
    finished = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert {trial.params["number"] for trial in finished} == {0, 1, 2, 3, 4, 5}, text
    code, more = place.osfer(*command)  # takes up a trial whose worker died while the other was at the last one
    assert code == 0, more
    lost = study.trials[killed]
    if storage:
        assert lost.state == optuna.trial.TrialState.RUNNING
    else:
        assert f"trial {killed} was left unfinished; its values are tried again" in text + more
        assert lost.state == optuna.trial.TrialState.FAIL
        (again,) = [trial for trial in study.trials if trial.system_attrs.get("retry_history") == [killed]]
        assert (again.state, again.params) == (optuna.trial.TrialState.COMPLETE, lost.params)
        assert {trial.state for trial in study.trials} == {lost.state, again.state}
    runs = [run for run in Tracker(place.home, "own-tuning").cells() if run.info.status == "FINISHED"]
    assert len(runs) == 6, "no cell is computed twice"
    cells = {run.data.tags["cell_key"] for run in runs}
    assert cells == {trial.user_attrs["cells"][0]["cell_key"] for trial in finished}
    count = len(study.trials)
    code, text = place.osfer(*command)
    assert code == 0, text
    assert len(stored_studies(where, "own")[0].trials) == count, "nothing is begun again"


def test_ctrl_c_says_what_is_kept_and_how_it_goes_on(place):
    place.write(ENTRIES)
    process = place.start("tune", "-m", "slow", "--open", "surprise", "--sampler", "grid")
    wait_for(lambda: len(list((place.home / "results").glob("*/result.json"))) >= 2)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=HANG)
    assert process.returncode == 130, text
    assert re.search(r"stopped; [12] finished trials of slow are kept", text), text
    assert "the same command goes on: osfer tune -m slow --open surprise --sampler grid" in text
    code, text = place.osfer("tune", "-m", "slow", "--open", "surprise", "--sampler", "grid")
    assert code == 0, text
    assert len(Study.of(stored_studies(Storage.of("", place.home), "own")[0]).finished) == 6
