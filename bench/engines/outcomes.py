"""Long phases as a map and a merge: jobs that leave one sealed file each, read in a fixed order.

What a merge gets depends on the jobs alone, never on the engine that did them, on how many worked
at a time, or on the order in which they ended. So it is written once, as plain code over outcomes
that are there, and every phase resumes, stops and survives damage in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench.engines.base import Engine, Job
from bench.engines.serial import Serial, SerialConfig
from bench.storage.sealed import move_aside_if

T = TypeVar("T")


def unless_single(engine: Engine, n_jobs: int) -> Engine:
    """The engine for so many jobs; a single one is done in this process.

    Whoever does it leaves the same bytes, and a worker would take seconds to start. Not for jobs
    that this process may have no device or memory for.
    """
    return engine if n_jobs > 1 else Serial(SerialConfig())


def outcomes(
    jobs: Sequence[Job], read: Callable[[Path], T], engine: Engine, label: str, unit: str
) -> Iterator[T]:
    """Do the jobs that are not done yet, and then read the outcome of each.

    Args:
        jobs: the jobs in the order of their outcomes; jobs of one target are one.
        read: reads the file that a job leaves; raises ``DamagedError`` if it is not what was
            written. Such a file of an earlier run is moved aside, said, and made again.
        engine: runs the jobs.
        label: the phase's name in progress lines, such as ``"tail-patch"``.
        unit: what a job is, such as ``"models"``.

    Yields:
        what ``read`` makes of each target, one at a time.

    Raises:
        UserError: a job failed by the user's mistake; those that were finished stay.
        Stopped: the run was asked to stop.
    """
    distinct = {job.target: job for job in jobs}
    for target in distinct:
        move_aside_if(target, partial(read, target))
    engine.run(list(distinct.values()), label, unit=unit)
    for job in jobs:
        yield read(job.target)
