"""Work in numbered tasks that a kill cannot spoil: here, in worker processes, as shares of an array job, or on Ray.

A task is anything picklable that is called with its number, writes its outputs whole (`files.whole`) under names that
depend on the number alone, and returns a report, a dict for JSON. The report is written last, so a task is done where
its report is; a job that is started again does the others. Nothing else is shared between tasks: any number of
processes on any machines that see the folder may work on it, and a task that was done twice has the same outputs.
"""

from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import dataclasses
import functools
import logging
import multiprocessing
import os
from pathlib import Path
import signal
import socket

from harmopower.data import files, orphans
from harmopower.errors import UserError

Work = Callable[[int], dict]

_RETRIES = 3  # of a task whose Ray worker was lost; of a whole pool here, which one lost process ends
_CONNECT_SECONDS = 10


class JobError(UserError):
    """A job that cannot run or go on; the text says why."""


@dataclasses.dataclass(frozen=True)
class Where:
    """Where tasks run.

    Attributes:
      workers: processes on this machine.
      share: (i, n): only every n-th task, from the i-th on, both from 0; for array jobs.
      ray: address of a Ray cluster; empty for this machine. `local` starts one here.
    """

    workers: int = 1
    share: tuple[int, int] = (0, 1)
    ray: str = ""

    def __post_init__(self):
        index, count = self.share
        if not 0 <= index < count:
            raise JobError(f"--share {index}/{count}: the first number goes from 0 to {count - 1}")
        if self.workers < 1:
            raise JobError(f"--workers is {self.workers}; it must be at least 1")


def report_path(directory, number: int) -> Path:
    """Where the report of a task is when it is done."""
    return Path(directory) / f"{number:05d}.json"


def missing(directory, count: int, share: tuple[int, int] = (0, 1)) -> list[int]:
    """The numbers below `count`, of a share, whose tasks are not done."""
    index, step = share
    return [number for number in range(index, count, step) if not report_path(directory, number).exists()]


def refuse_missing(directory, count: int) -> None:
    """Raises JobError where tasks are not done."""
    lacking = missing(directory, count)
    if lacking:
        numbers = ", ".join(map(str, lacking[:10])) + (" ..." if len(lacking) > 10 else "")
        raise JobError(f"{len(lacking)} of {count} tasks are not done yet ({numbers}); run their shares first")


def reports(directory, count: int, through: Callable[[range], Iterable[int]] = iter) -> list[dict]:
    """The reports of all tasks.

    Args:
      through: gives the numbers back, and may show how many of them have been taken.

    Raises:
      JobError: tasks are missing.
    """
    refuse_missing(directory, count)
    return [files.read_json(report_path(directory, number)) for number in through(range(count))]


def run(directory, work: Work, count: int, where: Where) -> Iterator[tuple[int, dict]]:
    """Does the tasks that are missing and yields (number, report) as they are done.

    Args:
      directory: where the reports go; it exists.
      work: see the head of this module.
      count: of all tasks.
      where: on what.

    Raises:
      JobError: worker processes were lost again and again, or Ray is not there.
      UserError: what a task raised; the others are given up.
    """
    numbers = missing(directory, count, where.share)
    perform = functools.partial(_perform, work, str(directory))
    if where.ray:
        return _on_ray(perform, numbers, where.ray)
    if where.workers == 1 or len(numbers) <= 1:
        return ((number, perform(number)) for number in numbers)
    return _in_processes(perform, numbers, where.workers)


def _perform(work: Work, directory: str, number: int) -> dict:
    report = work(number)
    files.write_json(report_path(directory, number), report)
    return report


def _in_processes(perform: Work, numbers: list[int], workers: int) -> Iterator[tuple[int, dict]]:
    """Does tasks in a pool; one that lost a process is made anew for what is left, a bounded number of times."""
    left = list(numbers)
    for retries_left in reversed(range(_RETRIES + 1)):
        try:
            for number, report in _in_a_pool(perform, left, workers):
                left.remove(number)
                yield number, report
            return
        except concurrent.futures.process.BrokenProcessPool as error:
            if not retries_left:
                raise JobError(
                    f"a worker process was killed {_RETRIES + 1} times (out of memory?); what is done is kept: run the "
                    "same command again, if need be with fewer --workers"
                ) from error


def _in_a_pool(perform: Work, numbers: list[int], workers: int) -> Iterator[tuple[int, dict]]:
    # Spawn, not fork: the parent may hold the threads of an accelerator runtime, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(numbers)), mp_context=context, initializer=_start_worker
    )
    try:
        futures = {pool.submit(perform, number): number for number in numbers}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Ctrl-C ends a worker without a traceback of its own."""
    orphans.end_with_parent()
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def _on_ray(perform: Work, numbers: Iterable[int], address: str) -> Iterator[tuple[int, dict]]:
    try:
        import ray  # an extra, and slow to import
        import ray.exceptions
    except ImportError as error:
        raise JobError("--ray needs Ray; install the extra: pip install -c constraints.txt -e '.[ray]'") from error
    _refuse_unreachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise JobError(f"--ray {address}: no cluster can be reached there: {error}") from error
    remote = ray.remote(max_retries=_RETRIES, num_cpus=1)(_call)
    try:
        waiting = {remote.remote(perform, number): number for number in numbers}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), ray.get(done)
    except ray.exceptions.RayTaskError as error:
        # Ray wraps what a task raised in a class of its own that also is of the raised one.
        raise (error.cause if isinstance(error.cause, UserError) else error) from error
    except ray.exceptions.WorkerCrashedError as error:
        raise JobError(f"a Ray worker was lost {_RETRIES + 1} times in the same task: {error}") from error
    finally:
        ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Ray itself tries for many minutes."""
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not port.isdecimal():
        return  # `auto`, `local` and clients, which Ray looks up
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise JobError(f"--ray {address}: no cluster can be reached there: {error}") from error


def _call(perform: Work, number: int) -> dict:
    return perform(number)  # Ray takes plain functions
