"""Long phases as a map and a merge: jobs that leave one sealed file each, read in a fixed order.

What a merge gets depends on the jobs alone, never on the engine that did them, on how many worked
at a time, or on the order in which they ended. So it is written once, as plain code over outcomes
that are there, and every phase resumes, stops and survives damage in the same way. With a store,
machines share the jobs of each (``bench.storage.sharing``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench.engines.base import Engine, Job
from bench.engines.serial import Serial, SerialConfig
from bench.storage.sealed import move_aside_if
from bench.storage.sharing import NOT_SHARED, Sharing

T = TypeVar("T")


def unless_single(engine: Engine, n_jobs: int) -> Engine:
    """The engine for so many jobs; a single one is done in this process.

    Whoever does it leaves the same bytes, and a worker would take seconds to start. Not for jobs
    that this process may have no device or memory for.
    """
    return engine if n_jobs > 1 else Serial(SerialConfig())


def outcomes(
    jobs: Sequence[Job],
    read: Callable[[Path], T],
    engine: Engine,
    label: str,
    unit: str,
    sharing: Sharing = NOT_SHARED,
    found: set[Path] | None = None,
) -> Iterator[T]:
    """Do the jobs that are not done yet, and then read the outcome of each.

    Args:
        jobs: the jobs in the order of their outcomes; jobs of one target are one.
        read: reads the file that a job leaves; raises ``DamagedError`` if it is not what was
            written. Such a file of an earlier run is moved aside, said, and made again.
        engine: runs the jobs.
        label: the phase's name in progress lines, such as ``"tail-patch"``.
        unit: what a job is, such as ``"models"``.
        sharing: the store that the jobs' files are copied to, and taken from; ``read`` is then a
            function of a module.
        found: receives the files that were there before any of the jobs began.

    Yields:
        what ``read`` makes of each target, one at a time.

    Raises:
        UserError: a job failed by the user's mistake; those that were finished stay.
        MergedElsewhereError: another machine has merged the phase; only with ``sharing.whole``.
        Stopped: the run was asked to stop.
    """
    distinct = {job.target: job for job in jobs}
    for target in distinct:
        move_aside_if(target, partial(read, target))
    damaged = sharing.exchange(distinct, read)
    if found is not None:
        found.update(job.target for job in distinct.values() if job.done)
    if sharing.mirror.url is None:
        engine.run(list(distinct.values()), label, unit=unit)
    else:
        left = [
            replace(job, share=partial(sharing.do, read=read, is_damaged=job.target in damaged))
            for job in in_own_order(distinct.values())
            if not job.done
        ]
        engine.run(left, label, unit=unit)
        if left and sharing.whole is None:
            # A worker that died after its file was written may not have kept it.
            sharing.exchange(distinct, read)
    for job in jobs:
        yield read(job.target)


def in_own_order(jobs: Collection[Job]) -> list[Job]:
    """The jobs in an order of this process's own: machines that share them seldom meet at one."""
    return secrets.SystemRandom().sample(list(jobs), len(jobs))  # no result depends on the order
