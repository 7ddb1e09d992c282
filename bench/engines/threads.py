"""The number of threads that a job's process uses."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_THREADS = "OMP_NUM_THREADS"


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads(n: int) -> Iterator[None]:
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


def use_threads(n: int) -> None:
    """Let this process use ``n`` threads, also if torch is running already."""
    os.environ[_THREADS] = str(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)
