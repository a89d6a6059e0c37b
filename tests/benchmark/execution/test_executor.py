"""How cells are spread: threads divided, options that do not fit, shares of a GPU on a Ray cluster."""

from __future__ import annotations

import threading

import joblib
import pytest

from open_set_fer.benchmark.execution.executor import LocalExecutor, RayExecutor, executor_of, threads_for
from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.cli.groups import ComputeOptions
from open_set_fer.errors import SuiteError


@pytest.mark.parametrize(("cores", "jobs", "each"), [(8, 1, 8), (8, 3, 2), (2, 2, 1), (2, 5, 1)])
def test_the_cores_are_divided_among_the_jobs(monkeypatch, cores, jobs, each):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert threads_for(jobs) == each
    executor = executor_of(RunOptions("cpu", jobs=jobs))
    assert (type(executor), executor.jobs, executor.threads) == (LocalExecutor, jobs, each)
    assert executor_of(RunOptions("cpu", 3, jobs, 60)).threads == 3


def test_without_jobs_one_cell_has_the_threads_that_torch_takes():
    executor = executor_of(RunOptions("cpu"))
    assert (executor.jobs, executor.threads) == (1, None)
    assert executor_of(RunOptions("cpu", 1)).threads == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("slurm", "", 0), "unknown backend 'slurm'"),
        (("local", "host:1", 0), "for a Ray cluster"),
        (("local", "", 0.5), "for a Ray cluster"),
    ],
)
def test_options_that_do_not_fit(options, said):
    with pytest.raises(SuiteError, match=said):
        ComputeOptions("cpu", None, None, None, *options).checked()


def test_results_come_as_they_are_done_and_closing_ends_the_rest(job, tmp_path):
    executor = executor_of(RunOptions("cpu", jobs=2))
    results = executor.results([job("hangs", str(tmp_path / "pids")), *[job("done", ballast=bytes(n)) for n in (1, 2)]])
    lengths = []
    for found in results:
        if found:
            lengths.append(found[1].metrics["length"])
        if len(lengths) == 2:
            break
    results.close()
    assert lengths == [1, 2]
    assert not [thread for thread in threading.enumerate() if "watched" in thread.name]
    assert [found[1].state for found in executor.results([job("done")]) if found] == ["done"]  # and it can go on


@pytest.mark.slow
def test_shares_of_a_gpu_on_a_ray_cluster(job):
    """Ray hands out the GPUs that a node says it has; no GPU is needed to see whom it gives which."""
    ray = pytest.importorskip("ray")

    def executor(jobs, gpus):
        return RayExecutor(RunOptions("cpu", 1, jobs, backend="ray", gpus=gpus))

    def texts(executor, names, count):
        jobs = [job("environment", names)] * count
        return [found[1].text for found in executor.results(jobs) if found]

    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        halves = executor(0, 0.5)
        assert halves.jobs == 2
        assert executor(0, 0.3).jobs == 2  # three fit the GPU, two the cores
        assert executor(0, 1.0).jobs == 1
        with pytest.raises(SuiteError, match="room for 1 processes of 1 threads and 1 GPUs at once, not for 2"):
            executor(2, 1.0)
        assert texts(halves, "CUDA_VISIBLE_DEVICES OMP_NUM_THREADS", 3) == ["0 1"] * 3
        assert texts(executor(0, 1.0), "CUDA_VISIBLE_DEVICES", 2) == ["0"] * 2
    finally:
        ray.shutdown()
