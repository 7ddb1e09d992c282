"""The engine that runs jobs as tasks of Ray, on this machine or on a cluster.

Outcomes are files in folders that all machines share. Ray carries a job there and whether it went
well back; nothing in its object store is needed again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

from bench.core import progress, stopping
from bench.core.errors import UserError, first_line
from bench.core.fields import speed
from bench.engines.base import Engine, Job
from bench.engines.environment import use_threads
from bench.engines.extras import library
from bench.engines.lifeline import LOOK_EVERY_SECONDS

_ARRIVES_SECONDS = 60.0  # how late a network file system may show another machine's file


@dataclass
class RayConfig:
    """Settings; ``conf/engine/ray.yaml`` says what each is for."""

    address: Optional[str]  # noqa: UP045 - omegaconf reads the annotation at run time
    cpus: int = speed(at_least=1)
    gpus: float = speed(at_least=0)
    parallel: Optional[int] = speed(at_least=1)  # noqa: UP045
    retries: int = speed(at_least=0)


class Ray(Engine):
    """One task of Ray for each job, as many as fit; a task whose node dies runs again."""

    Config = RayConfig

    def check(self) -> None:
        """Refuse values out of range, and a Python without Ray."""
        super().check()
        library("ray", "ray")

    def _reach(self, jobs: Sequence[Job]) -> None:  # noqa: ARG002
        """Connect to a cluster, or start one on this machine; once in a process."""
        ray, address = library("ray", "ray"), self.config.address
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tell nobody of this run
        ours = signal.getsignal(signal.SIGTERM)
        progress.say(
            f"engine: Ray at {address}" if address else "engine: start Ray on this machine"
        )
        try:
            # Ray's log stays in its own folder, where its workers write too, and out of ours.
            ray.init(
                address or "local", include_dashboard=None if address else False,
                log_to_driver=False, logging_level="error",
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = first_line(error)
            raise UserError(
                f"cannot connect to Ray ({reason})",
                where=f"engine.address={address}",
                fix="start it (ray start --head), or leave the address out",
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)  # Ray has put its own handler there

    def _finished(self, jobs: Sequence[Job], label: str, unit: str) -> Iterator[Job]:  # noqa: ARG002
        """Yield each job when it is done; a job is handed out only when there is room for it."""
        ray = library("ray", "ray")
        # Retries are our own: Ray's are silent, and never end where memory runs out.
        options = {"num_cpus": self.config.cpus, "num_gpus": self.config.gpus, "max_retries": 0}
        task = ray.remote(**options)(_work)
        waiting, running = deque(jobs), dict[Any, Job]()
        deaths: Counter[Path] = Counter()
        try:
            while (running or waiting) and not stopping.asked_at_once():
                room = self._room(ray)
                while waiting and len(running) < room and not stopping.asked():
                    job = waiting.popleft()
                    running[task.remote(job, self.config.cpus)] = job
                if not running:
                    return self._no_room_left()
                ready, _ = ray.wait(list(running), timeout=LOOK_EVERY_SECONDS)
                for ref in ready:
                    job = running.pop(ref)
                    if _done(ray, ref, job):
                        yield job
                    elif not stopping.asked():
                        deaths[job.target] += 1
                        self._check_deaths(deaths[job.target], label)
                        waiting.append(job)
        finally:
            for ref in running:
                ray.cancel(ref, force=True)
            # A cluster of our own is killed with the command (``stopping.end_now``), in less time
            # than the seconds that Ray gives each of its processes.
            if stopping.asked() and self.config.address is not None:
                ray.shutdown()

    def _room(self, ray: ModuleType) -> int:
        """The number of jobs that fit on the nodes that are alive now."""
        if self.config.parallel is not None:
            return int(self.config.parallel)
        wanted = {"CPU": self.config.cpus, "GPU": self.config.gpus}
        return sum(
            min(int(node["Resources"].get(kind, 0) // n) for kind, n in wanted.items() if n)
            for node in ray.nodes()
            if node["Alive"]
        )

    def _no_room_left(self) -> None:
        if not stopping.asked():
            raise UserError(
                f"no node of the Ray cluster has {self.config.cpus} CPUs and {self.config.gpus:g} "
                "GPUs",
                where="engine",
                fix="lower engine.cpus and engine.gpus, or set engine.parallel for a cluster that "
                "grows when asked",
            )

    def _check_deaths(self, deaths: int, label: str) -> None:
        if deaths > self.config.retries:
            raise UserError(
                f"{label}: a worker or its node died {deaths} times at the same job",
                where="engine",
                fix="most often memory ran out: raise engine.cpus, so that fewer run on a node; "
                "what is finished is kept",
            )
        progress.say(f"{label}: a worker or its node died; its job runs again")


def _work(job: Job, cpus: int) -> UserError | None:
    """Run a job on a worker of Ray."""
    progress.set_quiet(True)
    use_threads(cpus)
    return job.outcome()


def _done(ray: ModuleType, ref: Any, job: Job) -> bool:
    """Whether a task that ended has done its job; False if it died, or its file is waited for no
    longer.

    Raises:
        UserError: the user's mistake that the job found, or a file that does not arrive.
    """
    died = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.LocalRayletDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.ObjectLostError,
    )
    try:
        error = ray.get(ref)
    except died:
        return job.done
    if error is not None:
        raise error
    deadline = time.monotonic() + _ARRIVES_SECONDS
    while not job.done and not stopping.asked_at_once():
        if time.monotonic() > deadline:
            raise UserError(
                "a job ended well on another machine, and its file is not here",
                where=str(job.target),
                fix="set cache_dir to a folder that all machines share",
            )
        time.sleep(LOOK_EVERY_SECONDS)
    return job.done
