"""Where the cells of a run are computed: joblib spreads them over processes of this machine or of a Ray cluster.

Workers (loky's, Ray's) do not compute: each starts a process for one job and watches it (cell_process.py). So a cell that
crashes ends its own process. Where a worker itself is lost, what it had in hand begins again in a new pool.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

from open_set_fer.benchmark.execution.options import RunOptions
from open_set_fer.benchmark.execution.worker import Answer, Job, in_own_process
from open_set_fer.console import log
from open_set_fer.errors import SuiteError, summary

POOLS = 4
"""Pools in a row that may be lost without one answer; then their jobs fail."""
RAY_RETRIES = 3
"""How often Ray starts a lost worker and its job anew, before its pool counts as lost."""


@dataclass(frozen=True)
class Dispatch:
    """How many processes compute at once, each with how many threads, and where.

    jobs: 0 for as many as the Ray cluster has room for. device: as the user named it; each process chooses by it.
    timeout: seconds for a process. address: of the Ray cluster; '' starts one here. gpus: share of a GPU for each process.
    """

    jobs: int
    threads: int
    device: str = "auto"
    timeout: float | None = None
    backend: Literal["loky", "ray"] = "loky"
    address: str = ""
    gpus: float = 0.0

    def started(self) -> Dispatch:
        """Connected to its cluster, with `jobs` known; SuiteError where the cluster has no room for them."""
        return _connected(self) if self.backend == "ray" else self

    def answers(self, jobs: Sequence[Job]) -> Generator[tuple[Job, Answer]]:
        """Every job with its answer, as they come. Close it to stop: the processes end then."""
        left = dict(enumerate(jobs))
        lost = 0
        while left:
            before = len(left)
            try:
                for number, answer in self._pool(list(left.items())):
                    yield left.pop(number), answer
            except _worker_losses() as error:
                lost = 1 if len(left) < before else lost + 1
                log.warning("a worker process was lost (%s); what it computed begins again", summary(error))
                if lost == POOLS:
                    reason = f"{POOLS} pools of worker processes were lost in a row: {summary(error)}"
                    yield from ((job, Answer("failed", reason, reason)) for job in left.values())
                    return

    def _pool(self, jobs: list[tuple[int, Job]]) -> Iterator[tuple[int, Answer]]:
        arguments = self.threads, self.timeout, os.getcwd()
        if self.backend == "ray" and self.jobs == 1:  # joblib would compute here, without the cluster and its GPU
            from ray.util.multiprocessing import Pool

            with Pool(1, ray_remote_args=self._remote()) as pool:
                for number, job in jobs:
                    yield pool.apply(_numbered, (number, pickle.dumps(job), *arguments))
            return
        with self._configured():
            parallel = joblib.Parallel(n_jobs=self.jobs, batch_size=1, return_as="generator_unordered")
            found = parallel(joblib.delayed(_numbered)(number, pickle.dumps(job), *arguments) for number, job in jobs)
            with contextlib.closing(found):
                yield from found

    def _configured(self) -> Any:
        if self.backend == "loky":
            kind = {} if self.jobs == 1 else {"initializer": partial(_begin_worker, os.getpid())}
            return joblib.parallel_config("loky", n_jobs=self.jobs, **kind)
        return joblib.parallel_config("ray", n_jobs=self.jobs, ray_remote_args=self._remote())

    def _remote(self) -> dict[str, Any]:
        return {
            "num_cpus": self.threads,
            "num_gpus": self.gpus,
            "max_restarts": RAY_RETRIES,
            "max_task_retries": RAY_RETRIES,
        }


def dispatch_of(options: RunOptions) -> Dispatch | None:
    """How cells are spread over processes, None for all of them in this one."""
    jobs, threads = options.jobs, options.threads
    if options.backend == "local" and jobs is None and options.cell_timeout is None:
        return None
    if options.backend == "ray":
        return Dispatch(
            jobs or 0, threads or 1, options.device, options.cell_timeout, "ray", options.address, options.gpus
        )
    jobs = jobs or 1
    cores = threads_for(1)
    if threads is not None and jobs > 1 and jobs * threads > cores:
        log.warning("%d jobs of %d threads on %d cores: they wait for each other", jobs, threads, cores)
    return Dispatch(jobs, threads or threads_for(jobs), options.device, options.cell_timeout)


def threads_for(jobs: int) -> int:
    """CPU threads for each of `jobs` processes: the cores that this process may use, divided."""
    return max(1, int(joblib.cpu_count()) // jobs)


def _numbered(number: int, job: bytes, *arguments: Any) -> tuple[int, Answer]:
    return number, in_own_process(job, *arguments)


def _begin_worker(runner: int) -> None:
    """Ctrl-C reaches every process of the terminal; the run alone answers it, and ends its workers.

    When the run is killed nobody waits for them: they end, and with them the processes that they watch.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(runner,), daemon=True).start()


def _end_with(runner: int) -> None:
    while os.getppid() == runner:
        time.sleep(1)
    os._exit(1)


def _worker_losses() -> tuple[type[BaseException], ...]:
    with contextlib.suppress(ImportError):
        from ray.exceptions import RayError

        return BrokenProcessPool, RayError
    return (BrokenProcessPool,)


def _connected(dispatch: Dispatch) -> Dispatch:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unless the user's environment says so
    try:
        import ray
        from ray.util.joblib.ray_backend import RayBackend
    except ImportError as error:
        raise SuiteError("--backend ray needs Ray", "pip install 'open-set-fer[cluster]'") from error

    class Backend(RayBackend):  # type: ignore[misc]
        supports_return_generator = True  # joblib denies it to pools that are not closed as Ray's are

    joblib.register_parallel_backend("ray", Backend)
    if not ray.is_initialized():
        here = {"num_cpus": dispatch.jobs * dispatch.threads} if dispatch.jobs else {}
        start = (
            {"address": dispatch.address}
            if dispatch.address
            else {"address": "local", "include_dashboard": False, **here}
        )
        try:
            ray.init(log_to_driver=False, configure_logging=False, **start)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise SuiteError(
                f"the Ray cluster {dispatch.address or 'of this run'} does not answer: {summary(error)}",
                "check --address (for example 10.0.0.1:6379, ray://10.0.0.1:10001, auto) and the token",
            ) from error
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = int(total.get("CPU", 0) // dispatch.threads)
    if dispatch.gpus:
        room = min(room, int(total.get("GPU", 0) / dispatch.gpus))
    jobs = dispatch.jobs or room
    if not 0 < jobs <= room:
        each = f"{dispatch.threads} threads" + f" and {dispatch.gpus:g} GPUs" * bool(dispatch.gpus)
        raise SuiteError(
            f"the Ray cluster has room for {room} processes of {each} at once, not for {max(1, jobs)}",
            "choose fewer --jobs, --threads or --gpus, or add nodes",
        )
    return replace(dispatch, jobs=jobs)
