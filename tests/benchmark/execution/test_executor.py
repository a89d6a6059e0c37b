"""How cells are spread: threads divided, options that do not fit, shares of a GPU on a Ray cluster."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import joblib
import pytest

from open_set_fer.benchmark.execution.executor import Dispatch, dispatch_of, threads_for
from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.cli.options import run_options
from open_set_fer.errors import SuiteError
from tests.benchmark.execution.test_worker import JOB


@pytest.mark.parametrize(("cores", "jobs", "each"), [(8, 1, 8), (8, 3, 2), (2, 2, 1), (2, 5, 1)])
def test_the_cores_are_divided_among_the_jobs(monkeypatch, cores, jobs, each):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert threads_for(jobs) == each
    assert dispatch_of(RunOptions("cpu", jobs=jobs)) == Dispatch(jobs, each, "cpu")
    assert dispatch_of(RunOptions("cpu", 3, jobs, 60)) == Dispatch(jobs, 3, "cpu", 60)


def test_without_jobs_this_process_computes():
    assert dispatch_of(RunOptions("cpu", 1)) is None
    assert dispatch_of(RunOptions("cpu", 1, cell_timeout=60)) == Dispatch(1, 1, "cpu", 60)  # a limit needs a process


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
        run_options("cpu", None, None, *options, None, "")


@pytest.mark.slow
def test_shares_of_a_gpu_on_a_ray_cluster(tmp_path, monkeypatch):
    """Ray hands out the GPUs that a node says it has; no GPU is needed to see whom it gives which."""
    ray = pytest.importorskip("ray")
    (tmp_path / "a_job.py").write_text(JOB, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.getcwd()]))
    monkeypatch.delitem(sys.modules, "a_job", raising=False)
    from a_job import Job

    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        halves = Dispatch(0, 1, "cpu", backend="ray", gpus=0.5).started()
        assert halves.jobs == 2
        assert replace(halves, jobs=0, gpus=0.3).started().jobs == 2  # three fit the GPU, two the cores
        assert replace(halves, jobs=0, gpus=1.0).started().jobs == 1
        with pytest.raises(SuiteError, match="room for 1 processes of 1 threads and 1 GPUs at once, not for 2"):
            replace(halves, jobs=2, gpus=1.0).started()
        answers = list(halves.answers([Job("threads", "CUDA_VISIBLE_DEVICES OMP_NUM_THREADS")] * 3))
        assert [answer.text for _, answer in answers] == ["0 1"] * 3
        whole = replace(halves, jobs=0, gpus=1.0).started()  # one place: on the cluster all the same
        assert [answer.text for _, answer in whole.answers([Job("threads", "CUDA_VISIBLE_DEVICES")] * 2)] == ["0"] * 2
    finally:
        ray.shutdown()
