"""The engine that runs jobs in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from bench.core import progress, stopping
from bench.core.errors import UserError
from bench.core.fields import speed
from bench.engines.base import Engine, Job
from bench.engines.environment import cores, seeing, take, threads, visible_gpus
from bench.engines.lifeline import CLEANING_SECONDS, LOOK_EVERY_SECONDS, end_after

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext
    from multiprocessing.process import BaseProcess

_TRIES = 3  # of a job whose worker is killed; more than three deaths are no accident
# Workers are forks of a server that has loaded the libraries, which takes seconds, and does nothing
# else: a fork of this process would copy locks that torch's threads may hold at that moment. Not
# on macOS, whose libraries do not survive a fork, and Windows, which has none.
_FORKS = sys.platform.startswith("linux")
_START: ForkServerContext | SpawnContext = multiprocessing.get_context(
    "forkserver" if _FORKS else "spawn"
)  # type: ignore[assignment]


@dataclass
class ProcessesConfig:
    """Settings; ``conf/engine/processes.yaml`` says what each is for."""

    # omegaconf reads the annotation at run time
    workers: Optional[int] = speed(at_least=1)  # noqa: UP045
    gpus: int = speed(at_least=0)


class Processes(Engine):
    """Fresh processes in each phase, which do one job after the other, again if one is killed."""

    Config = ProcessesConfig

    def check(self) -> None:
        """Refuse values out of range, and more GPUs than this machine shows."""
        super().check()
        wanted = self.config.gpus * (self.config.workers or 1)
        seen = visible_gpus() if wanted else []  # to count them, torch is loaded
        if wanted > len(seen):
            raise UserError(
                f"workers want {wanted} GPUs, and {len(seen)} can be seen here",
                where="engine",
                fix="lower engine.workers or engine.gpus, or look at CUDA_VISIBLE_DEVICES",
            )

    def _reach(self, jobs: Sequence[Job]) -> None:
        """Start the server that workers are forks of, and wait until it has loaded its modules.

        It serves all later phases of this process, and ends with it.
        """
        if not _FORKS:
            return
        # What a library learns of GPUs while it is loaded does not survive a fork.
        modules = [] if "torch" in sys.modules and visible_gpus() else _modules(jobs)
        _START.set_forkserver_preload(modules)
        resource_tracker.ensure_running()  # which else lets signals through again
        with progress.counted("load libraries for workers", 1, unit="servers"):
            _forked(_do_nothing).join()

    def _shares(self, n_jobs: int) -> list[list[str]]:
        """The GPUs of each worker: as many workers as there is work for, and room."""
        n_gpus = self.config.gpus
        seen = visible_gpus() if n_gpus else []
        room = len(seen) // n_gpus if n_gpus else cores()
        return [
            seen[number * n_gpus : (number + 1) * n_gpus]
            for number in range(min(self.config.workers or room, n_jobs))
        ]

    def _finished(self, jobs: Sequence[Job], label: str, unit: str) -> Iterator[Job]:
        """Yield each job when it is done; a job is handed out only when a worker is free for it."""
        waiting, deaths = deque(jobs), Counter[Path | None]()
        mistake: Exception | None = None
        with _Workers(self._shares(len(jobs))) as workers:
            while not stopping.asked_at_once():
                for worker in workers.reporting():
                    job, outcome = worker.report()
                    if isinstance(outcome, _Death):
                        workers.replace(worker)
                    if job is not None and (outcome is None or job.done):
                        yield job
                    elif isinstance(outcome, Exception):
                        mistake = mistake or outcome
                    elif isinstance(outcome, _Death) and not stopping.asked():
                        waiting.extendleft([job] if job is not None else [])
                        target = job.target if job is not None else None
                        deaths[target] += 1
                        if deaths[target] == _TRIES:
                            left = sum(not job.done for job in jobs)
                            raise _killed(f"{left} {unit}")
                        progress.say(f"{label}: a worker process was killed; another goes on")
                if mistake or stopping.asked():
                    waiting.clear()
                workers.hand_out(waiting)
                if not workers.busy and not waiting:
                    break
        if mistake:
            raise mistake


def _modules(jobs: Sequence[Job]) -> list[str]:
    """The modules that the jobs need: their own, and those of this package that are loaded here."""
    package = __name__.partition(".")[0]
    loaded = {name for name in sys.modules if name.startswith(f"{package}.")}
    return sorted(loaded.union(job.work.__module__ for job in jobs))


def _forked(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that does the work, of a server that is started if there is none.

    A server that has just been killed still takes what is asked of it, until all its threads have
    ended; then another is asked.

    Raises:
        UserError: servers are killed again and again.
    """
    for _ in range(_TRIES):
        if _FORKS:
            with threads(1), stopping.deaf():  # a fork would not have the threads of a library
                forkserver.ensure_running()
        process = _START.Process(target=target, args=arguments)
        with suppress(EOFError, ConnectionError):
            process.start()
            return process
        time.sleep(LOOK_EVERY_SECONDS)
    raise _killed("all work")


