"""The engine that runs jobs in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Optional

from bench.core import progress, stopping
from bench.core.errors import UserError
from bench.core.fields import speed
from bench.engines.base import Engine, Job
from bench.engines.threads import cores, threads

_TRIES = 3  # a killed process ends its pool's jobs; more than three deaths are no accident


@dataclass
class ProcessesConfig:
    """Settings; ``conf/engine/processes.yaml`` says what each is for."""

    # omegaconf reads the annotation at run time
    workers: Optional[int] = speed(at_least=1)  # noqa: UP045


class Processes(Engine):
    """A pool of fresh processes; when one is killed, what it had not finished runs again."""

    Config = ProcessesConfig

    def _finished(self, jobs: Sequence[Job], label: str, unit: str) -> Iterator[Job]:
        workers = min(self.config.workers or cores(), len(jobs))
        left = list(jobs)
        for _ in range(_TRIES):
            try:
                with threads(max(1, cores() // workers)):
                    yield from _in_pool(left, workers)
            except BrokenProcessPool:
                if stopping.asked():
                    return
                left = [job for job in left if not job.done]
                progress.say(f"{label}: a worker process was killed; {len(left)} {unit} again")
            else:
                return
        raise UserError(
            f"worker processes were killed {_TRIES} times; {len(left)} {unit} are not done",
            where="engine",
            fix="most often memory ran out: lower engine.workers; what is finished is kept",
        )


def _in_pool(jobs: Sequence[Job], workers: int) -> Iterator[Job]:
    """Yield each job when it is done; a job is handed out only when a worker is free for it."""
    # Spawned, not forked: a fork copies locks that torch's threads may hold at that moment.
    context = multiprocessing.get_context("spawn")
    waiting = iter(jobs)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin) as pool:
        running = {pool.submit(_work, job): job for job in islice(waiting, workers)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                future.result()
                if not stopping.asked():
                    running |= {pool.submit(_work, after): after for after in islice(waiting, 1)}
                yield job


def _begin() -> None:
    """Prepare a worker process for its first job."""
    progress.set_quiet(True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _work(job: Job) -> None:
    """Run a job in a worker; a SIGTERM, which its whole group may get, waits for the job's end."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        job.run()
    finally:
        signal.signal(signal.SIGTERM, before)
        if asked:
            os.kill(os.getpid(), signal.SIGTERM)


def _end_with_parent() -> None:
    """End this worker when its parent is gone: a killed parent cannot tell its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
