"""Jobs in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Optional

from bench import progress
from bench.engines.base import Engine, Job
from bench.errors import UserError

_TRIES = 3  # a killed process takes the jobs of its pool with it; more deaths are no accident
_THREADS = "OMP_NUM_THREADS"


@dataclass
class ProcessesConfig:
    """Settings; ``conf/engine/processes.yaml`` says what each is for."""

    workers: Optional[int]  # noqa: UP045 - omegaconf reads the annotation at run time


class Processes(Engine):
    """A pool of fresh processes; when one is killed, what it had not finished runs again."""

    Config = ProcessesConfig

    def check(self) -> None:
        """Refuse a number of workers below 1."""
        if self.config.workers is not None and self.config.workers < 1:
            raise UserError(
                f"expected at least 1, found {self.config.workers}", where="engine.workers"
            )

    def _run(self, jobs: Sequence[Job], label: str, unit: str) -> None:
        workers = min(self.config.workers or cores(), len(jobs))
        left = list(jobs)
        for _ in range(_TRIES):
            try:
                with _threads(max(1, cores() // workers)):
                    _run_pool(left, workers, label, unit)
            except BrokenProcessPool:
                left = [job for job in left if not job.done]
                progress.say(f"{label}: a worker process was killed; {len(left)} {unit} again")
            else:
                return
        raise UserError(
            f"worker processes were killed {_TRIES} times; {len(left)} {unit} are not done",
            where="engine",
            fix="most often memory ran out: lower engine.workers; what is finished is kept",
        )


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run_pool(jobs: Sequence[Job], workers: int, label: str, unit: str) -> None:
    # Spawned, not forked: a fork copies locks that torch's threads may hold at that moment.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin) as pool:
        futures = [pool.submit(job.run) for job in jobs]
        try:
            for future in progress.track(
                as_completed(futures), label, unit=unit, total=len(futures)
            ):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin() -> None:
    """In a worker, before its first job."""
    progress.set_quiet(True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot tell its workers, who would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Let processes started in the block use ``n`` threads each: OpenMP reads it as it starts."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = str(n)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before