def _do_nothing() -> None:
    """The work of the first fork, which shows that the server is there."""


def _killed(left: str) -> UserError:
    return UserError(
        f"worker processes were killed {_TRIES} times; {left} are not done",
        where="engine",
        fix="most often memory ran out: lower engine.workers; what is finished is kept",
    )


class _Death:
    """The report of a worker that was killed."""


class _Worker:
    """A process that does one job after the other.

    Attributes:
        pipe: its end of this process, through which jobs go and reports come.
        process: the process.
        job: the job that it has been given; None if it has none.
        is_ready: whether it waits for jobs or does one; False while it starts.
    """

    def __init__(self, lifeline: connection.Connection) -> None:
        self.pipe, theirs = _START.Pipe()
        self.job: Job | None = None
        self.is_ready = False
        self.process = _forked(_serve, theirs, lifeline, dict(os.environ))
        theirs.close()  # so that the end of the worker is the end of the pipe

    def give(self, job: Job) -> None:
        """Hand the worker a job."""
        self.job = job
        with suppress(OSError):  # it was killed, and will be reported
            self.pipe.send(job)

    def report(self) -> tuple[Job | None, Exception | _Death | None]:
        """The worker's job, which it has no more, and what was wrong with it.

        A worker that had none says that it is ready.
        """
        job, self.job, self.is_ready = self.job, None, True
        try:
            return job, self.pipe.recv()
        except (EOFError, OSError):
            return job, _Death()


class _Workers:
    """A number of workers for a block; at its end they end too, whatever they are doing."""

    def __init__(self, shares: Sequence[Sequence[str]]) -> None:
        """``shares`` are the GPUs of each worker; one without any sees what this process sees."""
        self._shares = shares

    def __enter__(self) -> _Workers:
        # Nothing is ever sent: what matters to a worker is that it is closed.
        self._theirs, self._lifeline = _START.Pipe(duplex=False)
        self._workers = [self._started(gpus) for gpus in self._shares]
        return self

    def __exit__(self, *_: object) -> None:
        self._lifeline.close()
        deadline = time.monotonic() + CLEANING_SECONDS
        for worker in self._workers:
            left = deadline - time.monotonic() if worker.job is not None else 0
            worker.process.join(max(0, left))
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._theirs.close()

    def _started(self, gpus: Sequence[str]) -> _Worker:
        resource_tracker.ensure_running()  # which else lets signals through again
        with threads(max(1, cores() // len(self._shares))), seeing(gpus), stopping.deaf():
            return _Worker(self._theirs)

    @property
    def busy(self) -> bool:
        """Whether any worker has a job."""
        return any(worker.job is not None for worker in self._workers)

    def reporting(self) -> list[_Worker]:
        """The workers that have something to say; none if a moment passes without a word."""
        ready = connection.wait([worker.pipe for worker in self._workers], LOOK_EVERY_SECONDS)
        return [worker for worker in self._workers if worker.pipe in ready]

    def hand_out(self, waiting: deque[Job]) -> None:
        """Give a job to each worker that is free for it."""
        for worker in self._workers:
            if waiting and worker.is_ready and worker.job is None:
                worker.give(waiting.popleft())

    def replace(self, dead: _Worker) -> None:
        """Start a worker in the place of one that was killed."""
        dead.process.join()
        dead.pipe.close()
        place = self._workers.index(dead)
        self._workers[place] = self._started(self._shares[place])


def _serve(
    pipe: connection.Connection, lifeline: connection.Connection, environment: Mapping[str, str]
) -> None:
    """Do the jobs that come, in a worker, and report on each; None says that all went well."""
    # Until the pipe ends, or the worker is interrupted.
    with suppress(EOFError, OSError, KeyboardInterrupt):
        end_after(partial(_closed, lifeline))
        take(environment)
        progress.set_quiet(True)
        pipe.send(None)
        while True:
            pipe.send(_outcome(pipe.recv_bytes()))
    os._exit(0)  # what libraries do at the end of a process takes time, and may print


def _outcome(sent: bytes) -> Exception | None:
    try:
        job: Job = ForkingPickler.loads(sent)  # may need a module that only the sender can import
        return job.outcome()
    except Exception:
        # Other exceptions may not survive the way.
        return RuntimeError(f"a job failed in a worker process:\n{traceback.format_exc()}")


def _closed(lifeline: connection.Connection) -> None:
    """Return when the process that gave out the jobs has closed its end, or is gone."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
