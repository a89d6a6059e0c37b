"""Executors: jobs in processes of this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import joblib

from open_set_fer.benchmark.execution.job import Job, JobResult
from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.worker import in_child
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, summary

TICK = 0.2
"""Seconds between two looks at running jobs, in which a stop is noticed."""
RAY_RETRIES = 3
"""How often Ray starts a job again whose worker was lost."""

Listener = Callable[[int, float], bool]


class Executor(ABC):
    """Runs jobs, several at once.

    jobs: how many. threads: CPU threads of each; None for torch's own choice.
    """

    jobs: int
    threads: int | None

    def results(self, jobs: Iterable[Job]) -> Generator[tuple[Job, JobResult] | None]:
        """Every job with its result, as they come; None each time that nothing has come for a moment.

        Close the generator to stop: the processes end then.
        """
        waiting = deque(jobs)
        running: dict[Any, Job] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    job = waiting.popleft()
                    running[self._start(job)] = job
                for handle in self._ready(list(running)):
                    yield running.pop(handle), self._result(handle)
                yield None
        finally:
            self._end(list(running))

    @abstractmethod
    def _start(self, job: Job) -> Any:
        """Start a job; its handle."""

    @abstractmethod
    def _ready(self, handles: list[Any]) -> list[Any]:
        """Handles of jobs that are done, after TICK seconds at most."""

    @abstractmethod
    def _result(self, handle: Any) -> JobResult:
        """The result of a job that is done."""

    @abstractmethod
    def _end(self, handles: list[Any]) -> None:
        """End these jobs, and wait until their processes are gone."""


class LocalExecutor(Executor):
    """Processes of this machine, each watched by a thread."""

    def __init__(self, options: RunOptions, listener: Callable[[Job], Listener | None] = lambda job: None) -> None:
        """The cores are divided among the jobs, if `options` names jobs and no threads."""
        self.jobs = options.jobs or 1
        self.threads = options.threads
        if self.threads is None and (options.jobs or options.cell_timeout is not None):
            self.threads = threads_for(self.jobs)
        cores = threads_for(1)
        if self.threads is not None and self.jobs > 1 and self.jobs * self.threads > cores:
            log.warning("%d jobs of %d threads on %d cores wait for each other", self.jobs, self.threads, cores)
        self._timeout, self._listener = options.cell_timeout, listener
        self._stopping = threading.Event()
        self._watchers = ThreadPoolExecutor(self.jobs, "job")

    def _start(self, job: Job) -> Future[JobResult]:
        listener = self._listener(job) if job.listens else None
        return self._watchers.submit(in_child, job, self._timeout, self._stopping, listener)

    def _ready(self, handles: list[Future[JobResult]]) -> list[Future[JobResult]]:
        return list(wait(handles, TICK, FIRST_COMPLETED).done)

    def _result(self, handle: Future[JobResult]) -> JobResult:
        return handle.result()

    def _end(self, handles: list[Future[JobResult]]) -> None:
        self._stopping.set()
        wait(handles)
        self._stopping.clear()


class RayExecutor(Executor):
    """Nodes of a Ray cluster, each job in a process of its node that a Ray worker watches."""

    def __init__(self, options: RunOptions) -> None:
        """Connect to the cluster, or start one here; SuiteError without room for the jobs."""
        self.threads = options.threads or 1
        self._ray = _connected(options, self.threads)
        self.jobs = _room(self._ray.cluster_resources(), options, self.threads)
        resources = {"num_cpus": self.threads, "num_gpus": options.gpus, "max_retries": RAY_RETRIES}
        self._in_child = self._ray.remote(**resources)(in_child)
        self._timeout = options.cell_timeout

    def _start(self, job: Job) -> Any:
        return self._in_child.remote(job, self._timeout, None, None, os.getcwd())

    def _ready(self, handles: list[Any]) -> list[Any]:
        ready: list[Any] = self._ray.wait(handles, num_returns=1, timeout=TICK)[0]
        return ready

    def _result(self, handle: Any) -> JobResult:
        try:
            result: JobResult = self._ray.get(handle)
        except self._ray.exceptions.RayError as error:
            reason = f"its Ray worker was lost {RAY_RETRIES + 1} times: {summary(error)}"
            return JobResult("failed", reason, reason)
        return result

    def _end(self, handles: list[Any]) -> None:
        for handle in handles:
            self._ray.cancel(handle, force=True)


def executor_of(options: RunOptions, listener: Callable[[Job], Listener | None] = lambda job: None) -> Executor:
    """The executor that the options ask for."""
    return RayExecutor(options) if options.backend == "ray" else LocalExecutor(options, listener)


def threads_for(jobs: int) -> int:
    """CPU threads for each of `jobs` processes: the cores that this process may use, divided."""
    return max(1, int(joblib.cpu_count()) // jobs)


def _connected(options: RunOptions, threads: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unless the user's environment says so
    try:
        import ray
    except ImportError as error:
        raise SuiteError("--backend ray needs Ray", "pip install 'open-set-fer[cluster]'") from error
    if not ray.is_initialized():
        here = {"num_cpus": options.jobs * threads} if options.jobs else {}
        start: dict[str, Any] = {"address": options.address}
        if not options.address:
            start = {"address": "local", "include_dashboard": False, **here}
        try:
            ray.init(log_to_driver=False, configure_logging=False, **start)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise SuiteError(
                f"the Ray cluster {options.address or 'of this run'} does not answer: {summary(error)}",
                "check --address (for example 10.0.0.1:6379, ray://10.0.0.1:10001, auto) and the token",
            ) from error
    return ray


def _room(resources: dict[str, float], options: RunOptions, threads: int) -> int:
    """How many jobs the cluster computes at once; SuiteError if it has no room for those asked for."""
    room = int(resources.get("CPU", 0) // threads)
    if options.gpus:
        room = min(room, int(resources.get("GPU", 0) / options.gpus))
    jobs = options.jobs or room
    if not 0 < jobs <= room:
        each = f"{threads} threads" + f" and {options.gpus:g} GPUs" * bool(options.gpus)
        raise SuiteError(
            f"the Ray cluster has room for {room} processes of {each} at once, not for {max(1, jobs)}",
            "choose fewer --jobs, --threads or --gpus, or add nodes",
        )
    return jobs
