# SPDX-License-Identifier: Apache-2.0
"""Engines that run independent jobs: one after the other, in processes, or on a Ray cluster."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

ENGINES = ('processes', 'ray', 'serial')

Job = TypeVar('Job')
Outcome = TypeVar('Outcome')


def run_jobs(
    work: Callable[[Job], Outcome],
    jobs: Sequence[Job],
    *,
    engine: str = ENGINES[0],
    workers: int = 0,
    ray_address: str | None = None,
) -> Iterator[tuple[int, Outcome]]:
    """Run jobs in parallel; yield the index and the outcome of each as it ends.

    work: a function of a module, jobs: picklable. workers: processes, 0 for one a core; each
    computes with its share of the cores, or OMP_NUM_THREADS if that is fewer. With 'ray' the jobs
    run on the cluster at `ray_address`, or on this machine without one; files that a job names
    must exist on every node. The first error of a job ends all. Raises ValueError for an unknown
    engine, ImportError if Ray is not installed, ChildProcessError if a process was killed.
    """
    if engine not in ENGINES:
        raise ValueError(f'unknown engine {engine!r}; use {" or ".join(ENGINES)}')
    if engine == 'ray':
        yield from _run_on_ray(work, jobs, ray_address)
    elif engine == 'serial':
        for index, job in enumerate(jobs):
            yield index, work(job)
    else:
        yield from _run_in_processes(work, jobs, workers)


def _run_in_processes(
    work: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[int, Outcome]]:
    cores = len(os.sched_getaffinity(0))
    workers = min(workers or cores, max(len(jobs), 1))
    executor = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context('spawn'),  # a fork of torch's threads may hang
        initializer=_begin_process,
        initargs=(max(1, cores // workers),),
    )
    try:
        futures = {executor.submit(work, job): index for index, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
        executor.shutdown()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            'a worker process was killed, perhaps for want of memory; the finished jobs are '
            'kept: try again with fewer workers'
        ) from error
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise


def _begin_process(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to handle
    threading.Thread(target=_end_with_the_first_process, daemon=True).start()
    torch.set_num_threads(min(threads, torch.get_num_threads()))


def _end_with_the_first_process() -> None:
    """End this process at once when the first one is gone, in whatever way."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_on_ray(
    work: Callable[[Job], Outcome], jobs: Sequence[Job], address: str | None
) -> Iterator[tuple[int, Outcome]]:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "the engine 'ray' needs Ray: pip install 'fer_perception[ray]', or use "
            '--engine processes'
        ) from error
    ray.init(address=address, include_dashboard=False, log_to_driver=False)
    try:
        remote: Any = ray.remote(num_cpus=1, max_retries=0)(_alone)
        waiting = {remote.remote(work, job): index for index, job in enumerate(jobs)}
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            try:
                outcome = ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from error
            yield waiting.pop(ended), outcome
    finally:
        ray.shutdown()


def _alone(work: Callable[[Job], Outcome], job: Job) -> Outcome:
    """Run a job with one thread, as Ray reckons one core for it."""
    torch.set_num_threads(1)
    return work(job)
