"""Several processes work on one study, and one of them is killed: no trial is lost, none is done twice."""

from __future__ import annotations

import re
import signal
import time

import optuna
import pytest

from open_set_fer.benchmark.tuning.study import Storage, Study, stored_studies

pytestmark = pytest.mark.slow
ENTRIES = """
[methods.slow]
method = "harmful"
what = "sleep2"
[search.slow]
number = [0, 1, 2, 3, 4, 5]
"""


@pytest.mark.parametrize(("storage", "done_before"), [("", 0), ("journal", 0), ("", 5)])
def test_a_killed_worker_loses_no_trial_and_none_is_doubled(place, storage, done_before):
    """`done_before`: trials of the second worker before the first is killed; after 5, what is lost is the grid's last."""
    place.write(ENTRIES)
    storage = storage and f"journal:{place.root / 'studies.log'}"
    where = Storage.of(storage, place.home)
    command = ["tune", "-m", "slow", "--open", "surprise", "--sampler", "grid", "--storage", storage]

    def trials(state):
        """Their numbers."""
        try:
            return [t.number for t in Study.of(stored_studies(where, "own")[0]).trials if t.state == state]
        except Exception:  # not there yet, or half made
            return []

    first = place.start(*command, OSFER_SLEEP="500")  # so that it is in the midst of its trial when it is killed
    end = time.monotonic() + 200
    while not (trials("running") and list((place.home / "results").glob("*.started"))) and time.monotonic() < end:
        time.sleep(0.1)
    (killed,) = trials("running")
    second = place.start(*command)
    while (
        (len(trials("finished")) < done_before or len(trials("running")) < 2 - bool(done_before))
        and time.monotonic() < end
        and second.poll() is None
    ):
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    text, _ = second.communicate(timeout=300)
    assert second.returncode == 0, text
    assert f"trial {killed} was left unfinished; its values are tried again" in text, text
    study = stored_studies(where, "own")[0]
    finished = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(trial.params["number"] for trial in finished) == [0, 1, 2, 3, 4, 5], text
    lost = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.FAIL]
    assert [trial.params["number"] for trial in lost] == [
        trial.params["number"] for trial in finished if "retry_history" in trial.system_attrs
    ]
    assert len(Study.of(study).trials) == 6
    cells = {run.data.tags["cell_key"] for run in tracker(place).cells() if run.info.status == "FINISHED"}
    assert cells == {trial.user_attrs["cells"][0]["cell_key"] for trial in finished}
    assert len(cells) == 6
    again, said = place.osfer(*command)
    assert again == 0, said
    assert len(study.get_trials(deepcopy=False)) == len(stored_studies(where, "own")[0].trials), (
        "nothing is begun again"
    )


def tracker(place):
    from open_set_fer.benchmark.storage.mlflow_writer import Tracker

    return Tracker(place.home, "own-tuning")


def test_ctrl_c_says_what_is_kept_and_how_it_goes_on(place):
    place.write(ENTRIES)
    process = place.start("tune", "-m", "slow", "--open", "surprise", "--sampler", "grid")
    end = time.monotonic() + 200
    done = place.home / "results"
    while len(list(done.glob("*/result.json"))) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 130, text
    assert re.search(r"stopped; [12] finished trials of slow are kept", text), text
    assert "the same command goes on: osfer tune -m slow --open surprise --sampler grid" in text
    code, text = place.osfer("tune", "-m", "slow", "--open", "surprise", "--sampler", "grid")
    assert code == 0, text
    assert len(Study.of(stored_studies(Storage.of("", place.home), "own")[0]).finished) == 6
