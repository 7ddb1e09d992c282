"""The engine that runs jobs as an array of Slurm, through submitit.

The jobs are dealt out among the tasks of an array: a task does one after the other, and so loads
its model once. Outcomes are files in folders that all machines share; what a task that died had not
done is dealt out again.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Optional

from bench.core import progress, stopping
from bench.core.descendants import kill_below
from bench.core.errors import UserError, did_you_mean
from bench.core.fields import speed
from bench.engines.base import Engine, Job
from bench.engines.environment import threads, use_threads
from bench.engines.extras import library
from bench.engines.lifeline import (
    CLEANING_SECONDS,
    LOOK_EVERY_SECONDS,
    end_after,
    held,
    until_let_go,
)
from bench.storage.disk import disk_errors

_CLUSTERS = ("slurm", "local")
_LOOK_EVERY_SECONDS = 1.0  # at tasks, through files that may be on another machine


@dataclass
class SlurmConfig:
    """Settings; ``conf/engine/slurm.yaml`` says what each is for."""

    cluster: str
    folder: str
    partition: Optional[str]  # noqa: UP045 - omegaconf reads the annotation at run time
    minutes: int = speed(at_least=1)
    cpus: int = speed(at_least=1)
    gpus: int = speed(at_least=0)
    memory_gb: int = speed(at_least=1)
    tasks: int = speed(at_least=1)
    parallel: Optional[int] = speed(at_least=1)  # noqa: UP045
    retries: int = speed(at_least=0)


class Slurm(Engine):
    """Submits an array and waits for it; tasks that died are submitted again."""

    Config = SlurmConfig

    def check(self) -> None:
        """Refuse values out of range, and a Python without submitit."""
        super().check()
        if self.config.cluster not in _CLUSTERS:
            raise UserError(
                f"unknown cluster {self.config.cluster!r}",
                where="engine.cluster",
                fix=did_you_mean(self.config.cluster, _CLUSTERS),
            )
        library("submitit", "slurm")

    def _finished(self, jobs: Sequence[Job], label: str, unit: str) -> Iterator[Job]:
        """Yield each job when it is done, submitting as many arrays as it takes."""
        logs = Path(self.config.folder).expanduser()
        with disk_errors(logs):
            logs.mkdir(parents=True, exist_ok=True)
            run = Path(tempfile.mkdtemp(prefix="run-", dir=logs))
        array = _Array(self.config, run)
        left, fruitless = list(jobs), 0
        while True:
            before = len(left)
            yield from array.finished(left)
            left = [job for job in left if not job.done]
            if not left or stopping.asked():
                shutil.rmtree(run, ignore_errors=True)  # the logs of a run that failed stay
                return
            fruitless = 0 if len(left) < before else fruitless + 1
            if fruitless > self.config.retries:
                raise UserError(
                    f"{len(left)} {unit} are not done: {array.last_failure}",
                    where="engine",
                    fix=f"logs are in {array.folder}; most often a task ran out of memory "
                    "(engine.memory_gb) or time (engine.minutes), or the machines do not share "
                    "cache_dir; what is finished is kept",
                )
            progress.say(f"{label}: tasks ended early; {len(left)} {unit} are submitted again")


class _Array:
    """Arrays with the settings of one engine.

    Attributes:
        folder: where submitit's files and logs go.
        last_failure: how the last task that failed did so, in a line.
    """

    def __init__(self, config: SlurmConfig, folder: Path) -> None:
        self.folder = folder
        self.last_failure = "every task ended well, and the files are not there"
        self._config = config
        self._stop = folder / "stop"  # tells tasks to begin no other job
        # Of a scheduler's tasks the scheduler takes care.
        self._lifeline = folder / "run-is-alive" if config.cluster == "local" else None

    def finished(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Submit an array for the jobs; yield each job when it is done, until all tasks have ended.

        Raises:
            UserError: the user's mistake that a job found, or Slurm does not take the array.
        """
        config, n_tasks = self._config, min(self._config.tasks, len(jobs))
        if config.cluster == "local" and config.parallel is not None:
            n_tasks = min(n_tasks, config.parallel)
        dealt = [list(jobs[i::n_tasks]) for i in range(n_tasks)]
        running: list[tuple[Any, deque[Job]]] = []
        with ExitStack() as stack:
            stack.callback(self._abandon, running)
            if self._lifeline is not None:
                stack.enter_context(held(self._lifeline))
            running += zip(self._submit(dealt), map(deque, dealt), strict=True)
            yield from self._done_of(running)

    def _done_of(self, running: list[tuple[Any, deque[Job]]]) -> Iterator[Job]:
        """Yield each job when it is done, and take out tasks when they have ended."""
        mistake = None
        while running and not stopping.asked_at_once():
            over = [task for task, _ in running if task.done()]
            for _, waiting in running:
                while waiting and waiting[0].done:
                    yield waiting.popleft()
            for task in over:
                mistake = mistake or self._mistake(task)
            running[:] = [pair for pair in running if pair[0] not in over]
            if (mistake or stopping.asked()) and not self._stop.exists():
                self._stop.touch()
                for task, _ in running:
                    if task.state.upper() == "PENDING":
                        task.cancel()
            self._pause(running)
        if mistake:
            raise mistake

    def _pause(self, running: Sequence[Any]) -> None:
        """Wait before the next look, which reads one file for each task; less if asked to stop."""
        until = time.monotonic() + _LOOK_EVERY_SECONDS
        while running and not stopping.asked_at_once() and time.monotonic() < until:
            time.sleep(LOOK_EVERY_SECONDS)

    def _abandon(self, running: Sequence[tuple[Any, Any]]) -> None:
        """End tasks that are still running or pending."""
        if self._config.cluster == "slurm":
            for task, _ in running:
                task.cancel(check=False)
            return
        until = time.monotonic() + CLEANING_SECONDS  # the lifeline has been let go
        while time.monotonic() < until and not all(task.done() for task, _ in running):
            time.sleep(0.05)
        for task, _ in running:
            if not task.done():
                _end_with_children(int(task.job_id))

    def _submit(self, dealt: Sequence[Sequence[Job]]) -> list[Any]:
        config, submitit = self._config, library("submitit", "slurm")
        try:
            executor = submitit.AutoExecutor(self.folder, cluster=config.cluster)
            executor.update_parameters(
                name="tdabench",
                timeout_min=config.minutes,
                cpus_per_task=config.cpus,
                gpus_per_node=config.gpus or None,
                mem_gb=config.memory_gb,
                slurm_partition=config.partition,
                slurm_array_parallelism=config.parallel,
            )
            # Tasks, also Slurm's, get this process's environment.
            with threads(config.cpus), stopping.deaf():
                same = (config.cpus, self._stop, self._lifeline)
                return list(executor.map_array(_work, dealt, *([one] * len(dealt) for one in same)))
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"the jobs cannot be submitted ({reason})",
                where=f"engine.cluster={config.cluster}",
                fix="check engine.partition and the other settings with `sinfo`, or use "
                "engine.cluster=local",
            ) from error

    def _mistake(self, task: Any) -> UserError | None:
        """The user's mistake that a task which ended has found; None if it went well or died."""
        failure = task.exception()
        if failure is None:
            mistake: UserError | None = task.result()
            return mistake
        lines = [line for line in str(failure).splitlines() if line.strip()]
        self.last_failure = lines[-1].strip()[:300] if lines else type(failure).__name__
        return None


def _work(jobs: Sequence[Job], cpus: int, stop: Path, lifeline: Path | None) -> UserError | None:
    """Do the jobs of one task, until one finds a mistake of the user's or the run is to stop."""
    use_threads(cpus)
    with suppress(KeyboardInterrupt):
        if lifeline is not None:
            end_after(partial(until_let_go, lifeline))
        for job in jobs:
            if stop.exists():
                return None
            error = job.outcome()
            if error is not None:
                return error
    return None


def _end_with_children(pid: int) -> None:
    """Kill a process of this machine and those that it has started."""
    with suppress(OSError):  # it has ended by itself
        os.kill(pid, signal.SIGSTOP)  # so that it starts no other
        kill_below(pid)
        os.kill(pid, signal.SIGKILL)
