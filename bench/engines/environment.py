"""What a job's process finds around it: the number of its threads, and the GPUs that it sees."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

_THREADS = "OMP_NUM_THREADS"
_GPUS = "CUDA_VISIBLE_DEVICES"


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by number or by the names that it was given."""
    given = os.environ.get(_GPUS)
    if given is not None:
        return [one.strip() for one in given.split(",") if one.strip()]
    import torch  # slow to load, and only needed where GPUs are asked for

    return [str(number) for number in range(torch.cuda.device_count())]


def threads(n: int) -> AbstractContextManager[None]:
    """Let processes started in the block use ``n`` threads each: OpenMP reads it as it starts."""
    return _variable(_THREADS, str(n))


def seeing(gpus: Sequence[str]) -> AbstractContextManager[None]:
    """Let processes started in the block see these GPUs alone; given none, all that are seen."""
    return _variable(_GPUS, ",".join(gpus)) if gpus else nullcontext()


def use_threads(n: int) -> None:
    """Let this process use ``n`` threads, also if torch is running already."""
    os.environ[_THREADS] = str(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)


def take(environment: Mapping[str, str]) -> None:
    """Give this process another's variables, and the number of threads that they say."""
    os.environ.clear()
    os.environ.update(environment)
    use_threads(int(environment[_THREADS]))


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
