"""The public command end to end: resume after SIGKILL, failures, same numbers twice, a dead tracking store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.reports.page.page import table_library
from tests.conftest import without_controls

pytestmark = pytest.mark.slow

WHOLE = f"{'?' * 64}/result.json"
"""Of results in place: not of <key>.partial, which a kill may leave."""
TWO_OPEN = without_controls(load_profile("smoke").text).replace('["surprise"]', '["surprise", "fear"]')


def osfer(*args: str, home: Path, wait: bool = True, **env: str) -> subprocess.CompletedProcess[str] | subprocess.Popen:
    place = [] if args[0] == "list" else ["--home", str(home)]
    command = [sys.executable, "-c", "from open_set_fer.cli.main import main; main()", *args, *place]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **env}
    environment.pop("MLFLOW_TRACKING_URI", None)
    if not wait:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "own.toml"
    path.write_text(TWO_OPEN, "utf-8")
    return str(path)


def cells(home: Path) -> dict[str, dict[str, float]]:
    """Metrics of every finished cell run, asserting that each cell is there once."""
    runs = [run for run in Tracker(home, "own").cells() if run.info.status == "FINISHED"]
    keys = [run.data.tags["cell_key"] for run in runs]
    assert len(keys) == len(set(keys))
    return {run.data.tags["cell_key"]: run.data.metrics for run in runs}


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(("seconds.", "peak_mib."))}


def test_killed_then_resumed_equals_undisturbed(tmp_path, profile):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = osfer("run", "--profile", profile, home=whole)
    assert done.returncode == 0, done.stderr
    assert "4 computed" in done.stderr
    expected = cells(whole)
    assert len(expected) == 4

    process = osfer("run", "--profile", profile, home=killed, wait=False)
    results = killed / "results"
    deadline = time.time() + 200
    while not (results.is_dir() and any(results.glob(WHOLE))) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.parent.name: path.stat().st_mtime_ns for path in results.glob(WHOLE)}
    assert 1 <= len(before) < 4
    resumed = osfer("run", "--profile", profile, home=killed)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{4 - len(before)} computed" in resumed.stderr
    for key, stamp in before.items():
        assert (results / key / "result.json").stat().st_mtime_ns == stamp  # not computed again
    got = cells(killed)
    assert {key: numbers(m) for key, m in got.items()} == {key: numbers(m) for key, m in expected.items()}
    for key in expected:
        a, b = (pd.read_parquet(home / "results" / key / "scores.parquet") for home in (whole, killed))
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    parents = Tracker(killed, "own")._search("tags.`osfer.kind` = 'benchmark'")
    assert sorted(run.info.status for run in parents) == ["FINISHED", "KILLED"]

    start = time.perf_counter()
    plan = osfer("plan", "--profile", profile, home=killed)
    seconds = time.perf_counter() - start
    assert "nothing to do: all 4 cells are done" in plan.stdout
    assert seconds < 20  # the promise is 5 s on an idle machine; here other tests share the cores
    again = osfer("run", "--profile", profile, home=killed)
    assert "0 computed, 0 logged from an earlier computation, 4 already done" in again.stderr

    report = osfer("report", "--profile", profile, home=killed)
    assert report.returncode == 0, report.stderr
    page = (killed / "report" / "own" / "index.html").read_text("utf-8")
    assert "demonstration" in page
    assert table_library() in page
    assert "http://" not in page.replace(table_library(), "").replace("http://www.w3.org", "")


def test_killed_while_logging_is_logged_once(tmp_path, profile):
    """The result is on disk, MLflow died half-way: the next run logs it without computing it again."""
    home = tmp_path / "home"
    assert osfer("run", "--profile", profile, "--method", "baseline", home=home).returncode == 0
    tracker = Tracker(home, "own")
    run = tracker.cells()[0]
    tracker.client.update_run(run.info.run_id, status="RUNNING")  # as SIGKILL before set_terminated leaves it
    again = osfer("run", "--profile", profile, "--method", "baseline", home=home)
    assert "0 computed, 1 logged from an earlier computation, 1 already done" in again.stderr
    assert len(cells(home)) == 2
    (home / "mlflow.db").unlink()
    lost = osfer("run", "--profile", profile, "--method", "baseline", home=home)
    assert "0 computed, 2 logged from an earlier computation" in lost.stderr
    assert len(cells(home)) == 2


def test_two_processes_share_the_work(tmp_path, profile):
    home = tmp_path / "home"
    pair = [osfer("run", "--profile", profile, home=home, wait=False) for _ in range(2)]
    for process in pair:
        text, _ = process.communicate(timeout=400)
        assert process.returncode == 0, text
        assert "locked" not in text
    assert len(cells(home)) == 4


def test_a_failing_cell_is_logged_and_the_others_go_on(tmp_path, profile):
    text = (
        Path(profile)
        .read_text("utf-8")
        .replace(
            "[methods.baseline]",
            "[methods.baseline]\n[methods.diverging]\nmethod = "
            '"ours"\nepochs = 1\ncycle_training = false\nlearning_rate = 1e30\n',
        )
        .replace('"ours"]', '"diverging"]')
    )
    Path(profile).write_text(text, "utf-8")
    home = tmp_path / "home"
    done = osfer("run", "--profile", profile, "--open", "fear", home=home)
    assert done.returncode == 1
    assert "NaN or infinite" in done.stderr
    assert "retry only these with: osfer run --profile" in done.stderr
    assert len(cells(home)) == 1
    failed = [run for run in Tracker(home, "own").cells() if run.info.status == "FAILED"]
    assert [run.data.tags["method"] for run in failed] == ["diverging"]
    assert osfer("run", "--profile", profile, "--open", "fear", home=home).returncode == 1
    assert len([run for run in Tracker(home, "own").cells() if run.info.status == "FAILED"]) == 1
    report = osfer("report", "--profile", profile, home=home)
    assert report.returncode == 0, report.stderr
    assert "failed" in (home / "report" / "own" / "index.html").read_text("utf-8")


def test_two_threads_as_users_have_them(tmp_path):
    """oneDNN once crashed here: eight channels, odd batches, more than one thread."""
    home = tmp_path / "home"
    done = osfer(
        "run",
        "--profile",
        "contrast",
        "--open",
        "surprise,0",
        "--threads",
        "2",
        home=home,
        OMP_NUM_THREADS="2",
        OMP_WAIT_POLICY="PASSIVE",
    )
    assert done.returncode == 0, done.stderr
    runs = [run for run in Tracker(home, "contrast").cells() if run.info.status == "FINISHED"]
    assert len(runs) == 4
    assert {run.data.tags["threads"] for run in runs} == {"2"}


def test_bad_input_is_one_clear_error(tmp_path):
    for args, message in [
        (("run", "--profile", "dmeo"), "unknown profile 'dmeo', did you mean 'demo'"),
        (("run", "--profile", "smoke", "--open", "suprise"), "no protocol opens 'suprise', did you mean 'surprise'"),
        (("run", "--profile", "smoke", "--method", "our"), "unknown method 'our', did you mean 'ours'"),
        (("run", "--profile", "smoke", "--seed", "x"), "is not a list of whole numbers"),
        (("run", "--profile", "smoke", "--seed", str(2**32)), "is not between 0 and 4294967295"),
        (("run", "--profile", "smoke", "--device", "banana"), "no kind of device is named 'banana'"),
        (("run", "--profile", "smoke", "--device", "meta"), "does not compute on this machine"),
        (("run", "--dataset", "ferplus"), "no folder"),
        (("report", "--profile", "smoke"), "finished"),
    ]:
        done = osfer(*args, home=tmp_path, OSFER_DATA=str(tmp_path / "nowhere"))
        assert done.returncode == 2, done.stderr
        assert message in " ".join(done.stderr.split()), done.stderr
        assert "fix:" in done.stderr
        assert "Traceback" not in done.stderr


def test_help_is_quick_and_has_examples(tmp_path):
    code = "import sys, open_set_fer.cli.main; print([m for m in ('torch', 'mlflow', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    done = subprocess.run(
        [sys.executable, "-c", "from open_set_fer.cli.main import main; main()", "run", "--help"],
        capture_output=True,
        text=True,
    )
    assert "Examples" in done.stdout


def test_the_paper_profile_on_a_handful_of_images(tmp_path):
    """ResNet-18 with the face stem at 224 px in colour networks, every method of the paper: one epoch each."""
    text = load_profile("paper").text
    data = "[datasets.synthetic]\nimage_size = 224\ntrain_per_class = 4\ntest_per_class = 2\ncompound_per_class = 2\n"
    text = text.replace("[datasets.ferplus]\n", f"{data}[datasets.ferplus]\n")
    text = text.replace('default_datasets = ["ferplus"]', 'default_datasets = ["synthetic"]')
    text = text.replace("epochs = 60\nbatch_size = 512", "epochs = 1\nbatch_size = 8")
    for label, short in {
        "ours": "epochs = 1\ncycle_length = 1\nbatch_size = 8",
        "ours-plus": "epochs = 1\nbatch_size = 8",
        "eow": "epochs = 1\nebm_start_epoch = 0\nsgld_steps = 1\nbatch_size = 8",
        "proser": "epochs = 1\nbatch_size = 8",
        "dias": "epochs = 1\nbatch_size = 8\nbatches_per_pass = 1\ngan_width = 4",
    }.items():
        head = f"[methods.{label}]\n"
        text = text.replace(head, f"{head}{short}\n") if head in text else f"{text}\n{head}{short}\n"
    text = text.replace("epochs = 30\nnoise", "epochs = 1\nbatch_size = 8\nnoise")
    text = text.replace('controls = ["spiked", "flipped-true"]', 'controls = ["flipped-true"]')  # 5 % of 12 faces: none
    path = tmp_path / "own.toml"
    path.write_text(text.replace("buffer_size = 2000", "buffer_size = 16"), "utf-8")
    methods = "baseline,eow,proser,dias,ours,ours-plus,energy,ours-notebook"
    home = tmp_path / "home"
    done = osfer("run", "--profile", str(path), "--open", "surprise", "--method", methods, home=home)
    assert done.returncode == 0, done.stderr
    assert len(cells(home)) == 8 + 4  # and the control of ours, ours-notebook, label-loss and small-loss
    assert "resnet50 starts from fresh weights" in " ".join(done.stderr.split())
